package verify

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockCode takes the place of the vDSO's clock_gettime(clock, time): the system call, and for CLOCK_REALTIME, which is
// clock 0, seconds added to what it says. The monotonic clock goes on as it was.
var clockCode = []byte{
	0xb8, 228, 0, 0, 0, // mov eax, SYS_clock_gettime
	0x0f, 0x05, // syscall
	0x85, 0xff, // test edi, edi
	0x75, 0x0d, // jnz to the end
	0x48, 0xb9, 0, 0, 0, 0, 0, 0, 0, 0, // mov rcx, seconds
	0x48, 0x01, 0x0e, // add [rsi], rcx
	0xc3, // ret
}

// clockSeconds is where the seconds stand in clockCode.
const clockSeconds = 13

// shiftClock moves the wall clock of one running process, and of no other, to now plus by. The kernel has no such thing: time
// namespaces move the monotonic clocks only, and to set the wall clock is to set everybody's. But programs read
// it by a function that the kernel maps into each process, and a process that writes there gets a copy of its own.
func shiftClock(pid int, by time.Duration) error {
	at, size, err := wallClock(pid)
	if err == nil {
		code := bytes.Clone(clockCode)
		binary.LittleEndian.PutUint64(code[clockSeconds:], uint64(int64(by/time.Second)))
		err = rewrite(pid, at, size, code)
	}
	if err != nil {
		return fmt.Errorf("shift the wall clock: %w", err)
	}
	return nil
}

// wallClock is where in a process the function is that reads clocks, and its size in bytes.
func wallClock(pid int) (at, size uint64, err error) {
	base, image, err := vdso(pid)
	if err != nil {
		return 0, 0, err
	}
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, 0, fmt.Errorf("vDSO: %w", err)
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return 0, 0, fmt.Errorf("vDSO: %w", err)
	}
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" && int(s.Size) >= len(clockCode) {
			return base + s.Value, s.Size, nil
		}
	}
	return 0, 0, errors.New("the vDSO has no clock_gettime")
}

// vdso is where the kernel's functions are in a process, and their bytes.
func vdso(pid int) (base uint64, image []byte, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, nil, err
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		if !strings.Contains(line, "[vdso]") {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return 0, nil, err
		}
		mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
		if err != nil {
			return 0, nil, err
		}
		defer func() { _ = mem.Close() }() // it is only read
		image = make([]byte, to-from)
		_, err = mem.ReadAt(image, int64(from))
		return from, image, err
	}
	return 0, nil, errors.New("the process has no vDSO")
}

// rewrite writes code over a function of a process while none of its threads is in there.
func rewrite(pid int, at, size uint64, code []byte) error {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = mem.Close() }() // what was written is there
	now := make([]byte, len(code))
	if _, err := mem.ReadAt(now, int64(at)); err != nil {
		return err
	}
	ours := bytes.Equal(now[:clockSeconds], code[:clockSeconds])
	for range 1000 {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
		// In code that is ours already only the seconds change, in one instruction.
		if stopped(pid, func(pc uint64) bool { return ours || pc < at || pc >= at+size }) {
			_, err = mem.WriteAt(code, int64(at))
			return errors.Join(err, syscall.Kill(pid, syscall.SIGCONT))
		}
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("its threads read the clock all the time")
}

// stopped waits a moment for all threads of a process to stop, and reports whether they have where they may.
func stopped(pid int, may func(pc uint64) bool) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	for _, path := range tasks {
		ok := false
		for deadline := time.Now().Add(100 * time.Millisecond); !ok && time.Now().Before(deadline); {
			text, err := os.ReadFile(path)
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				ok = true // the thread has ended
				break
			}
			f := strings.Fields(string(text)) // ends with the stack pointer and the program counter, or is "running"
			if len(f) < 2 {
				time.Sleep(100 * time.Microsecond)
				continue
			}
			pc, err := strconv.ParseUint(strings.TrimPrefix(f[len(f)-1], "0x"), 16, 64)
			if err != nil || !may(pc) {
				return false
			}
			ok = true
		}
		if !ok {
			return false
		}
	}
	return len(tasks) > 0
}
