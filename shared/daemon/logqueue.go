package daemon

import (
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// maxLogWaiting is how many bytes of lines may wait for whoever reads the log.
	maxLogWaiting = 1 << 20
	// logPatience is for how long whoever reads the log may take nothing when the process ends.
	logPatience = 3 * time.Second
	// logChunk is how much of it is written at once: less than a pipe takes, so it shows whether somebody reads.
	logChunk = 32 << 10
)

// logQueue is what the log is written to: lines wait in it for a goroutine of its own that writes them. Who reads the log may
// stop reading without closing it, and a write waits for ever then: nothing but that goroutine may. Lines that find no room
// are lost, and counted in a line that follows when there is room again.
type logQueue struct {
	// Static.
	w    io.Writer
	wake chan struct{} // has a token when lines may wait
	stop chan struct{} // closed by close

	mu      sync.Mutex
	waiting []byte        // whole lines
	lost    uint64        // lines that found no room since the last report
	idle    chan struct{} // closed and replaced when everything is written; nil while nobody waits for that
	writing bool

	written atomic.Uint64 // chunks
	spare   []byte        // owned by run
}

func newLogQueue(w io.Writer) *logQueue {
	return &logQueue{w: w, wake: make(chan struct{}, 1), stop: make(chan struct{})}
}

// Write queues a line. It never waits for the reader, and never fails.
func (q *logQueue) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting)+len(line) > maxLogWaiting {
		q.lost++
		return len(line), nil
	}
	q.waiting = append(q.waiting, line...)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return len(line), nil
}

// Sync waits until all that was queued is written, but not for a reader who does not read.
func (q *logQueue) Sync() error {
	q.mu.Lock()
	if len(q.waiting) == 0 && q.lost == 0 && !q.writing {
		q.mu.Unlock()
		return nil
	}
	if q.idle == nil {
		q.idle = make(chan struct{})
	}
	idle := q.idle
	q.mu.Unlock()
	for {
		before := q.written.Load()
		select {
		case <-idle:
			return nil
		case <-time.After(logPatience):
		}
		if q.written.Load() == before {
			return nil
		}
	}
}

// run writes until close is called. log is the one that writes to the queue.
func (q *logQueue) run(log *zap.Logger) {
	for {
		select {
		case <-q.wake:
		case <-q.stop:
			return
		}
		for q.writeWaiting(log) {
		}
	}
}

// writeWaiting writes what waits, and reports whether there was anything.
func (q *logQueue) writeWaiting(log *zap.Logger) bool {
	q.mu.Lock()
	lines, lost := q.waiting, q.lost
	q.waiting, q.lost, q.spare = q.spare[:0], 0, nil
	q.writing = len(lines) > 0 || lost > 0
	if !q.writing && q.idle != nil {
		close(q.idle)
		q.idle = nil
	}
	writing := q.writing
	q.mu.Unlock()
	for chunk := range slices.Chunk(lines, logChunk) {
		_, _ = q.w.Write(chunk) // nobody is left to tell
		q.written.Add(1)
	}
	if lost > 0 {
		log.Warn("lines of the log were lost: nobody read them in time", zap.Uint64("skipped_lines", lost))
	}
	q.spare = lines
	if cap(lines) > 64<<10 {
		q.spare = nil
	}
	return writing
}

// close writes what waits, if that can be done in a while, and ends run.
func (q *logQueue) close() {
	_ = q.Sync()
	close(q.stop)
}
