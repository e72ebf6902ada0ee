package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// probeOf runs the service's own probe against an admin address and returns its exit code and what it wrote.
func probeOf(t *testing.T, environ ...string) (code int, stdout, stderr string) {
	t.Helper()
	s := launch(t, []string{"--probe"}, environ, mustNotRun(t))
	code = s.wait()
	return code, s.stdout.String(), s.stderr.String()
}

func TestProbeTellsReadiness(t *testing.T) {
	var up atomic.Bool
	s := launch(t, nil, adminEnv, func(ctx context.Context, d *Daemon, _ *testConfig) error {
		d.ReadyWhen("links", func() error {
			if up.Load() {
				return nil
			}
			return errors.New("no link to ts-a")
		})
		d.Log.Info("at work")
		<-ctx.Done()
		return nil
	})
	addr := strings.TrimPrefix(s.adminAddr(), "http://")
	s.stderr.waitFor(t, "at work")

	code, stdout, stderr := probeOf(t, "ADMIN_ADDR="+addr)
	if want := "testd: not ready: 503 Service Unavailable: not ready links: no link to ts-a\n"; code != 1 || stdout != "" || stderr != want {
		t.Errorf("before it is ready: exit code %d, stdout %q, stderr %q; want 1 and %q", code, stdout, stderr, want)
	}
	up.Store(true)
	if code, stdout, stderr := probeOf(t, "ADMIN_ADDR="+addr); code != 0 || stdout+stderr != "" {
		t.Errorf("when it is ready: exit code %d, output %q; want 0 and none", code, stdout+stderr)
	}
	s.signals <- syscall.SIGTERM
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if code, _, stderr := probeOf(t, "ADMIN_ADDR="+addr); code != 1 || !strings.Contains(stderr, "connection refused") {
		t.Errorf("when it has stopped: exit code %d, stderr %q; want 1", code, stderr)
	}
}

func TestProbeWithoutAnAddress(t *testing.T) {
	for _, c := range []struct{ environ, want string }{
		{"", "ADMIN_ADDR is not set: there is no admin listener to probe\n"},
		{"ADMIN_ADDR=127.0.0.1:0", "ADMIN_ADDR=\"127.0.0.1:0\": no address to probe: want host:port with the port it listens on\n"},
		{"ADMIN_ADDR=9101", "ADMIN_ADDR=\"9101\": want host:port or :port, e.g. 127.0.0.1:4000\n"},
	} {
		if code, stdout, stderr := probeOf(t, c.environ); code != 2 || stdout != "" || stderr != c.want {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q; want 2 and %q", c.environ, code, stdout, stderr, c.want)
		}
	}
}

func TestProbeTarget(t *testing.T) {
	for _, c := range []struct{ addr, want string }{
		{":9101", "127.0.0.1:9101"},
		{"0.0.0.0:9101", "127.0.0.1:9101"},
		{"[::]:9101", "[::1]:9101"},
		{"[::1]:9101", "[::1]:9101"},
		{"10.1.2.3:9101", "10.1.2.3:9101"},
		{"admin.example:9101", "admin.example:9101"},
		{"9101", ""},
		{":0", ""},
	} {
		got, err := probeTarget(c.addr)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("probeTarget(%q) = %q, %v; want %q", c.addr, got, err, c.want)
		}
	}
}

// A service that hangs is not ready, and a probe says so in time; what else may answer there does not flood the log.
func TestProbeOfOddServers(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := probe(silent.Addr().String(), 50*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrConfig) {
		t.Errorf("a server that does not answer: %v", err)
	}

	wordy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, strings.Repeat("tea\n", 10_000))
	}))
	defer wordy.Close()
	err = probe(wordy.Listener.Addr().String(), probeTimeout)
	if err == nil || !strings.HasPrefix(err.Error(), "418 I'm a teapot: tea tea") || len(err.Error()) > 1100 || strings.Contains(err.Error(), "\n") {
		t.Errorf("a server that answers something else: %.200v", err)
	}
}
