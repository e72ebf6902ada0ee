//go:build !linux

package verify

import "errors"

var errLinuxOnly = errors.New("this fault is there on Linux only")

func starve(int) (restore func() error, err error) { return nil, errLinuxOnly }

// cgroup is never there.
type cgroup struct{}

func newCgroup(string, int64) (*cgroup, error) { return nil, errLinuxOnly }

func (g *cgroup) procs() string { return "" }
func (g *cgroup) killed() int   { return 0 }
func (g *cgroup) peak() int64   { return 0 }
func (g *cgroup) remove() error { return nil }

func resident(int) (now, most int64) { return 0, 0 }
