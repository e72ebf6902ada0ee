package chaos

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

const patience = 10 * time.Second

// echo is a server that sends every line back.
func echo(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lis.Close() })
	go func() {
		for {
			nc, err := lis.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				_, _ = io.Copy(nc, nc)
			}()
		}
	}()
	return lis.Addr().String()
}

func proxy(t *testing.T, target string) *Proxy {
	t.Helper()
	p, err := Listen(target, []string{"gw-a", "gw-b"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// client is a connection through a proxy that has said who it is.
type client struct {
	*net.TCPConn
	t *testing.T
	r *bufio.Reader
}

func dial(t *testing.T, p *Proxy, id string) *client {
	t.Helper()
	nc, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	c := &client{nc.(*net.TCPConn), t, bufio.NewReader(nc)}
	c.say(fmt.Sprintf("\x12%c%s\n", len(id), id))
	return c
}

func (c *client) say(line string) {
	c.t.Helper()
	if _, err := c.Write([]byte(line)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) hear(want string) {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if got, err := c.r.ReadString('\n'); err != nil || got != want {
		c.t.Fatalf("heard %q, %v; want %q", got, err, want)
	}
}

// silence shows that nothing comes for a moment. It can only be too lenient.
func (c *client) silence() {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	if b, err := c.r.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("heard %q, %v; want silence", b, err)
	}
}

func (c *client) ended() {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	for {
		if _, err := c.r.ReadByte(); errors.Is(err, os.ErrDeadlineExceeded) {
			c.t.Fatal("the connection is still open")
		} else if err != nil {
			return
		}
	}
}

func (c *client) greeted(id string) *client {
	c.t.Helper()
	c.hear(fmt.Sprintf("\x12%c%s\n", len(id), id))
	return c
}

func TestPeersAreToldApart(t *testing.T) {
	p := proxy(t, echo(t))
	a, b := dial(t, p, "gw-a").greeted("gw-a"), dial(t, p, "gw-b").greeted("gw-b")
	if p.Connections("gw-a") != 1 || p.Connections("gw-b") != 1 || p.Connections(Stranger) != 0 {
		t.Errorf("connections: %d, %d, %d", p.Connections("gw-a"), p.Connections("gw-b"), p.Connections(Stranger))
	}
	p.Set("gw-a", Fault{Mode: Cut})
	a.ended()
	b.say("still here\n")
	b.hear("still here\n")
	dial(t, p, "gw-a").ended()
	p.Set("gw-a", Fault{})
	dial(t, p, "gw-a").greeted("gw-a")
}

func TestTheFirstIDCounts(t *testing.T) {
	p := proxy(t, echo(t))
	c := dial(t, p, "gw-b")
	c.say("\x04gw-a\n")
	c.greeted("gw-b").hear("\x04gw-a\n")
	if p.Connections("gw-b") != 1 || p.Connections("gw-a") != 0 {
		t.Error("taken for another")
	}
}

func TestAStrangerPasses(t *testing.T) {
	p := proxy(t, echo(t))
	p.Set("gw-a", Fault{Mode: Cut})
	nc, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := &client{nc.(*net.TCPConn), t, bufio.NewReader(nc)}
	long := make([]byte, maxGreeting)
	long[len(long)-1] = '\n'
	c.say(string(long))
	c.hear(string(long))
}

func TestBlackhole(t *testing.T) {
	p := proxy(t, echo(t))
	a := dial(t, p, "gw-a").greeted("gw-a")
	idle := dial(t, p, "gw-a").greeted("gw-a")
	p.Set("gw-a", Fault{Mode: Blackhole})
	a.say("lost\n")
	a.silence()
	late := dial(t, p, "gw-a")
	late.silence()
	p.Set("gw-a", Fault{})
	a.ended()
	late.ended()
	idle.say("nothing lost\n")
	idle.hear("nothing lost\n")
}

func TestOneWay(t *testing.T) {
	for _, up := range []bool{true, false} {
		heard := make(chan string, 10)
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer lis.Close()
		go func() {
			nc, err := lis.Accept()
			if err != nil {
				return
			}
			defer nc.Close()
			for lines := bufio.NewScanner(nc); lines.Scan(); {
				heard <- lines.Text()
				_, _ = nc.Write([]byte("ok\n"))
			}
		}()
		p := proxy(t, lis.Addr().String())
		c := dial(t, p, "gw-a")
		c.hear("ok\n")
		<-heard
		p.Set("gw-a", Fault{Mode: Freeze, Up: up, Down: !up})
		c.say("hello\n")
		c.silence()
		if !up {
			if got := <-heard; got != "hello" {
				t.Errorf("server heard %q", got)
			}
		} else if len(heard) > 0 {
			t.Error("the server heard what was frozen on its way up")
		}
		p.Set("gw-a", Fault{})
		c.hear("ok\n")
	}
}

func TestFreezeLosesNothing(t *testing.T) {
	p := proxy(t, echo(t))
	a := dial(t, p, "gw-a").greeted("gw-a")
	p.Set("gw-a", Fault{Mode: Freeze})
	a.say("one\n")
	a.silence()
	late := dial(t, p, "gw-a")
	a.say("two\n")
	p.Set("gw-a", Fault{})
	a.hear("one\n")
	a.hear("two\n")
	late.greeted("gw-a")
}

func TestABlackholeSwallowsTheEnd(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	p := proxy(t, lis.Addr().String())
	c := dial(t, p, "gw-a")
	nc, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	server := &client{nc.(*net.TCPConn), t, bufio.NewReader(nc)}
	server.greeted("gw-a")
	p.Set("gw-a", Fault{Mode: Blackhole})
	c.Close()
	server.silence()
	p.Set("gw-a", Fault{})
	server.ended()
}

func TestSlow(t *testing.T) {
	p := proxy(t, echo(t))
	a := dial(t, p, "gw-a").greeted("gw-a")
	p.Set("gw-a", Fault{Mode: Slow, Up: true, Delay: 20 * time.Millisecond, BytesPerSecond: 1000})
	start := time.Now()
	a.say("0123456789\n")
	a.hear("0123456789\n")
	if took := time.Since(start); took < 30*time.Millisecond {
		t.Errorf("took %v, want 20 ms and 11 bytes at 1000 a second", took)
	}
	p.SetAll(Fault{})
	a.say("quick\n")
	a.hear("quick\n")
}

func TestNoServer(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lis.Close()
	dial(t, proxy(t, lis.Addr().String()), "gw-a").ended()
}

func TestFaultString(t *testing.T) {
	for _, tt := range []struct {
		fault Fault
		want  string
	}{
		{Fault{}, "pass"},
		{Fault{Mode: Blackhole, Up: true}, "blackhole up"},
		{Fault{Mode: Freeze, Up: true, Down: true}, "freeze"},
		{Fault{Mode: Slow, Down: true, Delay: time.Second, BytesPerSecond: 10}, "slow down 1s, 10 B/s"},
	} {
		if got := tt.fault.String(); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}
