package ring

import (
	"os"
	"path/filepath"
	"testing"
)

func TestExposed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ring")
	path := filepath.Join(dir, "ring.yaml")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		file, dir os.FileMode
		want      string
	}{
		{0o600, 0o700, ""},
		{0o664, 0o775, ""},
		{0o644, os.ModeSticky | 0o777, ""},
		{0o646, 0o755, "mode 0646 lets anybody change it: chmod o-w"},
		{0o666, 0o777, "mode 0666 lets anybody change it: chmod o-w"},
		{0o644, 0o777, "mode 0777 of its directory lets anybody replace it: chmod o-w"},
	} {
		for name, mode := range map[string]os.FileMode{path: test.file, dir: test.dir} {
			if err := os.Chmod(name, mode); err != nil {
				t.Fatal(err)
			}
		}
		if got := Exposed(path); got != test.want {
			t.Errorf("file %v, directory %v: %q, want %q", test.file, test.dir, got, test.want)
		}
	}
	if got := Exposed(filepath.Join(dir, "none")); got != "mode 0777 of its directory lets anybody replace it: chmod o-w" {
		t.Errorf("a file that is not there: %q", got)
	}
}
