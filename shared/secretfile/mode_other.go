//go:build !unix

// Package secretfile has the rule for files that hold secrets.
package secretfile

import "io/fs"

// CheckMode allows every file: a mode says nothing here about who may read it.
func CheckMode(fs.FileInfo) error { return nil }
