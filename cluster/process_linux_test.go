package cluster_test

import "syscall"

// dieWithParent has the kernel kill a child when this process ends in a way that runs no clean-up.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
