package client

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Config holds the settings of a Client. The zero value is good: every zero field takes the default written beside it.
type Config struct {
	// Header goes out with every handshake, for instance Authorization. Dial copies it.
	Header http.Header

	// HTTPClient does the handshakes; nil means one of the client's own, which honours the proxy variables of the
	// environment. Its Transport is where TLS settings and dialling are changed.
	HTTPClient *http.Client

	// ConnectTimeout bounds one handshake. Default 10 s.
	ConnectTimeout time.Duration

	// HeartbeatInterval is the time between two heartbeats. A heartbeat still unanswered when the next one is due
	// breaks the connection. Default 30 s; servers commonly drop a client that is silent for 60 s.
	HeartbeatInterval time.Duration

	// PushTimeout bounds the wait for one reply, and the writing of one frame. Default 10 s.
	PushTimeout time.Duration

	// ReconnectMin and ReconnectMax shape the wait before reconnect attempt n (from 0): evenly random between zero and
	// ReconnectMin·2ⁿ, at most ReconnectMax. n starts again at 0 after a connection that lasted ReconnectMax. A
	// Retry-After of the server, up to two minutes, is added. Defaults 100 ms and 10 s.
	ReconnectMin, ReconnectMax time.Duration

	// RejoinMin and RejoinMax do the same for a channel whose rejoin was refused or which the server broke off; after a
	// reconnect the first rejoin is immediate. Defaults 1 s and 10 s.
	RejoinMin, RejoinMax time.Duration

	// MaxMessageBytes bounds one incoming WebSocket message; a longer one breaks the connection. Default 1 MiB.
	MaxMessageBytes int64

	// QueueMessages and QueueBytes (of payload) bound what waits for the callback goroutine. A message beyond either
	// breaks the connection with ErrSlowCallbacks, so that nothing goes missing unseen. Defaults 8192 and 32 MiB.
	QueueMessages, QueueBytes int

	// OnState, when set, runs on the callback goroutine at each change of the connection: StateConnected (error nil),
	// StateDisconnected (why; again for each failed attempt to reconnect; several in a row may be told as the last
	// one), and finally StateClosed (error nil).
	OnState func(State, error)
}

// State is what a client's connection is doing.
type State int

// The states of a connection.
const (
	StateConnected    State = iota + 1 // a connection is up
	StateDisconnected                  // no connection; the client is reconnecting
	StateClosed                        // Close was called
)

func (s State) String() string {
	switch s {
	case StateConnected:
		return "connected"
	case StateDisconnected:
		return "disconnected"
	case StateClosed:
		return "closed"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// withDefaults checks every field and fills in the zero ones.
func (cfg Config) withDefaults() (Config, error) {
	var problems []error
	duration := func(name string, d *time.Duration, def time.Duration) {
		if *d < 0 {
			problems = append(problems, fmt.Errorf("client: config: %s is negative: %v", name, *d))
		} else if *d == 0 {
			*d = def
		}
	}
	duration("ConnectTimeout", &cfg.ConnectTimeout, 10*time.Second)
	duration("HeartbeatInterval", &cfg.HeartbeatInterval, 30*time.Second)
	duration("PushTimeout", &cfg.PushTimeout, 10*time.Second)
	duration("ReconnectMin", &cfg.ReconnectMin, 100*time.Millisecond)
	duration("ReconnectMax", &cfg.ReconnectMax, max(10*time.Second, cfg.ReconnectMin))
	duration("RejoinMin", &cfg.RejoinMin, time.Second)
	duration("RejoinMax", &cfg.RejoinMax, max(10*time.Second, cfg.RejoinMin))
	if cfg.ReconnectMin > cfg.ReconnectMax {
		problems = append(problems, fmt.Errorf("client: config: ReconnectMin %v is above ReconnectMax %v", cfg.ReconnectMin, cfg.ReconnectMax))
	}
	if cfg.RejoinMin > cfg.RejoinMax {
		problems = append(problems, fmt.Errorf("client: config: RejoinMin %v is above RejoinMax %v", cfg.RejoinMin, cfg.RejoinMax))
	}
	if cfg.MaxMessageBytes < 0 || cfg.QueueMessages < 0 || cfg.QueueBytes < 0 {
		problems = append(problems, errors.New("client: config: MaxMessageBytes, QueueMessages and QueueBytes cannot be negative"))
	}
	if cfg.MaxMessageBytes == 0 {
		cfg.MaxMessageBytes = 1 << 20
	}
	if cfg.QueueMessages == 0 {
		cfg.QueueMessages = 8192
	}
	if cfg.QueueBytes == 0 {
		cfg.QueueBytes = 32 << 20
	}
	cfg.Header = cfg.Header.Clone()
	return cfg, errors.Join(problems...)
}

// endpoint turns what the user gave into the address to dial, and into one fit for error texts: queries and user parts
// often carry secrets.
func endpoint(raw string) (dial, shown string, err error) {
	u, err := url.Parse(raw)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return "", "", fmt.Errorf("client: bad url: %w", err)
	}
	switch u.Scheme {
	case "ws", "wss":
	case "http":
		u.Scheme = "ws"
	case "https":
		u.Scheme = "wss"
	default:
		return "", "", fmt.Errorf("client: bad url: scheme %q: want ws, wss, http or https", u.Scheme)
	}
	if u.Host == "" {
		return "", "", errors.New("client: bad url: no host")
	}
	if u.Fragment != "" {
		return "", "", errors.New("client: bad url: it has a fragment (#…)")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", "", errors.New("client: bad url: malformed query")
	}
	query.Set("vsn", "2.0.0")
	u.RawQuery = query.Encode()
	if !strings.HasSuffix(u.Path, "/websocket") {
		u = u.JoinPath("websocket")
	}
	public := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	return u.String(), public.String(), nil
}
