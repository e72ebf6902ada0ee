package gateway

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// outOfFiles is a listener that has no file descriptor left for some accepts, and is closed then.
type outOfFiles struct {
	net.Listener
	left atomic.Int64
}

func (l *outOfFiles) Accept() (net.Conn, error) {
	if l.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return nil, &net.OpError{Op: "accept", Net: "tcp", Err: net.ErrClosed}
}

// A gateway without a file descriptor left keeps its listener, and says so without filling its log.
func TestAcceptGoesOnWithoutFileDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		lis := new(outOfFiles)
		lis.left.Store(120)
		a := &acceptor{Listener: lis, log: zap.New(core)}
		if _, err := a.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v, want the end of the listener", err)
		}
		if n := a.shortage.Failed(); n != 120 {
			t.Errorf("%d failures counted, want 120", n)
		}
		if n := logs.Len(); n != 3 {
			t.Errorf("%d lines logged in 12 s, want 3", n)
		}
	})
}

// Only so many handshakes are under way at a time. Those who connect and say nothing slow the others down, and do not lock
// them out; their slots are free again when they are gone.
func TestHandshakesUnderWayAreBounded(t *testing.T) {
	s := serve(t, func(c *Config) { c.Limits.Handshakes = 2 })
	underWay := func() int { return s.loops.Arriving() + len(s.accepts.slots) }
	for range 10 {
		w := s.dial() // a socket: its slot is free when it is open
		w.write(handshake(target) + text(heartbeat))
		w.answer()
		w.frame()
	}
	w := s.dial() // a connection that stays after its request has none
	w.write("GET /api/cluster HTTP/1.1\r\nHost: x\r\n\r\n")
	w.answer()
	refused := s.dial() // nor has one whose handshake was refused
	refused.write(handshake(target, "Sec-WebSocket-Version: 8"))
	refused.answer()
	s.eventually("all slots but the one for the next are free", func() bool { return underWay() <= 1 })
	var silent []*wire
	for range 5 {
		silent = append(silent, s.dial())
	}
	s.eventually("no slot is free", func() bool {
		if underWay() >= 2 {
			return true
		}
		silent = append(silent, s.dial()) // those before count no more: they have been silent for long
		return false
	})
	late := s.dial()
	late.write(handshake(target) + text(heartbeat))
	late.answer()
	if _, reply := late.frame(); reply != heartbeatReply {
		t.Errorf("behind the silent: %q", reply)
	}
	for _, w := range silent {
		w.nc.Close()
	}
	s.eventually("their slots are free", func() bool { return underWay() <= 1 })
}

// A handshake that is refused is answered and its connection ended by the event loop, whatever the client keeps open or
// sends behind it: none of it takes a place of those who are on their way.
func TestRefusedHandshakesEndTheirConnections(t *testing.T) {
	s := serve(t)
	for _, tt := range []struct{ name, request, want string }{
		{"forbidden", handshake("/socket/websocket?vsn=9"), "\r\nConnection: close\r\n"},
		{"no upgrade", handshake(target, "Connection: keep-alive"), "\r\nConnection: Upgrade, close\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := s.dial()
			w.write(tt.request)
			_ = w.nc.SetReadDeadline(time.Now().Add(patience))
			answer, err := io.ReadAll(w.br) // to its end, though this side stays open
			if err != nil || !strings.Contains(string(answer), tt.want) {
				t.Errorf("got %q, %v", answer, err)
			}
			s.eventually("the HTTP server has no connection", func() bool { return s.app.Server().GetOpenConnectionsCount() == 0 })
		})
	}
	s.eventually("none is on its way", func() bool { return s.loops.Arriving()+len(s.accepts.slots) <= 1 })
}

// A client that sends all of its request before it reads gets the answer though the request is refused by its header.
func TestARefusalReachesWhoStillSends(t *testing.T) {
	for name, adjust := range map[string]func(*Config){"plain": func(*Config) {}, "TLS": withCertificate(t)} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, withKeys, adjust)
			for want, head := range map[int]string{
				401: post(publishPath, "", "Authorization: Bearer nope"),
				413: post(publishPath, "", "Authorization: Bearer shop-key"),
				400: post(publishPath, "", "Host: y"),
				431: post(publishPath, "", "Cookie: "+strings.Repeat("x", maxHeaderBytes)),
			} {
				w := s.dial()
				if name == "TLS" {
					w.nc = tls.Client(w.nc, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // who answers is not the question
					w.br.Reset(w.nc)
				}
				w.write(strings.ReplaceAll(head, "Content-Length: 0", fmt.Sprint("Content-Length: ", lingerBytes/2)))
				s.eventually(fmt.Sprint("it lingers, ", want), func() bool { return len(s.accepts.lingers) == 1 })
				w.write(strings.Repeat("x", lingerBytes/2))
				if resp, body := w.answer(); resp.StatusCode != want || !resp.Close {
					t.Errorf("%d %s, want %d and the end", resp.StatusCode, body, want)
				}
				_ = w.nc.Close()
				s.eventually("it has gone", func() bool { return len(s.accepts.lingers) == 0 })
			}
		})
	}
}

// Who asks first whether to send a body is not told to go on when it is refused.
func TestARefusedBodyIsNotAskedFor(t *testing.T) {
	s := serve(t, withKeys)
	const expect = "Expect: 100-continue"
	body := `{"event":"e","payload":{}}` + strings.Repeat(" ", maxHeaderBytes)
	for _, tt := range []struct {
		name, request string
		want          int
	}{
		{"no key", post(publishPath, body, expect), 401},
		{"two Hosts", post(publishPath, body, expect, "Host: y"), 400},
		{"good", post(publishPath, body, expect, "Authorization: Bearer shop-key"), 100},
	} {
		head, _, _ := strings.Cut(tt.request, "{")
		if resp, _ := s.asked(t, head); resp.StatusCode != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, resp.StatusCode, tt.want)
		}
	}
}

// A connection does not linger for long, nor for much, nor beside very many others.
func TestLingeringIsBounded(t *testing.T) {
	const tooLong = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"
	refused := func(s *served) *wire {
		w := s.dial()
		w.write(tooLong)
		if resp, _ := w.answer(); resp.StatusCode != 413 {
			t.Fatal(resp.Status)
		}
		return w
	}
	lingering := func(s *served, n int) {
		s.eventually(fmt.Sprint(n, " linger"), func() bool { return len(s.accepts.lingers) == n })
	}
	closes := func(s *served, w *wire) { // others may linger for an hour
		s.eventually("it is closed", func() bool {
			_, err := w.nc.Write([]byte("x"))
			return err != nil
		})
	}
	t.Run("time", func(t *testing.T) {
		s := serve(t, func(c *Config) { c.ID = slowRequests })
		closes(s, refused(s))
	})
	t.Run("bytes", func(t *testing.T) {
		s := serve(t)
		w := refused(s)
		lingering(s, 1)
		w.write(strings.Repeat("x", lingerBytes-1))
		lingering(s, 1)
		w.write("x")
		lingering(s, 0)
	})
	t.Run("number", func(t *testing.T) {
		s := serve(t)
		for range maxLingers {
			s.accepts.lingers <- struct{}{}
		}
		closes(s, refused(s))
	})
	t.Run("stop", func(t *testing.T) {
		s := serve(t)
		refused(s)
		lingering(s, 1)
		if err := s.stop(); err != nil {
			t.Error(err)
		}
		lingering(s, 0)
	})
}
