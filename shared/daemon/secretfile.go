package daemon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/ringcast/ringcast/shared/secretfile"
)

// maxSecretFile bounds a secret or private key that is read from a file, in bytes.
const maxSecretFile = 1 << 20

// ReadPrivateFile reads a file that holds a secret, named by the variable name. A file that others may read is refused, by the
// rule of package secretfile. The error names the variable and the path, and never what is in the file.
func ReadPrivateFile(name, path string) ([]byte, error) {
	f, err := OpenFile(path)
	if err != nil {
		return nil, Invalid(name, path, "open: %v", cause(err))
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, Invalid(name, path, "stat: %v", cause(err))
	}
	if err := secretfile.CheckMode(info); err != nil {
		return nil, Invalid(name, path, "%v", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	switch {
	case err != nil:
		return nil, Invalid(name, path, "read: %v", cause(err))
	case len(data) > maxSecretFile:
		return nil, Invalid(name, path, "larger than %d bytes", maxSecretFile)
	}
	return data, nil
}

// Secret returns a secret that is given either by the variable name or by a file that the variable name_FILE names, without
// the white space around it. It is "" if neither is set. Errors name a variable, and never repeat the value.
func Secret(name, value, path string, minBytes int) (string, error) {
	from := name
	switch {
	case value != "" && path != "":
		return "", fmt.Errorf("%s and %s_FILE are both set: want one of them", name, name)
	case value == "" && path == "":
		return "", nil
	case path != "":
		from = name + "_FILE"
		data, err := ReadPrivateFile(from, path)
		if err != nil {
			return "", err
		}
		value = string(data)
	}
	value = strings.TrimSpace(value)
	return value, CheckSecret(from, value, minBytes)
}

// cause is a file error without the path, which the caller names already.
func cause(err error) error {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
