// Package certs is what the services know of certificates: pairs of certificate and key that are renewed while a process
// runs, and the identities that the ends of a link prove to each other.
//
// Links have an authority of their own. A certificate of it says what its holder is by its names:
//
//	URI:ringcast://server/ts-a       the topic server ts-a
//	DNS:ts-a                         the same
//	URI:ringcast://gateway/gw-1      the gateway gw-1
//	URI:ringcast://gateway           any gateway
//
// So whoever holds one cannot pass for another server: the ring says which id is at which address, and the certificate must
// have that id.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/reload"
)

const (
	// Notice is how long before the end of a certificate there are warnings.
	Notice = 30 * 24 * time.Hour
	// warnEvery is the time between two of them.
	warnEvery = 24 * time.Hour
	maxFile   = 1 << 20
)

// Pair is a certificate with its key, from two files that may be replaced. Any goroutine may call its methods.
type Pair struct {
	// Static.
	certName, certPath string // the variable, and what it says
	keyName, keyPath   string

	current atomic.Pointer[tls.Certificate]
}

// LoadPair reads a pair. The error names the variables, certName and keyName; a certificate that has ended is one too.
func LoadPair(certName, certPath, keyName, keyPath string) (*Pair, error) {
	p := &Pair{certName: certName, certPath: certPath, keyName: keyName, keyPath: keyPath}
	if err := p.load(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Pair) load() error {
	cert, err := readFile(p.certName, p.certPath)
	if err != nil {
		return err
	}
	key, err := daemon.ReadPrivateFile(p.keyName, p.keyPath)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		// The library's texts tell what was expected, and nothing of what is in the key.
		return daemon.Invalid(p.certName, p.certPath, "no pair with %s=%q: %v", p.keyName, p.keyPath, err)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return daemon.Invalid(p.certName, p.certPath, "%v", err)
		}
	}
	if time.Until(pair.Leaf.NotAfter) <= 0 {
		return daemon.Invalid(p.certName, p.certPath, "the certificate ended at %s", pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	p.current.Store(&pair)
	return nil
}

func readFile(name, path string) ([]byte, error) {
	f, err := daemon.OpenFile(path)
	if err != nil {
		return nil, daemon.Invalid(name, path, "open: %v", errors.Unwrap(err))
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, daemon.Invalid(name, path, "read: %v", errors.Unwrap(err))
	}
	return data, nil
}

// Expires returns when the certificate in use ends.
func (p *Pair) Expires() time.Time { return p.current.Load().Leaf.NotAfter }

// Certificate returns the certificate in use.
func (p *Pair) Certificate() *tls.Certificate { return p.current.Load() }

// ServerConfig returns the configuration of a listener for clients, with the certificate that is in use at each handshake.
func (p *Pair) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.Certificate(), nil },
	}
}

// Run takes new certificates into use when the files change, and warns of the end of the one in use, until ctx is canceled.
func (p *Pair) Run(ctx context.Context, log *zap.Logger) {
	keepFresh(ctx, log, p, p.load, p.certPath, p.keyPath)
}

// keepFresh calls load when the files change, and warns of the end of the pair in use, until ctx is canceled.
func keepFresh(ctx context.Context, log *zap.Logger, p *Pair, load func() error, paths ...string) {
	log = log.With(zap.String("variable", p.certName))
	files := reload.New(paths...)
	if err := load(); err != nil { // they may have changed since the start
		log.Error("certificate not loaded; the one in use stays", zap.Error(err))
	}
	look := time.NewTicker(reload.DefaultEvery)
	defer look.Stop()
	for warned := (time.Time{}); ; {
		if time.Since(warned) >= warnEvery {
			warn(log, p.Certificate().Leaf)
			warned = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		if !files.Look() {
			continue
		}
		if err := load(); err != nil {
			log.Error("certificate not loaded; the one in use stays", zap.Error(err))
			continue
		}
		log.Info("certificate loaded", zap.Time("expires", p.Expires()))
		warned = time.Time{}
	}
}

// warn logs that a certificate ends soon or has ended, or does not count yet.
func warn(log *zap.Logger, cert *x509.Certificate) {
	switch left := time.Until(cert.NotAfter); {
	case left <= 0:
		log.Error("certificate has ended: peers refuse it", zap.Time("expires", cert.NotAfter))
	case time.Until(cert.NotBefore) > 0:
		log.Error("certificate does not count yet: peers refuse it", zap.Error(fmt.Errorf("it counts from %s to %s",
			cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339))))
	case left < Notice:
		log.Warn("certificate ends soon", zap.Time("expires", cert.NotAfter))
	}
}

// describe says in one line why a certificate is refused.
func describe(err error) error {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return errors.New("its certificate is of another authority")
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("its certificate counts from %s to %s", invalid.Cert.NotBefore.UTC().Format(time.RFC3339),
			invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return errors.New("its certificate is for another use")
	}
	return fmt.Errorf("its certificate does not count: %w", err)
}
