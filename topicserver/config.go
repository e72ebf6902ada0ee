package topicserver

import (
	"errors"
	"time"

	"github.com/ringcast/ringcast/shared/daemon"
)

// Config is a topic server's configuration, read from the environment.
type Config struct {
	daemon.Config

	ID        string        `env:"TOPICSERVER_ID" help:"this server's id in the ring file"`
	Addr      string        `env:"TOPICSERVER_ADDR" envDefault:":7101" help:"address to listen on for gateways"`
	RingFile  string        `env:"RING_FILE" help:"path of the ring file"`
	TopicIdle time.Duration `env:"TOPIC_IDLE" envDefault:"60s" help:"forget a topic that nobody subscribes or publishes to for so long"`
	MaxLanes  int           `env:"MAX_LANES" envDefault:"4096" help:"connections from gateways; more are closed as they come"`
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
	errs = append(errs,
		daemon.CheckRange("TOPIC_IDLE", c.TopicIdle, time.Second, 24*time.Hour),
		daemon.CheckRange("MAX_LANES", c.MaxLanes, 1, 1<<20))
	return errors.Join(errs...)
}
