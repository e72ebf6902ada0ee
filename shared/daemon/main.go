package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
)

// Exit codes of a service. A second signal exits with 128 plus its number.
const (
	exitClean  = 0
	exitFailed = 1
	exitConfig = 2
)

// Main is the main function of the service called name. It reads a C from the environment, validates it, and calls
// run in a goroutine of its own; it does not return. C embeds Config, or Main panics.
//
// If *C has a method Validate() error, every line of its error is one problem; the embedded Config is validated in any
// case. All problems go to stderr in one report, and the exit code is 2. The flags are --check-config, --probe, --help
// and --version; anything else on the command line is refused with 2. --probe is for health checks of containers: it
// asks the process with the same environment whether it is ready, and exits with 0 if it is, with 1 if not.
//
// The first SIGINT or SIGTERM makes the service not ready, then cancels ctx. run stops what it started and returns; a
// second signal exits at once. When run returns
//   - nil, or context.Canceled after a signal, the exit code is 0;
//   - an error that is ErrConfig, its text goes to stderr and the exit code is 2;
//   - any other error, it is logged and the exit code is 1.
//
// Nobody recovers from a panic in run. Whoever reads the log may go away, or stop reading: what is logged then is lost, and the
// process lives on.
func Main[C any](name string, run func(ctx context.Context, d *Daemon, cfg *C) error) {
	// Two, so that a second signal is not lost while the first is being seen to.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE) // else the runtime ends a process that writes to a stderr nobody reads any more
	os.Exit(start(&process{
		name:    name,
		args:    os.Args[1:],
		environ: os.Environ(),
		stdout:  os.Stdout,
		stderr:  os.Stderr,
		signals: signals,
	}, run))
}

// process is the world a service runs in.
type process struct {
	name           string
	args           []string // without the name of the program
	environ        []string
	stdout, stderr io.Writer
	signals        <-chan os.Signal
}

// start is Main without the operating system. It returns the exit code. After a second signal it returns while run
// is still at work.
func start[C any](p *process, run func(context.Context, *Daemon, *C) error) int {
	cfg := new(C)
	base, ok := any(cfg).(interface{ base() *Config })
	if !ok {
		panic(fmt.Sprintf("daemon: %v does not embed daemon.Config", reflect.TypeFor[C]()))
	}
	mode, err := parseArgs(p.args)
	if err != nil {
		fmt.Fprintf(p.stderr, "%s: %v\n", p.name, err)
		return exitConfig
	}
	switch mode {
	case modeHelp:
		return p.print(printHelp(p.stdout, p.name, variables(reflect.TypeFor[C]())))
	case modeVersion:
		_, err := fmt.Fprintf(p.stdout, "%s %s\n", p.name, version(debug.ReadBuildInfo()))
		return p.print(err)
	}
	problems, secrets := configure(cfg, p.environ)
	if len(problems) > 0 {
		fmt.Fprintln(p.stderr, strings.Join(problems, "\n"))
		return exitConfig
	}
	if mode == modeCheck {
		_, err := fmt.Fprintln(p.stdout, "config ok")
		return p.print(err)
	}
	if mode == modeProbe {
		return p.probe(base.base().AdminAddr)
	}
	return p.serve(base.base(), secrets, func(ctx context.Context, d *Daemon) error { return run(ctx, d, cfg) })
}

// print is the exit code after an answer was written to stdout.
func (p *process) print(err error) int {
	if err != nil {
		fmt.Fprintf(p.stderr, "%s: %v\n", p.name, err)
		return exitFailed
	}
	return exitClean
}

// probe prints nothing if the service at addr is ready.
func (p *process) probe(addr string) int {
	err := probe(addr, probeTimeout)
	switch {
	case err == nil:
		return exitClean
	case errors.Is(err, ErrConfig):
		fmt.Fprintln(p.stderr, err)
		return exitConfig
	}
	fmt.Fprintf(p.stderr, "%s: not ready: %v\n", p.name, err)
	return exitFailed
}

// serve sets up a Daemon, calls run, and sees to signals until it returns.
func (p *process) serve(cfg *Config, s secrets, run func(context.Context, *Daemon) error) int {
	lines := newLogQueue(p.stderr)
	log, err := newLog(lines, cfg)
	if err != nil {
		fmt.Fprintln(p.stderr, err)
		return exitConfig
	}
	p.stderr = lines // what else there is to say comes behind what was logged before
	go lines.run(log.Named(p.name))
	defer lines.close()
	d := New(log.Named(p.name))
	d.Metrics.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	d.Log.Info("starting", zap.String("version", version(debug.ReadBuildInfo())), zap.Int("pid", os.Getpid()))
	stopAdmin, killAdmin := func() {}, func() {}
	if cfg.AdminAddr != "" {
		a, err := listenAdmin(cfg.AdminAddr, d)
		if err != nil {
			fmt.Fprintln(p.stderr, Invalid("ADMIN_ADDR", cfg.AdminAddr, "%v", err))
			return exitConfig
		}
		stopAdmin, killAdmin = a.shutdown, a.close
	}
	signalled, err := p.supervise(d, run)
	if signalled != nil {
		killAdmin()
		return 128 + int(signalled.(syscall.Signal))
	}
	d.stop()
	stopAdmin()
	return p.finish(d.Log, s, err)
}

// supervise calls run and returns what it returned, or the second signal if that comes first.
func (p *process) supervise(d *Daemon, run func(context.Context, *Daemon) error) (os.Signal, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- run(ctx, d) }()
	for stopping := false; ; stopping = true {
		select {
		case err := <-done:
			if stopping && errors.Is(err, context.Canceled) {
				err = nil
			}
			return nil, err
		case sig := <-p.signals:
			if stopping {
				d.Log.Warn("second signal: exiting at once", zap.Stringer("signal", sig))
				return sig, nil
			}
			d.Log.Info("stopping", zap.Stringer("signal", sig))
			// A load balancer must see that the service is not ready no later than the service itself stops.
			d.stop()
			cancel()
		}
	}
}

// finish reports how run ended and returns the exit code.
func (p *process) finish(log *zap.Logger, s secrets, err error) int {
	switch {
	case err == nil:
		log.Info("stopped")
		return exitClean
	case errors.Is(err, ErrConfig):
		fmt.Fprintln(p.stderr, s.redact(err.Error()))
		return exitConfig
	}
	// As text: an error that can print its own stack would do so in the log.
	log.Error("failed", zap.String("error", s.redact(err.Error())))
	return exitFailed
}

type mode int

const (
	modeServe mode = iota
	modeProbe
	modeCheck
	modeVersion
	modeHelp
)

// parseArgs reads the command line. Of several flags the one that does least counts.
func parseArgs(args []string) (mode, error) {
	m := modeServe
	for _, arg := range args {
		switch arg {
		case "--probe":
			m = max(m, modeProbe)
		case "--check-config":
			m = max(m, modeCheck)
		case "--version":
			m = max(m, modeVersion)
		case "--help", "-h":
			m = max(m, modeHelp)
		default:
			return 0, fmt.Errorf("unknown argument %s: settings are environment variables, --help lists them", quote(arg))
		}
	}
	return m, nil
}

// version describes the build: "v1.2.3 (0123456789ab, modified) go1.26", as far as it is known.
func version(info *debug.BuildInfo, ok bool) string {
	if !ok {
		return "unknown"
	}
	revision, modified := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = ", modified"
		}
	}
	text := info.Main.Version
	if text == "" {
		text = "(devel)"
	}
	if revision != "" {
		text += " (" + revision + modified + ")"
	}
	return text + " " + info.GoVersion
}
