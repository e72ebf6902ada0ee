package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/reload"
)

const fetchTimeout = 10 * time.Second

// pace is how often keys are fetched.
type pace struct {
	every time.Duration // normally
	retry time.Duration // after a failure, growing to every
	again time.Duration // at the earliest after a fetch, when a token has an unknown key
}

var usualPace = pace{every: 10 * time.Minute, retry: 5 * time.Second, again: 30 * time.Second}

// source is where keys of an issuer come from: a value, a file or a URL.
type source struct {
	// Static.
	issuer string
	paths  []string
	url    string
	pace   pace
	read   func() ([]*key, error) // of a value or a file
	again  chan struct{}          // asks for a fetch before its time

	// Guarded by mu.
	mu   sync.Mutex
	keys []*key // nil until there are any
	err  error  // of the last attempt
}

func hmacSource(issuer, value, path string) *source {
	if value == "" && path == "" {
		return nil
	}
	return &source{issuer: issuer, paths: []string{path}, read: func() ([]*key, error) {
		secret, err := daemon.Secret("AUTH_HMAC_SECRET", value, path, minHMAC)
		if err != nil {
			return nil, err
		}
		return []*key{{issuer: issuer, alg: "HS256", material: []byte(secret)}}, nil
	}}
}

func fileSource(issuer, path string) *source {
	const name = "AUTH_KEYS_FILE"
	if path == "" {
		return nil
	}
	return &source{issuer: issuer, paths: []string{path}, read: func() ([]*key, error) {
		data, err := readFile(path)
		if err != nil {
			return nil, daemon.Invalid(name, path, "%v", err)
		}
		keys, private, err := parseKeys(issuer, data, true)
		if err != nil {
			return nil, daemon.Invalid(name, path, "%v", err)
		}
		if private {
			if _, err := daemon.ReadPrivateFile(name, path); err != nil {
				return nil, err
			}
		}
		return keys, nil
	}}
}

func readFile(path string) ([]byte, error) {
	f, err := daemon.OpenFile(path)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxSource+1))
}

func urlSource(issuer, address string) *source {
	if address == "" {
		return nil
	}
	return &source{issuer: issuer, url: address, pace: usualPace, again: make(chan struct{}, 1)}
}

// checkURL accepts what keys may be fetched from: plain HTTP only from this host.
func checkURL(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return errors.New("want a URL")
	}
	ip := net.ParseIP(u.Hostname())
	switch {
	case u.User != nil:
		return errors.New("want a URL without a password")
	case u.Scheme == "https", u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()):
		return nil
	}
	return errors.New("want https: whoever can change the answer can sign tokens")
}

// load reads a value or a file. When that fails the keys stay.
func (s *source) load() error {
	keys, err := s.read()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err = err; err == nil {
		s.keys = keys
	}
	return err
}

// rebuild makes the keyring of what the sources have.
func (v *Verifier) rebuild() {
	var lists [][]*key
	failed := false
	for _, s := range v.sources {
		s.mu.Lock()
		lists = append(lists, s.keys)
		failed = failed || s.err != nil
		s.mu.Unlock()
	}
	v.keys.Store(newKeyring(lists...))
	v.failed.Store(failed)
}

func (v *Verifier) runSources(ctx context.Context) {
	var all sync.WaitGroup
	for _, s := range v.sources {
		if s.url != "" {
			all.Go(func() { v.fetchFrom(ctx, s) })
			continue
		}
		files := reload.New(s.paths...)
		if err := s.load(); err != nil { // it may have changed since New
			v.log.Error("keys not loaded; those in use stay", zap.Error(err))
		}
		v.rebuild()
		all.Go(func() {
			files.Run(ctx, 0, func() {
				err := s.load()
				v.rebuild()
				if err != nil {
					v.log.Error("keys not loaded; those in use stay", zap.Error(err))
					return
				}
				v.log.Info("keys loaded", zap.Int("keys", v.keys.Load().count))
			})
		})
	}
	all.Wait()
}

// askAgain asks for a fetch because a token names a key of the issuer that is not here. Whoever sends tokens can bring
// that about, so fetchFrom limits how often it heeds it.
func (v *Verifier) askAgain(issuer string) {
	for _, s := range v.sources {
		if s.url != "" && s.issuer == issuer {
			select {
			case s.again <- struct{}{}:
			default:
			}
		}
	}
}

// fetchFrom keeps a URL's keys fresh until ctx is canceled.
func (v *Verifier) fetchFrom(ctx context.Context, s *source) {
	client := &http.Client{
		Timeout:       fetchTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSHandshakeTimeout: fetchTimeout},
	}
	retry := s.pace.retry
	for {
		keys, err := s.fetch(ctx, client)
		if ctx.Err() != nil {
			return
		}
		v.fetched(s, keys, err)
		pause := s.pace.every
		if err != nil {
			pause = min(retry, s.pace.every)
			retry = min(2*retry, s.pace.every) // bounded: what doubles for hours goes below 0
		} else {
			retry = s.pace.retry
		}
		if s.empty() { // no token is looked at, so that none can ask for another fetch
			pause = min(pause, s.pace.again)
		}
		if !s.wait(ctx, pause+rand.N(pause/10+1)) {
			return
		}
	}
}

// empty reports whether there was no key yet.
func (s *source) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys == nil
}

// wait waits for the time of the next fetch; it reports false when ctx is canceled.
func (s *source) wait(ctx context.Context, pause time.Duration) bool {
	due, earliest := time.NewTimer(pause), time.NewTimer(min(pause, s.pace.again))
	defer due.Stop()
	defer earliest.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-earliest.C:
	}
	select {
	case <-ctx.Done():
		return false
	case <-s.again:
	case <-due.C:
	}
	return true
}

// fetched takes the outcome of a fetch. A JWKS without usable keys counts as a failure: those in use stay.
func (v *Verifier) fetched(s *source, keys []*key, err error) {
	s.mu.Lock()
	first := s.keys == nil || s.err != nil
	s.err = err
	if err == nil {
		s.keys = keys
	}
	s.mu.Unlock()
	v.rebuild()
	switch {
	case err != nil:
		v.log.Error("keys not fetched; those in use stay", zap.String("url", s.url), zap.Error(err))
	case first:
		v.log.Info("keys fetched", zap.String("url", s.url), zap.Int("keys", len(keys)))
	}
}

func (s *source) fetch(ctx context.Context, client *http.Client) ([]*key, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answers %d", resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxSource+1))
	if err != nil {
		return nil, err
	}
	if text := bytes.TrimSpace(data); len(text) == 0 || text[0] != '{' {
		return nil, errors.New("is no JWKS")
	}
	keys, _, err := parseKeys(s.issuer, data, false)
	return keys, err
}
