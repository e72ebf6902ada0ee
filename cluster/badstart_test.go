package cluster_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// More rows of the table of bad input: programs started with it, and strangers at the topic server's port.

const goodRing = "version: 1\nservers:\n  - id: ts-a\n    addr: 127.0.0.1:7101\n"

// refuses starts a program that has to end with exit code 2 and, beside its log, exactly these lines on stderr, in any
// order.
func refuses(t *testing.T, name string, env []string, lines ...string) {
	t.Helper()
	spawn(t, name, env).refuses(lines...)
}

// refuses waits for the end of a program that was started in vain: with exit code 2 and these lines.
func (p *proc) refuses(lines ...string) {
	t, name, env := p.t, p.name, p.cmd.Env
	t.Helper()
	p.exits(2)
	var got []string
	for line := range strings.Lines(p.stderr.String()) {
		if !strings.HasPrefix(line, "{") { // the log
			got = append(got, strings.TrimSuffix(line, "\n"))
		}
	}
	if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(lines))) {
		t.Errorf("%s %v says\n\t%s\nwant\n\t%s", name, env, strings.Join(got, "\n\t"), strings.Join(lines, "\n\t"))
	}
	if text := p.stdout.String(); text != "" {
		t.Errorf("%s prints %q to stdout", name, text)
	}
}

// refuseRing starts both services with a ring file.
func refuseRing(t *testing.T, path string, lines ...string) {
	t.Helper()
	refuses(t, "gateway", []string{"GATEWAY_ADDR=127.0.0.1:0", "RING_FILE=" + path}, lines...)
	refuses(t, "topicserver", []string{"TOPICSERVER_ID=ts-a", "TOPICSERVER_ADDR=127.0.0.1:0", "RING_FILE=" + path}, lines...)
}

func TestRow28_NoRingFileIsExitCode2(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	refuseRing(t, dir+"/none.yaml", "ring file "+dir+"/none.yaml: open: no such file or directory")
	refuseRing(t, dir, "ring file "+dir+": open: is a directory")
	// Root may read everything, so here the programs are run by somebody else, who has to reach them.
	path := filepath.Join(binaries.dir, "unreadable.yaml") // a test's own directory is in one that is not open to others
	for _, err := range []error{os.WriteFile(path, []byte(goodRing), 0), os.Chmod(binaries.dir, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, env := range map[string][]string{
		"gateway": {"GATEWAY_ADDR=127.0.0.1:0", "RING_FILE=" + path}, "topicserver": {"TOPICSERVER_ID=ts-a", "TOPICSERVER_ADDR=127.0.0.1:0", "RING_FILE=" + path},
	} {
		attr := &syscall.SysProcAttr{}
		if os.Getuid() == 0 {
			attr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
		}
		spawnAs(t, attr, name, env).refuses("ring file " + path + ": open: permission denied")
	}
}

func TestRow29_ARingFileThatIsNoneIsExitCode2(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, text, place, problem string }{
		{"empty", "", ":1:1", "empty: want version and servers"},
		{"truncated", "version: 1\nservers:\n  - id: ts-a\n    addr: \"127.0.0.1:71", ":4", "not YAML: found unexpected end of stream"},
		{"byte order mark", "\ufeff" + goodRing, ":1:1", "begins with a byte order mark: save it as UTF-8 without one"},
		{"2 MiB", goodRing + strings.Repeat("#\n", 1<<20), "", "larger than 1048576 bytes: this is no ring file"},
		{"unknown field", goodRing + "fleet: 7\n", ":5:1", `the file has an unknown field "fleet": known are version, servers, force, hash_salt`},
		{"not UTF-8", "version: 1\nservers: \xff\n", ":2:10", "byte 0xff is not UTF-8"},
	} {
		path := writeFile(t, "ring.yaml", test.text)
		refuses(t, "topicserver", []string{"TOPICSERVER_ID=ts-a", "TOPICSERVER_ADDR=127.0.0.1:0", "RING_FILE=" + path},
			"ring file "+path+test.place+": "+test.problem)
	}
}

func TestRow31_AllProblemsOfARingFileAreOneReport(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "ring.yaml", `version: 0
servers:
  - id: ts-a
    addr: 127.0.0.1:7101
  - id: ts-a
    addr: 127.0.0.1:7102
  - id: ts-c
    addr: 127.0.0.1:7101
  - id: ts#4
    addr: 127.0.0.1
  - id: ts-e
    addr: 127.0.0.1:0
  - id: ts-f
    addr: 127.0.0.1:70000
    weight: 0
  - id: ts-g
    addr: 127.0.0.1:7107
    weight: -1
    zone: b
`)
	var lines []string
	for _, problem := range []string{
		`1:10: version is 0: the first version is 1`,
		`5:9: server id "ts-a" is taken: the server on line 3 has it`,
		`8:11: server "ts-c": addr "127.0.0.1:7101" is taken: server "ts-a" has it`,
		`9:9: server id "ts#4": an id is 1 to 64 of A-Z a-z 0-9 _ . -`,
		`10:11: server "ts#4": addr "127.0.0.1": want host:port, e.g. 10.0.0.5:7101`,
		`12:11: server "ts-e": addr "127.0.0.1:0": port 0 is not from 1 to 65535`,
		`14:11: server "ts-f": addr "127.0.0.1:70000": port 70000 is not from 1 to 65535`,
		`15:13: server "ts-f": weight 0 is not from 1 to 10`,
		`18:13: server "ts-g": weight -1 is not from 1 to 10`,
		`19:5: server number 7 has an unknown field "zone": known are id, addr, weight`,
	} {
		lines = append(lines, "ring file "+path+":"+problem)
	}
	refuseRing(t, path, lines...)

	path = writeFile(t, "ring.yaml", "version: 1\nservers: []\n")
	refuseRing(t, path, "ring file "+path+":2:10: servers is empty: a ring needs at least one server")
}

func TestRow34_ATopicServerThatIsNotInTheRingIsExitCode2(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "ring.yaml", goodRing)
	refuses(t, "topicserver", []string{"TOPICSERVER_ID=ts-9", "TOPICSERVER_ADDR=127.0.0.1:0", "RING_FILE=" + path},
		`id "ts-9" not in ring v1`)
}

func TestRow35_AllProblemsOfTheEnvironmentAreOneReport(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "ring.yaml", goodRing)
	refuses(t, "gateway", []string{"GATEWAY_ADDR=abc", "MAX_CONNECTIONS=-1", "LINGER=2", "RING_FILE=" + path},
		`LINGER="2": missing unit, e.g. 2m`,
		`GATEWAY_ADDR="abc": want host:port or :port, e.g. 127.0.0.1:4000`,
		`MAX_CONNECTIONS="-1": must be 0 to 10000000`)
	refuses(t, "gateway", []string{"GATEWAY_ADDR=:70000", "ADMIN_ADDR=9090", "LOG_LEVEL=loud", "TOPICS=topics:*,a b", "ALLOWED_ORIGINS=example.com"},
		`ADMIN_ADDR="9090": want host:port or :port, e.g. 127.0.0.1:4000`,
		`LOG_LEVEL="loud": want one of debug, info, warn, error`,
		`RING_FILE is required: the path of the ring file`,
		`GATEWAY_ADDR=":70000": port "70000" is not a number from 0 to 65535`,
		`TOPICS: pattern "a b": want *:*, prefix:* or a topic`,
		`ALLOWED_ORIGINS: "example.com": want scheme://host[:port], //host[:port], //*.host, :conn, true or *`)
	refuses(t, "topicserver", []string{"TOPICSERVER_ADDR=7101", "TOPIC_IDLE=60"},
		`TOPIC_IDLE="60": missing unit, e.g. 60m`,
		`TOPICSERVER_ID is required: one of the ids in the ring file`,
		`RING_FILE is required: the path of the ring file`,
		`TOPICSERVER_ADDR="7101": want host:port or :port, e.g. 127.0.0.1:4000`)
}

func TestRow37_APortInUseIsExitCode2(t *testing.T) {
	t.Parallel()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	addr, path := lis.Addr().String(), writeFile(t, "ring.yaml", goodRing)
	listen := fmt.Sprintf("listen tcp %s: bind: %v", addr, syscall.EADDRINUSE)
	refuses(t, "gateway", []string{"GATEWAY_ADDR=" + addr, "RING_FILE=" + path}, "GATEWAY_ADDR: "+listen)
	refuses(t, "topicserver", []string{"TOPICSERVER_ID=ts-a", "TOPICSERVER_ADDR=" + addr, "RING_FILE=" + path}, "TOPICSERVER_ADDR: "+listen)
	refuses(t, "topicserver", []string{"TOPICSERVER_ID=ts-a", "ADMIN_ADDR=" + addr, "RING_FILE=" + path},
		fmt.Sprintf(`ADMIN_ADDR=%q: %s`, addr, listen))
}

// Each client takes a descriptor: a gateway that may not have so many does not begin, unless the number is its own to choose.
func TestRow37_TooFewFilesIsExitCode2(t *testing.T) {
	t.Parallel()
	path, gateway := writeFile(t, "ring.yaml", goodRing), program(t, "gateway") // may have to be built first
	limited := func(env ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, "sh", "-c", `ulimit -n 2000 && exec "$0" --check-config`, gateway)
		cmd.Env = append([]string{"GATEWAY_ADDR=127.0.0.1:0", "RING_FILE=" + path}, env...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := limited("MAX_CONNECTIONS=1000")
	var exit *exec.ExitError
	if want := `MAX_CONNECTIONS="1000": the process may open 2000 files (ulimit -n), want 2024 at least` + "\n"; !errors.As(err, &exit) || exit.ExitCode() != 2 || out != want {
		t.Errorf("%v, says %s", err, out)
	}
	for _, env := range []string{"MAX_CONNECTIONS=976", "MAX_CONNECTIONS=0"} {
		if out, err := limited(env); err != nil {
			t.Errorf("%s: %v: %s", env, err, out)
		}
	}
}

func TestRow38_AnyOriginWithTokensIsExitCode2(t *testing.T) {
	t.Parallel()
	env := []string{
		"GATEWAY_ADDR=127.0.0.1:0", "RING_FILE=" + writeFile(t, "ring.yaml", goodRing), "AUTH_REQUIRED=true", "AUTH_ISSUER=tests",
		"AUTH_AUDIENCE=ringcast", "AUTH_HMAC_SECRET_FILE=" + writeFile(t, "secret", tokenSecret),
	}
	line := "ALLOWED_ORIGINS is required: with AUTH_REQUIRED any origin is allowed only by INSECURE_ANY_ORIGIN=true"
	refuses(t, "gateway", env, line)
	refuses(t, "gateway", append(env, "ALLOWED_ORIGINS=*"), line)
	spawn(t, "gateway", append(env, "INSECURE_ANY_ORIGIN=true"), "--check-config").exits(0)
	spawn(t, "gateway", append(env, "ALLOWED_ORIGINS=https://app.example"), "--check-config").exits(0)
}

// A topic server that is stopped, not dead, answers no pings: its link ends, what is asked of it ends as what it is, the other
// server's topics go on, and it is back when it goes on.
func TestRow44_AStoppedTopicServerIsGivenUp(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.topicserver("ts-a")
	s.topicserver("ts-b")
	gw := s.gateway("HEARTBEAT=300ms", "PUBLISH_TIMEOUT=5s")
	gw.ready()
	client, calm := dial(t, "client", gw.webSocketURL()), dial(t, "calm", gw.webSocketURL())
	frozen, other := s.topicOf("ts-a", 0), s.topicOf("ts-b", 0)
	client.join(frozen)
	calm.join(other)
	a.freeze()
	gw.prints("link lost; dialing again")
	client.say(fmt.Sprintf(`["1","2",%q,"publish",["e",{}]]`, frozen))
	calm.say(fmt.Sprintf(`["1","3",%q,"publish",["e",{}]]`, other))
	calm.expect(fmt.Sprintf(`["1","3",%q,"phx_reply",{"response":{},"status":"ok"}]`, other), fmt.Sprintf(`["1",null,%q,"e",{}]`, other))
	if got := client.hear(); !strings.HasPrefix(got, fmt.Sprintf(`["1","2",%q,"phx_reply",{"response":{"reason":"un`, frozen)) { // unavailable, or unknown_outcome
		t.Errorf("heard %s", got)
	}
	client.silence()
	a.signal(syscall.SIGCONT)
	gw.ready()
	eventually(t, "all lanes are up", func() bool {
		_, text := fetch(gw.admin, "/metrics")
		return strings.Contains(text, "\nringcast_gateway_lanes 4\n")
	})
	gw.alive()
	a.alive()
}

// stranger connects to an address, says something and waits for its connection to be closed.
func stranger(addr, say string) error {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, say); err != nil && !closedByPeer(err) {
		return err
	}
	if answer, err := io.ReadAll(io.LimitReader(conn, 1<<20)); err != nil && !closedByPeer(err) {
		return fmt.Errorf("after %d bytes of answer: %w", len(answer), err)
	}
	return nil
}

func closedByPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// helloTLS is a TLS client at the wrong port. It has to fail, before ctx does.
func helloTLS(ctx context.Context, addr string) error {
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	switch {
	case err == nil:
		_ = conn.Close()
		return errors.New("TLS handshake succeeded")
	case ctx.Err() != nil:
		return fmt.Errorf("connection stayed open: %w", err)
	}
	return nil
}

// strangers are peers that are no gateways, by name.
func strangers(ctx context.Context, addr string) map[string]func() error {
	random := make([]byte, 1<<20)
	_, _ = rand.Read(random)
	says := map[string]string{
		"silence":            "",
		"one byte":           "\x00",
		"plain HTTP":         "GET / HTTP/1.1\r\nHost: " + addr + "\r\n\r\n",
		"half a request":     "POST /publish HTTP/1.1\r\nHost: ",
		"HTTP/2":             "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"lines":              strings.Repeat("help\r\n", 1000),
		"zeros":              strings.Repeat("\x00", 1<<20),
		"ones":               strings.Repeat("\xff", 1<<20),
		"a megabyte of junk": string(random),
	}
	for i := range 50 {
		says[fmt.Sprintf("junk %d, beginning with % x", i, random[i*512:i*512+8])] = string(random[i*512 : (i+1)*512])
	}
	all := map[string]func() error{"TLS": func() error { return helloTLS(ctx, addr) }}
	for name, say := range says {
		all[name] = func() error { return stranger(addr, say) }
	}
	return all
}

func TestRow39_StrangersAtTheTopicServersPortAreClosed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, _ := s.topicserver("ts-a"), s.topicserver("ts-b")
	gw := s.gateway()
	gw.ready()
	client := dial(t, "client", gw.webSocketURL())
	topic := s.topicOf("ts-a", 0)
	client.join(topic)

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	var met sync.WaitGroup
	for name, meet := range strangers(ctx, a.addr) {
		met.Go(func() {
			if err := meet(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	t.Cleanup(met.Wait) // before the processes end
	gone := make(chan struct{})
	go func() {
		met.Wait()
		close(gone)
	}()

	// All the while the gateway's link works.
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for i, waiting := 0, true; waiting; i++ {
		client.say(fmt.Sprintf(`["1","2",%q,"publish",["event",{"n":%d}]]`, topic, i))
		client.expect(
			fmt.Sprintf(`["1","2",%q,"phx_reply",{"response":{},"status":"ok"}]`, topic),
			fmt.Sprintf(`["1",null,%q,"event",{"n":%d}]`, topic, i))
		select {
		case <-gone:
			waiting = false
		case <-pace.C:
		}
	}
	a.alive()
	log := a.stderr.String()
	if n := strings.Count(log, "closed a connection that sent no hello"); n == 0 || n > int(time.Since(began)/time.Second)+1 {
		t.Errorf("%d log lines about strangers, want some, at most one a second", n)
	}
	if strings.Contains(log, "lane ended") || strings.Contains(gw.stderr.String(), "link lost") {
		t.Error("the gateway has lost its link")
	}
	if status, text := fetch(a.admin, "/metrics"); status != http.StatusOK || !strings.Contains(text, "\nringcast_topic_lanes 2\n") {
		t.Errorf("metrics: status %d, want two lanes:\n%s", status, text)
	}
}
