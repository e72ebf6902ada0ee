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

// Validate reports every problem at once.
func (c *Config) Validate() error {
	var errs []error
	errs = append(errs, c.Config.Validate())
	if c.ID == "" {
		errs = append(errs, errors.New(`TOPICSERVER_ID is required: one of the ids in the ring file`))
	}
	if c.RingFile == "" {
		errs = append(errs, errors.New(`RING_FILE is required: the path of the ring file`))
	}
	errs = append(errs, daemon.CheckAddr("TOPICSERVER_ADDR", c.Addr))
	if c.TopicIdle < time.Second {
		errs = append(errs, errors.New(`TOPIC_IDLE must be at least 1s`))
	}
	if c.MaxLanes < 1 {
		errs = append(errs, errors.New(`MAX_LANES must be at least 1`))
	}
	return errors.Join(errs...)
}
