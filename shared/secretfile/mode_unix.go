//go:build unix

// Package secretfile has the rule for files that hold secrets.
package secretfile

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// CheckMode returns an error if others may read a file with that info: it must have mode 0600 or less if it is this process's
// own, and 0640 or less if it is another user's, as mounted secrets are. The error says what mode to give, and names no path.
func CheckMode(info fs.FileInfo) error {
	allowed := fs.FileMode(0o640)
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) == os.Geteuid() {
		allowed = 0o600
	}
	if mode := info.Mode().Perm(); mode&^allowed != 0 {
		return fmt.Errorf("mode %04o lets others read it: chmod %04o", mode, allowed&mode)
	}
	return nil
}
