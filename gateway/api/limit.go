package api

import (
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"golang.org/x/time/rate"
)

// limits says how much each key may do, or each user. Any goroutine may call its methods.
type limits struct {
	whose     string // key or user
	perSecond int    // 0: any number
	refused   atomic.Uint64

	mu    sync.Mutex
	byKey map[string]*rate.Limiter // by the key's name, so that a key that is read again has no more
	many  int                      // with so many, those that owe nothing are forgotten
}

// manyUsers is with how many users, at least, those are looked for that can be forgotten.
const manyUsers = 1000

func newLimits(whose string, perSecond int) *limits {
	return &limits{whose: whose, perSecond: perSecond, byKey: make(map[string]*rate.Limiter), many: manyUsers}
}

func (l *limits) of(name string, now time.Time) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.byKey[name]
	if b == nil {
		if len(l.byKey) >= l.many {
			maps.DeleteFunc(l.byKey, func(_ string, b *rate.Limiter) bool { return b.TokensAt(now) >= float64(b.Burst()) })
			l.many = 2*len(l.byKey) + manyUsers
		}
		b = rate.NewLimiter(rate.Limit(l.perSecond), l.perSecond)
		l.byKey[name] = b
	}
	return b
}

// take counts a request, whatever comes of it later. It is an error if the key or user has to wait; then it does not count.
func (l *limits) take(name string, now time.Time) error {
	if l.perSecond <= 0 {
		return nil
	}
	r := l.of(name, now).ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait <= 0 {
		return nil
	}
	r.CancelAt(now)
	l.refused.Add(1)
	return &Error{
		Status: fiber.StatusTooManyRequests, Code: "rate_limited", Definite: true, RetryAfter: wait, Precisely: true,
		Detail: "the " + l.whose + " may have " + strconv.Itoa(l.perSecond) + " requests or messages a second here",
	}
}

// owe counts more messages of a request that was let through. A batch goes through whole, however large: the key's next
// requests wait for it.
func (l *limits) owe(name string, messages int, now time.Time) {
	for b := l.perSecond; b > 0 && messages > 0; messages -= b {
		l.of(name, now).ReserveN(now, min(messages, b))
	}
}

// Limited returns how many requests were refused because their key or user had too many.
func (a *API) Limited() uint64 { return a.keys.refused.Load() + a.users.refused.Load() }

// payer is who a request counts for: a name in one of the limits.
type payer struct {
	limits *limits
	name   string
}

// payerLocal is where the payer of a request is left.
const payerLocal = "api payer"

// charge counts a request for a key or a user. It is an error if that has to wait.
func (l *limits) charge(c *fiber.Ctx, name string) error {
	c.Locals(payerLocal, payer{l, name})
	return l.take(name, time.Now())
}

// AllowedUser returns nil if a request of a user who needs no key is not over the user's rate, else the error to answer with.
func (a *API) AllowedUser(c *fiber.Ctx, user string) error { return a.users.charge(c, user) }
