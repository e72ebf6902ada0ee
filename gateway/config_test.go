package gateway

import (
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/shared/daemon"
)

func TestDefaultsAreValid(t *testing.T) {
	cfg := daemon.Defaults[Config]()
	if err := cfg.Validate(); err == nil || err.Error() != "RING_FILE is required: the path of the ring file" {
		t.Errorf("without a ring file: %v", err)
	}
	cfg.RingFile = "ring.yaml"
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidateReportsEveryProblem(t *testing.T) {
	cfg := Config{
		Config: daemon.Config{LogLevel: "loud"},
		Addr:   "abc", Topics: "*", AllowedOrigins: []string{"app.example", "https://ok.example", "https://x.example/path"},
		MaxConnections: -1, MaxMessage: 1 << 21, MaxQueue: 1, SoftQueue: -1, SoftQueueTime: 2 * time.Hour, QueueBudget: -1, InputBudget: -1, MaxChannels: 0, Loops: 65, Lanes: 0,
		LongpollWindow: time.Hour, LongpollSecret: "short secret", Advertise: ":4000",
		IdleTimeout: 0, MessageTimeout: -1, JoinTimeout: -time.Second, PublishTimeout: 0, Heartbeat: 5 * time.Second, Drain: -1, Limits: Limits{Publishes: -1, InFlight: -1}, Linger: time.Millisecond, StopTimeout: time.Microsecond,
	}
	err := cfg.Validate()
	if err == nil {
		t.Fatal("valid")
	}
	lines := strings.Split(err.Error(), "\n")
	want := []string{
		`LOG_LEVEL="loud"`, `RING_FILE is required`, `GATEWAY_ADDR="abc"`,
		`TOPICS: pattern "*"`, `ALLOWED_ORIGINS: "app.example"`, `"https://x.example/path"`,
		`GATEWAY_ADVERTISE=":4000": want a host and a port`, `LONGPOLL_SECRET: want a secret of at least 32 bytes`,
		`LONGPOLL_WINDOW="1h0m0s": want 10ms to 1m0s`,
		`MAX_PUBLISHES_PER_SECOND="-1": want 0 to 10000000`, `MAX_PUBLISHES_IN_FLIGHT="-1": want 0 to 10000000`, `DRAIN_JOIN_TIME="0s": want 1ms to 1m0s`,
		`MAX_CONNECTIONS="-1": must be 0 to 10000000`, `MAX_MESSAGE_BYTES="2097152"`, `MAX_QUEUE_BYTES="1"`, `SOFT_QUEUE_BYTES="-1": must be 0 to 1073741824`, `QUEUE_BUDGET_BYTES="-1": must be 0 to`, `INPUT_BUDGET_BYTES="-1": must be 0 to`, `API_MAX_BODY_BYTES="0": must be 1024 to 67108864`,
		`MAX_CHANNELS="0"`, `AMQP_PREFETCH="0": must be 1 to 10000`, `EVENT_LOOPS="65": must be 0 to 64`, `LINK_LANES="0"`,
		`IDLE_TIMEOUT="0s": must be at least 10ms`, `MESSAGE_TIMEOUT="-1ns"`, `JOIN_TIMEOUT="-1s"`, `PUBLISH_TIMEOUT="0s"`, `LINGER="1ms"`,
		`STOP_TIMEOUT="1µs"`, `HEARTBEAT="5s": want 10ms to 1s`, `SOFT_QUEUE_TIME="2h0m0s": want 10ms to 1h0m0s`, `DRAIN="-1ns": must be 0s to 1h`,
	}
	for i, part := range want {
		if i >= len(lines) || !strings.HasPrefix(lines[i], part) {
			t.Fatalf("line %d: want %s…\n%v", i+1, part, err)
		}
	}
	if len(lines) != len(want) {
		t.Errorf("%d lines, want %d:\n%v", len(lines), len(want), err)
	}
}

func TestQueueBudget(t *testing.T) {
	cfg := daemon.Defaults[Config]()
	cfg.RingFile = "ring.yaml"
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	if n := cfg.queueBudget(); n != 1<<30 {
		t.Errorf("%d without GOMEMLIMIT", n)
	}
	debug.SetMemoryLimit(8 << 30)
	if n := cfg.queueBudget(); n != 2<<30 {
		t.Errorf("%d of 8 GiB", n)
	}
	cfg.QueueBudget = 3 << 20
	if n := cfg.queueBudget(); n != 3<<20 || cfg.Validate() != nil {
		t.Errorf("%d, %v", n, cfg.Validate())
	}
	cfg.QueueBudget = 1<<20 - 1
	if err := cfg.Validate(); err == nil || err.Error() != `QUEUE_BUDGET_BYTES="1048575": less than MAX_QUEUE_BYTES, which one client may have` {
		t.Error(err)
	}
}

func TestParseOrigins(t *testing.T) {
	for text, ok := range map[string]bool{
		"*": true, " https://a.example ": true, "http://localhost:3000": true, "app://local": true,
		"//a.example": true, "//a.example:8080": true, "//*.a.example": true, "https://*.a.example": true, ":conn": true, "true": true, "false": true,
		"": false, "a.example": false, "//": false, "//*": false, "//*.": false, "https://a.*.example": false, "//a*.example": false, "https://": false, "https://a.example/": false,
		"https://u@a.example": false, "https://a.example?": false, "https://a.example#x": false, "null": false,
	} {
		if _, err := parseOrigins([]string{text}); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestAPIKeysAreChecked(t *testing.T) {
	good := strings.Repeat("0f", 32)
	for _, tt := range []struct {
		name   string
		adjust func(*Config)
		want   string // "" for none
	}{
		{"keys", func(c *Config) { c.APIKeys = "a:publish:" + good }, ""},
		{"open", func(c *Config) { c.APIOpen = true }, ""},
		{"both", func(c *Config) { c.APIKeys, c.APIKeysFile = "a:publish:"+good, "/x" }, "API_KEYS: API_KEYS_FILE is set too: want one of them"},
		{"open with keys", func(c *Config) { c.APIOpen, c.APIKeys = true, "a:publish:"+good }, "API_OPEN: true, and there are keys too: want one of them"},
		{"bad", func(c *Config) { c.APIKeys = "a" }, "API_KEYS: entry 1: want name:scope+scope:sha256"},
		{"no file", func(c *Config) { c.APIKeysFile = "/nonexistent" }, "API_KEYS_FILE: stat /nonexistent: no such file or directory"},
	} {
		cfg := daemon.Defaults[Config]()
		cfg.RingFile = "ring.yaml"
		tt.adjust(&cfg)
		err := cfg.Validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || err.Error() != tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

func TestAMQPIsChecked(t *testing.T) {
	for _, tt := range []struct {
		name   string
		adjust func(*Config)
		want   string // "" for none
	}{
		{"good", func(c *Config) { c.AMQPURL, c.AMQPQueue = "amqps://u:secret@host/v", "in" }, ""},
		{"no queue", func(c *Config) { c.AMQPURL = "amqp://host" }, "AMQP_QUEUE is required with AMQP_URL"},
		{"no URL", func(c *Config) { c.AMQPQueue = "in" }, "AMQP_QUEUE: AMQP_URL or AMQP_URL_FILE is not set"},
		{"both", func(c *Config) { c.AMQPURL, c.AMQPURLFile = "amqp://host", "/x" }, "AMQP_URL: AMQP_URL_FILE is set too: want one of them"},
		{"no URL at all", func(c *Config) { c.AMQPURL, c.AMQPQueue = "http://u:secret@host", "in" }, "AMQP_URL: want a URL like amqp://user:password@host:5672/vhost"},
		{"no file", func(c *Config) { c.AMQPURLFile, c.AMQPQueue = "/nonexistent", "in" }, "AMQP_URL_FILE=\"/nonexistent\": open: no such file or directory"},
	} {
		cfg := daemon.Defaults[Config]()
		cfg.RingFile = "ring.yaml"
		tt.adjust(&cfg)
		err := cfg.Validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || err.Error() != tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

func TestAdvertise(t *testing.T) {
	for addr, want := range map[string]string{"10.1.2.3:4000": "10.1.2.3:4000", "ws1:80": "ws1:80", "[::1]:4000": "[::1]:4000"} {
		if got := (&Config{Addr: addr}).advertised(); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
	if got := (&Config{Addr: ":4000", Advertise: "ws1:4000"}).advertised(); got != "ws1:4000" {
		t.Errorf("what is set does not count: %s", got)
	}
	for _, addr := range []string{":4000", "0.0.0.0:4000", "[::]:4000"} {
		host, port := splitAddr((&Config{Addr: addr}).advertised())
		if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() || port != "4000" {
			t.Errorf("%s: host %q, port %q", addr, host, port)
		}
	}
}

func TestLongpollSecretFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	secret := strings.Repeat("s", 40)
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := (&Config{LongpollSecretFile: path}).longpollSecret(); got != secret || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := (&Config{LongpollSecretFile: path, LongpollSecret: secret}).longpollSecret(); err == nil {
		t.Error("both are taken")
	}
}

func TestConnectionsFitTheFiles(t *testing.T) {
	for files, want := range map[uint64]int{1 << 62: 100_000, 101_024: 100_000, 101_023: 99_999, 20_000: 18_976, 3000: 1976, 2048: 1024, 256: 1024} {
		if got := connectionsFor(files); got != want {
			t.Errorf("%d files: %d connections, want %d", files, got, want)
		}
	}
	if checkFiles(0) != nil || checkFiles(10_000_000) == nil {
		t.Errorf("with %d files: 0 %v, ten millions %v", files(), checkFiles(0), checkFiles(10_000_000))
	}
}
