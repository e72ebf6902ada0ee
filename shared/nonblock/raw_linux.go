package nonblock

import (
	"syscall"
	"unsafe"
)

func read(fd int, p []byte) (int, error) { return raw(syscall.SYS_READ, fd, p) }

func write(fd int, p []byte) (int, error) { return raw(syscall.SYS_WRITE, fd, p) }

func raw(trap uintptr, fd int, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func closeRaw(fd int) { _, _, _ = syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0) }
