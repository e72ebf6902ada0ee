package gateway

import (
	"fmt"
	"syscall"
)

const (
	// defaultConnections is the most client sockets without MAX_CONNECTIONS.
	defaultConnections = 100_000
	// spareFiles is how many descriptors are left for what is no client: links, files, connections that only shake hands.
	spareFiles = 1024
)

// files is how many descriptors the process may have. Go has raised that to the hard limit when it started.
func files() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1 << 20 // nobody knows
	}
	return limit.Cur
}

// checkFiles reports a number of connections that the process has no descriptors for. 0, the gateway's own choice, fits.
func checkFiles(connections int) error {
	if have := files(); connections > 0 && have < uint64(connections)+spareFiles {
		return fmt.Errorf(`MAX_CONNECTIONS="%d": the process may open %d files (ulimit -n), want %d at least`, connections, have, connections+spareFiles)
	}
	return nil
}

// connectionsFor is how many client sockets a process takes by default that may open so many files.
func connectionsFor(files uint64) int {
	return int(min(defaultConnections, max(files, 2*spareFiles)-spareFiles))
}
