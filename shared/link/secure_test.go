package link

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/certs"
)

// authority makes certificates in a directory of the test.
type authority struct {
	t testing.TB
	*certs.Authority
	dir string
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	dir := t.TempDir()
	a, err := certs.OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, a, dir}
}

// identity issues a certificate and loads it.
func (a *authority) identity(name string, r certs.Request) *certs.Identity {
	a.t.Helper()
	if err := a.Issue(name, r); err != nil {
		a.t.Fatal(err)
	}
	id, err := a.links(name).Load()
	if err != nil {
		a.t.Fatal(err)
	}
	return id
}

func (a *authority) links(name string) *certs.Links {
	return &certs.Links{
		LinkCert: filepath.Join(a.dir, name+".pem"), LinkKey: filepath.Join(a.dir, name+"-key.pem"), LinkCA: filepath.Join(a.dir, "ca.pem"),
	}
}

// A lane over TLS does all that a lane does.
func TestLaneOverTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	peers := make(chan *certs.Peer, 1)
	got := make(chan *linkpb.Publish, 100)
	addr, _ := serve(t, ServeConfig{
		Config: Config{Identity: a.identity("ts-a", certs.Request{Server: "ts-a"})},
		Handle: func(lane *Lane) {
			peers <- lane.Peer()
			handle(func(_ *Lane, kind linkpb.Kind, body []byte) error {
				p, err := decodePublish(body)
				if err == nil && kind == linkpb.KindPublish {
					got <- p
				}
				return err
			}, nil)(lane)
		},
	})
	g := dial(t, t.Context(), addr, Config{Identity: a.identity("gw-1", certs.Request{Gateway: "gw-1"}), Server: "ts-a"}, nil)
	await(t, "the welcome", g.live)
	peer := await(t, "the peer", peers)
	if !peer.Gateway("gw-1") || peer.Gateway("gw-2") || peer.Server("gw-1") || peer.String() != "gateway gw-1" {
		t.Errorf("the peer is %s", peer)
	}
	for i := range uint64(100) {
		g.send(&linkpb.Publish{Ref: i, Topic: "t", Payload: make([]byte, 1000*i)})
	}
	for i := range uint64(100) {
		if p := await(t, "a publish", got); p.Ref != i || len(p.Payload) != int(1000*i) {
			t.Fatalf("publish %d with %d bytes, want %d", p.Ref, len(p.Payload), i)
		}
	}
}

// An encrypted lane finds a peer that does not read, and nobody waits for it.
func TestSlowPeerOverTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	stuck := make(chan struct{})
	addr, stop := serve(t, ServeConfig{
		Config: Config{Identity: a.identity("ts-a", certs.Request{Server: "ts-a"})},
		Handle: handle(func(*Lane, linkpb.Kind, []byte) error { <-stuck; return nil }, nil),
	})
	g := dial(t, t.Context(), addr, Config{
		Identity: a.identity("gw", certs.Request{Gateway: certs.AnyGateway}), Server: "ts-a", MaxQueued: 1 << 20, Silence: time.Minute,
	}, nil)
	await(t, "the welcome", g.live)
	for range 1000 {
		g.send(&linkpb.Publish{Topic: "t", Payload: make([]byte, 100<<10)})
	}
	if err := g.end(t); !errors.Is(err, ErrSlowPeer) {
		t.Errorf("ended with %v, want ErrSlowPeer", err)
	}
	close(stuck)
	_ = stop()
}

// failed waits for the end of a dial that must not succeed, at Dial or later.
func failed(t *testing.T, addr string, cfg Config) error {
	t.Helper()
	lane, err := Dial(t.Context(), addr, unhurried(cfg), &linkpb.Hello{Protocol: Protocol, Gateway: "gw-a", Lanes: 1})
	if err != nil {
		return err
	}
	g := receive(lane, nil)
	select {
	case <-g.live:
		t.Error("the lane is live")
		lane.Close()
	case err = <-g.ended:
	}
	return err
}

func TestRow40_PeersThatDoNotFit(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t), newAuthority(t)
	long := time.Now().Add(-48 * time.Hour)
	server := a.identity("ts-a", certs.Request{Server: "ts-a"})
	gateway := a.identity("gw", certs.Request{Gateway: certs.AnyGateway})
	for _, test := range []struct {
		name         string
		accept, dial *certs.Identity
		dials, logs  string // what each side says
	}{
		{"another server", a.identity("ts-b", certs.Request{Server: "ts-b"}), gateway, "link: peer ts-a (127.0.0.1:", ""},
		{"another server, the rest", a.identity("ts-b", certs.Request{Server: "ts-b"}), gateway, "presents id ts-b", ""},
		{"a gateway in the place of a server", gateway, gateway, "its certificate is for another use", ""},
		{"another authority at the server", other.identity("ts-a", certs.Request{Server: "ts-a"}), gateway, "its certificate is of another authority", "peer does not accept this certificate"},
		{"another authority at the gateway", server, other.identity("gw", certs.Request{Gateway: certs.AnyGateway}), "its certificate is of another authority", ""},
		{"plain text to TLS", server, nil, "perhaps one end wants TLS and the other does not", "peer speaks plain text, and links want TLS here"},
		{"TLS to plain text", nil, gateway, "perhaps links are in plain text there", "peer speaks TLS, and links are in plain text here"},
		{"a host's certificate at the gateway", server, a.identity("host", certs.Request{Hosts: []string{"example.com"}}), "", "its certificate is for another use"},
	} {
		log, logs := observe()
		addr, _ := serve(t, ServeConfig{Config: Config{Identity: test.accept}, Handle: handle(nil, nil), Log: log})
		err := failed(t, addr, Config{Identity: test.dial, Server: "ts-a"})
		if err == nil || !strings.Contains(err.Error(), test.dials) {
			t.Errorf("%s: the dialing end says %v, want %q", test.name, err, test.dials)
		}
		if test.logs == "" {
			continue
		}
		waitFor(t, test.name+": a log line", func() bool { return logs.FilterMessage("closed a connection that sent no hello").Len() > 0 })
		if line := logs.FilterMessage("closed a connection that sent no hello").All()[0].ContextMap()["error"].(string); !strings.Contains(line, test.logs) {
			t.Errorf("%s: the accepting end says %s, want %q", test.name, line, test.logs)
		}
	}
	// A certificate that has ended: LoadPair refuses it at the start, so it ends while the process runs.
	soon := certs.Request{Server: "ts-a", NotBefore: long, NotAfter: time.Now().Add(5 * time.Second)}
	ending := a.identity("ending", soon)
	waitFor(t, "the end of the certificate", func() bool { return time.Now().After(ending.Expires()) })
	addr, _ := serve(t, ServeConfig{Config: Config{Identity: ending}, Handle: handle(nil, nil)})
	if err := failed(t, addr, Config{Identity: gateway, Server: "ts-a"}); err == nil || !strings.Contains(err.Error(), "its certificate counts from ") {
		t.Errorf("a certificate that has ended: %v", err)
	}
}

// A gateway learns that its certificate is refused only after its own part of the handshake; the log of the server has the
// reason.
func TestGatewayWithoutACertificate(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	log, logs := observe()
	addr, _ := serve(t, ServeConfig{Config: Config{Identity: a.identity("ts-a", certs.Request{Server: "ts-a"})}, Handle: handle(nil, nil), Log: log})
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err == nil {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
	}
	if err == nil {
		t.Error("accepted")
	}
	waitFor(t, "a log line", func() bool { return logs.FilterMessage("closed a connection that sent no hello").Len() > 0 })
}

// farConn is a connection with another host, as far as its addresses say.
type farConn struct{ net.Conn }

func (farConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 7101} }

func TestPlainTextIsForOneHost(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		cfg  Config
		far  bool
		want error
	}{
		{Config{}, true, ErrPlainText}, {Config{Insecure: true}, true, nil}, {Config{}, false, nil},
	} {
		near, peer := net.Pipe()
		defer near.Close()
		defer peer.Close()
		nc := near
		if test.far {
			nc = farConn{near}
		}
		c := newConn(nc, test.cfg.withDefaults(), func() {})
		if err := c.secureDialed(context.Background(), test.cfg); !errors.Is(err, test.want) {
			t.Errorf("%+v, far %v: dialed: %v, want %v", test.cfg, test.far, err, test.want)
		}
		if err := c.secureAccepted(context.Background(), test.cfg); !errors.Is(err, test.want) {
			t.Errorf("%+v, far %v: accepted: %v, want %v", test.cfg, test.far, err, test.want)
		}
		c.Close()
	}
}

// BenchmarkLane compares what a batch costs with and without TLS.
func BenchmarkLane(b *testing.B) {
	a := newAuthority(b)
	for name, id := range map[string][2]*certs.Identity{
		"plain": {},
		"tls":   {a.identity("ts-a", certs.Request{Server: "ts-a"}), a.identity("gw", certs.Request{Gateway: certs.AnyGateway})},
	} {
		b.Run(name, func(b *testing.B) {
			received := make(chan struct{}, 1)
			n := 0
			addr, _ := serve(b, ServeConfig{Config: Config{Identity: id[0]}, Handle: handle(func(*Lane, linkpb.Kind, []byte) error {
				if n++; n%100 == 0 {
					received <- struct{}{}
				}
				return nil
			}, nil)})
			g := dial(b, context.Background(), addr, Config{Identity: id[1], Server: "ts-a", Silence: time.Minute}, nil)
			await(b, "the welcome", g.live)
			p := &linkpb.Publish{Topic: "topics:matrix", Event: "event", Payload: make([]byte, 128)}
			b.ResetTimer()
			for range b.N {
				for range 100 {
					g.send(p)
				}
				<-received
			}
		})
	}
}
