package cluster_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ringcast/ringcast/cluster"
	"github.com/ringcast/ringcast/gateway"
	"github.com/ringcast/ringcast/shared/certs"
	"github.com/ringcast/ringcast/topicserver"
)

// authority is a directory of certificates, with those of ts-a, ts-b and the gateways, and wss for localhost.
type authority struct {
	t   *testing.T
	dir string
	*certs.Authority
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	dir := t.TempDir()
	a, err := certs.OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	auth := &authority{t, dir, a}
	for _, id := range []string{"ts-a", "ts-b"} {
		auth.issue(id, certs.Request{Server: id})
	}
	auth.issue("gateway", certs.Request{Gateway: certs.AnyGateway})
	auth.issue("wss", certs.Request{Hosts: []string{"localhost", "127.0.0.1"}})
	return auth
}

func (a *authority) issue(name string, r certs.Request) {
	a.t.Helper()
	if err := a.Issue(name, r); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) links(name string) certs.Links {
	return certs.Links{LinkCert: a.file(name + ".pem"), LinkKey: a.file(name + "-key.pem"), LinkCA: a.file("ca.pem")}
}

// encrypt makes a cluster encrypt everything.
func (a *authority) encrypt(cfg *cluster.Config) {
	cfg.TopicServer = func(ts *topicserver.Config) { ts.Links = a.links(ts.ID) }
	cfg.Gateway = func(g *gateway.Config) {
		quick(g)
		g.Links, g.TLSCert, g.TLSKey = a.links("gateway"), a.file("wss.pem"), a.file("wss-key.pem")
	}
}

// client returns an HTTP client that believes the authority, and what it sees of the server's certificate.
func (a *authority) client(seen func(*x509.Certificate)) *http.Client {
	a.t.Helper()
	pem, err := os.ReadFile(a.file("ca.pem"))
	if err != nil {
		a.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		RootCAs: pool,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if seen != nil {
				seen(cs.PeerCertificates[0])
			}
			return nil
		},
	}}}
}

// dial is the tests' dial, by wss.
func (a *authority) dial(name, addr string) *socket {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "wss://"+addr+"/socket/websocket?vsn=2.0.0", &websocket.DialOptions{HTTPClient: a.client(nil)})
	if err != nil {
		a.t.Fatalf("%s: %v", name, err)
	}
	a.t.Cleanup(func() { _ = conn.CloseNow() })
	conn.SetReadLimit(4 << 20)
	return &socket{t: a.t, name: name, ws: conn}
}

// Everything encrypted: clients, links, and the servers' handovers with each other.
func TestAClusterWithCertificates(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	core, logs := observer.New(zapcore.WarnLevel)
	c := start(t, a.encrypt, func(cfg *cluster.Config) { cfg.Log = zap.New(core) })
	var clients []*socket
	for i := range 4 {
		client := a.dial(fmt.Sprint("client ", i), c.Gateways[i%2].Addr)
		client.join("topics:matrix")
		clients = append(clients, client)
	}
	big := strings.Repeat("x", 60_000) // more than one TLS record
	for n := range 20 {
		clients[0].say(fmt.Sprintf(`["1","2","topics:matrix","publish",["e",{"n":%d,"x":%q}]]`, n, big))
		clients[0].expect(`["1","2","topics:matrix","phx_reply",{"response":{},"status":"ok"}]`)
		for _, client := range clients {
			client.expect(fmt.Sprintf(`["1",null,"topics:matrix","e",{"n":%d,"x":%q}]`, n, big))
		}
	}
	for _, line := range logs.All() {
		if !strings.HasPrefix(line.Message, "AUTHENTICATION IS OFF") && !strings.HasPrefix(line.Message, "no link to topic server") {
			t.Errorf("log: %s %v", line.Message, line.ContextMap())
		}
	}
	// A client in plain text gets nowhere, and disturbs nobody.
	if _, _, err := handshake(t, "ws://"+c.Gateways[0].Addr+"/socket/websocket?vsn=2.0.0", "", nil); err == nil {
		t.Error("connected in plain text")
	}
	clients[0].silence()
	for _, g := range c.Gateways {
		if err := g.Stop(); err != nil {
			t.Error(err)
		}
	}
	clients[1].expectClose(1012, "gateway restarts")
}

func TestRenewedCertificateForClients(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	c := start(t, a.encrypt, func(cfg *cluster.Config) { cfg.Gateways = 1 })
	serial := func() (s string) {
		resp, err := a.client(func(cert *x509.Certificate) { s = cert.SerialNumber.String() }).Get("https://" + c.Gateways[0].Addr + "/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return s
	}
	client := a.dial("client", c.Gateways[0].Addr)
	client.join("topics:matrix")
	first := serial()
	a.issue("wss", certs.Request{Hosts: []string{"127.0.0.1"}})
	eventually(t, "the new certificate is used", func() bool { return serial() != first })
	client.silence() // its connection stays
}

// startUntil starts a cluster that cannot get ready, until it logs a message, and returns the lines with that message.
func startUntil(t *testing.T, cfg cluster.Config, message string) []observer.LoggedEntry {
	t.Helper()
	core, logs := observer.New(zapcore.WarnLevel)
	cfg.Log = zap.New(core)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := cluster.Start(ctx, cfg)
		ended <- err
	}()
	eventually(t, message, func() bool { return logs.FilterMessage(message).Len() > 0 })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("the gateway has a link: %v", err)
	}
	return logs.FilterMessage(message).All()
}

// A server that answers at another's address is not taken for it.
func TestRow40_APeerWithTheWrongID(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.issue("gw-1", certs.Request{Gateway: "gw-1"})
	lines := startUntil(t, cluster.Config{
		TopicServer: func(ts *topicserver.Config) { ts.Links = a.links("ts-b") }, // it is ts-a
		Gateway:     func(g *gateway.Config) { quick(g); g.Links = a.links("gateway") },
	}, "no link to topic server; will keep trying")
	text := fmt.Sprint(lines[0].ContextMap()["error"])
	if !strings.Contains(text, ") presents id ts-b") || !strings.Contains(text, "peer ts-a (127.0.0.1:") {
		t.Errorf("log: %v", lines)
	}

	// A gateway that gives another's name is refused.
	refused := startUntil(t, cluster.Config{
		TopicServer: func(ts *topicserver.Config) { ts.Links = a.links("ts-a") },
		Gateway:     func(g *gateway.Config) { quick(g); g.Links = a.links("gw-1") }, // it is gw-a
	}, "refused a lane")
	text = fmt.Sprint(refused[0].ContextMap()["detail"])
	if !strings.Contains(text, `peer gateway "gw-a" (127.0.0.1:`) || !strings.Contains(text, "presents id gateway gw-1") {
		t.Errorf("log: %v", refused)
	}
}
