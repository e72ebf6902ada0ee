package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
)

// childEnv makes the test binary run a service of that behaviour instead of tests.
const childEnv = "RINGCAST_DAEMON_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		goleak.VerifyTestMain(m)
	case "panic":
		os.Args = os.Args[:1]
		Main("child", func(context.Context, *Daemon, *Config) error { panic("the reactor is on fire") })
	case "graceful":
		os.Args = os.Args[:1]
		Main("child", func(ctx context.Context, d *Daemon, _ *Config) error {
			d.Log.Info("at work")
			<-ctx.Done()
			return nil
		})
	case "talkative":
		os.Args = os.Args[:1]
		Main("child", func(_ context.Context, d *Daemon, _ *Config) error {
			d.Log.Info("at work")
			_, _ = io.ReadAll(os.Stdin) // until the test has closed the other end of the log
			for range 3 {
				d.Log.Info("still at work")
			}
			return nil
		})
	case "chatty":
		os.Args = os.Args[:1]
		Main("child", func(_ context.Context, d *Daemon, _ *Config) error {
			for i := range chattyLines {
				d.Log.Info("chat", zap.Int("i", i), zap.String("text", strings.Repeat("x", 200)))
			}
			fmt.Println("all said")
			_, _ = io.ReadAll(os.Stdin)
			return nil
		})
	case "stubborn":
		os.Args = os.Args[:1]
		Main("child", func(ctx context.Context, d *Daemon, _ *Config) error {
			d.Log.Info("at work")
			<-ctx.Done()
			d.Log.Info("taking long")
			select {}
		})
	}
}

// chattyLines are more than pipes and queues take.
const chattyLines = 10_000

// output is a writer that tests can wait on.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed and replaced at every write
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// waitFor returns the first complete line that contains text.
func (o *output) waitFor(t *testing.T, text string) string {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		o.mu.Lock()
		all, changed := o.text.String(), o.changed
		o.mu.Unlock()
		for line := range strings.Lines(all) {
			if strings.Contains(line, text) && strings.HasSuffix(line, "\n") {
				return line
			}
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("no line with %q in:\n%s", text, all)
		}
	}
}

// testConfig is the config of the services in these tests.
type testConfig struct {
	Config
	Addr  string        `env:"TEST_ADDR" envDefault:":4000" help:"where clients connect"`
	TTL   time.Duration `env:"TEST_TTL" envDefault:"2m" help:"how long it keeps messages"`
	Size  int           `env:"TEST_SIZE" envDefault:"256" help:"how many messages it keeps"`
	Token string        `env:"TEST_TOKEN" secret:"true" help:"what publishers present"`
}

func (c *testConfig) Validate() error {
	return errors.Join(
		c.Config.Validate(),
		CheckAddr("TEST_ADDR", c.Addr),
		CheckRange("TEST_TTL", c.TTL, time.Second, time.Hour),
		CheckRange("TEST_SIZE", c.Size, 1, 1000),
	)
}

// service is one run of the core of Main.
type service struct {
	t              *testing.T
	stdout, stderr *output
	signals        chan os.Signal
	code           chan int
}

// launch starts a service with the given command line and environment.
func launch(t *testing.T, args, environ []string, run func(context.Context, *Daemon, *testConfig) error) *service {
	s := &service{t, newOutput(), newOutput(), make(chan os.Signal, 2), make(chan int, 1)}
	p := &process{name: "testd", args: args, environ: environ, stdout: s.stdout, stderr: s.stderr, signals: s.signals}
	go func() { s.code <- start(p, run) }()
	return s
}

// wait returns the exit code.
func (s *service) wait() int {
	s.t.Helper()
	select {
	case code := <-s.code:
		return code
	case <-time.After(time.Minute):
		s.t.Fatalf("the service did not end; stderr:\n%s", s.stderr)
		return -1
	}
}

// mustNotRun is for services that end before run.
func mustNotRun(t *testing.T) func(context.Context, *Daemon, *testConfig) error {
	return func(context.Context, *Daemon, *testConfig) error {
		t.Error("run was called")
		return nil
	}
}

func untilStopped(ctx context.Context, _ *Daemon, _ *testConfig) error {
	<-ctx.Done()
	return nil
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		code int
		want string // in stderr, and not twice
	}{
		{"clean", nil, 0, `"stopped"`},
		{"failed", errors.New("disk on fire"), 1, `"error":"disk on fire"`},
		{"cancelled without a signal", context.Canceled, 1, `"error":"context canceled"`},
		{"bad ring file", ConfigError(errors.New("ring file /x: open: no such file or directory")), 2, "\nring file /x: open: no such file or directory\n"},
		{"wrapped", fmt.Errorf("load: %w", ConfigError(errors.New("line 1\nline 2"))), 2, "\nload: line 1\nline 2\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := launch(t, nil, nil, func(context.Context, *Daemon, *testConfig) error { return c.err })
			if code := s.wait(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if got := s.stderr.String(); strings.Count(got, c.want) != 1 {
				t.Errorf("stderr has not exactly one %q:\n%s", c.want, got)
			}
			if got := s.stderr.String(); strings.Contains(got, "goroutine") || strings.Contains(got, "stack") {
				t.Errorf("stderr has a stack:\n%s", got)
			}
			if got := s.stdout.String(); got != "" {
				t.Errorf("stdout: %q", got)
			}
		})
	}
}

func TestRunGetsItsConfig(t *testing.T) {
	environ := []string{"TEST_TTL=90s", "TEST_SIZE=", "TEST_TOKEN=abc", "UNKNOWN=1", "LOG_LEVEL=warn"}
	var got testConfig
	s := launch(t, nil, environ, func(_ context.Context, d *Daemon, cfg *testConfig) error {
		got = *cfg
		d.Log.Info("too quiet to be heard")
		return nil
	})
	if code := s.wait(); code != 0 {
		t.Fatalf("exit code %d: %s", code, s.stderr)
	}
	want := testConfig{Config{LogLevel: "warn", LogFormat: "json"}, ":4000", 90 * time.Second, 256, "abc"}
	if got != want {
		t.Errorf("config %+v, want %+v", got, want)
	}
	if log := s.stderr.String(); log != "" {
		t.Errorf("LOG_LEVEL=warn logs:\n%s", log)
	}
}

func TestFirstSignalStops(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		var ready, readyWhenStopped error
		s := launch(t, nil, nil, func(ctx context.Context, d *Daemon, _ *testConfig) error {
			d.ReadyWhen("work", func() error { return nil })
			ready = d.Ready()
			d.Log.Info("at work")
			<-ctx.Done()
			readyWhenStopped = d.Ready()
			return fmt.Errorf("accept: %w", ctx.Err())
		})
		s.stderr.waitFor(t, "at work")
		s.signals <- sig
		if code := s.wait(); code != 0 {
			t.Errorf("%v: exit code %d, want 0:\n%s", sig, code, s.stderr)
		}
		if ready != nil || readyWhenStopped == nil || readyWhenStopped.Error() != "stopping" {
			t.Errorf("%v: Ready() = %v, after the signal %v; want nil, stopping", sig, ready, readyWhenStopped)
		}
		s.stderr.waitFor(t, `"msg":"stopping","signal":"`+sig.String()+`"`)
	}
}

func TestFailureWhileStoppingIsAFailure(t *testing.T) {
	s := launch(t, nil, nil, func(ctx context.Context, _ *Daemon, _ *testConfig) error {
		<-ctx.Done()
		return errors.New("handover failed")
	})
	s.signals <- syscall.SIGTERM
	if code := s.wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	s.stderr.waitFor(t, "handover failed")
}

func TestSecondSignalExitsAtOnce(t *testing.T) {
	for sig, want := range map[os.Signal]int{os.Interrupt: 130, syscall.SIGTERM: 143} {
		release := make(chan struct{})
		s := launch(t, nil, []string{"ADMIN_ADDR=127.0.0.1:0"}, func(ctx context.Context, d *Daemon, _ *testConfig) error {
			<-release
			return nil
		})
		s.signals <- syscall.SIGTERM
		s.stderr.waitFor(t, `"stopping"`)
		s.signals <- sig
		if code := s.wait(); code != want {
			t.Errorf("%v: exit code %d, want %d", sig, code, want)
		}
		close(release)
	}
}

func TestCommandLine(t *testing.T) {
	bad := []string{"TEST_TTL=2"}
	refusal := func(arg string) string {
		return "testd: unknown argument " + arg + ": settings are environment variables, --help lists them\n"
	}
	for _, c := range []struct {
		args, environ []string
		code          int
		stdout        string
		stderr        string
	}{
		{[]string{"--check-config"}, nil, 0, "config ok\n", ""},
		{[]string{"--check-config"}, bad, 2, "", "TEST_TTL=\"2\": missing unit, e.g. 2m\n"},
		{nil, bad, 2, "", "TEST_TTL=\"2\": missing unit, e.g. 2m\n"},
		{[]string{"--port=1"}, nil, 2, "", refusal(`"--port=1"`)},
		{[]string{"--help", "serve\x1b[2J"}, nil, 2, "", refusal(`"serve\x1b[2J"`)},
		{[]string{"--check-config=false"}, nil, 2, "", refusal(`"--check-config=false"`)},
	} {
		s := launch(t, c.args, c.environ, mustNotRun(t))
		code := s.wait()
		if code != c.code || s.stdout.String() != c.stdout || s.stderr.String() != c.stderr {
			t.Errorf("%q %q: exit code %d, stdout %q, stderr %q;\nwant %d, %q, %q",
				c.args, c.environ, code, s.stdout, s.stderr, c.code, c.stdout, c.stderr)
		}
	}
}

const helpText = `usage: testd [--check-config | --probe | --help | --version]

  --check-config  check the environment, print "config ok" and exit
  --probe         ask the running process at ADMIN_ADDR whether it is ready; exit with 0 or 1
  --help          print this text and exit
  --version       print the version and exit

testd is configured by environment variables. An empty one counts as unset.

VARIABLE    DEFAULT  MEANING
ADMIN_ADDR  (unset)  host:port of health, metrics and profiles, for operators only; unset: no admin listener
LOG_LEVEL   info     debug, info, warn or error
LOG_FORMAT  json     json or console
CLUSTER     (unset)  name of the cluster; links to processes of one with another name are refused; unset fits any
TEST_ADDR   :4000    where clients connect
TEST_TTL    2m       how long it keeps messages
TEST_SIZE   256      how many messages it keeps
TEST_TOKEN  (unset)  what publishers present (secret)
`

func TestHelp(t *testing.T) {
	// Help is for those whose environment is wrong, too.
	for _, args := range [][]string{{"--help"}, {"-h"}, {"--version", "--check-config", "--help"}} {
		s := launch(t, args, []string{"TEST_TTL=2"}, mustNotRun(t))
		if code := s.wait(); code != 0 {
			t.Errorf("%q: exit code %d", args, code)
		}
		if got := s.stdout.String(); got != helpText {
			t.Errorf("%q prints:\n%s\nwant:\n%s", args, got, helpText)
		}
	}
}

func TestVersion(t *testing.T) {
	s := launch(t, []string{"--version"}, nil, mustNotRun(t))
	if code := s.wait(); code != 0 || !strings.HasPrefix(s.stdout.String(), "testd ") {
		t.Errorf("exit code %d, stdout %q", code, s.stdout)
	}
	full := &debug.BuildInfo{GoVersion: "go1.26.0", Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef0123"}, {Key: "vcs.modified", Value: "true"},
	}}
	full.Main.Version = "v1.2.3"
	for _, c := range []struct {
		info *debug.BuildInfo
		ok   bool
		want string
	}{
		{full, true, "v1.2.3 (0123456789ab, modified) go1.26.0"},
		{&debug.BuildInfo{GoVersion: "go1.26.0"}, true, "(devel) go1.26.0"},
		{nil, false, "unknown"},
	} {
		if got := version(c.info, c.ok); got != c.want {
			t.Errorf("version %q, want %q", got, c.want)
		}
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestUnwritableStdoutFails(t *testing.T) {
	for _, flag := range []string{"--version", "--check-config", "--help"} {
		stderr := newOutput()
		p := &process{name: "testd", args: []string{flag}, stdout: brokenPipe{}, stderr: stderr}
		if code := start(p, mustNotRun(t)); code != 1 || stderr.String() != "testd: broken pipe\n" {
			t.Errorf("%s: exit code %d, stderr %q", flag, code, stderr)
		}
	}
}

func TestConfigWithoutBaseIsRefused(t *testing.T) {
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, "does not embed daemon.Config") {
			t.Errorf("panic %q", got)
		}
	}()
	start(&process{}, func(context.Context, *Daemon, *struct{ Addr string }) error { return nil })
}

func TestLogFormats(t *testing.T) {
	run := func(_ context.Context, d *Daemon, _ *testConfig) error {
		d.Log.Error("odd")
		d.Log.Debug("detail")
		return nil
	}
	s := launch(t, nil, []string{"LOG_LEVEL=debug"}, run)
	s.wait()
	var entry struct{ Level, TS, Msg, Logger, Stacktrace string }
	if err := json.Unmarshal([]byte(s.stderr.waitFor(t, "odd")), &entry); err != nil {
		t.Fatal(err)
	}
	if entry.Level != "error" || entry.Logger != "testd" || entry.Stacktrace != "" {
		t.Errorf("entry %+v", entry)
	}
	if _, err := time.Parse(time.RFC3339Nano, entry.TS); err != nil {
		t.Error(err)
	}
	s.stderr.waitFor(t, "detail")

	s = launch(t, nil, []string{"LOG_FORMAT=console", "LOG_LEVEL=error"}, run)
	s.wait()
	if got := s.stderr.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "ERROR\ttestd\todd") {
		t.Errorf("console log:\n%s", got)
	}
}

// What clients and files put into the log cannot end its line, nor change how a terminal shows it.
func TestHostileFieldsStayInTheirLine(t *testing.T) {
	const hostile = "a\n{\"level\":\"error\"}\r\x1b[2J\x00\x7f\u009b\u2028\u202e\U000e0041"
	const harmless = "ä “é” \U0001f600"
	for _, format := range []string{"json", "console"} {
		s := launch(t, nil, []string{"LOG_FORMAT=" + format, "LOG_LEVEL=error"}, func(_ context.Context, d *Daemon, _ *testConfig) error {
			d.Log.Error("odd", zap.String("topic", hostile), zap.Error(errors.New(hostile)), zap.ByteString("frame", []byte(hostile+"\xff")),
				zap.String("path", harmless))
			return nil
		})
		s.wait()
		got := s.stderr.String()
		if strings.Count(got, "\n") != 1 || strings.ContainsAny(got, "\r\x1b\x00\x7f\u009b\u2028\u202e\U000e0041") || !strings.Contains(got, harmless) {
			t.Errorf("%s log: %q", format, got)
		}
		var line struct{ Topic, Error string }
		_, fields, _ := strings.Cut(got, "{")
		if err := json.Unmarshal([]byte("{"+fields), &line); err != nil || line.Topic != hostile || line.Error != hostile {
			t.Errorf("%s log: %q is read as %+v, %v", format, got, line, err)
		}
	}
}

// A text that is too long is cut; reports and stacks have more room.
func TestLongFieldsAreCut(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	s := launch(t, nil, nil, func(_ context.Context, d *Daemon, _ *testConfig) error {
		log := d.Log.With(zap.String("gateway", long))
		log.Error("odd", zap.String("topic", long), zap.String("path", long[:maxLogText]), zap.ByteString("frame", []byte(long)),
			zap.Error(errors.New(long)), zap.ByteString("stack", []byte(long)), zap.String("detail", long[:maxLogReport]))
		return nil
	})
	s.wait()
	var line map[string]any
	for text := range strings.Lines(s.stderr.String()) {
		if strings.Contains(text, `"odd"`) {
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Fatal(err)
			}
		}
	}
	for key, want := range map[string]string{
		"gateway": long[:maxLogText] + "…", "topic": long[:maxLogText] + "…", "path": long[:maxLogText], "frame": long[:maxLogText] + "…",
		"error": long[:maxLogReport] + "…", "stack": long[:maxLogReport] + "…", "detail": long[:maxLogReport],
	} {
		if got, _ := line[key].(string); got != want {
			t.Errorf("%s: %d bytes, want %d", key, len(got), len(want))
		}
	}
}

// child runs the test binary as a service of the given behaviour.
func child(t *testing.T, behaviour string) (*exec.Cmd, *output) {
	t.Helper()
	stderr := newOutput()
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{childEnv + "=" + behaviour}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, stderr
}

func TestPanicIsNotSwallowed(t *testing.T) {
	cmd, stderr := child(t, "panic")
	err := cmd.Wait()
	if err == nil {
		t.Fatal("the process exits with 0")
	}
	for _, want := range []string{"panic: the reactor is on fire", "goroutine "} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("stderr has no %q:\n%s", want, stderr)
		}
	}
}

func TestSignalsOfARealProcess(t *testing.T) {
	for behaviour, want := range map[string]int{"graceful": 0, "stubborn": 130} {
		cmd, stderr := child(t, behaviour)
		stderr.waitFor(t, "at work")
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if behaviour == "stubborn" {
			stderr.waitFor(t, "taking long")
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
		if err := cmd.Wait(); err != nil && want == 0 {
			t.Error(err)
		}
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Errorf("%s: exit code %d, want %d:\n%s", behaviour, code, want, stderr)
		}
	}
}

// Who collects the logs may crash or be restarted: that ends no service.
func TestAProcessOutlivesTheReaderOfItsLog(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{childEnv + "=talkative"}
	logs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := logs.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = logs.Close()
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process has ended with %v", err)
	}
}

// Who collects the logs may hang: that holds nobody up who logs. When it reads on it is told how much it has missed.
func TestAProcessWaitsForNoReaderOfItsLog(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{childEnv + "=chatty"}
	logs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	if _, err := io.ReadFull(stdout, make([]byte, len("all said\n"))); err != nil {
		t.Fatalf("it waits for who reads its log: %v", err)
	}
	_ = stdin.Close()
	text, err := io.ReadAll(logs)
	if err != nil {
		t.Fatal(err)
	}
	said, lost := 0, 0
	for lines := json.NewDecoder(bytes.NewReader(text)); ; {
		var line struct {
			Msg   string
			Lines int `json:"skipped_lines"`
		}
		if err := lines.Decode(&line); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if line.Msg == "chat" {
			said++
		}
		lost += line.Lines
	}
	// What was logged last had no room either, perhaps: "stopped" is a line like any other.
	if got := said + lost; said == 0 || lost == 0 || got < chattyLines || got > chattyLines+1 {
		t.Errorf("%d lines said, %d lost, of %d", said, lost, chattyLines)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
