package gateway

import (
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
		MaxConnections: -1, MaxMessage: 1 << 21, MaxQueue: 1, MaxChannels: 0, Loops: 65, Lanes: 0,
		IdleTimeout: 0, JoinTimeout: -time.Second, PublishTimeout: 0, Heartbeat: time.Millisecond, Drain: -1, Linger: time.Millisecond, StopTimeout: time.Microsecond,
	}
	err := cfg.Validate()
	if err == nil {
		t.Fatal("valid")
	}
	lines := strings.Split(err.Error(), "\n")
	want := []string{
		`LOG_LEVEL="loud"`, `RING_FILE is required`, `GATEWAY_ADDR="abc"`,
		`TOPICS: pattern "*"`, `ALLOWED_ORIGINS: "app.example"`, `"https://x.example/path"`,
		`MAX_CONNECTIONS="-1": must be 1 to 10000000`, `MAX_MESSAGE_BYTES="2097152"`, `MAX_QUEUE_BYTES="1"`,
		`MAX_CHANNELS="0"`, `EVENT_LOOPS="65": must be 0 to 64`, `LINK_LANES="0"`,
		`IDLE_TIMEOUT="0s": must be at least 10ms`, `JOIN_TIMEOUT="-1s"`, `PUBLISH_TIMEOUT="0s"`, `HEARTBEAT="1ms"`, `LINGER="1ms"`,
		`STOP_TIMEOUT="1µs"`, `DRAIN="-1ns": must be 0s to 1h`,
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

func TestParseOrigins(t *testing.T) {
	for text, ok := range map[string]bool{
		"*": true, " https://a.example ": true, "http://localhost:3000": true, "app://local": true,
		"": false, "a.example": false, "//a.example": false, "https://": false, "https://a.example/": false,
		"https://u@a.example": false, "https://a.example?": false, "https://a.example#x": false, "https://*.a.example": false, "null": false,
	} {
		if _, err := parseOrigins([]string{text}); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}
