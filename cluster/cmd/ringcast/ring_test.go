package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringcast/ringcast/shared/ring"
)

func TestW29_RingAddAndRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ring.yaml")
	if err := os.WriteFile(path, []byte("version: 1\nservers:\n- id: a\n  addr: a:1\n# end\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other.yaml")
	if err := os.WriteFile(other, []byte("version: 1\nservers:\n- id: a\n  addr: a:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(t.TempDir(), "open.yaml")
	if err := os.WriteFile(open, []byte("version: 1\nservers:\n- id: a\n  addr: a:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	files := strings.NewReplacer("FILE", path, "OTHER", other, "OPEN", open)
	names := strings.NewReplacer(path, "FILE", other, "OTHER", open, "OPEN")
	for _, c := range []struct{ args, out, problem string }{
		{args: "add FILE b b:1 -weight 3", out: "ok: ring v2, 2 servers, moves 75 % of topics\n"},
		{args: "add --weight=2 FILE -- -c c:1", out: "ok: ring v3, 3 servers, moves 34 % of topics\n"},
		{args: "add FILE b x:1", problem: `ring file FILE: server id "b" is taken: the server on line 5 has it`},
		{args: "remove FILE -force -- -c", out: "ok: ring v4, 2 servers, moves 34 % of topics\n"},
		{args: "remove FILE z", problem: `ring file FILE: no server has the id "z": there are a, b`},
		{args: "remove OTHER a", problem: `ring file OTHER: Leave failed, this node is the only member.`},
		{args: "add FILE c", problem: "usage: ringcast ring add FILE ID ADDR [-weight N]"},
		{args: "add FILE c c:1 -weight", problem: "usage: flag needs an argument: -weight"},
		{args: "add FILE c c:1 -weight 0", problem: "usage: weight 0 is not from 1 to 10"},
		{args: "remove FILE a b", problem: "usage: ringcast ring remove FILE ID [-force]"},
		{args: "remove FILE a -x", problem: "usage: flag provided but not defined: -x"},
		{args: "salt FILE", problem: "ring file FILE: a new salt moves nearly every topic: say -force if it is to"},
		{args: "salt OTHER", out: "ok: ring v2, 1 servers, moves 0 % of topics\n"},
		{args: "salt OPEN", problem: "ring file OPEN: hash_salt is a secret, and the file's mode 0644 lets others read it: chmod 0600"},
		{args: "salt", problem: "usage: ringcast ring salt FILE [-force]"},
		{args: "owner FILE topics:1", out: "topics:1\ta\ta:1\n"},
	} {
		var out bytes.Buffer
		args := strings.Fields("ring " + files.Replace(c.args))
		err := run(t.Context(), &out, args)
		problem := ""
		if err != nil {
			problem = names.Replace(err.Error())
		}
		if problem != c.problem || c.problem == "" && out.String() != c.out {
			t.Errorf("ring %s: %q, error %q; want %q, %q", c.args, out.String(), problem, c.out, c.problem)
		}
		if usage := strings.HasPrefix(c.problem, "usage"); errors.Is(err, errUsage) != usage {
			t.Errorf("ring %s: errUsage is %v, want %v", c.args, !usage, usage)
		}
	}
	if err := run(t.Context(), &bytes.Buffer{}, []string{"ring", "remove", "-h"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
	var out bytes.Buffer
	if err := run(t.Context(), &out, []string{"ring", "check", path}); err != nil || !strings.Contains(out.String(), "force") {
		t.Errorf("check does not tell of force: %q, %v", out.String(), err)
	}
	checkSalted(t, path)
	data, err := os.ReadFile(path)
	want := "version: 4\nforce: true\nservers:\n- id: a\n  addr: a:1\n- id: b\n  addr: b:1\n  weight: 3\n# end\n"
	if err != nil || string(data) != want {
		t.Errorf("file:\n%s\nwant:\n%s", data, want)
	}
}

// checkSalted gives a copy of a ring file a salt, twice, and looks for it in what is printed.
func checkSalted(t *testing.T, path string) {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "salted.yaml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	salts := map[string]bool{}
	for range 2 {
		var out bytes.Buffer
		for _, args := range [][]string{{"ring", "salt", path, "-force"}, {"ring", "check", path}} {
			if err := run(t.Context(), &out, args); err != nil {
				t.Fatal(err)
			}
		}
		rg, err := ring.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if !rg.Forced() || !strings.Contains(out.String(), "hash_salt: set\n") || strings.Contains(out.String(), rg.Salt()) {
			t.Errorf("salted: force %t, printed %s", rg.Forced(), &out)
		}
		salts[rg.Salt()] = true
	}
	if len(salts) != 2 || salts[""] {
		t.Errorf("salts %v", salts)
	}
}
