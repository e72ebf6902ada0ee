package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/api"
	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/gateway/session"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/revoke"
)

// keepSession is how long gateways that are not linked can still learn that a session was to be closed.
const keepSession = 5 * time.Minute

// disconnectTimeout bounds the wait for topic servers in Disconnect.
const disconnectTimeout = 5 * time.Second

// Target is whom Disconnect sends away: exactly one of User, TokenID and Session is set.
type Target struct {
	// User closes every session of a user, and makes all tokens of that user that were issued until now count no more.
	User string
	// TokenID is a token's jti: the sessions that use it are closed, and it does not count any more.
	TokenID string
	// Session is one client socket, as SessionID names it. It may come back.
	Session string
	// Topic, if set, ends only the channels that the user or the session has on this topic, and nothing else: tokens count
	// on, sockets stay.
	Topic string
}

// kind says what is set, for the log: who was sent away is nobody else's business.
func (t Target) kind() string {
	switch {
	case t.Topic != "":
		return "channels of a topic"
	case t.User != "":
		return "user"
	case t.TokenID != "":
		return "token"
	}
	return "session"
}

// ErrTarget is what errors.Is finds in the error for a target that makes no sense.
var ErrTarget = errors.New("bad target")

// UnconfirmedError tells which topic servers have not confirmed a Disconnect. The gateways that hear of it from the others, or are
// linked to those later, do as it says: it is done as far as it could be, and the rest follows by itself.
type UnconfirmedError struct{ Servers []string }

func (e *UnconfirmedError) Error() string {
	return "not confirmed yet by topic servers " + strings.Join(e.Servers, ", ")
}

// revocations is what a gateway knows of clients that were sent away.
type revocations struct {
	table revoke.Table

	mu      sync.Mutex
	waiting map[revoke.ID]*unconfirmed
}

// unconfirmed is a Disconnect that waits for topic servers.
type unconfirmed struct {
	servers map[string]bool
	done    chan struct{} // closed when servers is empty
}

// Disconnect sends clients away from every gateway of the cluster. It returns nil when every topic server of the ring has
// passed it on, an *UnconfirmedError when some have not before ctx is canceled or five seconds are over, or an ErrTarget.
// Any goroutine may call it.
func (g *Gateway) Disconnect(ctx context.Context, t Target) error {
	r, err := g.newRevocation(t)
	if err != nil {
		return err
	}
	w := &unconfirmed{servers: make(map[string]bool), done: make(chan struct{})}
	for _, server := range g.router.Rings().Current().Servers() {
		w.servers[server.ID] = true
	}
	g.revoked.mu.Lock()
	g.revoked.waiting[revoke.IDOf(r)] = w
	g.revoked.mu.Unlock()
	defer g.revoked.forget(r)

	g.log.Info("sending clients away", zap.String("target", t.kind()))
	g.apply(r)
	ctx, cancel := context.WithTimeout(ctx, disconnectTimeout)
	defer cancel()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return &UnconfirmedError{Servers: g.revoked.left(w)}
	}
}

// disconnect is Disconnect for the HTTP API.
func (g *Gateway) disconnect(ctx context.Context, t api.Target) ([]string, error) {
	err := g.Disconnect(ctx, Target(t))
	if waits := (*UnconfirmedError)(nil); errors.As(err, &waits) {
		return waits.Servers, nil
	}
	return nil, err
}

func (g *Gateway) newRevocation(t Target) (*linkpb.Revoke, error) {
	set := 0
	for _, s := range []string{t.User, t.TokenID, t.Session} {
		if len(s) > revoke.MaxTarget {
			return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTarget, len(s), revoke.MaxTarget)
		}
		if s != "" {
			set++
		}
	}
	switch {
	case set != 1:
		return nil, fmt.Errorf("%w: want one of user, token id and session", ErrTarget)
	case t.Topic != "" && t.TokenID != "":
		return nil, fmt.Errorf("%w: want a user or a session to unsubscribe", ErrTarget)
	case t.Session == "" && g.auth == nil:
		return nil, fmt.Errorf("%w: clients have no users and no tokens here", ErrTarget)
	case t.Session != "":
		if _, _, ok := router.ParseSessionID(t.Session); !ok {
			return nil, fmt.Errorf("%w: no session id", ErrTarget)
		}
	}
	keep := keepSession
	if t.Session == "" && t.Topic == "" {
		keep = g.cfg.Auth.MaxTokenLife + 2*g.cfg.Auth.Leeway
	}
	r := revoke.New(time.Now(), keep)
	switch {
	case t.Topic != "":
		r.Target = &linkpb.Revoke_Unsubscription{Unsubscription: &linkpb.Unsubscription{Topic: t.Topic, User: t.User, Session: t.Session}}
	case t.User != "":
		r.Target = &linkpb.Revoke_User{User: t.User}
	case t.TokenID != "":
		r.Target = &linkpb.Revoke_TokenId{TokenId: t.TokenID}
	default:
		r.Target = &linkpb.Revoke_Session{Session: t.Session}
	}
	return r, nil
}

// forget ends the wait for confirmations.
func (rs *revocations) forget(r *linkpb.Revoke) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	delete(rs.waiting, revoke.IDOf(r))
}

// left lists the topic servers that have not confirmed.
func (rs *revocations) left(w *unconfirmed) (servers []string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for id := range w.servers {
		servers = append(servers, id)
	}
	slices.Sort(servers)
	return servers
}

// heard takes a revocation from a topic server: news, or the confirmation of one of our own.
func (g *Gateway) heard(server string, r *linkpb.Revoke) {
	g.revoked.mu.Lock()
	if w := g.revoked.waiting[revoke.IDOf(r)]; w != nil && w.servers[server] {
		if delete(w.servers, server); len(w.servers) == 0 {
			close(w.done)
		}
	}
	g.revoked.mu.Unlock()
	g.apply(r)
}

// apply does what a revocation says if it is news, and passes it on. It is in the table before the loops look for
// sessions: see session.Open for those that come at the same time.
func (g *Gateway) apply(r *linkpb.Revoke) {
	if !g.revoked.table.Add(r, time.Now()) {
		return
	}
	g.router.Revoke(r)
	if id := r.GetSession(); id != "" {
		g.onSession(id, func(c *socket.Conn) { c.Close(session.CloseForbidden, "disconnected") })
		return
	}
	if u := r.GetUnsubscription(); u != nil {
		g.unsubscribe(u, r.At)
		return
	}
	g.loops.Each(func(c *socket.Conn) {
		if s, ok := c.Handler().(interface{ CheckRevoked() }); ok {
			s.CheckRevoked()
		}
	})
}

// onSession calls do for a client socket, on its loop, if it is one of this gateway's.
func (g *Gateway) onSession(name string, do func(*socket.Conn)) {
	instance, id, ok := router.ParseSessionID(name)
	if !ok || instance != g.instance {
		return
	}
	g.loops.Each(func(c *socket.Conn) {
		if c.ID() == id {
			do(c)
		}
	})
}

// unsubscribe ends channels on a topic. Who comes back may join again, so a user's sockets that were opened later are not
// concerned: a gateway may hear of it minutes after it was asked for.
func (g *Gateway) unsubscribe(u *linkpb.Unsubscription, at int64) {
	end := func(c *socket.Conn) {
		if s, ok := c.Handler().(interface {
			Unsubscribe(topic, user string, opened int64)
		}); ok {
			s.Unsubscribe(u.Topic, u.User, at+int64(g.cfg.Auth.Leeway/time.Second))
		}
	}
	if u.Session != "" {
		g.onSession(u.Session, end)
		return
	}
	g.loops.Each(end)
}

// isRevoked reports whether a token that is good otherwise does not count any more.
func (g *Gateway) isRevoked(id *auth.Identity) bool {
	return g.revoked.table.Revoked(id.User, id.TokenID, id.Issued, time.Now())
}

// SessionID names a client socket in the whole cluster. Any goroutine may call it.
func (g *Gateway) SessionID(c *socket.Conn) string {
	return router.SessionID(g.instance, c.ID())
}

// sweepRevocations forgets what has ended, until ctx is canceled.
func (g *Gateway) sweepRevocations(ctx context.Context) {
	look := time.NewTicker(time.Minute)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-look.C:
			g.revoked.table.Sweep(now)
		}
	}
}
