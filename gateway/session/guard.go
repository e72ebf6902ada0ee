package session

import (
	"bytes"
	"container/heap"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
)

// Close codes of sessions that may not go on.
const (
	CloseUnauthorized = 4401 // no token, or one that does not count any more
	CloseForbidden    = 4403 // sent away by an operator
)

const (
	// expiryNotice is how long before its token ends a client is told.
	expiryNotice = 30 // seconds
	// maxStrikes is how many bad tokens a session may present, one after the other: each costs a verification on the loop.
	maxStrikes = 3
)

// guard is what a session has more where clients need tokens. A session's identity is that of its handshake or of a later
// access_token; a channel that was joined with a token of its own has that one's.
type guard struct {
	id      *auth.Identity // nil if there was no token yet
	own     []ownToken     // few
	opened  int64          // Unix seconds, as all times here
	proven  bool           // there was a good token
	warned  bool           // of the end of id
	strikes uint8

	// Place in Sessions.watched, which is ordered by when.
	when int64
	slot int
}

// ownToken is the identity of a channel that was joined with a token.
type ownToken struct {
	channel *channel
	id      *auth.Identity
	warned  bool
}

// identity is what counts for a channel; nil if nothing does.
func (g *guard) identity(c *channel) *auth.Identity {
	for i := range g.own {
		if g.own[i].channel == c {
			return g.own[i].id
		}
	}
	return g.id
}

// drop forgets the own token of a channel that has ended.
func (g *guard) drop(c *channel) {
	for i := range g.own {
		if g.own[i].channel == c {
			last := len(g.own) - 1
			g.own[i] = g.own[last]
			g.own[last] = ownToken{}
			g.own = g.own[:last]
			return
		}
	}
}

// User returns the user whose token the session has, "" if it has none.
func (s *Session) User() string {
	if s.guard == nil || s.guard.id == nil {
		return ""
	}
	return s.guard.id.User
}

// Identity returns what counts for the session's membership of a topic, nil where clients need no tokens. Called on the
// loop.
func (s *Session) Identity(topic string) *auth.Identity {
	if s.guard == nil {
		return nil
	}
	if c := s.find([]byte(topic)); c != nil {
		return s.guard.identity(c)
	}
	return s.guard.id
}

// protect gives a new session its guard, if clients need tokens.
//
// A revocation that comes after the token was verified and before the session is on its loop is seen here: it is noted
// before the loops are told to look for its sessions, which this one is among by then.
func (s *Session) protect(id *auth.Identity) {
	ss := s.ss
	if ss.cfg.Auth == nil {
		return
	}
	s.guard = &guard{id: id, proven: id != nil, opened: ss.now().Unix()}
	heap.Push(&ss.watched, s)
	switch {
	case id != nil && ss.revoked(id):
		s.closeFor(&auth.Error{Reason: auth.Revoked})
	case id == nil && ss.cfg.Auth.Config().AuthAt != auth.AtJoin:
		s.closeFor(&auth.Error{Reason: auth.Missing})
	}
	s.schedule()
}

// unprotect ends the watch over a closed session.
func (s *Session) unprotect() {
	if s.guard != nil {
		heap.Remove(&s.ss.watched, s.guard.slot)
		s.guard = nil
	}
}

func (s *Session) closeFor(e *auth.Error) { s.conn.Close(CloseUnauthorized, e.Error()) }

func (ss *Sessions) revoked(id *auth.Identity) bool {
	return ss.cfg.Revoked != nil && ss.cfg.Revoked(id)
}

// may reports whether the session has a right on a channel's topic now.
func (s *Session) may(c *channel, right auth.Right) bool {
	g := s.guard
	if g == nil {
		return true
	}
	id := g.identity(c)
	return id != nil && id.May(c.topic)&right != 0
}

// authorize says whether a topic may be joined with these params. It returns the identity of the token in them, if there
// is one, or the reason and the detail of a refusal.
func (s *Session) authorize(topic string, params []byte) (own *auth.Identity, reason, detail string) {
	g := s.guard
	if g == nil {
		return nil, "", ""
	}
	token := tokenOf(params)
	if token == "" && g.id == nil {
		return nil, "unauthorized", s.ss.cfg.Auth.Refuse(&auth.Error{Reason: auth.Missing}).Error()
	}
	id := g.id
	if token != "" {
		var e *auth.Error
		if own, e = s.verify(token, g.id); e != nil {
			return nil, "unauthorized", e.Error()
		}
		id = own
	}
	if id.May(topic)&auth.Join == 0 {
		return nil, "forbidden", "the token does not allow to join this topic"
	}
	return own, "", ""
}

// verify verifies a token that a session has presented after its handshake. It must be of the same user as the one it has. A
// session that keeps presenting bad ones is closed.
func (s *Session) verify(token string, has *auth.Identity) (*auth.Identity, *auth.Error) {
	g, v := s.guard, s.ss.cfg.Auth
	id, err := v.Verify(token)
	e, _ := err.(*auth.Error) //nolint:errorlint // Verify returns no other
	switch {
	case e != nil:
	case s.ss.revoked(id):
		e = v.Refuse(&auth.Error{Reason: auth.Revoked})
	case has != nil && has.User != id.User:
		e = v.Refuse(&auth.Error{Reason: auth.Invalid, Detail: errors.New("of another user than the session")})
	}
	if e == nil {
		g.strikes = 0
		return id, nil
	}
	if g.strikes++; g.strikes >= maxStrikes {
		s.closeFor(e)
	}
	return nil, e
}

// tokenOf finds a token in a join's params or in the payload of access_token: under token, or under access_token as
// realtime-js has it.
func tokenOf(params []byte) string {
	if !bytes.Contains(params, []byte("token")) {
		return ""
	}
	var keys map[string]json.RawMessage
	if json.Unmarshal(params, &keys) != nil {
		return ""
	}
	for _, name := range []string{"token", "access_token"} {
		var token *string
		if raw, ok := keys[name]; ok && string(raw) != "null" {
			if json.Unmarshal(raw, &token) != nil || token == nil || *token == "" {
				return "?" // there, and no token
			}
			return *token
		}
	}
	return ""
}

// adopt notes the token that a channel was joined with.
func (s *Session) adopt(c *channel, own *auth.Identity) {
	if own != nil {
		s.guard.proven = true
		s.guard.own = append(s.guard.own, ownToken{channel: c, id: own})
		s.schedule()
	}
}

// refresh handles the event access_token: a fresh token for the session, on the topic phoenix or on a channel, or for a
// channel that has its own. Where clients need no tokens it is accepted and means nothing.
func (s *Session) refresh(f *codec.Frame) {
	topic := string(f.Topic)
	c := s.find(f.Topic)
	switch {
	case c == nil && topic != "phoenix":
		s.refuse(nil, f.Ref, topic, "unmatched topic")
		return
	case c != nil && stale(f, c):
		return
	case s.guard == nil:
		s.reply(f.JoinRef, f.Ref, topic, "ok", nil)
		return
	}
	g := s.guard
	has := g.id
	if c != nil {
		has = g.identity(c)
	}
	id, e := s.verify(tokenOf(f.Payload), has)
	if e != nil {
		s.refuseDetail(f.JoinRef, f.Ref, topic, "unauthorized", e.Error())
		return
	}
	s.replaceToken(c, id)
	s.reply(f.JoinRef, f.Ref, topic, "ok", nil)
	s.endForbidden()
	s.schedule()
}

// replaceToken makes id count instead of the own token of a channel, or else of the session's.
func (s *Session) replaceToken(c *channel, id *auth.Identity) {
	g := s.guard
	for i := range g.own {
		if c != nil && g.own[i].channel == c {
			g.own[i].id, g.own[i].warned = id, false
			return
		}
	}
	g.id, g.proven, g.warned = id, true, false
}

// endForbidden ends the channels that the session may not be in any more. Libraries join again, and are told why not.
func (s *Session) endForbidden() {
	for i := len(s.channels) - 1; i >= 0; i-- {
		if c := s.channels[i]; !s.may(c, auth.Join) {
			s.evict(c)
		}
	}
}

// evict ends a channel that is joined or on its way there.
func (s *Session) evict(c *channel) {
	s.remove(c)
	s.ss.local.Leave(c.topic, &c.Channel)
	s.unattend(c, false)
	if c.joining != nil {
		s.refuseDetail(c.JoinRef, c.joining.ref, c.topic, "unauthorized", "the token has ended")
		s.endReplaced(c)
		return
	}
	s.control(c, "phx_error")
}

// CheckRevoked closes the session if its token is revoked, and ends the channels whose own tokens are. Called on the loop.
func (s *Session) CheckRevoked() {
	g := s.guard
	if g == nil {
		return
	}
	if g.id != nil && s.ss.revoked(g.id) {
		s.closeFor(&auth.Error{Reason: auth.Revoked})
		return
	}
	for i := len(g.own) - 1; i >= 0; i-- {
		if s.ss.revoked(g.own[i].id) {
			s.evict(g.own[i].channel)
		}
	}
	s.schedule()
}

// Tick closes the sessions whose tokens have ended, and tells those whose end is near. It is to be called on the loop about once
// a second.
func (ss *Sessions) Tick() {
	now := ss.now().Unix()
	if now < ss.ticked {
		ss.setBack(now)
	}
	ss.ticked = now
	// Each is due once: whatever is wrong with one of them, the loop goes on.
	for range len(ss.watched) {
		if len(ss.watched) == 0 || ss.watched[0].guard.when > now {
			return
		}
		ss.watched[0].due(now)
	}
}

// setBack has the time of those who have shown no token begin anew when the clock was set back: it is no time of day, as the end of
// a token is, and they are not to stay until that comes again.
func (ss *Sessions) setBack(now int64) {
	for _, s := range slices.Clone(ss.watched) { // schedule moves them
		if g := s.guard; !g.proven && g.opened > now {
			g.opened = now
			s.schedule()
		}
	}
}

// due does what is to be done for a session by now.
func (s *Session) due(now int64) {
	g := s.guard
	limit := g.opened + int64(s.ss.cfg.Auth.Config().AuthTimeout/time.Second)
	switch {
	case s.conn.Closing():
	case g.id != nil && now >= g.id.Ends:
		s.closeFor(s.ss.cfg.Auth.Refuse(&auth.Error{Reason: auth.Expired, At: time.Unix(g.id.Ends, 0)}))
	case !g.proven && now >= limit:
		s.conn.Close(socket.CloseIdleTimeout, "no token in time")
	default:
		s.dueTokens(now)
	}
	s.schedule()
}

// dueTokens warns of tokens that end soon, and ends the channels whose own tokens have ended.
func (s *Session) dueTokens(now int64) {
	g := s.guard
	for i := len(g.own) - 1; i >= 0; i-- {
		switch o := &g.own[i]; {
		case now >= o.id.Ends:
			s.evict(o.channel)
		case now >= o.id.Ends-expiryNotice && !o.warned:
			o.warned = true
			s.warn(o.channel, o.id.Ends)
		}
	}
	if g.id == nil || g.warned || now < g.id.Ends-expiryNotice {
		return
	}
	g.warned = true
	told := false
	for _, c := range s.channels {
		if c.joining == nil && g.identity(c) == g.id {
			s.warn(c, g.id.Ends)
			told = true
		}
	}
	if !told {
		s.warn(nil, g.id.Ends)
	}
}

// warn pushes token_expiring on a channel, or on the topic phoenix.
func (s *Session) warn(c *channel, ends int64) {
	if m := s.more; m != nil && (m.west != nil || m.plain != nil) {
		return // no other format has a place for it
	}
	p := codec.Push{Topic: "phoenix", Event: "token_expiring"}
	p.Payload = append(strconv.AppendInt([]byte(`{"expires_at":`), ends, 10), '}')
	var joinRef codec.Ref
	if c != nil {
		p.Topic, joinRef = c.topic, c.JoinRef
	}
	cd := codec.ForKind(s.codec)
	s.ss.buf = cd.AppendBody(cd.AppendHead(s.ss.buf[:0], joinRef, nil, &p), &p)
	s.conn.Send(socket.OpText, s.ss.buf, nil)
}

// schedule finds out when the session is due next: never, once it is closing, whatever its channels' tokens say. due does nothing
// for it then.
func (s *Session) schedule() {
	g := s.guard
	if g == nil {
		return
	}
	const never = 1 << 62
	next := int64(never)
	consider := func(id *auth.Identity, warned bool) {
		if at := id.Ends - expiryNotice; !warned {
			next = min(next, at)
		}
		next = min(next, id.Ends)
	}
	if !s.conn.Closing() {
		switch {
		case g.id != nil:
			consider(g.id, g.warned)
		case !g.proven:
			next = g.opened + int64(s.ss.cfg.Auth.Config().AuthTimeout/time.Second)
		}
		for i := range g.own {
			consider(g.own[i].id, g.own[i].warned)
		}
	}
	if g.when != next {
		g.when = next
		heap.Fix(&s.ss.watched, g.slot)
	}
}

// watched is the heap of the sessions with a guard, the one that is due next on top.
type watched []*Session

func (w watched) Len() int           { return len(w) }
func (w watched) Less(i, j int) bool { return w[i].guard.when < w[j].guard.when }
func (w watched) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].guard.slot, w[j].guard.slot = i, j
}

// Push implements heap.Interface.
func (w *watched) Push(x any) {
	s := x.(*Session)
	s.guard.slot = len(*w)
	*w = append(*w, s)
}

// Pop implements heap.Interface.
func (w *watched) Pop() any {
	last := len(*w) - 1
	s := (*w)[last]
	(*w)[last] = nil
	*w = (*w)[:last]
	return s
}
