package longpoll

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/gofiber/fiber/v2"
	"go.uber.org/zap"
)

const (
	// forwardedHeader marks a request that another gateway has forwarded; it is not forwarded again.
	forwardedHeader = "X-Ringcast-Forwarded"

	maxRelays     = 4096     // requests being forwarded at once
	maxRelayBytes = 64 << 20 // of an answer: beyond what any queue makes of itself as JSON by default
	dialTimeout   = 2 * time.Second
	relayGrace    = 5 * time.Second // for the answer, beyond the window
)

// relayed are the headers of a client that its session's home has a use for.
var relayed = []string{fiber.HeaderOrigin, fiber.HeaderContentType, fiber.HeaderXForwardedProto, tokenHeader}

// newPeers returns the client for requests to other gateways. It uses no proxy, and what a gateway answers is what the
// client gets, so it follows no redirects.
func newPeers(window time.Duration, encryption *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:       encryption,
			TLSHandshakeTimeout:   dialTimeout,
			DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
			ResponseHeaderTimeout: window + relayGrace,
			MaxIdleConnsPerHost:   64,
			IdleConnTimeout:       3 * time.Second, // below that of the other end, so that none is used while it is being closed
			DisableCompression:    true,
		},
		Timeout:       window + 2*relayGrace,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// forward has the home of a session answer a request. A home that cannot be reached is gone with its sessions. If it can,
// and fails all the same, nobody knows what became of the request; clients begin anew from either.
func (s *Server) forward(c *fiber.Ctx, to claim) error {
	if to.home == s.cfg.Home || c.Get(forwardedHeader) != "" {
		return gone(c, errors.New("session ended with its gateway"))
	}
	select {
	case s.relays <- struct{}{}:
		defer func() { <-s.relays }()
	default:
		s.crowded.Add(1)
		return refuse(c, fiber.NewError(fiber.StatusServiceUnavailable, "too many requests to other gateways"))
	}
	body, err := s.relay(c, to.home)
	var unreached *net.OpError
	switch {
	case err == nil:
		return answer(c, string(body))
	case errors.As(err, &unreached) && unreached.Op == "dial":
		s.cfg.Log.Debug("home of a long poll session not reached", zap.String("addr", to.home), zap.Error(err))
		return gone(c, errors.New("session's gateway cannot be reached"))
	}
	s.cfg.Log.Info("long poll not forwarded", zap.String("addr", to.home), zap.Error(err))
	return refuse(c, fiber.NewError(fiber.StatusBadGateway, "session's gateway does not answer"))
}

// Forwarding returns how many requests are being forwarded to other gateways now, and how many were not for want of room.
func (s *Server) Forwarding() (now int, refused uint64) { return len(s.relays), s.crowded.Load() }

// relay sends the request on and returns the body of the answer.
func (s *Server) relay(c *fiber.Ctx, home string) ([]byte, error) {
	scheme := "http"
	if s.cfg.Peers != nil {
		scheme = "https"
	}
	target := url.URL{Scheme: scheme, Host: home, Path: c.Path(), RawQuery: string(c.Request().URI().QueryString())}
	req, err := http.NewRequestWithContext(s.serving, c.Method(), target.String(), bytes.NewReader(c.Request().Body()))
	if err != nil {
		return nil, err
	}
	req.Host = string(c.Request().Host()) // an origin may have to be that host's
	req.Header.Set(forwardedHeader, "1")
	for _, name := range relayed {
		if value := c.Get(name); value != "" {
			req.Header.Set(name, value)
		}
	}
	resp, err := s.peers.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxRelayBytes+1))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode != http.StatusOK:
		return nil, errors.New("status " + resp.Status)
	case len(body) > maxRelayBytes:
		return nil, errors.New("answer too long")
	}
	return body, nil
}
