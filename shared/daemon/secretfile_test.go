package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestSecret(t *testing.T) {
	t.Parallel()
	const good = "a secret of thirty-two bytes ok!"
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct {
		name, value, path string
		want, problem     string
	}{
		{name: "none"},
		{name: "value", value: good, want: good},
		{name: "file", path: file("ok", good+"\n", 0o400), want: good},
		{name: "both", value: good, path: file("both", good, 0o600), problem: "KEY and KEY_FILE are both set: want one of them"},
		{name: "short", value: "tiny-but-not-to-be-shown", problem: "KEY: want a secret of at least 32 bytes"},
		{name: "short file", path: file("short", "tiny-but-not-to-be-shown", 0o600), problem: "KEY_FILE: want a secret of at least 32 bytes"},
		{name: "group", path: file("group", good, 0o640), problem: `KEY_FILE="` + dir + `/group": mode 0640 lets others read it: chmod 0600`},
		{name: "world", path: file("world", good, 0o644), problem: `KEY_FILE="` + dir + `/world": mode 0644 lets others read it: chmod 0600`},
		{name: "missing", path: dir + "/none", problem: `KEY_FILE="` + dir + `/none": open: no such file or directory`},
		{name: "directory", path: dir, problem: `KEY_FILE="` + dir + `": open: is a directory`},
		{name: "pipe", path: pipe(t, dir), problem: `KEY_FILE="` + dir + `/pipe": open: not a regular file`},
		{name: "huge", path: file("huge", strings.Repeat("x", maxSecretFile+1), 0o600), problem: `KEY_FILE="` + dir + `/huge": larger than 1048576 bytes`},
	} {
		got, err := Secret("KEY", test.value, test.path, 32)
		switch {
		case test.problem == "" && (err != nil || got != test.want):
			t.Errorf("%s: %q, %v, want %q", test.name, got, err, test.want)
		case test.problem != "" && (err == nil || err.Error() != test.problem):
			t.Errorf("%s: error %v, want %s", test.name, err, test.problem)
		}
	}
}

// pipe makes a named pipe that nobody writes to: whoever opens it as a file waits for ever.
func pipe(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
