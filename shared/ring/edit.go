package ring

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Add adds a server to the ring file at path, raises the version by one, and returns the ring that the file says now.
// A weight of 0 means 1. "force: true" was meant for the edit before: it turns to false.
//
// The file is replaced at once and as a whole, so who reads it, sees it before or after the edit. It keeps its comments,
// its order, permissions and owner; if path is a symbolic link, the file behind it is replaced and the link stays. Two
// edits of one file by Add or Remove, also in different processes, do not mix: the second one fails while the first
// one runs.
//
// An error about the content, before or after the edit, is an *Error; others wrap their cause. Whatever the error,
// the file is as it was. Add blocks on the disk only.
func Add(path string, s Server) (*Ring, error) {
	if s.Weight == 0 {
		s.Weight = 1
	}
	return edit(path, func(src *source) ([]byte, file, error) {
		want := src.next(false)
		want.servers = append(want.servers, entry{Server: s, has: hasAll})
		if err := src.judge(path, want); err != nil {
			return nil, file{}, err
		}
		data, err := src.add(want, s)
		return data, want, err
	})
}

// Remove removes the server with the given id, and is otherwise like Add. With force it writes "force: true", without
// it turns that to false: services refuse a file that is without more than half of the servers they use, and force
// tells them that this is meant. They look at what changed since they last read it, so several edits count as one.
func Remove(path, id string, force bool) (*Ring, error) {
	return edit(path, func(src *source) ([]byte, file, error) {
		i := slices.IndexFunc(src.file.servers, func(e entry) bool { return e.ID == id })
		if i < 0 {
			ids := make([]string, len(src.file.servers))
			for i, e := range src.file.servers {
				ids[i] = e.ID
			}
			return nil, file{}, named(path, fmt.Errorf("no server has the id %s: there are %s", quote(id), strings.Join(ids, ", ")))
		}
		want := src.next(force)
		want.servers = slices.Delete(want.servers, i, i+1)
		if err := src.judge(path, want); err != nil {
			return nil, file{}, err
		}
		data, err := src.remove(want, i)
		return data, want, err
	})
}

// SetSalt gives the ring another salt, and is otherwise like Add. With several servers nearly every topic moves then, so it
// writes "force: true", as Remove does. The file must be one that others cannot read, before the edit as after it.
func SetSalt(path, salt string) (*Ring, error) {
	return edit(path, func(src *source) ([]byte, file, error) {
		want := src.next(len(src.file.servers) > 1)
		want.salt = salt
		if salt == "" {
			return nil, file{}, named(path, errors.New("the salt is empty"))
		}
		if err := src.judge(path, want); err != nil {
			return nil, file{}, err
		}
		data, err := src.salted(want)
		return data, want, err
	})
}

// next returns the file's meaning with the next version, as the beginning of an edit.
func (s *source) next(force bool) file {
	return file{version: s.file.version + 1, force: force, salt: s.file.salt, servers: slices.Clone(s.file.servers)}
}

// judge reports what is wrong with a file as it would be after an edit.
func (s *source) judge(path string, want file) error {
	var rep report
	if want.version == 0 {
		rep.add(position{}, "version %d is the last there is", uint64(math.MaxUint64))
	}
	rep.checkSalt(position{}, want.salt)
	rep.checkExposed(want, s.exposed)
	rep.checkServers(position{}, want.servers)
	return rep.err(path)
}

// edit replaces the file by what change makes of it: a new text and its meaning.
func edit(path string, change func(*source) ([]byte, file, error)) (r *Ring, err error) {
	target, info, err := editable(path)
	if err != nil {
		return nil, err
	}
	f, err := lock(target)
	if err != nil {
		return nil, named(path, err)
	}
	defer func() {
		_ = f.Close() // closed before, if all went well
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	before, err := readNamed(path)
	if err != nil {
		return nil, err
	}
	src, err := newSource(path, before)
	if err != nil {
		return nil, err
	}
	after, meaning, err := change(src)
	if errors.Is(err, errLayout) {
		return nil, named(path, err)
	}
	if err != nil {
		return nil, err
	}
	if err := fill(f, after, info); err != nil {
		return nil, named(path, err)
	}
	// Somebody with an editor does not ask for the lock.
	if now, err := readNamed(path); err != nil || !bytes.Equal(now.data, before.data) {
		return nil, named(path, errors.New("somebody else changed it just now: nothing was written, try again"))
	}
	if err := os.Rename(f.Name(), target); err != nil {
		return nil, named(path, renameError(err))
	}
	syncDir(filepath.Dir(target))
	return build(meaning), nil
}

// editable returns the regular file that path leads to, or what Load would say of it.
func editable(path string) (target string, info fs.FileInfo, err error) {
	if _, err := readNamed(path); err != nil {
		return "", nil, err
	}
	if target, err = filepath.EvalSymlinks(path); err == nil {
		info, err = os.Stat(target)
	}
	if err != nil {
		return "", nil, named(path, err)
	}
	return target, info, nil
}

// lock creates the temporary file of an edit of target. Its name is always the same and it is created only if there
// is none, before the file is read: so it is the lock of the edit as well, and renaming it into place gives it up.
func lock(target string) (*os.File, error) {
	name := "." + filepath.Base(target) + ".edit"
	path := filepath.Join(filepath.Dir(target), name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("another edit of it runs; if none does, one was cut short: remove %s", path)
	}
	if err != nil {
		return nil, fmt.Errorf("create %s beside it: %w", name, errors.Unwrap(err))
	}
	return f, nil
}

// fill writes data to f, gives it the permissions and the owner of the file it is to replace, and has it on disk
// when it returns.
func fill(f *os.File, data []byte, like fs.FileInfo) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	// The owner comes first: a change of it may take permission bits away.
	if err := keepOwner(f, like); err != nil {
		return err
	}
	if err := f.Chmod(like.Mode().Perm()); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

func renameError(err error) error {
	var le *os.LinkError
	if errors.As(err, &le) {
		err = le.Err
	}
	if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EXDEV) {
		return fmt.Errorf("rename: %w: the file is mounted by itself, so it cannot be replaced: "+
			"edit it where it is mounted from, or mount its directory", err)
	}
	return fmt.Errorf("rename: %w", err)
}

// syncDir makes a rename last. The file is whole whether that works or not, and not every file system can do it.
func syncDir(dir string) {
	d, err := os.Open(dir)
	if err != nil {
		return
	}
	defer func() { _ = d.Close() }()
	_ = d.Sync()
}
