//go:build !linux

package bench

import (
	"context"
	"errors"
)

var errLinux = errors.New("ringcast bench needs Linux")

// Measure needs Linux.
func Measure(context.Context, Config) (*Report, error) { return nil, errLinux }

// Build needs Linux.
func Build(context.Context) (string, error) { return "", errLinux }

// Floor needs Linux.
type Floor struct{}

// ListenFloor needs Linux.
func ListenFloor(string, bool) (*Floor, error) { return nil, errLinux }

// Addr returns nothing.
func (f *Floor) Addr() string { return "" }

// Serve needs Linux.
func (f *Floor) Serve(context.Context) error { return errLinux }
