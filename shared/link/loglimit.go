package link

import (
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// LogLimit logs so many lines a second, with the number of those it left out: strangers and clients must not fill the log. Any
// goroutine may use it.
type LogLimit struct {
	PerSecond int // 0 is one

	mu      sync.Mutex
	until   time.Time // the end of the present second
	lines   int       // logged in it
	skipped int       // since the last line
}

// Log logs a line, or leaves it out.
func (l *LogLimit) Log(log *zap.Logger, level zapcore.Level, msg string, fields ...zap.Field) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); !now.Before(l.until) {
		l.until, l.lines = now.Add(time.Second), 0
	}
	if l.lines >= max(l.PerSecond, 1) {
		l.skipped++
		return
	}
	log.Log(level, msg, append(fields, zap.Int("skipped_lines", l.skipped))...)
	l.lines, l.skipped = l.lines+1, 0
}
