package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ringcast/ringcast/shared/ring"
)

const patience = time.Minute

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// issue makes an authority and one certificate in a new directory.
func issue(t *testing.T, name string, r Request) (dir string, a *Authority) {
	t.Helper()
	dir = t.TempDir()
	a, err := OpenAuthority(dir)
	if err == nil {
		err = a.Issue(name, r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir, a
}

func TestLoadPairRefuses(t *testing.T) {
	t.Parallel()
	now := time.Now()
	dir, a := issue(t, "good", Request{Hosts: []string{"localhost"}})
	for name, r := range map[string]Request{
		"other": {Hosts: []string{"localhost"}},
		"ended": {Hosts: []string{"localhost"}, NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(-24 * time.Hour)},
		"open":  {Hosts: []string{"localhost"}},
	} {
		if err := a.Issue(name, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "open-key.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "junk.pem"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ cert, key, want string }{
		{"good.pem", "good-key.pem", ""},
		{"good.pem", "other-key.pem", "private key does not match public key"},
		{"none.pem", "good-key.pem", `CERT="` + dir + `/none.pem": open: no such file`},
		{"good.pem", "none.pem", `KEY="` + dir + `/none.pem": open: no such file`},
		{"good.pem", "good.pem", "lets others read it"},
		{"junk.pem", "good-key.pem", "no pair with KEY="},
		{"ended.pem", "ended-key.pem", "the certificate ended at "},
		{"open.pem", "open-key.pem", "mode 0644 lets others read it"},
	} {
		_, err := LoadPair("CERT", filepath.Join(dir, test.cert), "KEY", filepath.Join(dir, test.key))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s with %s: %v, want %q", test.cert, test.key, err, test.want)
		}
	}
}

// A renewed certificate is used by the next handshake; one that is of no use is not, and logged.
func TestPairIsReloadedAndWarnsOfItsEnd(t *testing.T) {
	t.Parallel()
	soon := time.Now().Add(Notice / 2)
	dir, a := issue(t, "web", Request{Hosts: []string{"localhost"}, NotAfter: soon})
	cert := filepath.Join(dir, "web.pem")
	p, err := LoadPair("CERT", cert, "KEY", filepath.Join(dir, "web-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zapcore.InfoLevel)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(ctx, zap.New(core)) })
	defer wg.Wait()
	defer cancel()
	eventually(t, "a warning", func() bool { return logs.FilterMessage("certificate ends soon").Len() == 1 })
	config := p.ServerConfig()
	first, _ := config.GetCertificate(&tls.ClientHelloInfo{})
	if err := a.Issue("web", Request{Hosts: []string{"localhost"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new one", func() bool { c, _ := config.GetCertificate(&tls.ClientHelloInfo{}); return c != first })
	second := p.Certificate()
	for bad, put := range map[string]func() error{
		"junk": func() error { return os.WriteFile(cert, []byte("junk"), 0o600) },
		"has ended": func() error {
			return a.Issue("web", Request{Hosts: []string{"localhost"}, NotAfter: time.Now().Add(-time.Minute)})
		},
	} {
		before := logs.FilterMessage("certificate not loaded; the one in use stays").Len()
		if err := put(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "an error", func() bool { return logs.FilterMessage("certificate not loaded; the one in use stays").Len() > before })
		if p.Certificate() != second {
			t.Errorf("%s: the certificate in use is gone", bad)
		}
	}
	// One of tomorrow may be right, and the clock here wrong: it is used, and said.
	if err := a.Issue("web", Request{Hosts: []string{"localhost"}, NotBefore: time.Now().Add(24 * time.Hour)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the one of tomorrow", func() bool { return p.Certificate() != second })
	eventually(t, "it is said", func() bool { return logs.FilterMessage("certificate does not count yet: peers refuse it").Len() == 1 })
}

func TestAuthorityIsKept(t *testing.T) {
	t.Parallel()
	dir, _ := issue(t, "a", Request{Server: "a"})
	again, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Issue("b", Request{Server: "b"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		links := Links{LinkCert: filepath.Join(dir, name+".pem"), LinkKey: filepath.Join(dir, name+"-key.pem"), LinkCA: filepath.Join(dir, "ca.pem")}
		id, err := links.Load()
		if err != nil {
			t.Fatal(err)
		}
		if err := id.ClientConfig(name).VerifyConnection(tls.ConnectionState{PeerCertificates: leafOf(id)}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		err = id.ClientConfig("c").VerifyConnection(tls.ConnectionState{PeerCertificates: leafOf(id)})
		if err == nil || err.Error() != "peer c presents id "+name {
			t.Errorf("%s in the place of c: %v", name, err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "ca-key.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the authority's key: %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca-key.pem"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir); err == nil {
		t.Error("an authority without its key is opened")
	}
}

func TestLinksConfig(t *testing.T) {
	t.Parallel()
	all := Links{LinkCert: "c", LinkKey: "k", LinkCA: "a"}
	for name, test := range map[string]struct {
		links Links
		want  string
	}{
		"off":           {Links{}, ""},
		"insecure":      {Links{InsecureLinks: true}, ""},
		"all":           {all, ""},
		"no authority":  {Links{LinkCert: "c", LinkKey: "k"}, "LINK_CA_FILE is required"},
		"authority":     {Links{LinkCA: "a"}, "LINK_CERT_FILE is required: links need certificate, key and authority\nLINK_KEY_FILE is required"},
		"contradiction": {Links{LinkCert: "c", LinkKey: "k", LinkCA: "a", InsecureLinks: true}, "INSECURE_LINKS=true contradicts"},
	} {
		err := test.links.Validate()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	for addr, local := range map[string]bool{
		"127.0.0.1:7101": true, "[::1]:7101": true, "localhost:7101": true, "10.0.0.1:7101": false, "ts-a:7101": false, "127.0.0.1.example:7101": false,
	} {
		rg, err := ring.New(1, []ring.Server{{ID: "ts-a", Addr: addr}})
		if err != nil {
			t.Fatal(err)
		}
		if err := (&Links{}).CheckRing(rg); (err == nil) != local {
			t.Errorf("%s in plain text: %v", addr, err)
		}
		for _, links := range []*Links{&all, {InsecureLinks: true}} {
			if err := links.CheckRing(rg); err != nil {
				t.Errorf("%s, %+v: %v", addr, links, err)
			}
		}
	}
}

func leafOf(id *Identity) []*x509.Certificate { return []*x509.Certificate{id.pair.Certificate().Leaf} }

// Clients speak TLS 1.2 or later, links 1.3 on both ends.
func TestOldVersionsOfTLS(t *testing.T) {
	t.Parallel()
	dir, a := issue(t, "web", Request{Hosts: []string{"localhost"}})
	if err := a.Issue("ts-a", Request{Server: "ts-a"}); err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	web, err := LoadPair("CERT", file("web.pem"), "KEY", file("web-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := (&Links{LinkCert: file("ts-a.pem"), LinkKey: file("ts-a-key.pem"), LinkCA: file("ca.pem")}).Load()
	if err != nil {
		t.Fatal(err)
	}
	own := []tls.Certificate{*id.pair.Certificate()}
	for _, test := range []struct {
		name           string
		server, client *tls.Config
		least          uint16
	}{
		{"clients", web.ServerConfig(), &tls.Config{InsecureSkipVerify: true}, tls.VersionTLS12},
		{"links, accepting", id.ServerConfig(), &tls.Config{InsecureSkipVerify: true, Certificates: own}, tls.VersionTLS13},
		{"links, dialing", &tls.Config{Certificates: own}, id.ClientConfig("ts-a"), tls.VersionTLS13},
	} {
		for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
			server, client := test.server.Clone(), test.client.Clone()
			old := client // the end that may be any other's
			if test.name == "links, dialing" {
				old = server
			}
			old.MinVersion, old.MaxVersion = version, version
			near, far := net.Pipe()
			accepted := make(chan error, 1)
			go func() {
				conn := tls.Server(far, server)
				err := conn.Handshake()
				if err == nil {
					_, err = conn.Write([]byte("x"))
				}
				far.Close()
				accepted <- err
			}()
			conn := tls.Client(near, client)
			err := conn.Handshake()
			if err == nil {
				_, err = conn.Read(make([]byte, 1))
			}
			near.Close()
			if <-accepted; (err == nil) != (version >= test.least) {
				t.Errorf("%s, %s: %v", test.name, tls.VersionName(version), err)
			}
		}
	}
}
