package gateway

import (
	"errors"
	"fmt"
	"math"
	"net"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/api"
	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/session"
	"github.com/ringcast/ringcast/shared/certs"
	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/trace"
)

// Config is a gateway's configuration, read from the environment.
type Config struct {
	daemon.Config

	ID             string        `env:"GATEWAY_ID" help:"this gateway's name in logs and subscriber lists; default host name and address"`
	Addr           string        `env:"GATEWAY_ADDR" envDefault:":4000" help:"address to listen on for clients"`
	RingFile       string        `env:"RING_FILE" help:"path of the ring file"`
	Topics         string        `env:"TOPICS" envDefault:"*:*" help:"topics served: comma-separated *:*, prefix:* or exact names"`
	AllowedOrigins []string      `env:"ALLOWED_ORIGINS" envDefault:"*" help:"origins that browsers may come from: comma-separated scheme://host[:port], //host, //*.host, :conn, true, or * for any"`
	MaxConnections int           `env:"MAX_CONNECTIONS" envDefault:"0" help:"client sockets; more are told to come later; 0: 100000, or as many as the limit of open files has room for"`
	MaxMessage     int           `env:"MAX_MESSAGE_BYTES" envDefault:"65536" help:"largest client message, in bytes"`
	MaxQueue       int           `env:"MAX_QUEUE_BYTES" envDefault:"1048576" help:"bytes that may wait for one client that reads slowly"`
	SoftQueue      int           `env:"SOFT_QUEUE_BYTES" envDefault:"262144" help:"bytes that may wait for one client for longer than SOFT_QUEUE_TIME; 0 is as many as MAX_QUEUE_BYTES"`
	SoftQueueTime  time.Duration `env:"SOFT_QUEUE_TIME" envDefault:"5s" help:"how long more than SOFT_QUEUE_BYTES may wait for one client"`
	QueueBudget    int           `env:"QUEUE_BUDGET_BYTES" envDefault:"0" help:"bytes that may wait for all clients together; 0 means a quarter of GOMEMLIMIT, or 1 GiB if that is not set"`
	InputBudget    int           `env:"INPUT_BUDGET_BYTES" envDefault:"0" help:"bytes of client messages that have begun and are not whole, for all clients together; 0 means an eighth of GOMEMLIMIT, or 512 MiB if that is not set"`
	MaxChannels    int           `env:"MAX_CHANNELS" envDefault:"100" help:"channels per client socket"`
	APIKeys        string        `env:"API_KEYS" secret:"true" help:"keys of the HTTP API: name:scope+scope:sha256, comma-separated; scopes are publish, read, kick"`
	APIKeysFile    string        `env:"API_KEYS_FILE" help:"YAML file with the keys of the HTTP API, read again when it changes; without keys the API is off"`
	APIOpen        bool          `env:"API_OPEN" envDefault:"false" help:"true: the HTTP API needs no keys, for everybody who reaches the gateway"`
	APIMaxBody     int           `env:"API_MAX_BODY_BYTES" envDefault:"1048576" help:"largest body of an API request, in bytes"`
	APIRate        int           `env:"API_RATE" envDefault:"1000" help:"requests, and messages in them, that a key of the HTTP API may have per second; more are answered 429; 0 means no limit"`
	AMQPURL        string        `env:"AMQP_URL" secret:"true" help:"AMQP broker to take messages from: amqp://user:password@host:5672/vhost, or amqps://"`
	AMQPURLFile    string        `env:"AMQP_URL_FILE" help:"file with the URL of the AMQP broker"`
	AMQPQueue      string        `env:"AMQP_QUEUE" help:"queue to take messages from"`
	AMQPPrefetch   int           `env:"AMQP_PREFETCH" envDefault:"256" help:"messages of the queue that are under way at once"`
	AMQPDeclare    bool          `env:"AMQP_DECLARE" envDefault:"true" help:"make the queue, and a dead-letter exchange and queue for what cannot be published; false: take the queue that is there"`
	IdleTimeout    time.Duration `env:"IDLE_TIMEOUT" envDefault:"60s" help:"close a client socket that sends nothing for so long"`
	MessageTimeout time.Duration `env:"MESSAGE_TIMEOUT" envDefault:"30s" help:"from the first byte of a client's message to its last; then the socket is closed"`
	JoinTimeout    time.Duration `env:"JOIN_TIMEOUT" envDefault:"5s" help:"how long a join waits for the topic's owner"`
	PublishTimeout time.Duration `env:"PUBLISH_TIMEOUT" envDefault:"5s" help:"how long a publish waits for the topic's owner, over link losses and ring changes"`
	Heartbeat      time.Duration `env:"HEARTBEAT" envDefault:"1s" help:"between pings to topic servers, 1s at most; three without an answer end a link"`
	Linger         time.Duration `env:"LINGER" envDefault:"1s" help:"how long a topic stays subscribed after its last channel has left"`
	Drain          time.Duration `env:"DRAIN" envDefault:"30s" help:"a stopping gateway sends its clients away spread over at most so long"`
	StopTimeout    time.Duration `env:"STOP_TIMEOUT" envDefault:"5s" help:"how long a stopping gateway waits for the last clients to answer its close"`
	West           bool          `env:"WEST" envDefault:"true" help:"serve WEST's clients on /websocket/{json|text|pb}/NAME, and its page on /west"`
	Loops          int           `env:"EVENT_LOOPS" envDefault:"0" help:"event loops; 0 means one per core"`
	AnyOrigin      bool          `env:"INSECURE_ANY_ORIGIN" envDefault:"false" help:"with AUTH_REQUIRED: allow ALLOWED_ORIGINS=* all the same"`
	TLSCert        string        `env:"TLS_CERT_FILE" help:"certificate for clients, PEM: the gateway speaks wss and https then"`
	TLSKey         string        `env:"TLS_KEY_FILE" help:"its private key, PEM; not readable by others"`
	Auth           auth.Config
	Links          certs.Links
	Limits         Limits
	TraceURL       string  `env:"OTEL_EXPORTER_OTLP_ENDPOINT" help:"base URL of an OpenTelemetry collector, OTLP over HTTP, such as http://localhost:4318; unset: no traces"`
	TraceSample    float64 `env:"TRACE_SAMPLE" envDefault:"0" help:"share of the publishes without a traceparent that are traced, 0 to 1"`
	Lanes          int     `env:"LINK_LANES" envDefault:"2" help:"connections to each topic server"`

	LongpollWindow     time.Duration `env:"LONGPOLL_WINDOW" envDefault:"10s" help:"how long a long poll waits for messages; its session ends 1.5 times as long after the last one"`
	LongpollSecret     string        `env:"LONGPOLL_SECRET" secret:"true" help:"signs the tokens of long poll sessions, at least 32 bytes, the same on all gateways; unset: requests of a session must all come to the gateway that opened it"`
	LongpollSecretFile string        `env:"LONGPOLL_SECRET_FILE" help:"path of a file with LONGPOLL_SECRET"`
	Advertise          string        `env:"GATEWAY_ADVERTISE" help:"host:port where the other gateways reach this one; default GATEWAY_ADDR, with an address of this machine if that has none"`
}

// Validate reports every problem at once.
func (c *Config) Validate() error {
	errs := []error{c.Config.Validate()}
	if c.RingFile == "" {
		errs = append(errs, errors.New(`RING_FILE is required: the path of the ring file`))
	}
	errs = append(errs, daemon.CheckAddr("GATEWAY_ADDR", c.Addr))
	if _, err := session.ParseTopics(c.Topics); err != nil {
		errs = append(errs, fmt.Errorf("TOPICS: %w", err))
	}
	allowed, err := parseOrigins(c.AllowedOrigins)
	if err != nil {
		errs = append(errs, fmt.Errorf("ALLOWED_ORIGINS: %w", err))
	}
	if allowed.any && c.Auth.AuthRequired && !c.AnyOrigin {
		errs = append(errs, errors.New("ALLOWED_ORIGINS is required: with AUTH_REQUIRED any origin is allowed only by INSECURE_ANY_ORIGIN=true"))
	}
	if _, err := c.apiKeys(nil); err != nil {
		errs = append(errs, err)
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		errs = append(errs, errors.New("TLS_CERT_FILE and TLS_KEY_FILE belong together: only one is set"))
	}
	errs = append(errs, checkFiles(c.MaxConnections), c.validateLongpoll(), c.Auth.Validate(), c.Links.Validate(), c.Limits.Validate())
	if _, err := c.amqpURL(); err != nil {
		errs = append(errs, err)
	}
	for _, n := range []struct {
		name       string
		value, min int
		max        int
	}{
		{"MAX_CONNECTIONS", c.MaxConnections, 0, 10_000_000},
		{"MAX_MESSAGE_BYTES", c.MaxMessage, 128, 1 << 20},
		{"MAX_QUEUE_BYTES", c.MaxQueue, 4096, 1 << 30},
		{"SOFT_QUEUE_BYTES", c.SoftQueue, 0, 1 << 30},
		{"QUEUE_BUDGET_BYTES", c.QueueBudget, 0, math.MaxInt},
		{"INPUT_BUDGET_BYTES", c.InputBudget, 0, math.MaxInt},
		{"API_MAX_BODY_BYTES", c.APIMaxBody, 1024, 64 << 20},
		{"API_RATE", c.APIRate, 0, 1_000_000},
		{"MAX_CHANNELS", c.MaxChannels, 1, 10_000},
		{"AMQP_PREFETCH", c.AMQPPrefetch, 1, 10_000},
		{"EVENT_LOOPS", c.Loops, 0, 64},
		{"LINK_LANES", c.Lanes, 1, 64},
	} {
		if n.value < n.min || n.value > n.max {
			errs = append(errs, fmt.Errorf(`%s="%d": must be %d to %d`, n.name, n.value, n.min, n.max))
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"IDLE_TIMEOUT", c.IdleTimeout}, {"MESSAGE_TIMEOUT", c.MessageTimeout}, {"JOIN_TIMEOUT", c.JoinTimeout}, {"PUBLISH_TIMEOUT", c.PublishTimeout}, {"LINGER", c.Linger}, {"STOP_TIMEOUT", c.StopTimeout},
	} {
		if d.value < 10*time.Millisecond {
			errs = append(errs, fmt.Errorf(`%s="%s": must be at least 10ms`, d.name, d.value))
		}
	}
	if c.QueueBudget > 0 && c.QueueBudget < c.MaxQueue {
		errs = append(errs, fmt.Errorf(`QUEUE_BUDGET_BYTES="%d": less than MAX_QUEUE_BYTES, which one client may have`, c.QueueBudget))
	}
	// Topic servers end a link on which they hear nothing for three times as long as it may be at most.
	errs = append(errs, daemon.CheckRange("HEARTBEAT", c.Heartbeat, 10*time.Millisecond, time.Second))
	errs = append(errs, daemon.CheckRange("SOFT_QUEUE_TIME", c.SoftQueueTime, 10*time.Millisecond, time.Hour))
	if err := trace.CheckEndpoint(c.TraceURL); c.TraceURL != "" && err != nil {
		errs = append(errs, daemon.Invalid("OTEL_EXPORTER_OTLP_ENDPOINT", c.TraceURL, "%v", err))
	}
	if !(c.TraceSample >= 0 && c.TraceSample <= 1) {
		errs = append(errs, fmt.Errorf(`TRACE_SAMPLE="%v": must be 0 to 1`, c.TraceSample))
	}
	if c.Drain < 0 || c.Drain > time.Hour {
		errs = append(errs, fmt.Errorf(`DRAIN="%s": must be 0s to 1h`, c.Drain))
	}
	return errors.Join(errs...)
}

// queueBudget returns how many bytes may wait for all clients together.
func (c *Config) queueBudget() int {
	return budget(c.QueueBudget, 4, 1<<30)
}

// inputBudget returns how many bytes of messages that are not whole may be kept for all clients together.
func (c *Config) inputBudget() int { return budget(c.InputBudget, 8, 512<<20) }

// budget returns n if that is set, else a share of the memory limit, or def if there is none.
func budget(n int, share int64, def int) int {
	if n > 0 {
		return n
	}
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		return int(limit / share)
	}
	return def
}

// apiKeys returns the keys of the HTTP API, nil if there are none.
func (c *Config) apiKeys(log *zap.Logger) (*api.Keys, error) {
	switch {
	case c.APIKeys != "" && c.APIKeysFile != "":
		return nil, errors.New("API_KEYS: API_KEYS_FILE is set too: want one of them")
	case c.APIOpen && (c.APIKeys != "" || c.APIKeysFile != ""):
		return nil, errors.New("API_OPEN: true, and there are keys too: want one of them")
	case c.APIOpen && c.Auth.AuthRequired:
		return nil, errors.New("API_OPEN: true, and AUTH_REQUIRED too: want API_KEYS_FILE")
	case c.APIKeys != "":
		keys, err := api.ParseKeys(c.APIKeys)
		return keys, prefixed("API_KEYS", err)
	case c.APIKeysFile != "":
		keys, err := api.LoadKeys(c.APIKeysFile, log)
		return keys, prefixed("API_KEYS_FILE", err)
	}
	return nil, nil
}

// prefixed puts a variable's name before an error.
func prefixed(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", name, err)
}

const minLongpollSecret = 32 // bytes

func (c *Config) validateLongpoll() error {
	var advertised error
	if c.Advertise != "" {
		host, port := splitAddr(c.Advertise)
		if advertised = daemon.CheckAddr("GATEWAY_ADVERTISE", c.Advertise); advertised == nil && (host == "" || port == "0") {
			advertised = daemon.Invalid("GATEWAY_ADVERTISE", c.Advertise, "want a host and a port that other gateways can reach")
		}
	}
	_, secret := c.longpollSecret()
	return errors.Join(advertised, secret, daemon.CheckRange("LONGPOLL_WINDOW", c.LongpollWindow, 10*time.Millisecond, time.Minute))
}

// longpollSecret returns the secret that gateways share, "" if there is none.
func (c *Config) longpollSecret() (string, error) {
	return daemon.Secret("LONGPOLL_SECRET", c.LongpollSecret, c.LongpollSecretFile, minLongpollSecret)
}

// advertised returns where other gateways reach this one.
func (c *Config) advertised() string {
	if c.Advertise != "" {
		return c.Advertise
	}
	return advertise(c.Addr)
}

// advertise returns an address at which others reach whoever listens on addr. If that is every interface, it is the
// first address of this machine that is more than its own.
func advertise(addr string) string {
	host, port := splitAddr(addr)
	if host != "" {
		return addr
	}
	host = "127.0.0.1"
	addrs, _ := net.InterfaceAddrs() // without any, nobody can reach this machine anyway
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			host = n.IP.String()
			break
		}
	}
	return net.JoinHostPort(host, port)
}

// splitAddr splits host:port. An address that stands for every interface is no host.
func splitAddr(addr string) (host, port string) {
	host, port, _ = net.SplitHostPort(addr)
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = ""
	}
	return host, port
}
