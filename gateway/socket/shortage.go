package socket

import (
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	shortagePause = 100 * time.Millisecond // before the next accept
	shortageLines = 50                     // pauses between two lines in the log: five seconds
)

// Shortage is for whoever accepts connections and must go on when that fails: the usual reason, no file descriptor left,
// is over when a client goes or the limit is raised, and must not cost the other clients their sockets. Its zero value is
// ready. Any goroutine may call its methods.
type Shortage struct{ failed atomic.Uint64 }

// Wait counts an accept that failed, logs it now and then, and waits until it is worth another try.
func (s *Shortage) Wait(log *zap.Logger, err error) {
	if s.failed.Add(1)%shortageLines == 1 {
		log.Warn("cannot accept clients now", zap.Error(err))
	}
	time.Sleep(shortagePause)
}

// Failed gives the number of accepts that failed.
func (s *Shortage) Failed() uint64 { return s.failed.Load() }
