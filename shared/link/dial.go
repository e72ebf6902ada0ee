package link

import (
	"context"
	"net"
	"time"
)

// dialAgain is how long an attempt to connect may take before another one begins beside it.
const dialAgain = time.Second

// connect connects to addr within timeout.
//
// A name server that does not answer one question keeps an attempt for five seconds, and so may one that is asked for a server
// which is only just being started, while the next question would find it. So attempts overlap, each with a question of its own:
// they have resolvers of their own, since one resolver asks the same thing only once at a time.
func connect(ctx context.Context, addr string, timeout time.Duration) (net.Conn, error) {
	return overlap(ctx, timeout, func(ctx context.Context) (net.Conn, error) {
		dialer := net.Dialer{Resolver: new(net.Resolver)}
		return dialer.DialContext(ctx, "tcp", addr)
	})
}

// overlap begins an attempt, and another one whenever dialAgain has gone by, until the first of them ends, whose outcome it
// returns. The others are canceled, and what they have connected is closed.
func overlap(ctx context.Context, timeout time.Duration, attempt func(context.Context) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	type outcome struct {
		nc  net.Conn
		err error
	}
	first, over := make(chan outcome), make(chan struct{})
	defer close(over)
	again := time.NewTicker(dialAgain)
	defer again.Stop()
	for {
		go func() {
			nc, err := attempt(ctx)
			select {
			case first <- outcome{nc, err}:
			case <-over:
				if nc != nil {
					_ = nc.Close()
				}
			}
		}()
		select {
		case o := <-first:
			return o.nc, o.err
		case <-again.C:
		}
	}
}
