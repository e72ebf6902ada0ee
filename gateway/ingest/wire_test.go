package ingest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/pem"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/proto/linkpb"
)

func frame(kind byte, channel uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{kind}, channel)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(append(b, payload...), frameEnd)
}

func method(channel uint16, class, id byte, args ...byte) []byte {
	return frame(methodFrame, channel, append([]byte{0, class, 0, id}, args...))
}

// content is the header frame of a message with a body of that size.
func content(size uint64, properties ...byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte{0, 60, 0, 0}, size)
	if len(properties) == 0 {
		properties = append([]byte{0x80, 0, 24}, "application/octet-stream"...)
	}
	return frame(headerFrame, 1, append(b, properties...))
}

// block is bytes with their length before them.
func block(b ...byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }

// headers are properties with a table alone.
func headers(table ...byte) []byte { return append([]byte{0x20, 0}, block(table...)...) }

// nested is the pair of a table that nests n deep.
func nested(n int) []byte {
	b := []byte{1, 'k', 'V'}
	for range n {
		b = append([]byte{1, 'k', 'F'}, block(b...)...)
	}
	return b
}

var deliver = method(1, 60, 60, append([]byte("\x09ringcast-"), 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 3, 't', ':', 'a')...)

// fakeBroker answers what a consumer asks up to the first method that is not among answers, then sends what it is told to, and hands
// on what the consumer says.
type fakeBroker struct {
	url  string
	said chan [2]byte // class and method
	logs *observer.ObservedLogs
	all  sync.WaitGroup
}

func startBroker(t *testing.T, upTo string, then ...[]byte) *fakeBroker {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startBrokerOn(t, lis, "amqp://guest:guest@"+lis.Addr().String()+"/", upTo, then...)
}

func startBrokerOn(t *testing.T, lis net.Listener, url, upTo string, then ...[]byte) *fakeBroker {
	t.Helper()
	b := &fakeBroker{url: url, said: make(chan [2]byte, 1000)}
	t.Cleanup(func() {
		_ = lis.Close()
		b.all.Wait()
	})
	b.all.Go(func() {
		for {
			nc, err := lis.Accept()
			if err != nil {
				return
			}
			b.all.Go(func() {
				defer nc.Close()
				b.serve(nc, upTo, then)
			})
		}
	})
	return b
}

func (b *fakeBroker) serve(nc net.Conn, upTo string, then [][]byte) {
	in := bufio.NewReader(nc)
	if _, err := io.CopyN(io.Discard, in, 8); err != nil {
		return
	}
	send := func(data []byte) { _, _ = nc.Write(data) }
	start := append([]byte{0, 9}, block()...)
	send(method(0, 10, 10, append(append(start, block([]byte("PLAIN")...)...), block([]byte("en_US")...)...)...))
	answers := map[[2]byte][]byte{
		{10, 11}: method(0, 10, 30, 0, 0, 0, 0, 0, 0, 0, 0),
		{10, 40}: method(0, 10, 41, 0),
		{10, 50}: method(0, 10, 51),
		{20, 10}: method(1, 20, 11, 0, 0, 0, 0),
		{20, 40}: method(1, 20, 41),
		{60, 10}: method(1, 60, 11),
		{60, 20}: append(method(1, 60, 21, []byte("\x09ringcast-")...), bytes.Join(then, nil)...),
		{60, 30}: method(1, 60, 31, []byte("\x09ringcast-")...),
	}
	for {
		head := make([]byte, frameHead)
		if _, err := io.ReadFull(in, head); err != nil {
			return
		}
		payload := make([]byte, binary.BigEndian.Uint32(head[3:])+1)
		if _, err := io.ReadFull(in, payload); err != nil {
			return
		}
		if head[0] != methodFrame {
			continue
		}
		m := [2]byte{payload[1], payload[3]}
		b.said <- m
		if upTo == "channel" && m[0] >= 20 || upTo == "cancel" && m == [2]byte{60, 30} {
			continue
		}
		send(answers[m])
	}
}

// consume runs a consumer against the broker until stop.
func (b *fakeBroker) consume(t *testing.T) (c *Consumer, logs *observer.ObservedLogs, stop func() time.Duration) {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	b.logs = logs
	c, err := New(Config{
		URL: b.url, Queue: "q", MaxPayload: 1000, Prefetch: 16, Drain: 100 * time.Millisecond, Log: zap.New(core),
		Check: func(string) error { return nil }, Publish: func(_ *linkpb.Publish, done func(router.Outcome)) { done(router.Outcome{}) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx)
	}()
	stop = sync.OnceValue(func() time.Duration {
		began := time.Now()
		cancel()
		<-done
		return time.Since(began)
	})
	t.Cleanup(func() { stop() })
	return c, logs, stop
}

// until waits until a consumer has said a method.
func (b *fakeBroker) until(t *testing.T, class, id byte) {
	t.Helper()
	for late := time.After(20 * time.Second); ; {
		select {
		case m := <-b.said:
			if m == [2]byte{class, id} {
				return
			}
		case <-late:
			t.Fatalf("the consumer never says %d.%d: %v", class, id, b.logs.All())
		}
	}
}

// What would end the process in the library ends the connection here, with the reason in the log.
func TestABrokerThatBreaksTheProtocol(t *testing.T) {
	body := frame(bodyFrame, 1, make([]byte, 100))
	for want, frames := range map[string][][]byte{
		"a frame of kind 8 on channel 1": {frame(heartbeatFrame, 1, nil)},
		"a frame of kind 8 on channel 0": {frame(heartbeatFrame, 0, []byte{1})},
		"a frame of kind 3 on channel 0": {frame(bodyFrame, 0, []byte{1})},
		"a frame of kind 9 on channel 1": {frame(9, 1, nil)},
		"a frame of kind 1 on channel 7": {method(7, 60, 60)},
		"a frame of 4294967295 bytes":    {{bodyFrame, 0, 1, 255, 255, 255, 255}},
		"a frame without an end":         {append(frame(bodyFrame, 1, nil)[:7], 0)},
		"method 50.10":                   {method(1, 50, 10)},
		"method 10.20":                   {method(0, 10, 20)},
		"frame that is torn":             {frame(methodFrame, 1, []byte{0, 60})},
		"frame that is torn ":            {deliver, frame(headerFrame, 1, []byte{0, 60, 0, 0})},
		"frame that is torn  ":           {deliver, content(100, headers(1, 'k', 'x', 255, 255, 255, 255)...), body},
		"frame that is torn   ":          {deliver, content(100, headers(1, 'k', 'S', 127, 255, 255, 255)...), body},
		"frame that is torn    ":         {deliver, content(100, 0x20, 0, 127, 255, 255, 255), body},
		"frame that is torn     ":        {method(0, 10, 10, 0, 9, 0, 0, 0, 0, 127, 255, 255, 255)},
		"frame that is torn      ":       {deliver, content(100, headers(1, 'k', '?')...), body},
		"frame that is torn       ":      {deliver, content(100, headers(9, 'k')...), body},
		"frame that is torn        ":     {deliver, content(100, 0x80, 0), body},
	} {
		t.Run(strings.TrimSpace(want), func(t *testing.T) {
			b := startBroker(t, "", frames...)
			_, logs, _ := b.consume(t)
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
				for _, e := range logs.FilterMessage("no connection to the message broker; will keep trying").All() {
					if text, _ := e.ContextMap()["error"].(string); strings.Contains(text, strings.TrimSpace(want)) {
						return
					}
				}
				if time.Now().After(deadline) {
					t.Fatalf("log %v", logs.All())
				}
			}
		})
	}
}

// A message that is too large is rejected, whatever it says of its size, and no more of it is kept than can be published. So is one with
// headers that nest too deep, or of kinds that the library does not know. What comes behind them is taken as ever.
func TestMessagesThatAreTooMuch(t *testing.T) {
	deep := append([]byte{0xa0, 0, 1, 'x'}, block(nested(maxNested+1)...)...)
	arrays := []byte{'V'}
	for range maxNested + 1 {
		arrays = append([]byte{'A'}, block(arrays...)...)
	}
	b := startBroker(t, "",
		deliver, content(1<<63), frame(bodyFrame, 1, make([]byte, 600)), frame(bodyFrame, 1, make([]byte, 600)), frame(bodyFrame, 1, make([]byte, 100_000)),
		deliver, content(5, deep...), frame(bodyFrame, 1, []byte("hello")),
		deliver, content(5, headers(append([]byte{1, 'k'}, arrays...)...)...), frame(bodyFrame, 1, []byte("hello")),
		deliver, content(5, headers(1, 'k', 'u', 0, 1)...), frame(bodyFrame, 1, []byte("hello")),
		deliver, content(5, headers(1, 'k', 'i', 0, 0, 0, 1)...), frame(bodyFrame, 1, []byte("hello")),
		deliver, content(5, headers(append([]byte{1, 'k', 'F'}, block(1, 'k', 'U', 0, 1)...)...)...), frame(bodyFrame, 1, []byte("hello")),
		deliver, content(5, headers(append([]byte{1, 'k', 'A'}, block('t', 1, 'L', 0, 0, 0, 0, 0, 0, 0, 1)...)...)...), frame(bodyFrame, 1, []byte("hello")),
		deliver, content(1001), frame(bodyFrame, 1, make([]byte, 1001)),
		frame(heartbeatFrame, 0, nil),
		deliver, content(1000), frame(bodyFrame, 1, bytes.Repeat([]byte{'x'}, 600)), frame(bodyFrame, 1, bytes.Repeat([]byte{'x'}, 400)),
		deliver, content(5, headers(append(nested(maxNested), 1, 'e', 'A', 0, 0, 0, 2, 't', 1)...)...), frame(bodyFrame, 1, []byte("hello")),
		deliver, content(0),
	)
	c, logs, stop := b.consume(t)
	for range 3 {
		b.until(t, 60, 80)
	}
	stop()
	if s := c.Stats(); s.Rejected != 8 || s.Published != 3 {
		t.Errorf("%+v", s)
	}
	var why []string
	for _, e := range logs.FilterMessage("message rejected").All() {
		why = append(why, e.ContextMap()["error"].(string))
	}
	const large, nests = "payload of 1001 bytes: at most 1000 are allowed", `content encoding "of headers that nest too deep" is not supported`
	const foreign = `content encoding "of headers of an unknown kind" is not supported`
	if got, want := strings.Join(why, "; "), strings.Join([]string{large, nests, nests, foreign, foreign, foreign, foreign, large}, "; "); got != want {
		t.Errorf("rejected for %s\nwant %s", got, want)
	}
}

// A broker that does not answer holds up no gateway that stops.
func TestABrokerThatDoesNotAnswer(t *testing.T) {
	for upTo, last := range map[string][2]byte{"channel": {20, 10}, "cancel": {60, 20}} {
		b := startBroker(t, upTo)
		_, _, stop := b.consume(t)
		b.until(t, last[0], last[1])
		if took := stop(); took > 15*time.Second {
			t.Errorf("%s: it took %v to stop", upTo, took)
		}
	}
}

func TestABrokerOverTLS(t *testing.T) {
	web := httptest.NewTLSServer(nil) // for its certificate
	defer web.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	encrypted := tls.NewListener(lis, &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12})
	b := startBrokerOn(t, encrypted, "amqps://guest:guest@"+lis.Addr().String()+"/?cacertfile="+ca, "", deliver, content(0))
	c, _, stop := b.consume(t)
	b.until(t, 60, 80)
	if stop(); c.Stats().Published != 1 {
		t.Errorf("%+v", c.Stats())
	}
}

// What the library's URLs say of TLS is done below wire.
func TestPlainURL(t *testing.T) {
	for broker, want := range map[string]string{
		"amqp://u:p@host/v?heartbeat=3":                            "amqp://u:p@host/v?heartbeat=3",
		"amqps://u:p%2F@host/v?heartbeat=3":                        "amqp://u:p%2F@host:5671/v?heartbeat=3 for host",
		"amqps://[::1]:7/%2f?server_name_indication=other.example": "amqp://[::1]:7/%2f?server_name_indication=other.example for other.example",
	} {
		got, cfg, err := plainURL(broker)
		if cfg != nil {
			got += " for " + cfg.ServerName
		}
		if err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", broker, got, err, want)
		}
	}
	for _, bad := range []string{"amqps://host/?cacertfile=/none", "amqps://host/?certfile=/none&keyfile=/none", "amqp://host:x/"} {
		if _, _, err := plainURL(bad); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
