package daemon

import (
	"fmt"

	"github.com/caarlos0/env/v11"
)

// Defaults returns the configuration of a service whose environment is empty. It is not validated: required fields are
// for the caller to fill in.
func Defaults[C any]() C {
	var cfg C
	if err := env.ParseWithOptions(&cfg, env.Options{Environment: map[string]string{}}); err != nil {
		panic(fmt.Sprintf("daemon: the defaults of %T do not parse: %v", cfg, err))
	}
	return cfg
}
