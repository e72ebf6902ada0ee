package ring

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// commented is a file as an operator keeps it.
const commented = `# The ring of production.
# Ask in #ops before you edit it.

version: 7   # every edit raises it

# Racks 1 and 2.
servers:
  # rack 1
  - id: ts-a   # the old one
    addr: 10.0.0.1:7101
    weight: 2

  # rack 2
  - id: "ts-b"
    # its second card
    addr: '10.0.0.2:7101'
  - {id: ts-c, addr: "10.0.0.3:7101"} # short
  # spare: 10.0.0.9

# end
`

// tempFile makes a ring file in a directory of its own.
func tempFile(t *testing.T, data string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ring.yaml")
	if err := os.WriteFile(path, []byte(data), 0o640); err != nil {
		t.Fatal(err)
	}
	return path
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// checkAlone checks that an edit left nothing beside the file.
func checkAlone(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v, %v; want the file alone", entries, err)
	}
}

// golden is an edit and the file after it.
type golden struct{ name, before, after string }

func checkEdits(t *testing.T, edit func(path string) (*Ring, error), goldens []golden) {
	for _, c := range goldens {
		t.Run(c.name, func(t *testing.T) {
			path := tempFile(t, c.before)
			r, err := edit(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := readFile(t, path); got != c.after {
				t.Errorf("file:\n%s\nwant:\n%s", got, c.after)
			}
			saved, err := Load(path)
			if err != nil {
				t.Fatal(err)
			}
			if r.Version() != saved.Version() || r.Hash() != saved.Hash() || r.Forced() != saved.Forced() {
				t.Errorf("returned ring v%d %x %v, the file has v%d %x %v", r.Version(), r.Hash(), r.Forced(),
					saved.Version(), saved.Hash(), saved.Forced())
			}
			checkAlone(t, path)
		})
	}
}

func TestAddKeepsTheRestOfTheFile(t *testing.T) {
	checkEdits(t, func(path string) (*Ring, error) {
		return Add(path, Server{ID: "7", Addr: "[::1]:7101", Weight: 3})
	}, []golden{
		{"comments", strings.Replace(commented, "  - {id: ts-c, addr: \"10.0.0.3:7101\"} # short\n", "", 1),
			strings.Replace(strings.Replace(commented, "version: 7", "version: 8", 1), "  - {id: ts-c, addr: \"10.0.0.3:7101\"} # short\n",
				"  - id: \"7\"\n    addr: \"[::1]:7101\"\n    weight: 3\n", 1)},
		{"after a short one", commented,
			strings.Replace(strings.Replace(commented, "version: 7", "version: 8", 1), "# short\n",
				"# short\n  - {id: \"7\", addr: \"[::1]:7101\", weight: 3}\n", 1)},
		{"CRLF", "version: 9\r\nservers:\r\n- id: a\r\n  addr: h:1\r\n\r\n# end\r\n",
			"version: 10\r\nservers:\r\n- id: a\r\n  addr: h:1\r\n- id: \"7\"\r\n  addr: \"[::1]:7101\"\r\n  weight: 3\r\n\r\n# end\r\n"},
		{"no last line end", "version: 99\nservers:\n    -   id: a\n        addr: h:1",
			"version: 100\nservers:\n    -   id: a\n        addr: h:1\n    - id: \"7\"\n      addr: \"[::1]:7101\"\n      weight: 3"},
		{"servers first", "servers:\n- id: a\n  addr: h:1\nversion: 1\n",
			"servers:\n- id: a\n  addr: h:1\n- id: \"7\"\n  addr: \"[::1]:7101\"\n  weight: 3\nversion: 2\n"},
		{"text over lines", "version: 1\nservers:\n- id: >-\n    a\n\n  addr: \"h\\\n    :1\"\n# end\n",
			"version: 2\nservers:\n- id: >-\n    a\n\n  addr: \"h\\\n    :1\"\n- id: \"7\"\n  addr: \"[::1]:7101\"\n  weight: 3\n# end\n"},
		{"document marks", "%YAML 1.1\n---\nversion: 1\nservers:\n- addr: h:1\n  id: a\n...\n",
			"%YAML 1.1\n---\nversion: 2\nservers:\n- addr: h:1\n  id: a\n- id: \"7\"\n  addr: \"[::1]:7101\"\n  weight: 3\n...\n"},
		{"short over lines", "version: 1\nservers:\n- {id: a,\n   addr: h:1\n  }\n",
			"version: 2\nservers:\n- {id: a,\n   addr: h:1\n  }\n- {id: \"7\", addr: \"[::1]:7101\", weight: 3}\n"},
		{"short list", "version: 1\nservers: [{id: a, addr: h:1}, ] # end\n",
			"version: 2\nservers: [{id: a, addr: h:1}, {id: \"7\", addr: \"[::1]:7101\", weight: 3}, ] # end\n"},
		{"JSON", `{"version": 1, "servers": [{"id":"a","addr":"h:1"}]}`,
			`{"version": 2, "servers": [{"id":"a","addr":"h:1"}, {"id": "7", "addr": "[::1]:7101", "weight": 3}]}`},
		{"force was for the edit before", "version: 1\nforce: true # rack 3 burns\nservers: [{id: a, addr: h:1}]\n",
			"version: 2\nforce: false # rack 3 burns\nservers: [{id: a, addr: h:1}, {id: \"7\", addr: \"[::1]:7101\", weight: 3}]\n"},
		{"letters before", "# ä\nversion: 1\nservers: [ {id: \"\\u0061\" , addr: h:1} ] # é\n",
			"# ä\nversion: 2\nservers: [ {id: \"\\u0061\" , addr: h:1}, {id: \"7\", addr: \"[::1]:7101\", weight: 3} ] # é\n"},
		{"letters on the line", "{\"version\": 1, \"servers\": [{\"id\": \"a\", \"addr\": \"h:1\" # äöü}\n}]}",
			"{\"version\": 2, \"servers\": [{\"id\": \"a\", \"addr\": \"h:1\" # äöü}\n}, {\"id\": \"7\", \"addr\": \"[::1]:7101\", \"weight\": 3}]}"},
	})
}

func TestRemoveKeepsTheRestOfTheFile(t *testing.T) {
	remove := func(id string, force bool) func(path string) (*Ring, error) {
		return func(path string) (*Ring, error) { return Remove(path, id, force) }
	}
	v8 := strings.Replace(commented, "version: 7", "version: 8", 1)
	checkEdits(t, remove("ts-a", false), []golden{
		{"first", commented, strings.Replace(v8, "  - id: ts-a   # the old one\n    addr: 10.0.0.1:7101\n    weight: 2\n", "", 1)},
	})
	checkEdits(t, remove("ts-b", false), []golden{
		{"middle", commented, strings.Replace(v8, "  - id: \"ts-b\"\n    # its second card\n    addr: '10.0.0.2:7101'\n", "", 1)},
	})
	checkEdits(t, remove("ts-c", false), []golden{
		{"last", commented, strings.Replace(v8, "  - {id: ts-c, addr: \"10.0.0.3:7101\"} # short\n", "", 1)},
	})
	checkEdits(t, remove("b", false), []golden{
		{"CRLF", "version: 1\r\nservers:\r\n- id: a\r\n  addr: h:1\r\n- id: b\r\n  addr: h:2\r\n# end\r\n",
			"version: 2\r\nservers:\r\n- id: a\r\n  addr: h:1\r\n# end\r\n"},
		{"no last line end", "version: 1\nservers:\n- id: a\n  addr: h:1\n- id: b\n  addr: h:2", "version: 2\nservers:\n- id: a\n  addr: h:1\n"},
		{"dash alone", "version: 1\nservers:\n- # one\n  id: a\n  addr: h:1\n- # two\n\n  # more\n  id: b\n  addr: h:2\n# end\n",
			"version: 2\nservers:\n- # one\n  id: a\n  addr: h:1\n# end\n"},
		{"text over lines", "version: 1\nservers:\n- id: b\n  addr: >-\n    h:2\n\n- id: a\n  addr: h:1\n", "version: 2\nservers:\n\n- id: a\n  addr: h:1\n"},
		{"last of a short list", "version: 1\nservers: [{id: a, addr: h:1}, {id: b, addr: h:2} ]\n", "version: 2\nservers: [{id: a, addr: h:1} ]\n"},
		{"first of a short list", "version: 1\nservers: [{id: b, addr: h:2}, {id: a, addr: h:1}]\n", "version: 2\nservers: [{id: a, addr: h:1}]\n"},
		{"JSON over lines", "{\n  \"version\": 1,\n  \"servers\": [\n    {\"id\": \"a\", \"addr\": \"h:1\"},\n    {\"id\": \"b\", \"addr\": \"h:2\"}\n  ]\n}\n",
			"{\n  \"version\": 2,\n  \"servers\": [\n    {\"id\": \"a\", \"addr\": \"h:1\"}\n  ]\n}\n"},
		{"without force", "version: 1\nforce: true\nservers: [{id: a, addr: h:1}, {id: b, addr: h:2}]\n", "version: 2\nforce: false\nservers: [{id: a, addr: h:1}]\n"},
	})
	checkEdits(t, remove("b", true), []golden{
		{"force is new", "version: 1 # n\r\nservers: [{id: a, addr: h:1}, {id: b, addr: h:2}]\r\n", "version: 2 # n\r\nforce: true\r\nservers: [{id: a, addr: h:1}]\r\n"},
		{"force is there", "version: 1\nforce: false\nservers: [{id: a, addr: h:1}, {id: b, addr: h:2}]\n", "version: 2\nforce: true\nservers: [{id: a, addr: h:1}]\n"},
		{"force at the end", "servers: [{id: a, addr: h:1}, {id: b, addr: h:2}]\nversion: 1", "servers: [{id: a, addr: h:1}]\nversion: 2\nforce: true"},
		{"force before the end mark", "servers: [{id: a, addr: h:1}, {id: b, addr: h:2}]\nversion: 1\n...\n", "servers: [{id: a, addr: h:1}]\nversion: 2\nforce: true\n...\n"},
		{"force in JSON", `{"version":1,"servers":[{"id":"b","addr":"h:2"},{"id":"a","addr":"h:1"}]}`, `{"version":2, "force": true,"servers":[{"id":"a","addr":"h:1"}]}`},
		{"force in an indented file", "  version: 1\n  servers:\n  - id: b\n    addr: h:2\n  - id: a\n    addr: h:1\n", "  version: 2\n  force: true\n  servers:\n  - id: a\n    addr: h:1\n"},
	})
}

func TestEditRefusesAndLeavesTheFile(t *testing.T) {
	full := make([]string, MaxServers)
	for i := range full {
		full[i] = fmt.Sprintf("{id: ts-%d, addr: 'h:%d'}", i, i+1)
	}
	add := func(s Server) func(string) (*Ring, error) {
		return func(path string) (*Ring, error) { return Add(path, s) }
	}
	remove := func(id string) func(string) (*Ring, error) {
		return func(path string) (*Ring, error) { return Remove(path, id, true) }
	}
	fresh := Server{ID: "x", Addr: "x:1"}
	for _, c := range []struct {
		name, data string
		edit       func(path string) (*Ring, error)
		want       string
	}{
		{"id is taken", good, add(Server{ID: "ts-a", Addr: "x:1"}), `: server id "ts-a" is taken: the server on line 6 has it`},
		{"addr is taken", good, add(Server{ID: "x", Addr: "TS-B.example:7101"}), `: server "x": addr "TS-B.example:7101" is taken: server "ts-b" has it`},
		{"all wrong", good, add(Server{ID: "x\n", Addr: "x", Weight: -1}), `: server id "x\n": an id is 1 to 64 of A-Z a-z 0-9 _ . -` + "\nF" +
			`: server "x\n": addr "x": want host:port, e.g. 10.0.0.5:7101` + "\nF" + `: server "x\n": weight -1 is not from 1 to 10`},
		{"too many", one(full...), add(fresh), ": 65 servers: a ring has at most 64"},
		{"too heavy", one(full[:60]...), add(Server{ID: "x", Addr: "x:1", Weight: 5}),
			": the weights add up to 65: a ring takes at most 64, so divide them by a common factor"},
		{"unknown id", good, remove("ts-z"), `: no server has the id "ts-z": there are ts-b, ts-a`},
		{"hostile id", good, remove("\x1b[2J"), `: no server has the id "\x1b[2J": there are ts-b, ts-a`},
		{"last one", one("{id: a, addr: h:1}"), remove("a"), ": servers is empty: a ring needs at least one server"},
		{"last version", "version: 18446744073709551615\nservers: [{id: a, addr: h:1}]", add(fresh), ": version 18446744073709551615 is the last there is"},
		{"bad before", "version: 1\n", add(fresh), ":1:1: servers is missing: a ring needs at least one server"},
		{"not YAML before", "[", remove("a"), ":1: not YAML: did not find expected node content"},
		{"number that is told to be one", "version: !!int 1\nservers: [{id: a, addr: h:1}]", add(fresh),
			": the file is written in a way that this edit does not know: edit it by hand"},
		{"comment in the way", "version: 1\nservers: [{id: a, addr: h:1 #" + strings.Repeat("}", maxPlaces) + "\n}]", add(fresh),
			": the file is written in a way that this edit does not know: edit it by hand"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := tempFile(t, c.data)
			r, err := c.edit(path)
			if err == nil || r != nil {
				t.Fatalf("ring %v, error %v", r, err)
			}
			if got, want := strings.ReplaceAll(err.Error(), "ring file "+path, "F"), "F"+c.want; got != want {
				t.Errorf("error:\n%s\nwant:\n%s", got, want)
			}
			if got := readFile(t, path); got != c.data {
				t.Errorf("the file is now\n%s", got)
			}
			checkAlone(t, path)
		})
	}
}

func TestEditReportsFilesItCannotReplace(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"missing": ": open: no such file or directory",
		"":        ": open: is a directory",
		"pipe":    ": open: not a regular file",
	} {
		path := filepath.Join(dir, name)
		_, err := Add(path, Server{ID: "x", Addr: "x:1"})
		if want := "ring file " + path + want; err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	if _, err := Remove(filepath.Join(dir, "missing"), "x", false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v does not wrap fs.ErrNotExist", err)
	}
	for err, want := range map[error]string{
		&os.LinkError{Op: "rename", Old: "a", New: "b", Err: syscall.EBUSY}: "rename: device or resource busy: the file is mounted by itself, " +
			"so it cannot be replaced: edit it where it is mounted from, or mount its directory",
		&os.LinkError{Op: "rename", Old: "a", New: "b", Err: syscall.EXDEV}: "rename: invalid cross-device link: the file is mounted by itself, " +
			"so it cannot be replaced: edit it where it is mounted from, or mount its directory",
		&os.LinkError{Op: "rename", Old: "a", New: "b", Err: syscall.EACCES}: "rename: permission denied",
	} {
		if got := renameError(err); got.Error() != want || !errors.Is(got, errors.Unwrap(err)) {
			t.Errorf("error %v, want %s", got, want)
		}
	}
}

func TestEditsDoNotMix(t *testing.T) {
	path := tempFile(t, good)
	lock := filepath.Join(filepath.Dir(path), ".ring.yaml.edit")
	_, err := edit(path, func(src *source) ([]byte, file, error) {
		_, err := Add(path, Server{ID: "x", Addr: "x:1"})
		want := "ring file " + path + ": another edit of it runs; if none does, one was cut short: remove " + lock
		if err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
		// An editor writes in between.
		os.WriteFile(path, []byte(good+"# mine\n"), 0o600)
		return src.data, src.file, nil
	})
	if want := "ring file " + path + ": somebody else changed it just now: nothing was written, try again"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if got := readFile(t, path); got != good+"# mine\n" {
		t.Errorf("the edit won over the editor:\n%s", got)
	}
	checkAlone(t, path)
	if _, err := Add(path, Server{ID: "x", Addr: "x:1"}); err != nil {
		t.Errorf("the lock was not given up: %v", err)
	}
}

func TestEditKeepsModeAndOwner(t *testing.T) {
	for _, mode := range []os.FileMode{0o600, 0o644, 0o464} {
		path := tempFile(t, good)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		root := os.Geteuid() == 0
		if root {
			if err := os.Chown(path, 1234, 4321); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Remove(path, "ts-a", false); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != mode {
			t.Errorf("mode %v, want %v", info.Mode(), mode)
		}
		if s := info.Sys().(*syscall.Stat_t); root && (s.Uid != 1234 || s.Gid != 4321) {
			t.Errorf("owner %d, group %d; want 1234, 4321", s.Uid, s.Gid)
		}
	}
}

func TestEditGoesThroughLinks(t *testing.T) {
	target := tempFile(t, good)
	dir := t.TempDir()
	for link, to := range map[string]string{"direct": target, "ring.yaml": "direct"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "ring.yaml")
	if _, err := Add(path, Server{ID: "x", Addr: "x:1"}); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(path); err != nil || to != "direct" {
		t.Errorf("the link goes to %q, %v", to, err)
	}
	r, err := Load(target)
	if err != nil || r.Version() != 8 {
		t.Errorf("target: %v, %v; want version 8", r, err)
	}
	checkAlone(t, target)
}

// A reader that comes by during an edit sees a whole file: that before it or that after it.
func TestReadersSeeWholeFiles(t *testing.T) {
	const edits = 12
	path := tempFile(t, "version: 1\n# "+strings.Repeat("long ", 5000)+"\nservers: [{id: s0, addr: h:1}]\n# end\n")
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			last := uint64(0)
			for done := false; !done; {
				select {
				case <-stop:
					done = true // and one look more
				default:
				}
				now, err := readNamed(path)
				if err != nil {
					t.Error(err)
					return
				}
				f, _, err := parse(path, now)
				if err != nil || !strings.HasSuffix(string(now.data), "# end\n") || f.version < last || len(f.servers) != 1+int(f.version-1)%2 {
					t.Errorf("version %d after %d with %d servers, %d bytes: %v", f.version, last, len(f.servers), len(now.data), err)
					return
				}
				last = f.version
			}
			if last != edits+1 {
				t.Errorf("version %d at the end, want %d", last, edits+1)
			}
		})
	}
	for i := range edits {
		var err error
		if i%2 == 0 {
			_, err = Add(path, Server{ID: "s1", Addr: "h:2"})
		} else {
			_, err = Remove(path, "s1", false)
		}
		if err != nil {
			t.Error(err)
		}
	}
	close(stop)
	readers.Wait()
}

// FuzzEdit looks for files that an edit makes something else of than it should, and for comments that get lost when a
// server is added.
func FuzzEdit(f *testing.F) {
	for _, seed := range []string{
		good, commented, strings.ReplaceAll(commented, "\n", "\r\n"), "servers: [{id: a, addr: h:1}, {id: b, addr: h:2}]\nversion: 1",
		`{"version":1,"force":true,"servers":[{"id":"a","addr":"h:1"}]}`, "version: 1\nservers:\n- id: >-\n    a\n\n  addr: |-\n    h:1\n# end",
		"version: !!int 1\nservers:\n- # x\n  ? id\n  : a\n  ? addr\n  : \"h\\\n  :1\"\n", "---\nversion: 1\nservers: [{id: a, addr: h:1 # }\n}]\n...",
		"hash_salt: '" + salt + "'\nversion: 1\nservers: [{id: a, addr: h:1}]", "version: 1\u0085servers: [{id: a, addr: h:1}]", "version: 1\rservers: [{id: a, addr: h:1}]",
	} {
		f.Add([]byte(seed), "x", "x.example:1", 1)
	}
	f.Add([]byte(good), "007", "[fe80::1%eth0]:1", 10)
	f.Add([]byte(good), "---", "true:1", 2)
	f.Fuzz(func(t *testing.T, data []byte, id, addr string, weight int) {
		src, err := newSource("x", text{data: data})
		if err != nil {
			return
		}
		server := Server{ID: id, Addr: addr, Weight: weight}
		want := src.next(false)
		want.servers = append(want.servers, entry{Server: server, has: hasAll})
		if src.judge("x", want) != nil {
			return
		}
		out, err := src.add(want, server)
		if err != nil {
			if !errors.Is(err, errLayout) {
				t.Fatal(err)
			}
			return
		}
		for line := range strings.SplitSeq(string(data), "\n") {
			if strings.HasPrefix(line, "#") && !strings.Contains(string(out), line) {
				t.Fatalf("lost %q in\n%s", line, out)
			}
		}
		added, err := newSource("x", text{data: out})
		if err != nil || !means(out, want) {
			t.Fatalf("%v: added\n%s", err, out)
		}
		for _, edit := range []func(want *file) ([]byte, error){
			func(want *file) ([]byte, error) {
				want.salt = salt
				return added.salted(*want)
			},
			func(want *file) ([]byte, error) {
				want.servers = want.servers[:len(want.servers)-1]
				return added.remove(*want, len(want.servers))
			},
		} {
			want := added.next(true)
			out, err := edit(&want)
			if err != nil && !errors.Is(err, errLayout) {
				t.Fatal(err)
			}
			if err == nil && !means(out, want) {
				t.Fatalf("edited\n%s", out)
			}
		}
	})
}
