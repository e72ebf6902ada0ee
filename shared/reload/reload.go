// Package reload notices that files have new content: keys and certificates that are renewed while a process runs.
//
// It reads the files every few seconds instead of watching them: they are small, and what replaces them (an editor, a
// renamed copy, a symlink that is switched as Kubernetes does) makes no difference then.
package reload

import (
	"context"
	"crypto/sha256"
	"io"
	"time"

	"github.com/ringcast/ringcast/shared/daemon"
)

// DefaultEvery is how often files are looked at.
const DefaultEvery = 2 * time.Second

// maxFile bounds what is read of one file, in bytes.
const maxFile = 4 << 20

// Files are files whose content is looked at. Use New before the files are loaded for the first time, so that no change is
// missed. A Files belongs to one goroutine.
type Files struct {
	paths []string
	used  [sha256.Size]byte // content that was loaded, or found to be bad
	last  [sha256.Size]byte // content at the last look
}

// New notes the content that the files have now. Empty paths are left out.
func New(paths ...string) *Files {
	f := new(Files)
	for _, p := range paths {
		if p != "" {
			f.paths = append(f.paths, p)
		}
	}
	f.used = f.digest()
	f.last = f.used
	return f
}

// Run calls changed, on the caller's goroutine, whenever the files have new content that has stayed the same for one look,
// until ctx is canceled: two files that belong together are seldom written at once. every 0 means DefaultEvery.
func (f *Files) Run(ctx context.Context, every time.Duration, changed func()) {
	if len(f.paths) == 0 {
		return
	}
	if every <= 0 {
		every = DefaultEvery
	}
	look := time.NewTicker(every)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		if f.Look() {
			changed()
		}
	}
}

// Look is one look of Run, for those who have a ticker of their own: it reports whether there is new content to load.
func (f *Files) Look() bool {
	now := f.digest()
	settled := now != f.used && now == f.last
	if f.last = now; settled {
		f.used = now
	}
	return settled
}

// digest hashes the content of all files. One that cannot be read has the content of its error's kind.
func (f *Files) digest() (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, path := range f.paths {
		one := sha256.New()
		file, err := daemon.OpenFile(path)
		if err == nil {
			_, err = io.Copy(one, io.LimitReader(file, maxFile))
			_ = file.Close()
		}
		if err != nil {
			_, _ = io.WriteString(one, "unreadable")
		}
		_, _ = h.Write(one.Sum(nil))
	}
	copy(sum[:], h.Sum(nil))
	return sum
}
