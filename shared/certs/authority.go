package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// Authority is a small certificate authority, for tests and for those who have none for their links. Its files are ca.pem and
// ca-key.pem in one directory.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// OpenAuthority opens the authority in a directory, or makes one there that counts for ten years. It is an error if the
// directory has a certificate without a key that can be read: what such an authority has issued must not be orphaned by a new one.
func OpenAuthority(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &Authority{dir: dir}
	certPEM, err := os.ReadFile(a.path("ca.pem"))
	if errors.Is(err, fs.ErrNotExist) {
		return a, a.create()
	}
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(a.path("ca-key.pem"))
	if err != nil {
		return nil, err
	}
	return a, a.parse(certPEM, keyPEM)
}

func (a *Authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *Authority) parse(certPEM, keyPEM []byte) error {
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return fmt.Errorf("%s and ca-key.pem are not in PEM", a.path("ca.pem"))
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return fmt.Errorf("%s: %w", a.path("ca.pem"), err)
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	private, ok := key.(*ecdsa.PrivateKey)
	if err != nil || !ok || !private.PublicKey.Equal(cert.PublicKey) {
		return fmt.Errorf("%s is not the key of ca.pem", a.path("ca-key.pem"))
	}
	a.cert, a.key = cert, private
	return nil
}

func (a *Authority) create() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "ringcast links"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := sign(template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	a.key = key
	return a.write("ca", der, key)
}

// Request is what a certificate is made for. At least one name is set.
type Request struct {
	Server  string   // id of a topic server
	Gateway string   // id of a gateway, or AnyGateway
	Hosts   []string // DNS names and IP addresses, for clients that come by wss
	// NotBefore is now and NotAfter a year later by default.
	NotBefore, NotAfter time.Time
}

// AnyGateway stands for all gateways in a Request.
const AnyGateway = "*"

// Issue makes a certificate and writes it to name.pem, its key (mode 0600) to name-key.pem, over what is there. The error
// is of the file system; the pair may be half written then, and Issue is to be called again.
func (a *Authority) Issue(name string, r Request) error {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: r.NotBefore, NotAfter: r.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().AddDate(1, 0, 0)
	}
	uri := func(host, id string) {
		u := &url.URL{Scheme: "ringcast", Host: host}
		if id != AnyGateway {
			u.Path = "/" + id
		}
		template.URIs = append(template.URIs, u)
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if r.Server != "" {
		uri("server", r.Server)
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if r.Gateway != "" {
		uri("gateway", r.Gateway)
	}
	for _, host := range r.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := sign(template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return err
	}
	return a.write(name, der, key)
}

func sign(template, parent *x509.Certificate, public *ecdsa.PublicKey, by *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	return x509.CreateCertificate(rand.Reader, template, parent, public, by)
}

// write writes the key first: a certificate that is there has one.
func (a *Authority) write(name string, cert []byte, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := replace(a.path(name+"-key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return err
	}
	return replace(a.path(name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644)
}

// replace writes a file by renaming a finished copy over it.
func replace(path string, data []byte, mode fs.FileMode) error {
	next := path + ".new"
	if err := os.WriteFile(next, data, mode); err != nil {
		return err
	}
	return os.Rename(next, path)
}
