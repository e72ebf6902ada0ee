package cluster_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
)

// write puts a text in the place of the site's ring file, at once, as editors do.
func (s *site) write(text string) {
	s.t.Helper()
	if err := os.WriteFile(s.ringFile+".new", []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(s.ringFile+".new", s.ringFile); err != nil {
		s.t.Fatal(err)
	}
}

// ringText is a ring file of a version with the site's two servers, or others, each "id addr".
func (s *site) ringText(version int, servers ...string) string {
	if servers == nil {
		for _, server := range s.ring.Servers() {
			servers = append(servers, server.ID+" "+server.Addr)
		}
	}
	text := fmt.Sprintf("version: %d\nservers:\n", version)
	for _, server := range servers {
		id, addr, _ := strings.Cut(server, " ")
		text += fmt.Sprintf("  - id: %s\n    addr: %s\n", id, addr)
	}
	return text
}

// Whatever is put in the place of the ring file under a cluster at work, each node says what is wrong with it and goes on with the
// ring it has; the next good file is used.
func TestRow28_29_30_31_32_33_BadEditsLeaveTheRingInUse(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ts := s.topicserver("ts-a")
	s.topicserver("ts-b")
	gw := s.gateway()
	gw.ready()
	client := dial(t, "client", gw.webSocketURL())
	topic := s.topicOf("ts-a", 0)
	client.join(topic)
	said := 0
	works := func(t *testing.T, version int) {
		t.Helper()
		said++
		client.t = t
		client.say(fmt.Sprintf(`["1","2",%q,"publish",["e",{"n":%d}]]`, topic, said))
		client.expect(fmt.Sprintf(`["1","2",%q,"phx_reply",{"response":{},"status":"ok"}]`, topic), fmt.Sprintf(`["1",null,%q,"e",{"n":%d}]`, topic, said))
		for admin, name := range map[string]string{gw.admin: "gateway", ts.admin: "topic"} {
			if status, text := fetch(admin, "/metrics"); status != http.StatusOK || !strings.Contains(text, fmt.Sprintf("\nringcast_%s_ring_version %d\n", name, version)) {
				t.Errorf("%s does not use ring v%d", name, version)
			}
		}
		gw.alive()
		ts.alive()
	}
	good := s.ringText(2)
	s.write(good)
	s.uses(2, gw.admin, ts.admin)
	a, _ := s.ring.Server("ts-a")
	three := []string{"ts-a " + a.Addr, "ts-x 127.0.0.1:1", "ts-y 127.0.0.1:2"}
	for _, test := range []struct {
		name   string
		text   string
		wanted string // in the log, of both nodes
	}{
		{"row 29, empty", "", ":1:1: empty: want version and servers"},
		{"row 29, truncated", "version: 3\nservers:\n  - id: ts-a\n    addr: \"127.0.0.1:71", "not YAML: found unexpected end of stream"},
		{"row 29, byte order mark", "\ufeff" + good, ":1:1: begins with a byte order mark"},
		{"row 29, 2 MiB", good + strings.Repeat("#\n", 1<<20), "larger than 1048576 bytes"},
		{"row 29, unknown field", good + "fleet: 7\n", "the file has an unknown field"},
		{"row 29, not UTF-8", "version: 3\nservers: \xff\n", "byte 0xff is not UTF-8"},
		{"row 30, no version", strings.Replace(good, "version: 2\n", "", 1), "version is missing"},
		{"row 30, version 0", s.ringText(0), "version is 0: the first version is 1"},
		{"row 30, older", s.ringText(1), "version 1 is older than 2 in use"},
		{"row 30, same version with other content", s.ringText(2, three...), "RING_CONFLICT version 2: content differs from the ring in use"},
		{"row 31, no servers", "version: 3\nservers: []\n", "servers is empty"},
		{"row 31, duplicate id", s.ringText(3, "ts-a 127.0.0.1:1", "ts-a 127.0.0.1:2"), "is taken: the server on line 3 has it"},
		{"row 31, one address for two", s.ringText(3, "ts-a 127.0.0.1:1", "ts-b 127.0.0.1:1"), "is taken: server"},
		{"row 31, 65 servers", s.ringText(3, manyServers(65)...), "65 servers"},
		{"row 32, most of the servers", s.ringText(3, "ts-x 127.0.0.1:1", "ts-y 127.0.0.1:2"), "would move 100 % of topics; set force: true"},
		{"row 31, a short salt", "hash_salt: sesame\n" + s.ringText(3), "hash_salt has 6 bytes: want 32 to 128 of"},
		{"row 32, another salt", "hash_salt: " + ringSalt + "\n" + s.ringText(3), "would move 51 % of topics; set force: true"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := len(gw.stderr.String()) + len(ts.stderr.String())
			s.t, gw.t, ts.t = t, t, t
			s.write(test.text)
			for _, p := range []*proc{gw.proc, ts.proc} {
				eventually(t, p.name+" says so", func() bool { return strings.Contains(p.stderr.String(), test.wanted) })
			}
			eventually(t, "the alarm", func() bool {
				_, text := fetch(gw.admin, "/metrics")
				return strings.Contains(text, "\nringcast_gateway_ring_file_failed 1\n") || strings.Contains(text, "\nringcast_gateway_ring_file_stale 1\n")
			})
			if len(gw.stderr.String())+len(ts.stderr.String()) == before {
				t.Error("nobody says anything")
			}
			works(t, 2)
		})
	}
	s.t, gw.t, ts.t = t, t, t
	if err := os.Remove(s.ringFile); err != nil {
		t.Fatal(err)
	}
	gw.prints("open: no such file or directory") // row 28
	if err := os.Mkdir(s.ringFile, 0o700); err != nil {
		t.Fatal(err)
	}
	gw.prints("open: is a directory")
	works(t, 2)
	if err := os.Remove(s.ringFile); err != nil {
		t.Fatal(err)
	}

	// Row 33: two edits in a row, one that is written in two halves, CRLF, and a link in the place of the file.
	s.write(s.ringText(3))
	s.write(s.ringText(4))
	s.uses(4, gw.admin, ts.admin)
	whole := strings.ReplaceAll(s.ringText(5), "\n", "\r\n")
	for _, part := range []string{whole[:len(whole)/2], whole} {
		if err := os.WriteFile(s.ringFile, []byte(part), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.uses(5, gw.admin, ts.admin)
	if err := os.Symlink(writeFile(t, "other.yaml", s.ringText(6)), s.ringFile+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.ringFile+".new", s.ringFile); err != nil {
		t.Fatal(err)
	}
	s.uses(6, gw.admin, ts.admin)
	works(t, 6)
	if _, text := fetch(gw.admin, "/metrics"); !strings.Contains(text, "\nringcast_gateway_ring_file_failed 0\n") {
		t.Error("the alarm stays")
	}
	// Row 32: with force it is done.
	s.write("force: true\n" + s.ringText(7, "ts-x 127.0.0.1:1", "ts-y 127.0.0.1:2"))
	s.uses(7, gw.admin)
}

func manyServers(n int) (servers []string) {
	for i := range n {
		servers = append(servers, fmt.Sprintf("ts-%d 127.0.0.1:%d", i, 1000+i))
	}
	return servers
}
