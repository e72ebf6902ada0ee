package gateway

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Clients that say they will send much, and do not, cost the memory of what they have sent.
func TestBodiesTakeWhatHasCome(t *testing.T) {
	s := serve(t)
	query := s.pollSession()
	const clients = 50
	for name, head := range map[string]string{
		"API":       "POST /api/publish HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n",
		"long poll": "POST /socket/longpoll" + query + " HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n",
		"a form":    "POST /socket/longpoll" + query + " HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 8000000\r\n\r\n",
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var all []*wire
		for range clients {
			w := s.dial()
			w.write(head + strings.Repeat("x", 9000))
			all = append(all, w)
		}
		s.eventually("all are being read", func() bool { return s.bodies.held.Load() == clients*firstBody })
		runtime.ReadMemStats(&after)
		if got := int(after.TotalAlloc - before.TotalAlloc); got > clients*200_000 {
			t.Errorf("%s: %d bytes for %d clients that have sent 9000 each", name, got, clients)
		}
		for _, w := range all {
			_ = w.nc.Close()
		}
		s.eventually("they have gone", func() bool { return s.bodies.held.Load() == 0 })
	}
}

// All bodies together have a bound; who comes on top is refused, and the others go on.
func TestBodiesTogether(t *testing.T) {
	s := serve(t, func(c *Config) { c.InputBudget = 1 << 20 })
	body := fmt.Sprintf(`{"event":"e","payload":{"x":%q}}`, strings.Repeat("x", 60<<10))
	first := s.dial()
	whole := post(publishPath, body+strings.Repeat(" ", 900_000))
	first.write(whole[:len(whole)-1])
	s.eventually("the first is there", func() bool { return s.bodies.held.Load() > 900_000 })
	second := s.dial()
	second.write(post(publishPath, body+strings.Repeat(" ", 900_000)))
	resp, text := second.answer()
	if want := `{"error":"overloaded","detail":"too much comes from all clients together","definite":true,"retry_after_ms":1000}` + "\n"; resp.StatusCode != 503 || text != want {
		t.Errorf("the second: %d %s", resp.StatusCode, text)
	}
	if rest, err := io.ReadAll(second.br); len(rest) > 0 {
		t.Errorf("and then %.100q, %v", rest, err)
	}
	first.write(whole[len(whole)-1:])
	if resp, text := first.answer(); resp.StatusCode != 503 || !strings.Contains(text, `"unavailable"`) { // there is no topic server
		t.Errorf("the first: %d %s", resp.StatusCode, text)
	}
	s.eventually("nothing is kept", func() bool { return s.bodies.held.Load() == 0 })
}

// A request behind one with a body, in the same segments, is a request of its own, wherever the first one ends.
func TestABodyEndsWhereItsLengthSays(t *testing.T) {
	s := serve(t)
	const second = "GET /api/cluster HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, size := range []int{0, 1, 100, 4096, firstBody - 1, firstBody, firstBody + 1, 3*firstBody + 7, 100_000} {
		for _, at := range []int{-1, 0, 1, size / 2, size} {
			request := post(publishPath, strings.Repeat("\n", size)) + second
			w := s.dial()
			cut := len(request)
			if at >= 0 {
				cut = len(request) - len(second) - size + at
			}
			w.write(request[:cut])
			time.Sleep(time.Millisecond)
			w.write(request[cut:])
			if resp, body := w.answer(); resp.StatusCode != 400 || !strings.Contains(body, `"bad_request"`) {
				t.Errorf("%d bytes, cut at %d: %d %s", size, at, resp.StatusCode, body)
			}
			if resp, body := w.answer(); resp.StatusCode != 200 {
				t.Errorf("%d bytes, cut at %d: the next request gets %d %s", size, at, resp.StatusCode, body)
			}
		}
	}
}
