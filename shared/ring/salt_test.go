package ring

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/fsnotify/fsnotify"
)

// Two salts as openssl rand -hex 32 and -base64 24 print them.
const (
	salt      = "8b3f6c1d0e5a49c7b2d4f6a8091c3e5d7f9b1a2c4e6d8f0a1b3c5d7e9f0a2b4c"
	otherSalt = "pX+3/qUVq0y7n1bJc0zRkT2Zw5mLd9A="
)

func salted(tb testing.TB, version uint64, salt string, list []Server) *Ring {
	tb.Helper()
	r, err := NewSalted(version, salt, list)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// If this fails, the release it would go into cannot share a salted cluster with the release before it.
func TestSaltedOwnersNeverChange(t *testing.T) {
	r := salted(t, 1, salt, servers("ts-", 3))
	got := ""
	for _, topic := range []string{"", "topics:a", "topics:b", "topics:matrix", "room:lobby", "room:1", "room:2", "日本語", strings.Repeat("x", 300)} {
		got += r.Owner(topic).ID + " "
	}
	if want := "ts-0 ts-2 ts-1 ts-1 ts-1 ts-1 ts-0 ts-2 ts-2 "; got != want {
		t.Errorf("owners are %q, want %q", got, want)
	}
	if got, want := r.Hash(), uint64(0xf3f9fa963d753544); got != want {
		t.Errorf("Hash() = %#x, want %#x", got, want)
	}
}

// mine returns n topics that r gives to one server.
func mine(r *Ring, n int) (topics []string) {
	for i := 0; len(topics) < n; i++ {
		if topic := fmt.Sprintf("room:%d", i); r.Owner(topic).ID == "ts-0" {
			topics = append(topics, topic)
		}
	}
	return topics
}

// Whoever knows the ring file but for its salt, or the salt before this one, finds no topics that meet on one server.
func TestMinedTopicsSpread(t *testing.T) {
	const n = 10_000
	list := servers("ts-", 4)
	for _, c := range []struct{ name, known, secret string }{
		{"no salt known", "", salt},
		{"another salt known", otherSalt, salt},
		{"a salt that begins the same", salt[:MinSalt], salt},
	} {
		t.Run(c.name, func(t *testing.T) {
			topics := mine(salted(t, 1, c.known, list), n)
			r := salted(t, 2, c.secret, list)
			count := map[string]int{}
			for _, topic := range topics {
				count[r.Owner(topic).ID]++
			}
			// As with topics that nobody chose, the busiest server owns 1.2 times the mean at worst.
			for id, got := range count {
				if got > n/4*12/10 {
					t.Errorf("%s owns %d of %d: %v", id, got, n, count)
				}
			}
		})
	}
}

func TestSaltIsContent(t *testing.T) {
	list := servers("ts-", 3)
	plain, a, b := mustNew(t, 1, list), salted(t, 1, salt, list), salted(t, 1, otherSalt, list)
	if plain.Hash() == a.Hash() || a.Hash() == b.Hash() || plain.Hash() == b.Hash() {
		t.Errorf("hashes %x, %x, %x", plain.Hash(), a.Hash(), b.Hash())
	}
	if again := salted(t, 2, "", list); again.Hash() != plain.Hash() || again.Moved(plain) != 0 {
		t.Error("an empty salt is one")
	}
	for name, next := range map[string]*Ring{"added": a, "removed": plain, "changed": b} {
		old := map[string]*Ring{"added": plain, "removed": a, "changed": a}[name]
		if err := old.Follow(next); !errors.Is(err, ErrConflict) {
			t.Errorf("%s with the same version: %v", name, err)
		}
		later := salted(t, 2, next.Salt(), list)
		if err := old.Follow(later); !errors.Is(err, ErrForce) || err.Error() != fmt.Sprintf("would move %.0f %% of topics; set force: true", 100*old.Moved(later)) {
			t.Errorf("%s without force: %v", name, err)
		}
	}
	if err := mustNew(t, 1, list[:1]).Follow(salted(t, 2, salt, list[:1])); err != nil {
		t.Errorf("nothing moves on a ring of one: %v", err)
	}
	forced := mustParse(t, fmt.Sprintf("version: 2\nforce: true\nhash_salt: %s\nservers: [{id: ts-0, addr: 'h:1'}, {id: ts-1, addr: 'h:2'}]", salt))
	if err := plain.Follow(forced); err != nil || forced.Salt() != salt {
		t.Errorf("with force: %v", err)
	}
}

// Whatever is wrong with a salt, its text is in no report.
func TestBadSaltsAreReportedAndNotShown(t *testing.T) {
	const secret = "sesame-open-8b3f6c1d0e5a49c7b2d4f6a8"
	rest := "\nversion: 1\nservers: [{id: a, addr: 'h:1'}]"
	const form = " of A-Z a-z 0-9 + / = _ . -, as openssl rand -hex 32 prints"
	long := secret + strings.Repeat("0", MaxSalt)
	checkReports(t, []refusal{
		{"short", "hash_salt: " + secret[:MinSalt-1] + rest, "1:12: hash_salt has 31 bytes: want 32 to 128" + form},
		{"long", "hash_salt: " + long[:MaxSalt+1] + rest, "1:12: hash_salt has 129 bytes: want 32 to 128" + form},
		{"with a space", "hash_salt: " + secret + " x" + rest, "1:12: hash_salt has 38 bytes: want 32 to 128" + form},
		{"empty", "hash_salt: ''" + rest, "1:12: hash_salt is empty: leave it out if there is to be none"},
		{"nothing", "hash_salt:" + rest, "1:11: hash_salt: want text; quotes make it text"},
		{"a number", "hash_salt: 31415926535897932384626433832795028" + rest, "1:12: hash_salt: want text; quotes make it text"},
		{"a float", "hash_salt: 12345678901234567890123456789e12" + rest, "1:12: hash_salt: want text; quotes make it text"},
		{"a list", "hash_salt: [" + secret + "]" + rest, "1:12: hash_salt: want text; quotes make it text"},
		{"an anchor", "hash_salt: &" + secret + " x" + rest, "1:12: hash_salt: want text; quotes make it text"},
		{"an alias", "hash_salt: *" + secret + rest, " not YAML: an alias, text with * before it, of nothing"},
		{"a tag", "hash_salt: !" + secret + " x" + rest, "1:12: hash_salt: want text; quotes make it text"},
		{"stuck to its name", "{hash_salt:" + secret + ", version: 1, servers: [{id: a, addr: 'h:1'}]}",
			"1:2: the file has an unknown field \"hash_salt\"…: known are version, servers, force, hash_salt"},
		{"alone and stuck to its name", "hash_salt:" + secret, "1:1: want the fields version and servers, found the text \"hash_salt\"…"},
		{"twice", "hash_salt: " + secret + "\nhash_salt: " + secret + rest, "2:1: the file has the field hash_salt twice: first on line 1"},
		{"in a server", "version: 1\nservers: [{id: a, addr: 'h:1', hash_salt: " + secret + "}]",
			"2:32: server number 1 has an unknown field \"hash_salt\"…: known are id, addr, weight"},
	})
	for n, fits := range map[int]bool{MinSalt - 1: false, MinSalt: true, MaxSalt: true, MaxSalt + 1: false} {
		if _, err := NewSalted(1, strings.Repeat("x", n), servers("a", 1)); err == nil != fits {
			t.Errorf("a salt of %d bytes: %v", n, err)
		}
	}
	if r := salted(t, 7, salt, servers("a", 1)); fmt.Sprint(r) != "ring v7" {
		t.Errorf("printed as %v", r)
	}
}

func TestASaltedFileIsForNobodyElse(t *testing.T) {
	path := tempFile(t, "version: 1\nhash_salt: "+salt+"\nservers: [{id: a, addr: 'h:1'}]\n")
	for mode, want := range map[os.FileMode]string{
		0o600: "", 0o400: "",
		0o640: "mode 0640 lets others read it: chmod 0600",
		0o644: "mode 0644 lets others read it: chmod 0600",
	} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if want != "" {
			want = "ring file " + path + ":2:12: hash_salt is a secret, and the file's " + want
		}
		said := ""
		if _, err := Load(path); err != nil {
			said = err.Error()
		}
		if said != want {
			t.Errorf("%v: %q, want %q", mode, said, want)
		}
	}
}

func TestAWatchedFileThatIsClosedToOthersCounts(t *testing.T) {
	play(t, func(s *stage) {
		if err := os.Chmod(s.path, 0o644); err != nil {
			t.Fatal(err)
		}
		s.edit(ringFile(8, "force: true\nhash_salt: "+salt+"\n", "a", "b", "c", "d"))
		settle()
		s.told("fail:3:12: hash_salt is a secret, and the file's mode 0644 lets others read it: chmod 0600")
		if err := os.Chmod(s.path, 0o600); err != nil {
			t.Fatal(err)
		}
		s.events <- fsnotify.Event{}
		settle()
		s.told("apply 8: 4 servers", "recovered")
	})
}

func TestSetSaltKeepsTheRestOfTheFile(t *testing.T) {
	set := func(path string) (*Ring, error) {
		if err := os.Chmod(path, 0o600); err != nil {
			return nil, err
		}
		return SetSalt(path, salt)
	}
	v8 := strings.Replace(commented, "version: 7", "version: 8", 1)
	checkEdits(t, set, []golden{
		{"new", commented, strings.Replace(v8, "raises it\n", "raises it\nforce: true\nhash_salt: \""+salt+"\"\n", 1)},
		{"another", "hash_salt: " + otherSalt + " # old\n" + commented,
			"hash_salt: \"" + salt + "\" # old\n" + strings.Replace(v8, "raises it\n", "raises it\nforce: true\n", 1)},
		{"in quotes", "hash_salt: '" + otherSalt + "'\nforce: false\nversion: 1\nservers: [{id: a, addr: h:1}, {id: b, addr: h:2}]\n",
			"hash_salt: \"" + salt + "\"\nforce: true\nversion: 2\nservers: [{id: a, addr: h:1}, {id: b, addr: h:2}]\n"},
		{"one server", "version: 1\nservers: [{id: a, addr: h:1}]", "version: 2\nhash_salt: \"" + salt + "\"\nservers: [{id: a, addr: h:1}]"},
		{"JSON", `{"version": 1, "servers": [{"id":"a","addr":"h:1"}]}`,
			`{"version": 2, "hash_salt": "` + salt + `", "servers": [{"id":"a","addr":"h:1"}]}`},
		{"version last", "servers: [{id: a, addr: h:1}]\nversion: 1", "servers: [{id: a, addr: h:1}]\nversion: 2\nhash_salt: \"" + salt + "\""},
	})
}

func TestEditsKeepTheSalt(t *testing.T) {
	path := tempFile(t, "version: 1\nhash_salt: "+salt+"\nservers: [{id: a, addr: h:1}]\n")
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, edit := range []func() (*Ring, error){
		func() (*Ring, error) { return Add(path, Server{ID: "b", Addr: "h:2"}) },
		func() (*Ring, error) { return Remove(path, "a", false) },
	} {
		r, err := edit()
		if err != nil {
			t.Fatal(err)
		}
		if r.Salt() != salt || !strings.Contains(readFile(t, path), salt) {
			t.Errorf("v%d lost the salt", r.Version())
		}
	}
}

func TestSetSaltRefusesAndLeavesTheFile(t *testing.T) {
	for _, c := range []struct {
		name, salt string
		mode       os.FileMode
		want       string
	}{
		{"others may read", salt, 0o644, ": hash_salt is a secret, and the file's mode 0644 lets others read it: chmod 0600"},
		{"empty", "", 0o600, ": the salt is empty"},
		{"short", "x", 0o600, ": hash_salt has 1 bytes: want 32 to 128 of A-Z a-z 0-9 + / = _ . -, as openssl rand -hex 32 prints"},
	} {
		path := tempFile(t, good)
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := SetSalt(path, c.salt); err == nil || err.Error() != "ring file "+path+c.want {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := readFile(t, path); got != good {
			t.Errorf("%s: the file is\n%s", c.name, got)
		}
		checkAlone(t, path)
	}
}
