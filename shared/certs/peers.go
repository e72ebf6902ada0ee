package certs

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
)

// PeerConfig returns the configuration of connections to others that serve the same clients as this pair's holder, by
// addresses that no certificate is for. It believes those whom clients could take for the holder: who has its key, or a
// certificate that shares a name with its own and is signed by an authority of the system, or by one that stands behind the
// certificate in the pair's file.
func (p *Pair) PeerConfig() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // it would compare the address; VerifyConnection is stricter
		VerifyConnection:   func(cs tls.ConnectionState) error { return p.verifyPeer(cs.PeerCertificates) },
	}
}

func (p *Pair) verifyPeer(chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return errors.New("certs: no certificate")
	}
	own, leaf := p.current.Load(), chain[0]
	if key, ok := own.Leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && key.Equal(leaf.PublicKey) {
		return nil
	}
	if !shareName(own.Leaf, leaf) {
		return fmt.Errorf("certs: the certificate is for none of the names in %s, and its key is another", p.certName)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	for _, der := range own.Certificate[1:] {
		if ca, err := x509.ParseCertificate(der); err == nil && ca.IsCA {
			roots.AddCert(ca)
		}
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between}); err != nil {
		return fmt.Errorf("certs: %w", err)
	}
	return nil
}

// shareName reports whether there is a host that both certificates are for.
func shareName(a, b *x509.Certificate) bool {
	return slices.ContainsFunc(a.DNSNames, func(name string) bool { return slices.Contains(b.DNSNames, name) }) ||
		slices.ContainsFunc(a.IPAddresses, func(ip net.IP) bool { return slices.ContainsFunc(b.IPAddresses, ip.Equal) })
}
