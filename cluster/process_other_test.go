//go:build !linux

package cluster_test

import "syscall"

// dieWithParent does nothing here: a test that is killed may leave its children behind.
func dieWithParent() *syscall.SysProcAttr { return nil }
