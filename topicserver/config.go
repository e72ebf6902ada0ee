package topicserver

import (
	"errors"
	"time"

	"github.com/ringcast/ringcast/shared/certs"
	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/shared/trace"
	"github.com/ringcast/ringcast/topicserver/history"
)

// Config is a topic server's configuration, read from the environment.
type Config struct {
	daemon.Config

	ID              string        `env:"TOPICSERVER_ID" help:"this server's id in the ring file"`
	Addr            string        `env:"TOPICSERVER_ADDR" envDefault:":7101" help:"address to listen on for gateways"`
	RingFile        string        `env:"RING_FILE" help:"path of the ring file"`
	TopicIdle       time.Duration `env:"TOPIC_IDLE" envDefault:"60s" help:"forget a topic that nobody subscribes or publishes to for so long"`
	HandoverTimeout time.Duration `env:"HANDOVER_TIMEOUT" envDefault:"5s" help:"how long to try to reach the old owner of topics before they begin anew"`
	HistorySize     int           `env:"HISTORY_SIZE" envDefault:"256" help:"messages remembered per topic; 0 means none"`
	HistoryBytes    int           `env:"HISTORY_BYTES" envDefault:"1048576" help:"bytes remembered per topic"`
	HistoryTotal    int64         `env:"HISTORY_TOTAL_BYTES" envDefault:"1073741824" help:"bytes remembered over all topics; the topic used longest ago goes first. A quarter of it again for publish ids"`
	HistoryTTL      time.Duration `env:"HISTORY_TTL" envDefault:"2m" help:"how long a message and a publish id are remembered"`
	HistoryIDs      int           `env:"HISTORY_IDS" envDefault:"10000" help:"publish ids remembered per topic, for retries; 0 means none"`
	DigestInterval  time.Duration `env:"DIGEST_INTERVAL" envDefault:"2s" help:"how often gateways are told the positions that have moved"`
	Links           certs.Links
	NameGrace       time.Duration `env:"NAME_GRACE" envDefault:"6s" help:"how long an exclusive name is kept for a session whose gateway has lost its link; at least six times the gateways' HEARTBEAT"`
	TraceURL        string        `env:"OTEL_EXPORTER_OTLP_ENDPOINT" help:"base URL of an OpenTelemetry collector, OTLP over HTTP, such as http://localhost:4318; unset: no traces"`
	MaxLanes        int           `env:"MAX_LANES" envDefault:"4096" help:"connections from gateways; more are closed as they come"`

	MaxTopics    int `env:"MAX_TOPICS" envDefault:"1000000" help:"topics at a time; requests for more are refused as busy, until others are forgotten; 0 means any number"`
	MaxPublishes int `env:"MAX_PUBLISHES_PER_TOPIC" envDefault:"0" help:"messages a second that one topic takes from all its publishers, twice as many at once; more are refused as rate_limited; 0 means any number"`

	PresenceInterval time.Duration `env:"PRESENCE_INTERVAL" envDefault:"50ms" help:"changes of who is present are collected for so long and sent at once"`
	PresenceGrace    time.Duration `env:"PRESENCE_GRACE" envDefault:"2s" help:"how long a member that is gone without a leave stays present"`
	MaxPresences     int           `env:"MAX_PRESENCES_PER_TOPIC" envDefault:"10000" help:"members present on one topic; more are refused"`
}

// Validate reports every problem at once, one line each.
func (c *Config) Validate() error {
	errs := []error{c.Config.Validate()}
	if c.ID == "" {
		errs = append(errs, errors.New(`TOPICSERVER_ID is required: one of the ids in the ring file`))
	}
	errs = append(errs, daemon.CheckAddr("TOPICSERVER_ADDR", c.Addr))
	if c.RingFile == "" {
		errs = append(errs, errors.New(`RING_FILE is required: the path of the ring file`))
	}
	if err := trace.CheckEndpoint(c.TraceURL); c.TraceURL != "" && err != nil {
		errs = append(errs, daemon.Invalid("OTEL_EXPORTER_OTLP_ENDPOINT", c.TraceURL, "%v", err))
	}
	errs = append(errs, c.Links.Validate(),
		daemon.CheckRange("TOPIC_IDLE", c.TopicIdle, time.Second, 24*time.Hour),
		daemon.CheckRange("HANDOVER_TIMEOUT", c.HandoverTimeout, 10*time.Millisecond, 10*time.Minute),
		daemon.CheckRange("HISTORY_SIZE", c.HistorySize, 0, 1_000_000),
		daemon.CheckRange("HISTORY_BYTES", c.HistoryBytes, 1024, 2<<20),
		daemon.CheckRange("HISTORY_TOTAL_BYTES", c.HistoryTotal, 1<<20, 1<<40),
		daemon.CheckRange("HISTORY_TTL", c.HistoryTTL, time.Second, 24*time.Hour),
		daemon.CheckRange("HISTORY_IDS", c.HistoryIDs, 0, 30_000),
		daemon.CheckRange("DIGEST_INTERVAL", c.DigestInterval, 10*time.Millisecond, time.Hour),
		daemon.CheckRange("NAME_GRACE", c.NameGrace, 100*time.Millisecond, 10*time.Minute),
		daemon.CheckRange("MAX_PUBLISHES_PER_TOPIC", c.MaxPublishes, 0, 10_000_000),
		daemon.CheckRange("MAX_TOPICS", c.MaxTopics, 0, 1_000_000_000),
		daemon.CheckRange("MAX_LANES", c.MaxLanes, 1, 1<<20),
		daemon.CheckRange("PRESENCE_INTERVAL", c.PresenceInterval, time.Millisecond, time.Minute),
		daemon.CheckRange("PRESENCE_GRACE", c.PresenceGrace, time.Millisecond, 10*time.Minute),
		daemon.CheckRange("MAX_PRESENCES_PER_TOPIC", c.MaxPresences, 1, 100_000))
	return errors.Join(errs...)
}

// withDefaults sets the times that are zero. Counts of zero mean none.
func (c Config) withDefaults() Config {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.TopicIdle, time.Minute},
		{&c.HandoverTimeout, 5 * time.Second},
		{&c.HistoryTTL, 2 * time.Minute},
		{&c.DigestInterval, 2 * time.Second},
		{&c.PresenceInterval, 50 * time.Millisecond},
		{&c.PresenceGrace, 2 * time.Second},
		{&c.NameGrace, 6 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return c
}

// history is the configuration of the topics' memory, in which 0 means the default.
func (c *Config) history() history.Config {
	h := history.Config{Messages: c.HistorySize, Bytes: c.HistoryBytes, TTL: c.HistoryTTL, TotalBytes: c.HistoryTotal}
	if c.HistorySize == 0 {
		h.Messages = -1
	}
	return h
}

// link is the configuration of links to others.
func (c *Config) link(identity *certs.Identity) link.Config {
	return link.Config{Identity: identity, Insecure: c.Links.InsecureLinks}
}
