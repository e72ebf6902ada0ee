package daemon

import (
	"errors"
	"os"
	"syscall"
)

var (
	errDirectory = errors.New("is a directory")
	errIrregular = errors.New("not a regular file")
)

// OpenFile opens a file that the configuration names for reading. Anything else that may stand in its place is an error, and
// nothing waits for it: opening a named pipe would wait for its writer, for ever if need be, and a device may never end. Errors
// of the system are *fs.PathError.
func OpenFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = &os.PathError{Op: "open", Path: path, Err: errDirectory}
	case !info.Mode().IsRegular():
		err = &os.PathError{Op: "open", Path: path, Err: errIrregular}
	default:
		return f, nil
	}
	_ = f.Close()
	return nil, err
}
