package ring

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

// good is a ring file without mistakes.
const good = `version: 7
servers:
  - id: ts-b
    addr: ts-b.example:7101
    weight: 2
  - {id: ts-a, addr: "[::1]:7101"}
`

func TestParseReadsEveryField(t *testing.T) {
	want := []Server{
		{ID: "ts-a", Addr: "[::1]:7101", Weight: 1},
		{ID: "ts-b", Addr: "ts-b.example:7101", Weight: 2},
	}
	for name, data := range map[string]string{
		"as written":       good,
		"CRLF":             strings.ReplaceAll(good, "\n", "\r\n"),
		"no last line end": strings.TrimSuffix(good, "\n"),
		"document marks":   "%YAML 1.1\n---\n" + good + "...\n",
		"comments":         "# the ring\n\n" + good + "# end, café\n",
		"other order":      "servers: [{weight: 2, addr: 'ts-b.example:7101', id: 'ts-b'}, {addr: '[::1]:7101', id: ts-a}]\nversion: 7",
		"JSON":             `{"version": 7, "servers": [{"id":"ts-a","addr":"[::1]:7101"},{"id":"ts-b","addr":"ts-b.example:7101","weight":2}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Parse("ring.yaml", []byte(data))
			if err != nil {
				t.Fatal(err)
			}
			if r.Version() != 7 || !reflect.DeepEqual(r.Servers(), want) {
				t.Errorf("version %d, servers %v; want 7, %v", r.Version(), r.Servers(), want)
			}
			if r.Owner("topics:a").ID == "" {
				t.Error("a topic has no owner")
			}
		})
	}
}

// one is a file with version 1 and the given servers, each on lines of its own from line 3 on.
func one(servers ...string) string {
	return "version: 1\nservers:\n  - " + strings.Join(servers, "\n  - ") + "\n"
}

// refusal is a ring file and the report about it, without "ring file x:" on each line. A line that has no place begins
// with a space.
type refusal struct{ name, data, want string }

func checkReports(t *testing.T, refusals []refusal) {
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			r, err := Parse("x", []byte(c.data))
			if err == nil {
				t.Fatalf("parsed: version %d, %v", r.Version(), r.Servers())
			}
			got := strings.ReplaceAll("\n"+err.Error(), "\nring file x:", "\n")[1:]
			if got != c.want {
				t.Errorf("report:\n%s\nwant:\n%s", got, c.want)
			}
			var report *Error
			if !errors.As(err, &report) || report.Path != "x" {
				t.Errorf("error is %T, want *Error of file x", err)
			}
		})
	}
}

func TestParseReportsText(t *testing.T) {
	checkReports(t, []refusal{
		{"empty", "", "1:1: empty: want version and servers"},
		{"only comments", "# nothing yet\n\n", "1:1: empty: want version and servers"},
		{"empty document", "---\n", "2:1: want the fields version and servers, found nothing"},
		{"byte order mark", "\ufeff" + good, "1:1: begins with a byte order mark: save it as UTF-8 without one"},
		{"UTF-16", "\xff\xfev\x00e\x00", "1:1: byte 0xff is not UTF-8"},
		{"not UTF-8", "version: 1\n# caf\xe9\n", "2:6: byte 0xe9 is not UTF-8"},
		{"column counts letters", "version: 1\n# éé\xe9\n", "2:5: byte 0xe9 is not UTF-8"},
		{"NUL", "version: 1\n\x00", "2:1: control character U+0000"},
		{"too large", strings.Repeat("#", MaxFileSize+1), " larger than 1048576 bytes: this is no ring file"},
		{"two documents", good + "---\n" + good, "7:1: a second document begins: a ring file is one document"},
		{"second document broken", good + "---\n[", "8: not YAML: did not find expected node content"},
		{"tab", "version: 1\nservers:\n\t- id: a\n", "3: not YAML: found character that cannot start any token"},
		{"unclosed list", "version: 1\nservers: [{id: a, addr: 'h:1'}", "2: not YAML: did not find expected ',' or ']'"},
		{"unclosed list on line 1", "[", "1: not YAML: did not find expected node content"},
		{"unclosed list on line 3", "version: 1\n\nservers: [{id: a, addr: 'h:1'}", "3: not YAML: did not find expected ',' or ']'"},
		{"bad escape", "version: 1\nservers: [{id: \"\\q\"}]", "2: not YAML: found unknown escape character"},
		{"alias of nothing", "version: 1\nservers: *s", " not YAML: an alias, text with * before it, of nothing"},
	})
}

func TestParseReportsShape(t *testing.T) {
	checkReports(t, []refusal{
		{"root is a list", "- version: 1\n", "1:1: want the fields version and servers, found a list"},
		{"root is text", "version 1", "1:1: want the fields version and servers, found the text \"version 1\""},
		{"no version", "servers: [{id: a, addr: 'h:1'}]", "1:1: version is missing: the first version is 1, every edit raises it"},
		{"no servers", "version: 1", "1:1: servers is missing: a ring needs at least one server"},
		{"truncated after servers", "version: 1\nservers:\n", "2:9: servers is empty: a ring needs at least one server"},
		{"servers is empty", "version: 1\nservers: []\n", "2:10: servers is empty: a ring needs at least one server"},
		{"servers is a mapping", "version: 1\nservers:\n  a: h:1\n", "3:3: servers: want a list, each element beginning with \"- id:\", found fields"},
		{"servers is text", "version: 1\nservers: a\n", "2:10: servers: want a list, each element beginning with \"- id:\", found the text \"a\""},
		{"server is text", one("a"), "3:5: server number 1: want the fields id and addr, found the text \"a\""},
		{"server is nothing", one(""), "3:4: server number 1: want the fields id and addr, found nothing"},
		{"truncated in addr", one("id: a\n    addr: 127.0"), "4:11: server \"a\": addr: want text, found the number 127.0; quotes make it text"},
		{"unknown fields", "version: 1\nvnodes: 3\nservers: [{id: a, addr: 'h:1', wieght: 2}]",
			"2:1: the file has an unknown field \"vnodes\": known are version, servers, force, hash_salt\n" +
				"3:32: server number 1 has an unknown field \"wieght\": known are id, addr, weight"},
		{"long hostile field name", "\"" + strings.Repeat("\\e[2J", 30) + "\": 1\n" + good,
			`1:1: the file has an unknown field "` + strings.Repeat(`\x1b[2J`, 16) + `"…: known are version, servers, force, hash_salt`},
		{"field that is a list", "? [version]\n: 1\n" + good, "1:3: the file has an unknown field \"\": known are version, servers, force, hash_salt"},
		{"merge key", "version: 1\nservers: [{<<: {id: a}, addr: 'h:1'}]",
			"2:11: server number 1: id is missing\n2:12: server number 1 has an unknown field \"<<\": known are id, addr, weight"},
		{"field twice", "version: 1\nversion: 2\nservers: [{id: a, addr: 'h:1', id: b}]",
			"2:1: the file has the field version twice: first on line 1\n3:32: server number 1 has the field id twice: first on line 3"},
	})
}

func TestParseReportsAliases(t *testing.T) {
	checkReports(t, []refusal{
		{"anchors and aliases", "version: &v 1\nservers:\n- &s {id: a, addr: 'h:1'}\n- *s\n- {id: b, addr: 'h:2', weight: *v}\n",
			"1:10: anchor &v: a ring file spells everything out\n" +
				"3:3: anchor &s: a ring file spells everything out\n" +
				"4:3: alias *s: a ring file spells everything out\n" +
				"5:32: alias *v: a ring file spells everything out"},
		{"anchored root", "&r {version: 1}", "1:1: anchor &r: a ring file spells everything out"},
		{"anchored list", "version: 1\nservers: &l [{id: a, addr: 'h:1'}]", "2:10: anchor &l: a ring file spells everything out"},
		{"id as alias", "version: 1\nservers: [{id: &i a, addr: 'h:1'}, {id: *i, addr: 'h:2'}]",
			"2:16: anchor &i: a ring file spells everything out\n2:41: alias *i: a ring file spells everything out"},
	})
}

func TestParseReportsVersion(t *testing.T) {
	checkReports(t, []refusal{
		{"version 0", "version: 0\nservers: [{id: a, addr: 'h:1'}]", "1:10: version is 0: the first version is 1"},
		{"version -3", "version: -3\nservers: [{id: a, addr: 'h:1'}]", "1:10: version is -3: the first version is 1"},
		{"version as text", "version: '1'\nservers: [{id: a, addr: 'h:1'}]", "1:10: version: want a whole number from 1, found the text \"1\""},
		{"version 1.5", "version: 1.5\nservers: [{id: a, addr: 'h:1'}]", "1:10: version: want a whole number from 1, found the number 1.5"},
		{"version is nothing", "version:\nservers: [{id: a, addr: 'h:1'}]", "1:9: version: want a whole number from 1, found nothing"},
		{"version is a list", "version: [1]\nservers: [{id: a, addr: 'h:1'}]", "1:10: version: want a whole number from 1, found a list"},
		{"version is true", "version: true\nservers: [{id: a, addr: 'h:1'}]", "1:10: version: want a whole number from 1, found the truth value true"},
		{"version of own type", "version: !ruby 1\nservers: [{id: a, addr: 'h:1'}]", "1:10: version: want a whole number from 1, found \"1\" of type \"!ruby\""},
		{"version 2^64", "version: 18446744073709551616\nservers: [{id: a, addr: 'h:1'}]", "1:10: version \"18446744073709551616\" is too large"},
		{"version in octal", "version: 010\nservers: [{id: a, addr: 'h:1'}]", "1:10: version \"010\": want plain decimal digits"},
		{"version in hex", "version: 0x1F\nservers: [{id: a, addr: 'h:1'}]", "1:10: version \"0x1F\": want plain decimal digits"},
		{"version tagged as number", "version: !!int \"\\e\"\nservers: [{id: a, addr: 'h:1'}]", "1:10: version \"\\x1b\": want plain decimal digits"},
	})
}

func TestParseReportsForce(t *testing.T) {
	checkReports(t, []refusal{
		{"yes", "force: yes\n" + good, "1:8: force: want true or false, found the text \"yes\""},
		{"True", "force: True\n" + good, "1:8: force: want true or false, found the truth value True"},
		{"1", "force: 1\n" + good, "1:8: force: want true or false, found the number 1"},
		{"text", "force: 'true'\n" + good, "1:8: force: want true or false, found the text \"true\""},
		{"nothing", "force:\n" + good, "1:7: force: want true or false, found nothing"},
		{"list", "force: [true]\n" + good, "1:8: force: want true or false, found a list"},
		{"anchor", "force: &f true\n" + good, "1:8: anchor &f: a ring file spells everything out"},
		{"twice", "force: true\n" + good + "force: true\n", "8:1: the file has the field force twice: first on line 1"},
	})
}

func TestForceIsReadAndNotHashed(t *testing.T) {
	for data, want := range map[string]bool{good: false, good + "force: false\n": false, "force: true\n" + good: true} {
		r, err := Parse("x", []byte(data))
		if err != nil {
			t.Fatal(err)
		}
		if r.Forced() != want {
			t.Errorf("Forced() = %v for\n%s", r.Forced(), data)
		}
		// This is how a peer builds the ring again from what it was told.
		if told := mustNew(t, r.Version(), r.Servers()); told.Hash() != r.Hash() || told.Forced() {
			t.Errorf("hash %x, forced %v; want %x, false", told.Hash(), told.Forced(), r.Hash())
		}
	}
}

func TestParseReportsServers(t *testing.T) {
	checkReports(t, []refusal{
		{"fields missing", one("{}", "{id: b}", "{addr: 'h:1'}"),
			"3:5: server number 1: id is missing\n3:5: server number 1: addr is missing\n" +
				"4:5: server \"b\": addr is missing\n5:5: server number 3: id is missing"},
		{"wrong types", one("{id: 7, addr: 7101, weight: two}", "{id: [a], addr: {h: 1}, weight: 1.5}", "{id: , addr: ~, weight: ~}"),
			"3:10: server number 1: id: want text, found the number 7; quotes make it text\n" +
				"3:19: server number 1: addr: want text, found the number 7101; quotes make it text\n" +
				"3:33: server number 1: weight: want a whole number from 1 to 10, found the text \"two\"\n" +
				"4:10: server number 2: id: want text, found a list\n" +
				"4:21: server number 2: addr: want text, found fields\n" +
				"4:37: server number 2: weight: want a whole number from 1 to 10, found the number 1.5\n" +
				"5:10: server number 3: id: want text, found nothing\n" +
				"5:18: server number 3: addr: want text, found nothing\n" +
				"5:29: server number 3: weight: want a whole number from 1 to 10, found nothing"},
		{"ids", one("{id: 'a#1', addr: 'h:1'}", "{id: '', addr: 'h:2'}", "{id: 'ä', addr: 'h:3'}", "{id: "+strings.Repeat("x", 65)+", addr: 'h:4'}", "{id: "+strings.Repeat("x", 64)+", addr: 'h:5'}"),
			"3:10: server id \"a#1\": an id is 1 to 64 of A-Z a-z 0-9 _ . -\n" +
				"4:10: server id \"\": an id is 1 to 64 of A-Z a-z 0-9 _ . -\n" +
				"5:10: server id \"ä\": an id is 1 to 64 of A-Z a-z 0-9 _ . -\n" +
				"6:10: server id \"" + strings.Repeat("x", 64) + "\"…: an id is 1 to 64 of A-Z a-z 0-9 _ . -"},
		{"duplicate id", one("{id: a, addr: 'h:1'}", "{id: a, addr: 'h:2'}"), "4:10: server id \"a\" is taken: the server on line 3 has it"},
		{"one address", one("{id: a, addr: 'h.example:1'}", "{id: b, addr: 'H.example.:1'}", "{id: c, addr: '[::ffff:10.0.0.1]:1'}", "{id: d, addr: '10.0.0.1:1'}", "{id: e, addr: '10.0.0.1:2'}"),
			"4:19: server \"b\": addr \"H.example.:1\" is taken: server \"a\" has it\n" +
				"6:19: server \"d\": addr \"10.0.0.1:1\" is taken: server \"c\" has it"},
		{"weights", one("{id: a, addr: 'h:1', weight: 0}", "{id: b, addr: 'h:2', weight: -1}", "{id: c, addr: 'h:3', weight: 11}", "{id: d, addr: 'h:4', weight: 99999999999999999999}", "{id: e, addr: 'h:5', weight: 0x2}"),
			"3:34: server \"a\": weight 0 is not from 1 to 10\n" +
				"4:34: server \"b\": weight -1 is not from 1 to 10\n" +
				"5:34: server \"c\": weight 11 is not from 1 to 10\n" +
				"6:34: server \"d\": weight \"99999999999999999999\": want plain decimal digits, from 1 to 10\n" +
				"7:34: server \"e\": weight \"0x2\": want plain decimal digits, from 1 to 10"},
	})
}

func TestParseReportsAddresses(t *testing.T) {
	for addr, want := range map[string]string{
		"localhost:7101":                "",
		"ts_1.svc.cluster.local.:1":     "",
		"10.0.0.1:65535":                "",
		"[fe80::1%eth0]:7101":           "",
		"[fe80::1%a b]:1":               `zone "a b" is not the name of an interface`,
		"h":                             "want host:port, e.g. 10.0.0.5:7101",
		"":                              "want host:port, e.g. 10.0.0.5:7101",
		"h:":                            `port "" is not a plain number`,
		"h:http":                        `port "http" is not a plain number`,
		"h:07101":                       `port "07101" is not a plain number`,
		"h:+1":                          `port "+1" is not a plain number`,
		"h:0":                           "port 0 is not from 1 to 65535",
		"h:-1":                          "port -1 is not from 1 to 65535",
		"h:70000":                       "port 70000 is not from 1 to 65535",
		"h:99999999999999999999":        `port "99999999999999999999" is not a plain number`,
		":7101":                         "the host is missing: gateways on other machines dial it",
		"0.0.0.0:7101":                  "0.0.0.0 is an address to listen on, not one to dial",
		"[::]:7101":                     ":: is an address to listen on, not one to dial",
		"::1:7101":                      "want host:port, e.g. 10.0.0.5:7101",
		"a b:1":                         `host "a b" is neither a name nor an IP address`,
		"-a:1":                          `host "-a" is neither a name nor an IP address`,
		"a..b:1":                        `host "a..b" is neither a name nor an IP address`,
		"http://h:1":                    "want host:port, e.g. 10.0.0.5:7101",
		"10.0.0.256:1":                  `host "10.0.0.256" is neither a name nor an IP address`,
		"a/b:1":                         `host "a/b" is neither a name nor an IP address`,
		strings.Repeat("a", 254) + ":1": `host "` + strings.Repeat("a", 64) + `"… is neither a name nor an IP address`,
	} {
		_, err := Parse("x", []byte(one(fmt.Sprintf("{id: a, addr: '%s'}", addr))))
		if want != "" {
			want = fmt.Sprintf(`ring file x:3:19: server "a": addr %s: %s`, quote(addr), want)
		}
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("addr %q:\n%s\nwant:\n%s", addr, got, want)
		}
	}
}

func TestReportIsBounded(t *testing.T) {
	list := make([]string, 80)
	for i := range list {
		list[i] = "{id: '#', addr: x}"
	}
	_, err := Parse("x", []byte(one(list...)))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != maxProblems+1 {
		t.Fatalf("%d lines, want %d", len(lines), maxProblems+1)
	}
	if got, want := lines[0], "ring file x:3:3: 80 servers: a ring has at most 64"; got != want {
		t.Errorf("first line %q, want %q", got, want)
	}
	if got, want := lines[maxProblems], "ring file x: and 111 more problems"; got != want {
		t.Errorf("last line %q, want %q", got, want)
	}
}

func TestLoadReadsTheFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "data.yaml")
	if err := os.WriteFile(file, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "ring.yaml")
	if err := os.Symlink("data.yaml", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link} {
		r, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if r.Version() != 7 || len(r.Servers()) != 2 {
			t.Errorf("%s: version %d, %d servers", path, r.Version(), len(r.Servers()))
		}
	}
}

func TestLoadReportsWhatItCannotRead(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, data string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path(name), []byte(data), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("locked", good, 0)
	write("large", strings.Repeat("#\n", MaxFileSize), 0o600)
	write("bad", "version: 1\n", 0o600)
	if err := syscall.Mkfifo(path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", path("loop")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"missing":    ": open: no such file or directory",
		"bad/inside": ": open: not a directory",
		"locked":     ": open: permission denied",
		"loop":       ": open: too many levels of symbolic links",
		"":           ": open: is a directory",
		"pipe":       ": open: not a regular file",
		"large":      ": larger than 1048576 bytes: this is no ring file",
		"bad":        ":1:1: servers is missing: a ring needs at least one server",
	} {
		if name == "locked" && os.Geteuid() == 0 {
			continue // root reads it
		}
		_, err := Load(path(name))
		if want := "ring file " + path(name) + want; err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	if _, err := Load(path("missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v does not wrap fs.ErrNotExist", err)
	}
}

func TestRingFileOfTheRepository(t *testing.T) {
	r, err := Load("../../scripts/ring.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := []Server{{"ts-a", "127.0.0.1:7101", 1}, {"ts-b", "127.0.0.1:7102", 1}}
	if r.Version() != 1 || !reflect.DeepEqual(r.Servers(), want) {
		t.Errorf("version %d, servers %v; want 1, %v", r.Version(), r.Servers(), want)
	}
}

// FuzzParse looks for files that crash the parser, that it refuses without a line of reason, or that make a ring
// outside of its own rules.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", good, strings.ReplaceAll(good, "\n", "\r\n"), "\ufeff" + good, good[:60], good + "---\n" + good,
		"hash_salt: " + salt + "\n" + good, one("{id: a, addr: 'h:1', weight: 0}", "{id: a, addr: 'h:1'}"), "version: &v 1\nservers: [*v]", "[[[[[[", "? {a: b}\n: c",
		"version: !!int \"x\"\nservers: !!seq {}", "\"\\e[2J\": 1", "version: 1\nservers:\n\t- a", "a: |\n  b\n", "%TAG ! x\n---\n{}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Parse("x", data)
		if err == nil {
			list := r.Servers()
			if r.Version() == 0 || len(list) == 0 || len(list) > MaxServers {
				t.Fatalf("version %d, %d servers", r.Version(), len(list))
			}
			again, err := NewSalted(r.Version(), r.Salt(), list)
			if err != nil || again.Hash() != r.Hash() {
				t.Fatalf("New refuses or changes what Parse accepted: %v", err)
			}
			return
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if !strings.HasPrefix(line, "ring file x:") || len(line) > 1000 {
				t.Fatalf("line %q of the report", line)
			}
			if i := strings.IndexFunc(line, func(c rune) bool { return c < ' ' || c == 0x7f }); i >= 0 {
				t.Fatalf("control character in line %q of the report", line)
			}
		}
	})
}
