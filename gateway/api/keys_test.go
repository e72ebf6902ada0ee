package api

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

func TestParseKeys(t *testing.T) {
	k, err := ParseKeys("shop:publish+read:" + sum("old") + ", shop-next:publish:" + strings.ToUpper(sum("new")))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{"old": "shop", "new": "shop-next", "older": "", "": "", sum("old"): ""} {
		if found, ok := k.find(text); ok != (want != "") || found.name != want {
			t.Errorf("%q: %q %v", text, found.name, ok)
		}
	}
	found, _ := k.find("old")
	if !slices.Equal(found.scopes, []Scope{Publish, Read}) {
		t.Error(found.scopes)
	}
}

func TestBadKeysAreAllNamed(t *testing.T) {
	secret := "this is the key itself, put there by mistake"
	_, err := ParseKeys(strings.Join([]string{
		"shop", "a:publish:" + secret, "b:fly:" + sum("x"), ":publish:" + sum("x"), "c:publish:" + sum("x"), "c:publish:" + sum("x"),
	}, ","))
	if err == nil {
		t.Fatal("no error")
	}
	// The mistaken key has a comma in it and so is two entries; neither shows.
	want := []string{
		"entry 1: want name:scope+scope:sha256",
		`entry 2: key "a": want the SHA-256 of the key in hex`,
		"entry 3: want name:scope+scope:sha256",
		`entry 4: key "b": scope "fly": want publish, read or kick`,
		"entry 5: name: want 1 to 64 bytes",
		`entry 7: name "c" comes twice`,
	}
	if got := strings.Split(err.Error(), "\n"); !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	if strings.Contains(err.Error(), "mistake") {
		t.Error("the error shows a key")
	}
}

// A key is exchanged without a restart: the file gets the new one beside the old one, later loses the old one. A file that
// is wrong changes nothing.
func TestTheKeyFileIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	entry := func(name, text string) string {
		return fmt.Sprintf("  - {name: %s, sha256: %s, scopes: [publish]}\n", name, sum(text))
	}
	write("keys:\n" + entry("shop", "old"))
	k, err := LoadKeys(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	look := func() { k.mu.Lock(); k.looked = time.Time{}; k.mu.Unlock() }
	valid := func(text string) bool { _, ok := k.find(text); return ok }
	if !valid("old") || valid("new") {
		t.Fatal("at first")
	}
	write("keys:\n" + entry("shop", "old") + entry("shop-next", "new"))
	if valid("new") {
		t.Error("the file is looked at with every request")
	}
	look()
	if !valid("old") || !valid("new") {
		t.Error("two live keys")
	}
	for _, bad := range []string{"keys: 7\n", "keys:\n  - name: x\n", "", "keyz: []\n"} {
		write(bad)
		look()
		if !valid("old") || !valid("new") {
			t.Errorf("%q was applied", bad)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	look()
	if !valid("old") {
		t.Error("a missing file was applied")
	}
	write("keys:\n" + entry("shop-next", "new"))
	look()
	if valid("old") || !valid("new") {
		t.Error("the old key is to be gone")
	}
}

func TestLoadKeysNamesWhatIsWrong(t *testing.T) {
	if _, err := LoadKeys("/nonexistent/keys.yaml", nil); err == nil {
		t.Error("no error")
	}
	path := filepath.Join(t.TempDir(), "keys.yaml")
	text := "keys:\n  - {name: a, sha256: zz, scopes: [publish]}\n  - {name: b, sha256: " + sum("b") + ", scopes: []}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadKeys(path, nil)
	want := path + ": key 1: key \"a\": want the SHA-256 of the key in hex\n" + path + ": key 2: key \"b\": no scopes"
	if err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
}
