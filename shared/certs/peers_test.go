package certs

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Who forwards to another of the same service believes only who could serve its clients.
func TestPeersAreThoseWhomClientsWouldBelieve(t *testing.T) {
	hosts := Request{Hosts: []string{"wss.example", "127.0.0.1"}}
	dir, a := issue(t, "own", hosts)
	other, err := OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	bare := filepath.Join(dir, "own")
	leaf, err := os.ReadFile(bare + ".pem")
	if err != nil {
		t.Fatal(err)
	}
	whole := filepath.Join(dir, "whole.pem") // with the authority behind it
	if err := os.WriteFile(whole, append(leaf, ca...), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		own, peer string
		want      bool
	}{
		"the same key":                           {bare + ".pem", bare, true},
		"the same name, the same authority":      {whole, mustIssue(t, a, "peer", hosts), true},
		"the same name, an unknown authority":    {bare + ".pem", mustIssue(t, a, "peer-2", hosts), false},
		"the same name, another authority":       {whole, mustIssue(t, other, "peer", hosts), false},
		"another name, the same authority":       {whole, mustIssue(t, a, "stranger", Request{Hosts: []string{"evil.example"}}), false},
		"a gateway's link, the same authority":   {whole, mustIssue(t, a, "link", Request{Gateway: AnyGateway}), false},
		"the same name, its certificate is over": {whole, mustIssue(t, a, "over", Request{Hosts: hosts.Hosts, NotAfter: time.Now().Add(-time.Minute)}), false},
	} {
		t.Run(name, func(t *testing.T) {
			pair, err := LoadPair("CERT", tt.own, "KEY", bare+"-key.pem")
			if err != nil {
				t.Fatal(err)
			}
			peer, err := tls.LoadX509KeyPair(tt.peer+".pem", tt.peer+"-key.pem")
			if err != nil {
				t.Fatal(err)
			}
			lis, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{peer}})
			if err != nil {
				t.Fatal(err)
			}
			defer lis.Close()
			go func() {
				if c, err := lis.Accept(); err == nil {
					_ = c.(*tls.Conn).Handshake()
					_ = c.Close()
				}
			}()
			c, err := tls.Dial("tcp", lis.Addr().String(), pair.PeerConfig())
			if (err == nil) != tt.want {
				t.Errorf("handshake: %v", err)
			}
			if err == nil {
				c.Close()
			}
		})
	}
	if shareName(&x509.Certificate{}, &x509.Certificate{}) {
		t.Error("certificates without names share one")
	}
}

func mustIssue(t *testing.T, a *Authority, name string, r Request) string {
	t.Helper()
	if err := a.Issue(name, r); err != nil {
		t.Fatal(err)
	}
	return a.path(name)
}
