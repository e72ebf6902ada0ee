// Package daemon is what the main function of every service stands on: configuration from the environment, the log,
// metrics, health and profiles on an admin listener, signals, and exit codes.
//
// Start reads down and stop reads up: flags, variables, log, admin listener, run; then run returns, the admin
// listener closes, the process exits.
//
// Exit codes: 0 clean stop, 1 the service failed, 2 the configuration is wrong, 130 or 143 a second SIGINT or
// SIGTERM cut the stop short.
package daemon

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Daemon is what a service gets from its process. Its methods may be called from any goroutine.
type Daemon struct {
	Log     *zap.Logger          // never nil
	Metrics *prometheus.Registry // what /metrics shows; a service registers its own collectors
	Admin   *http.ServeMux       // more pages of the admin listener; a service may register its own at any time

	mu       sync.Mutex
	checks   []readyCheck
	stopping bool
}

type readyCheck struct {
	name  string
	check func() error
}

// New makes a Daemon without a process around it: a fresh registry, no admin listener, no signals. It is for tests and
// for several services in one process. A nil log discards everything.
func New(log *zap.Logger) *Daemon {
	if log == nil {
		log = zap.NewNop()
	}
	return &Daemon{Log: log, Metrics: prometheus.NewRegistry(), Admin: http.NewServeMux()}
}

// ReadyWhen makes readiness depend on check: nil means ready, an error says in one line what is missing. A service
// registers its checks first of all, before the things they ask about are up. check is called from any goroutine, at
// every probe, and must not block. A second check of the same name takes the place of the first.
func (d *Daemon) ReadyWhen(name string, check func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.checks {
		if d.checks[i].name == name {
			d.checks[i].check = check
			return
		}
	}
	d.checks = append(d.checks, readyCheck{name, check})
}

// Ready returns nil if the service is ready for work, else an error with one line "name: text" for every check that
// fails. A service that has registered no check yet is starting, and one that was told to stop is stopping: neither is
// ready.
func (d *Daemon) Ready() error {
	d.mu.Lock()
	checks, stopping := slices.Clone(d.checks), d.stopping
	d.mu.Unlock()
	if stopping {
		return errors.New("stopping")
	}
	if len(checks) == 0 {
		return errors.New("starting")
	}
	var failed []error
	for _, c := range checks {
		if err := c.check(); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", c.name, err))
		}
	}
	return errors.Join(failed...)
}

// stop makes Ready fail from now on.
func (d *Daemon) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopping = true
}
