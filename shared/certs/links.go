package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/ring"
)

// Links says how the links of a process are protected. Without certificates they are plain text, and only within one host
// unless InsecureLinks is set.
type Links struct {
	LinkCert      string `env:"LINK_CERT_FILE" help:"certificate that this process presents on links, PEM"`
	LinkKey       string `env:"LINK_KEY_FILE" help:"its private key, PEM; not readable by others"`
	LinkCA        string `env:"LINK_CA_FILE" help:"authority of the certificates on links, PEM"`
	InsecureLinks bool   `env:"INSECURE_LINKS" envDefault:"false" help:"allow links in plain text between hosts"`
}

// On reports whether links are encrypted.
func (c *Links) On() bool { return c.LinkCert != "" || c.LinkKey != "" || c.LinkCA != "" }

// Validate reports every problem at once, one line each. It does not read files.
func (c *Links) Validate() error {
	if !c.On() {
		return nil
	}
	var errs []error
	for _, v := range []struct{ name, value string }{
		{"LINK_CERT_FILE", c.LinkCert}, {"LINK_KEY_FILE", c.LinkKey}, {"LINK_CA_FILE", c.LinkCA},
	} {
		if v.value == "" {
			errs = append(errs, fmt.Errorf("%s is required: links need certificate, key and authority", v.name))
		}
	}
	if c.InsecureLinks {
		errs = append(errs, errors.New("INSECURE_LINKS=true contradicts LINK_CERT_FILE: want one of them"))
	}
	return errors.Join(errs...)
}

// CheckRing returns an error if links to the servers of a ring would be plain text between hosts, and may not.
func (c *Links) CheckRing(rg *ring.Ring) error {
	if c.On() || c.InsecureLinks {
		return nil
	}
	for _, s := range rg.Servers() {
		if host, _, err := net.SplitHostPort(s.Addr); err != nil || !isLocal(host) {
			return fmt.Errorf("LINK_CERT_FILE, LINK_KEY_FILE and LINK_CA_FILE are required: topic server %q is at %s, on another host as it seems "+
				"(INSECURE_LINKS=true allows plain text)", s.ID, s.Addr)
		}
	}
	return nil
}

func isLocal(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Load reads the certificates; it returns nil if links are not encrypted. The error, a daemon.ErrConfig, names variables.
func (c *Links) Load() (*Identity, error) {
	if !c.On() {
		return nil, nil //nolint:nilnil // off is no error
	}
	pair, err1 := LoadPair("LINK_CERT_FILE", c.LinkCert, "LINK_KEY_FILE", c.LinkKey)
	id := &Identity{pair: pair, caPath: c.LinkCA}
	if err := errors.Join(err1, id.loadCA()); err != nil {
		return nil, daemon.ConfigError(err)
	}
	return id, nil
}

// Identity is what a process proves on its links, and whom it believes. Any goroutine may call its methods.
type Identity struct {
	pair   *Pair
	caPath string
	roots  atomic.Pointer[x509.CertPool]
}

func (id *Identity) loadCA() error {
	const name = "LINK_CA_FILE"
	data, err := readFile(name, id.caPath)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return daemon.Invalid(name, id.caPath, "has no certificate in PEM")
	}
	id.roots.Store(pool)
	return nil
}

// Run takes new certificates into use when the files change, until ctx is canceled. Links that are open stay.
func (id *Identity) Run(ctx context.Context, log *zap.Logger) {
	load := func() error { return errors.Join(id.pair.load(), id.loadCA()) }
	keepFresh(ctx, log, id.pair, load, id.pair.certPath, id.pair.keyPath, id.caPath)
}

// Expires returns when the certificate in use ends.
func (id *Identity) Expires() time.Time { return id.pair.Expires() }

// PeerError tells that the peer of a link is authentic, and another one than it should be.
type PeerError struct {
	Want string // e.g. "ts-2"
	Have *Peer  // what its certificate says
}

func (e *PeerError) Error() string { return fmt.Sprintf("peer %s presents id %s", e.Want, e.Have) }

// ClientConfig returns the configuration for a connection to the topic server with an id.
func (id *Identity) ClientConfig(server string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// A batch is one record, and one system call, from the start.
		DynamicRecordSizingDisabled: true,
		// Not an internet name: verify looks for the id in it, and for our authority.
		InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return id.pair.Certificate(), nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			peer, err := id.verify(&cs, x509.ExtKeyUsageServerAuth)
			if err == nil && !peer.Server(server) {
				err = &PeerError{Want: server, Have: peer}
			}
			return err
		},
	}
}

// ServerConfig returns the configuration for connections from gateways and topic servers. Which of them one is, PeerOf says.
func (id *Identity) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		DynamicRecordSizingDisabled: true, // see ClientConfig
		SessionTicketsDisabled:      true,
		ClientAuth:                  tls.RequireAnyClientCert,
		GetCertificate:              func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.pair.Certificate(), nil },
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := id.verify(&cs, x509.ExtKeyUsageClientAuth)
			return err
		},
	}
}

// verify checks the peer's certificate against the authority.
func (id *Identity) verify(cs *tls.ConnectionState, usage x509.ExtKeyUsage) (*Peer, error) {
	if len(cs.PeerCertificates) == 0 {
		return nil, errors.New("it presents no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	leaf := cs.PeerCertificates[0]
	_, err := leaf.Verify(x509.VerifyOptions{Roots: id.roots.Load(), Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return nil, describe(err)
	}
	return peerOf(leaf), nil
}

// Peer is what a verified certificate says of its holder.
type Peer struct {
	servers  []string
	gateways []string // "" is any
}

// PeerOf returns whom a verified connection is with.
func PeerOf(cs tls.ConnectionState) *Peer { return peerOf(cs.PeerCertificates[0]) }

func peerOf(cert *x509.Certificate) *Peer {
	p := &Peer{servers: slices.Clone(cert.DNSNames)}
	for _, u := range cert.URIs {
		name := strings.TrimPrefix(u.Path, "/")
		switch {
		case u.Scheme != "ringcast":
		case u.Host == "server" && name != "":
			p.servers = append(p.servers, name)
		case u.Host == "gateway":
			p.gateways = append(p.gateways, name)
		}
	}
	return p
}

// Server reports whether the peer is the topic server with the id. A nil Peer, of a link in plain text, is whoever it says.
func (p *Peer) Server(id string) bool { return p == nil || slices.Contains(p.servers, id) }

// Gateway reports whether the peer is the gateway with the id.
func (p *Peer) Gateway(id string) bool {
	return p == nil || slices.Contains(p.gateways, id) || slices.Contains(p.gateways, "")
}

// String lists the ids.
func (p *Peer) String() string {
	if p == nil {
		return "unknown"
	}
	ids := slices.Clone(p.servers)
	for _, g := range p.gateways {
		ids = append(ids, strings.TrimSuffix("gateway "+g, " "))
	}
	slices.Sort(ids)
	if ids = slices.Compact(ids); len(ids) == 0 {
		return "none"
	}
	text := strings.Join(ids, ", ")
	if len(text) > 256 {
		text = text[:256] + "…"
	}
	return text
}
