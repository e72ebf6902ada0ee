//go:build unix

package verify

import "syscall"

// pause stops the process where it is; resume lets it go on.
func (n *node) pause() { n.signal(syscall.SIGSTOP) }

func (n *node) resume() { n.signal(syscall.SIGCONT) }
