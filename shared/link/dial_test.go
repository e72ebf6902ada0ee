package link

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestAttemptsToConnectOverlap(t *testing.T) {
	refused := errors.New("refused")
	for _, c := range []struct {
		name    string
		takes   []time.Duration // of each attempt; those beyond the last one take for ever
		fails   bool
		want    time.Duration
		attempt int // that wins, from 1; 0 if none
	}{
		{name: "at once", takes: []time.Duration{time.Millisecond}, want: time.Millisecond, attempt: 1},
		{name: "refused at once", takes: []time.Duration{time.Millisecond}, fails: true, want: time.Millisecond},
		{name: "a question is lost", takes: []time.Duration{time.Hour, time.Millisecond}, want: dialAgain + time.Millisecond, attempt: 2},
		{name: "all is slow", takes: []time.Duration{5 * dialAgain / 2, time.Hour, time.Hour}, want: 5 * dialAgain / 2, attempt: 1},
		{name: "nothing comes", want: 4500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var attempts, open atomic.Int32
				nc, err := overlap(t.Context(), 4500*time.Millisecond, func(ctx context.Context) (net.Conn, error) {
					mine, takes := int(attempts.Add(1)), time.Hour
					if mine <= len(c.takes) {
						takes = c.takes[mine-1]
					}
					select {
					case <-time.After(takes):
						if c.fails {
							return nil, refused
						}
					case <-ctx.Done():
						if !errors.Is(ctx.Err(), context.Canceled) {
							return nil, ctx.Err()
						}
						// It connects all the same, as one that is not looked at any more may.
					}
					open.Add(1)
					return &counted{number: mine, open: &open}, nil
				})
				if took := time.Since(began); took != c.want {
					t.Errorf("took %v, want %v", took, c.want)
				}
				synctest.Wait()
				switch won, _ := nc.(*counted); {
				case c.attempt > 0 && (won == nil || won.number != c.attempt || open.Load() != 1):
					t.Errorf("connection %+v, %d open, error %v; want that of attempt %d", won, open.Load(), err, c.attempt)
				case c.attempt == 0 && (nc != nil || err == nil || open.Load() != 0):
					t.Errorf("connection %v, %d open, error %v", nc, open.Load(), err)
				case c.fails && !errors.Is(err, refused):
					t.Errorf("error %v", err)
				}
			})
		})
	}
}

// counted is a connection that is counted while it is open.
type counted struct {
	net.Conn
	number int
	open   *atomic.Int32
}

func (c *counted) Close() error { c.open.Add(-1); return nil }
