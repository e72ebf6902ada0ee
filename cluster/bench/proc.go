package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Process is one server process.
type Process struct {
	Name string
	PID  int
}

// ticksPerSecond is the unit of times in /proc (USER_HZ), which is 100 on every architecture that Go runs on.
const ticksPerSecond = 100

// parseStat returns the CPU time, user and system, from the text of /proc/PID/stat.
func parseStat(text []byte) (time.Duration, error) {
	// The second field is the name in parentheses, which may itself hold blanks and parentheses.
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return 0, errors.New("stat has no process name")
	}
	fields := strings.Fields(string(text[end+1:]))
	const utime, stime = 14 - 3, 15 - 3 // as proc(5) counts, less those up to the name
	if len(fields) <= stime {
		return 0, fmt.Errorf("stat has %d fields behind the name", len(fields))
	}
	var ticks uint64
	for _, text := range []string{fields[utime], fields[stime]} {
		n, err := strconv.ParseUint(text, 10, 63)
		if err != nil {
			return 0, fmt.Errorf("stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / ticksPerSecond), nil
}

// parseRSS returns the resident size in KiB from the text of /proc/PID/smaps_rollup ("Rss:") or /proc/PID/status
// ("VmRSS:").
func parseRSS(text []byte) (int64, error) {
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && (fields[0] == "Rss:" || fields[0] == "VmRSS:") && fields[2] == "kB" {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	return 0, errors.New("no resident size found")
}

// cpuTime sums the CPU time that the processes have used so far.
func cpuTime(processes []Process) (time.Duration, error) {
	var sum time.Duration
	for _, p := range processes {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
		if err != nil {
			return 0, fmt.Errorf("CPU time of %s: %w", p.Name, err)
		}
		cpu, err := parseStat(text)
		if err != nil {
			return 0, fmt.Errorf("CPU time of %s: %w", p.Name, err)
		}
		sum += cpu
	}
	return sum, nil
}

// residentKiB returns the resident size of each process.
func residentKiB(processes []Process) ([]int64, error) {
	sizes := make([]int64, len(processes))
	for i, p := range processes {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.PID))
		if err != nil {
			// Not every kernel has the file, and not every one lets others read it; status lags a little behind.
			text, err = os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
		}
		if err == nil {
			sizes[i], err = parseRSS(text)
		}
		if err != nil {
			return nil, fmt.Errorf("memory of %s: %w", p.Name, err)
		}
	}
	return sizes, nil
}

const (
	quietFor    = 6         // samples that must agree
	quietWithin = 5.0 / 1e3 // of each other
)

// quiet reports whether the last quietFor samples agree.
func quiet(sums []int64) bool {
	if len(sums) < quietFor {
		return false
	}
	last := sums[len(sums)-quietFor:]
	low, high := slices.Min(last), slices.Max(last)
	return float64(high-low) <= quietWithin*float64(high)
}

func sum(values []int64) (n int64) {
	for _, v := range values {
		n += v
	}
	return n
}
