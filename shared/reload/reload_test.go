package reload

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestRunNoticesEveryWayToReplaceAFile(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, key := put("cert", "1"), filepath.Join(dir, "key")
	old, next := put("key-1", "1"), put("key-2", "2")
	if err := os.Symlink(old, key); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var loads atomic.Int64
		files := New(cert, "", key)
		put("cert", "2") // between New and Run
		go files.Run(ctx, time.Second, func() { loads.Add(1) })
		expect := func(what string, want int64) {
			t.Helper()
			time.Sleep(3*time.Second + time.Millisecond)
			synctest.Wait()
			if got := loads.Load(); got != want {
				t.Fatalf("%s: %d loads, want %d", what, got, want)
			}
		}
		expect("changed before Run", 1)
		expect("unchanged", 1)
		_ = os.Rename(put("cert.new", "3"), cert)
		expect("renamed", 2)
		_ = os.Symlink(next, key+".new")
		_ = os.Rename(key+".new", key)
		expect("symlink switched", 3)
		_ = os.Remove(cert)
		expect("removed", 4)
		for i := range 5 { // never the same at two looks
			put("cert", string(rune('a'+i)))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if loads.Load() != 4 {
			t.Fatalf("%d loads while the file was still changing, want 4", loads.Load())
		}
		expect("settled", 5)
	})
}

func TestRunWithoutFilesReturns(t *testing.T) { New("", "").Run(t.Context(), 0, func() {}) }

// What is no file has no content, and nobody waits for it: not for the writer of a pipe, not for the end of a device.
func TestAFileBecomesAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte("keys"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := New(path)
	for name, replace := range map[string]func() error{
		"pipe":   func() error { return syscall.Mkfifo(path, 0o600) },
		"device": func() error { return os.Symlink("/dev/zero", path) },
	} {
		if err := errors.Join(os.Remove(path), replace()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			files.Look()
		}
		if files.used != files.digest() {
			t.Errorf("%s: the change is not seen, or not settled", name)
		}
	}
}
