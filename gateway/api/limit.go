package api

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"golang.org/x/time/rate"
)

// limits says how much each key may do. Any goroutine may call its methods.
type limits struct {
	perSecond int // 0: any number
	refused   atomic.Uint64

	mu    sync.Mutex
	byKey map[string]*rate.Limiter // by the key's name, so that a key that is read again has no more
}

func (l *limits) of(name string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.byKey[name]
	if b == nil {
		b = rate.NewLimiter(rate.Limit(l.perSecond), l.perSecond)
		l.byKey[name] = b
	}
	return b
}

// take counts a request, whatever comes of it later. It is an error if the key has to wait; then it does not count.
func (l *limits) take(name string, now time.Time) error {
	if l.perSecond <= 0 {
		return nil
	}
	r := l.of(name).ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait <= 0 {
		return nil
	}
	r.CancelAt(now)
	l.refused.Add(1)
	return &Error{
		Status: fiber.StatusTooManyRequests, Code: "rate_limited", Definite: true, RetryAfter: wait, Precisely: true,
		Detail: "the key may have " + strconv.Itoa(l.perSecond) + " requests or messages a second here",
	}
}

// owe counts more messages of a request that was let through. A batch goes through whole, however large: the key's next
// requests wait for it.
func (l *limits) owe(name string, messages int, now time.Time) {
	for b := l.perSecond; b > 0 && messages > 0; messages -= b {
		l.of(name).ReserveN(now, min(messages, b))
	}
}

// Limited returns how many requests were refused because their key had too many.
func (a *API) Limited() uint64 { return a.limits.refused.Load() }
