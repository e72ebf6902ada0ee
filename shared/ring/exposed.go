package ring

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Exposed says how anybody on this machine could change the ring file at path, which decides where all topics go: "" if
// nobody can, or if there is no telling.
func Exposed(path string) string {
	if runtime.GOOS == "windows" {
		return "" // modes say nothing there
	}
	const anybody = 0o002
	if info, err := os.Stat(path); err == nil && info.Mode()&anybody != 0 {
		return fmt.Sprintf("mode %04o lets anybody change it: chmod o-w", info.Mode().Perm())
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err == nil && dir.Mode()&anybody != 0 && dir.Mode()&fs.ModeSticky == 0 {
		return fmt.Sprintf("mode %04o of its directory lets anybody replace it: chmod o-w", dir.Mode().Perm())
	}
	return ""
}
