package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Events of presence.
const (
	eventPresenceState  = "presence_state"
	eventPresenceDiff   = "presence_diff"
	eventPresenceUpdate = "presence_update"
	eventPresenceLeave  = "presence_leave"
)

// PresenceConfig says how a channel takes part in the presence of its topic. The zero value is present under a key that the
// server makes up, and only lists. Callbacks run on the callback goroutine; what they are given must not be changed.
type PresenceConfig struct {
	// Key is whom the channel belongs to, 1 to 255 bytes: several channels may share one, as one user's devices do.
	Key string
	// Meta is what the channel shows of itself: anything that encoding/json makes an object of, at most 4 KiB. Nil is {}.
	Meta any
	// Watch makes the channel only see who is there. Track makes it present.
	Watch bool

	// MaxBytes bounds what is kept of who is there: keys and metas, and 128 bytes for each of these. More breaks the connection
	// with ErrPresenceTooLarge. Default 64 MiB, which is enough for 10 000 members.
	MaxBytes int

	// OnJoin is told of metas that have come under a key, with those that were there before: none if the key is new.
	OnJoin func(key string, before, joined []PresenceMeta)
	// OnLeave is told of metas that have gone, with those that remain: none if the key is gone too.
	OnLeave func(key string, remain, left []PresenceMeta)
	// OnSync runs after all that came with one state or one diff is in List.
	OnSync func()
}

// PresenceMeta is one presence: what one channel shows of itself.
type PresenceMeta struct {
	Ref  string          // unique; another one after each Track
	Prev string          // of one that Track has changed: the Ref before, else empty
	Meta json.RawMessage // the whole object, as it came: "phx_ref" is in it too
}

// Present is a key and all that is present under it, the oldest first.
type Present struct {
	Key   string         // as the channels chose, or the server
	Metas []PresenceMeta // at least one
}

// Presence is a channel's view of who is on its topic, over all gateways, and its own part in that. Where the channel is
// joined again the view goes on: callbacks tell of the difference, and nobody else sees a leave if it did not take long. All
// methods may be called from any goroutine.
type Presence struct {
	// Static.
	ch  *Channel
	cfg PresenceConfig

	calls sync.Mutex // held by Track and Untrack while they wait: the last one is what the next join says

	mu      sync.Mutex
	key     string          // the server's, once it has made one up
	meta    json.RawMessage // as it is to be; nil: not present
	said    json.RawMessage // as the last join or change has it
	present map[string][]PresenceMeta

	// Owned by the callback goroutine.
	synced     bool           // the state that belongs to the present join has come
	ahead      []presenceDiff // diffs that came before it
	aheadBytes int            // of their payloads
	bytes      int            // of present, as sizeOf counts
}

type presenceDiff struct{ Joins, Leaves presenceState }

// NewPresence makes a channel take part in the presence of its topic, from its next join on. The channel must not be joined
// yet, and have no Presence; its params must be an object, or nil, without the key "presence". The error is that one of these
// is not so, or that cfg.Meta is no object.
func NewPresence(ch *Channel, cfg PresenceConfig) (*Presence, error) {
	p := &Presence{ch: ch, cfg: cfg, key: cfg.Key, present: make(map[string][]PresenceMeta)}
	if p.cfg.MaxBytes <= 0 {
		p.cfg.MaxBytes = 64 << 20
	}
	if !cfg.Watch {
		var err error
		if p.meta, err = encodeMeta(cfg.Meta); err != nil {
			return nil, fmt.Errorf("client: presence on %s: %w", ch.topic, err)
		}
	}
	ch.client.mu.Lock()
	defer ch.client.mu.Unlock()
	switch {
	case ch.presence != nil:
		return nil, fmt.Errorf("client: presence on %s: the channel has one", ch.topic)
	case ch.state != ChannelClosed:
		return nil, fmt.Errorf("client: presence on %s: the channel is %v", ch.topic, ch.state)
	}
	ch.presence = p
	ch.handlers = append(ch.handlers, handler{event: eventPresenceState, fn: p.state}, handler{event: eventPresenceDiff, fn: p.diff})
	ch.watchers = append(ch.watchers, p.changed)
	return p, nil
}

func encodeMeta(meta any) (json.RawMessage, error) {
	b, err := encodePayload(meta)
	if err != nil {
		return nil, fmt.Errorf("meta: %w", err)
	}
	if len(b) == 0 || b[0] != '{' {
		return nil, fmt.Errorf("meta: %.20s is no object", b)
	}
	return b, nil
}

// List returns who is present, sorted by key.
func (p *Presence) List() []Present {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]Present, 0, len(p.present))
	for key, metas := range p.present {
		list = append(list, Present{Key: key, Metas: slices.Clone(metas)})
	}
	slices.SortFunc(list, func(a, b Present) int { return strings.Compare(a.Key, b.Key) })
	return list
}

// Get returns what is present under a key, nil if nothing is.
func (p *Presence) Get(key string) []PresenceMeta {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.present[key])
}

// Key returns the channel's own key, empty as long as the server has not made one up.
func (p *Presence) Key() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.key
}

// Track changes what the channel shows of itself, and makes it present if it is not. It fails as Channel.Publish does; but
// unless the server has refused it, with an *Error, every later join shows the new meta: after ErrNotJoined nothing has to
// be repeated.
func (p *Presence) Track(ctx context.Context, meta any) error {
	b, err := encodeMeta(meta)
	if err != nil {
		return outcome(eventPresenceUpdate, p.ch.topic, false, err)
	}
	return p.change(ctx, eventPresenceUpdate, b, b)
}

// Untrack makes the channel present no more; it still sees who is. It fails as Track does.
func (p *Presence) Untrack(ctx context.Context) error {
	return p.change(ctx, eventPresenceLeave, []byte("{}"), nil)
}

func (p *Presence) change(ctx context.Context, event string, payload []byte, meta json.RawMessage) error {
	p.calls.Lock()
	defer p.calls.Unlock()
	p.mu.Lock()
	before := p.meta
	p.meta = meta
	p.mu.Unlock()
	_, err := p.ch.push(ctx, event, payload)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.said = meta
	} else if refused, ok := errors.AsType[*Error](err); ok && !errors.Is(refused, ErrUnknownOutcome) {
		p.meta = before
	}
	return err
}

// catchUp says what was to change while a join was under way whose params were made before.
func (p *Presence) catchUp() {
	p.mu.Lock()
	meta, said := p.meta, p.said
	p.mu.Unlock()
	switch {
	case (meta == nil) == (said == nil) && bytes.Equal(meta, said):
	case meta == nil:
		_ = p.change(p.ch.client.ctx, eventPresenceLeave, []byte("{}"), nil) // the next join says it again
	default:
		_ = p.change(p.ch.client.ctx, eventPresenceUpdate, meta, meta)
	}
}

// params adds the channel's own presence to the params of a join.
func (p *Presence) params(params json.RawMessage) (json.RawMessage, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(params, &object); err != nil || object == nil {
		return nil, fmt.Errorf("%.40s is no object, which presence needs", params)
	}
	if _, ok := object[presenceParam]; ok {
		return nil, fmt.Errorf("%q is there already", presenceParam)
	}
	p.mu.Lock()
	own := struct {
		Key  string          `json:"key,omitempty"`
		Meta json.RawMessage `json:"meta"` // null: not present
	}{p.key, p.meta}
	p.said = p.meta
	p.mu.Unlock()
	var err error
	if object[presenceParam], err = encodePayload(own); err != nil {
		return nil, err
	}
	return encodePayload(object)
}

// presenceParam is where a join's params say that the channel takes part.
const presenceParam = "presence"

// changed follows the channel's joins, on the callback goroutine. What was seen so far stays until the state comes: then the
// difference is told.
func (p *Presence) changed(change ChannelChange) {
	switch change.State {
	case ChannelJoined:
		p.unsync()
		var response struct{ Presence struct{ Key string } }
		if json.Unmarshal(change.Response, &response) == nil && response.Presence.Key != "" {
			p.mu.Lock()
			p.key = response.Presence.Key
			p.mu.Unlock()
		}
		p.ch.client.running.Go(p.catchUp) // the callback goroutine is one of those that are running
	case ChannelClosed:
		p.unsync()
	}
}

// state handles all who are there: the first word after a join, and what comes in the place of changes when this client
// has been slow.
func (p *Presence) state(m Message) {
	var all presenceState
	if json.Unmarshal(m.Payload, &all) != nil {
		return
	}
	d := presenceDiff{Joins: make(presenceState), Leaves: make(presenceState)}
	p.mu.Lock()
	for key, metas := range p.present {
		if gone := without(metas, all[key]); len(gone) > 0 {
			d.Leaves[key] = gone
		}
	}
	for key, metas := range all {
		if come := without(metas, p.present[key]); len(come) > 0 {
			d.Joins[key] = come
		}
	}
	p.mu.Unlock()
	for _, d := range append([]presenceDiff{d}, p.ahead...) {
		if !p.apply(d) {
			return
		}
	}
	p.unsync()
	p.synced = true
	p.sync()
}

func (p *Presence) unsync() { p.synced, p.ahead, p.aheadBytes = false, nil, 0 }

// tooLarge gives up on a server that tells of more than may be kept.
func (p *Presence) tooLarge() {
	p.unsync()
	p.ch.client.drop(fmt.Errorf("presence of %s: %w", p.ch.topic, ErrPresenceTooLarge))
}

// diff handles a change to what the state has said.
func (p *Presence) diff(m Message) {
	var d presenceDiff
	if json.Unmarshal(m.Payload, &d) != nil {
		return
	}
	if !p.synced {
		if p.aheadBytes += len(m.Payload); p.bytes+p.aheadBytes > p.cfg.MaxBytes {
			p.tooLarge()
			return
		}
		p.ahead = append(p.ahead, d)
		return
	}
	if p.apply(d) {
		p.sync()
	}
}

func (p *Presence) sync() {
	if p.cfg.OnSync != nil {
		p.cfg.OnSync()
	}
}

// apply merges a diff, by the references alone, and tells of it. Joins come first: a key whose meta was changed is never
// gone in between. It reports false when there is more than may be kept.
func (p *Presence) apply(d presenceDiff) bool {
	for _, key := range d.Joins.keys() {
		p.mu.Lock()
		before := p.present[key]
		kept := without(before, d.Joins[key])
		p.present[key] = slices.Concat(kept, d.Joins[key])
		p.mu.Unlock()
		p.bytes += sizeOf(key, p.present[key]) - sizeOf(key, before)
		if p.cfg.OnJoin != nil {
			p.cfg.OnJoin(key, before, d.Joins[key])
		}
	}
	for _, key := range d.Leaves.keys() {
		p.mu.Lock()
		before := p.present[key]
		remain := without(before, d.Leaves[key])
		if len(remain) > 0 {
			p.present[key] = remain
		} else {
			delete(p.present, key)
		}
		p.mu.Unlock()
		p.bytes += sizeOf(key, remain) - sizeOf(key, before)
		if len(before) > 0 && p.cfg.OnLeave != nil {
			p.cfg.OnLeave(key, remain, d.Leaves[key])
		}
	}
	if p.bytes > p.cfg.MaxBytes {
		p.tooLarge()
		return false
	}
	return true
}

// sizeOf is what a key and its metas count. A key that has none counts nothing.
func sizeOf(key string, metas []PresenceMeta) (n int) {
	const each = 128
	for _, m := range metas {
		n += len(m.Ref) + len(m.Prev) + len(m.Meta) + each
	}
	if n > 0 {
		n += len(key) + each
	}
	return n
}

// without returns the metas whose references are not among others', as a slice of its own.
func without(metas, others []PresenceMeta) []PresenceMeta {
	return slices.DeleteFunc(slices.Clone(metas), func(m PresenceMeta) bool {
		return slices.ContainsFunc(others, func(o PresenceMeta) bool { return o.Ref == m.Ref })
	})
}

// presenceState is metas by key, as {"ada":{"metas":[{"phx_ref":"…",…}]},…}.
type presenceState map[string][]PresenceMeta

func (s presenceState) keys() []string {
	keys := make([]string, 0, len(s))
	for key := range s {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *presenceState) UnmarshalJSON(data []byte) error {
	var raw map[string]struct{ Metas []json.RawMessage }
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	*s = make(presenceState, len(raw))
	for key, entry := range raw {
		for _, meta := range entry.Metas {
			var refs struct {
				Ref  string `json:"phx_ref"`
				Prev string `json:"phx_ref_prev"`
			}
			if err := json.Unmarshal(meta, &refs); err != nil {
				return err
			}
			(*s)[key] = append((*s)[key], PresenceMeta{Ref: refs.Ref, Prev: refs.Prev, Meta: meta})
		}
	}
	return nil
}
