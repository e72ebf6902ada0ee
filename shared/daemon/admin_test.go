package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// adminAddr returns where the admin listener of a service is.
func (s *service) adminAddr() string {
	s.t.Helper()
	var entry struct{ Addr string }
	if err := json.Unmarshal([]byte(s.stderr.waitFor(s.t, "admin listener is up")), &entry); err != nil {
		s.t.Fatal(err)
	}
	return "http://" + entry.Addr
}

// fetch returns the status and the body of one request on a connection of its own.
func fetch(t *testing.T, method, url string) (int, string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	request, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

var adminEnv = []string{"ADMIN_ADDR=127.0.0.1:0"}

func TestAdminPages(t *testing.T) {
	s := launch(t, nil, adminEnv, func(ctx context.Context, d *Daemon, _ *testConfig) error {
		d.Metrics.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "ringcast_test_total", Help: "A test."}))
		d.ReadyWhen("work", func() error { return nil })
		d.Log.Info("at work")
		<-ctx.Done()
		return nil
	})
	base := s.adminAddr()
	s.stderr.waitFor(t, "at work")
	for _, c := range []struct {
		method, path string
		status       int
		want         string // in the body
	}{
		{"GET", "/healthz", 200, "ok\n"},
		{"HEAD", "/healthz", 200, ""},
		{"POST", "/healthz", 405, ""},
		{"GET", "/readyz", 200, "ready\n"},
		{"GET", "/metrics", 200, "ringcast_test_total 0"},
		{"GET", "/metrics", 200, "go_goroutines "},
		{"GET", "/metrics", 200, "process_open_fds "},
		{"GET", "/debug/pprof/", 200, "goroutine"},
		{"GET", "/debug/pprof/goroutine?debug=1", 200, "goroutine profile: total"},
		{"GET", "/debug/pprof/cmdline", 200, "daemon"},
		{"GET", "/debug/pprof/symbol", 200, "num_symbols"},
		{"GET", "/debug/pprof/nosuch", 404, ""},
		{"GET", "/", 404, ""},
		{"GET", "/debug/vars", 404, ""},
	} {
		status, body := fetch(t, c.method, base+c.path)
		if status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %.200q, want %d with %q", c.method, c.path, status, body, c.status, c.want)
		}
	}
	s.signals <- syscall.SIGTERM
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://")); err == nil {
		conn.Close()
		t.Error("the admin listener is up after the end of the service")
	}
}

func TestReadyzFollowsTheChecks(t *testing.T) {
	var ring, http atomic.Bool
	failing := func(up *atomic.Bool, text string) func() error {
		return func() error {
			if up.Load() {
				return nil
			}
			return errors.New(text)
		}
	}
	register, stop, drained := make(chan struct{}), make(chan struct{}), make(chan struct{})
	s := launch(t, nil, adminEnv, func(ctx context.Context, d *Daemon, _ *testConfig) error {
		<-register
		d.ReadyWhen("ring", failing(&ring, "no ring yet"))
		d.ReadyWhen("http", failing(&http, "not listening"))
		d.Log.Info("registered")
		<-ctx.Done()
		close(drained)
		<-stop
		return nil
	})
	base := s.adminAddr()
	expect := func(status int, body string) {
		t.Helper()
		if gotStatus, gotBody := fetch(t, "GET", base+"/readyz"); gotStatus != status || gotBody != body {
			t.Errorf("/readyz: %d %q, want %d %q", gotStatus, gotBody, status, body)
		}
	}
	expect(503, "not ready\nstarting\n")
	close(register)
	s.stderr.waitFor(t, "registered")
	expect(503, "not ready\nring: no ring yet\nhttp: not listening\n")
	ring.Store(true)
	expect(503, "not ready\nhttp: not listening\n")
	http.Store(true)
	expect(200, "ready\n")
	ring.Store(false)
	expect(503, "not ready\nring: no ring yet\n")
	ring.Store(true)

	s.signals <- syscall.SIGTERM
	<-drained
	expect(503, "not ready\nstopping\n")
	if status, _ := fetch(t, "GET", base+"/healthz"); status != 200 {
		t.Errorf("/healthz while stopping: %d, want 200", status)
	}
	close(stop)
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestNoAdminListenerUnlessAsked(t *testing.T) {
	s := launch(t, nil, nil, untilStopped)
	s.signals <- syscall.SIGTERM
	if code := s.wait(); code != 0 || strings.Contains(s.stderr.String(), "admin") {
		t.Errorf("exit code %d, stderr:\n%s", code, s.stderr)
	}
}

func TestAdminPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	addr := taken.Addr().String()
	s := launch(t, nil, []string{"ADMIN_ADDR=" + addr}, mustNotRun(t))
	if code := s.wait(); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	s.stderr.waitFor(t, `ADMIN_ADDR="`+addr+`": listen tcp `+addr+`: bind: address already in use`)
}

// A request that hangs must not keep the process from ending.
func TestSlowAdminRequestIsCutOff(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := launch(t, nil, adminEnv, func(ctx context.Context, d *Daemon, _ *testConfig) error {
		d.ReadyWhen("slow", func() error {
			close(entered)
			<-release
			return nil
		})
		d.Log.Info("at work")
		<-ctx.Done()
		return nil
	})
	base := s.adminAddr()
	s.stderr.waitFor(t, "at work")
	answered := make(chan error, 1)
	go func() {
		transport := &http.Transport{DisableKeepAlives: true}
		response, err := (&http.Client{Transport: transport}).Get(base + "/readyz")
		if err == nil {
			response.Body.Close()
		}
		answered <- err
	}()
	<-entered
	s.signals <- syscall.SIGTERM
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if err := <-answered; err == nil {
		t.Error("the hanging request was answered")
	}
	close(release)
}

func TestDaemonWithoutAProcess(t *testing.T) {
	d := New(nil)
	d.Log.Info("goes nowhere")
	if err := d.Ready(); err == nil || err.Error() != "starting" {
		t.Errorf("Ready() = %v, want starting", err)
	}
	d.ReadyWhen("a", func() error { return errors.New("no") })
	d.ReadyWhen("b", func() error { return nil })
	if err := d.Ready(); err == nil || err.Error() != "a: no" {
		t.Errorf("Ready() = %v, want a: no", err)
	}
	d.ReadyWhen("a", func() error { return nil })
	if err := d.Ready(); err != nil {
		t.Errorf("Ready() = %v after the check was replaced", err)
	}
	// A fresh registry each: the same collector fits into both.
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "x_total"})
	if err := errors.Join(d.Metrics.Register(counter), New(nil).Metrics.Register(counter)); err != nil {
		t.Error(err)
	}
}

func TestReadyWhileChecksAreRegistered(t *testing.T) {
	d := New(nil)
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "a", "c"} {
		wg.Go(func() { d.ReadyWhen(name, func() error { return nil }) })
		wg.Go(func() { d.Ready() })
	}
	wg.Wait()
	if err := d.Ready(); err != nil || len(d.checks) != 3 {
		t.Errorf("Ready() = %v with %d checks, want nil with 3", err, len(d.checks))
	}
}
