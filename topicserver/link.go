package topicserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/certs"
	"github.com/ringcast/ringcast/shared/link"
	"github.com/ringcast/ringcast/topicserver/topic"
)

// laneServer serves one lane. All of it belongs to the goroutine that receives, but for the rings.
type laneServer struct {
	s    *Server
	wire *link.Lane
	key  laneKey

	lane    *topic.Lane // nil until a Hello was accepted
	self    *lane       // likewise
	refused bool        // the Hello was not accepted; nothing after it counts
	bad     bool        // an item was none
	turn    topic.Turn

	learnMu  sync.Mutex
	building bool         // a ring that came over the lane is being built;
	newest   *linkpb.Ring // and this one has come meanwhile

	// Requests are decoded into these, one at a time; what they point at is valid during the item only.
	hello       linkpb.Hello
	subscribe   linkpb.Subscribe
	unsubscribe linkpb.Unsubscribe
	join        linkpb.Join
	leave       linkpb.Leave
	publish     linkpb.Publish
	history     linkpb.History
	watch       linkpb.Watch
	unwatch     linkpb.Unwatch
	track       linkpb.Track
	untrack     linkpb.Untrack
	list        linkpb.List
}

// serveLane serves a lane until it ends.
func (s *Server) serveLane(wire *link.Lane) {
	l := &laneServer{s: s, wire: wire}
	err := errPanicked
	defer func() { l.end(err) }()
	err = wire.Receive(func(kind linkpb.Kind, body []byte) error {
		err := l.item(kind, body)
		l.bad = err != nil
		return err
	}, l.turn.Flush)
}

// end undoes what the lane has registered.
func (l *laneServer) end(err error) {
	// A batch with a bad item in it has been handled up to there: the messages before it are on their lanes.
	l.turn.Flush()
	if l.lane == nil {
		return
	}
	if !l.s.forget(l.key, l.wire) {
		err = errSuperseded
	}
	silence := time.Duration(0)
	if errors.Is(err, link.ErrSilentPeer) {
		silence = l.s.links.SilenceAllowed()
	}
	l.s.topics.Drop(l.lane, silence)
	if errors.Is(err, link.ErrSlowPeer) {
		l.s.slowLanes.Add(1)
	}
	if l.bad || brokeProtocol(err) {
		l.s.badLanes.Add(1)
	}
	l.s.log.Info("lane ended", zap.String("gateway", l.key.gateway), zap.Uint32("lane", l.key.lane),
		zap.String("peer", l.wire.RemoteAddr()), zap.String("error", err.Error()))
}

// brokeProtocol reports whether a lane ended for what its peer sent, rather than for being cut, slow, silent or not needed any more.
func brokeProtocol(err error) bool {
	var network net.Error
	return !errors.As(err, &network) && !slices.ContainsFunc([]error{
		io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, context.Canceled, link.ErrSlowPeer, link.ErrSilentPeer, errSuperseded, errPanicked,
	}, func(other error) bool { return errors.Is(err, other) })
}

// item handles one item of an Up.
func (l *laneServer) item(kind linkpb.Kind, body []byte) error {
	if l.refused {
		return nil
	}
	if l.lane == nil && kind != linkpb.KindHello {
		return fmt.Errorf("item %d before the hello", kind)
	}
	topics := l.s.topics
	switch kind {
	case linkpb.KindHello:
		return l.greet(body)
	case linkpb.KindSubscribe:
		l.subscribe = linkpb.Subscribe{}
		if err := l.subscribe.UnmarshalVTUnsafe(body); err != nil {
			return err
		}
		if l.named(l.subscribe.Topic, l.subscribe.Ref) {
			topics.Subscribe(&l.turn, l.lane, &l.subscribe)
		}
	case linkpb.KindUnsubscribe:
		l.unsubscribe = linkpb.Unsubscribe{}
		if err := l.unsubscribe.UnmarshalVTUnsafe(body); err != nil {
			return err
		}
		topics.Unsubscribe(&l.turn, l.lane, l.unsubscribe.Topic)
	case linkpb.KindJoin:
		l.join = linkpb.Join{}
		if err := l.join.UnmarshalVTUnsafe(body); err != nil {
			return err
		}
		topics.Join(l.lane, &l.join)
	case linkpb.KindLeave:
		l.leave = linkpb.Leave{}
		if err := l.leave.UnmarshalVTUnsafe(body); err != nil {
			return err
		}
		topics.Leave(l.lane, &l.leave)
	case linkpb.KindPublish:
		l.publish = linkpb.Publish{}
		if err := l.publish.UnmarshalVTUnsafe(body); err != nil {
			return err
		}
		switch {
		case !l.named(l.publish.Topic, l.publish.Ref) || !l.valid(&l.publish):
		case l.publish.Name != nil:
			topics.Name(&l.turn, l.lane, &l.publish)
		default:
			topics.Publish(&l.turn, l.lane, &l.publish)
		}
	default:
		return l.otherItem(kind, body)
	}
	return nil
}

// otherItem handles the items that are rarer than those that item has.
func (l *laneServer) otherItem(kind linkpb.Kind, body []byte) error {
	switch kind {
	case linkpb.KindHistory:
		l.history = linkpb.History{}
		if err := l.history.UnmarshalVTUnsafe(body); err != nil {
			return err
		}
		if validName(l.history.Topic) {
			l.s.topics.Past(&l.turn, l.lane, &l.history)
		} else {
			l.wire.Append(linkpb.KindPast, &linkpb.Past{Ref: l.history.Ref, Code: linkpb.Code_INVALID, Detail: badName})
			l.wire.Flush()
		}
	case linkpb.KindUpPing:
		l.wire.Append(linkpb.KindDownPing, &linkpb.Ping{})
		l.wire.Flush()
	case linkpb.KindUpRevoke:
		m := new(linkpb.Revoke)
		if err := m.UnmarshalVT(body); err != nil {
			return err
		}
		l.s.revoke(l, m)
	case linkpb.KindUpLoad:
		m := new(linkpb.Load)
		if err := m.UnmarshalVT(body); err != nil {
			return err
		}
		l.heard(m)
	case linkpb.KindUpRing:
		m := new(linkpb.Ring)
		if err := m.UnmarshalVT(body); err != nil {
			return err
		}
		l.learnLater(m)
	default:
		return l.presenceItem(kind, body)
	}
	return nil
}

// presenceItem handles the items that are about who is there.
func (l *laneServer) presenceItem(kind linkpb.Kind, body []byte) error {
	topics := l.s.topics
	switch kind {
	case linkpb.KindWatch:
		l.watch = linkpb.Watch{}
		if err := l.watch.UnmarshalVTUnsafe(body); err != nil {
			return err
		}
		if l.named(l.watch.Topic, l.watch.Ref) {
			topics.Watch(&l.turn, l.lane, &l.watch)
		}
	case linkpb.KindUnwatch:
		l.unwatch = linkpb.Unwatch{}
		if err := l.unwatch.UnmarshalVTUnsafe(body); err != nil {
			return err
		}
		topics.Unwatch(&l.turn, l.lane, l.unwatch.Topic)
	case linkpb.KindTrack:
		l.track = linkpb.Track{}
		if err := l.track.UnmarshalVTUnsafe(body); err != nil {
			return err
		}
		if l.named(l.track.Topic, l.track.Ref) {
			topics.Track(&l.turn, l.lane, &l.track)
		}
	case linkpb.KindUntrack:
		l.untrack = linkpb.Untrack{}
		if err := l.untrack.UnmarshalVTUnsafe(body); err != nil {
			return err
		}
		topics.Untrack(&l.turn, l.lane, &l.untrack)
	case linkpb.KindList:
		l.list = linkpb.List{}
		if err := l.list.UnmarshalVTUnsafe(body); err != nil {
			return err
		}
		topics.List(&l.turn, l.lane, &l.list)
	}
	// An item of a later protocol version is not ours to judge.
	return nil
}

// greet answers the Hello.
func (l *laneServer) greet(body []byte) error {
	if l.lane != nil {
		return errors.New("second hello")
	}
	if err := l.hello.UnmarshalVT(body); err != nil {
		return err
	}
	h, s := &l.hello, l.s
	if code, detail := s.judge(h, l.wire.Peer(), l.wire.RemoteAddr()); code != linkpb.Code_OK {
		l.refused = true
		l.wire.Refuse(code, detail)
		s.refused.Add(1)
		s.refusals.Log(s.log, zap.ErrorLevel, "refused a lane", zap.String("gateway", h.Gateway), zap.String("peer", l.wire.RemoteAddr()),
			zap.Stringer("code", code), zap.String("detail", detail))
		return nil
	}
	l.wire.Greeted()
	l.lane = topic.NewLane(h.Gateway, &l.wire.Sender)
	l.lane.Instance = h.Instance
	l.key = laneKey{gateway: h.Gateway, instance: h.Instance, lane: h.Lane}
	l.self = &lane{wire: l.wire, subs: l.lane}
	s.remember(l.key, l.self)
	l.wire.Append(linkpb.KindWelcome, &linkpb.Welcome{
		Server: s.cfg.ID, Instance: s.instance, RingVersion: s.rings.Current().Version(), RingHash: s.rings.Current().Hash(),
		NameGraceMs: uint32(s.cfg.NameGrace / time.Millisecond), Cluster: s.cfg.Cluster,
	})
	if h.RingVersion < s.rings.Current().Version() {
		l.wire.Append(linkpb.KindDownRing, link.EncodeRing(s.rings.Current()))
	}
	// On each lane, so that no join over it is answered before the gateway knows: one that was down may let in who was revoked
	// meanwhile. Those that come later go over lane 0 alone, which is remembered: one that comes in between reaches it twice.
	for _, r := range s.revoked.All() {
		l.wire.Append(linkpb.KindDownRevoke, r)
	}
	l.wire.Flush()
	s.log.Info("lane opened", zap.String("gateway", h.Gateway), zap.Uint32("lane", h.Lane),
		zap.String("peer", l.wire.RemoteAddr()), zap.Uint64("ring_version", h.RingVersion))
	return nil
}

// revoke tells a revocation that is news to every gateway, its sender too, on each lane, as greet does; one that is known, to its
// sender alone: it waits for an answer.
func (s *Server) revoke(from *laneServer, r *linkpb.Revoke) {
	if !s.revoked.Add(r, time.Now()) {
		from.wire.Append(linkpb.KindDownRevoke, r)
		from.wire.Flush()
		return
	}
	for _, l := range s.lanesByKey() {
		l.wire.Append(linkpb.KindDownRevoke, r)
		l.wire.Flush()
	}
}

// judge says whether a gateway may have a lane.
func (s *Server) judge(h *linkpb.Hello, peer *certs.Peer, addr string) (linkpb.Code, string) {
	switch {
	case h.Protocol != link.Protocol:
		return linkpb.Code_WRONG_PROTOCOL, fmt.Sprintf("gateway speaks link protocol %d, topic server %q speaks %d",
			h.Protocol, s.cfg.ID, link.Protocol)
	case !link.SameCluster(h.Cluster, s.cfg.Cluster):
		return linkpb.Code_WRONG_CLUSTER, fmt.Sprintf("gateway %.255q (%s) is of cluster %.64q, topic server %q of cluster %q",
			h.Gateway, addr, h.Cluster, s.cfg.ID, s.cfg.Cluster)
	case !peer.Gateway(h.Gateway):
		return linkpb.Code_INVALID, fmt.Sprintf("peer gateway %q (%s) presents id %s", h.Gateway, addr, peer)
	case h.Gateway == "" || len(h.Gateway) > maxName:
		return linkpb.Code_INVALID, fmt.Sprintf("hello with a gateway id of %d bytes; want 1 to %d", len(h.Gateway), maxName)
	case h.Lane >= h.Lanes:
		return linkpb.Code_INVALID, fmt.Sprintf("hello of gateway %q for lane %d of %d", h.Gateway, h.Lane, h.Lanes)
	case h.RingVersion == s.rings.Current().Version() && h.RingHash != s.rings.Current().Hash():
		return linkpb.Code_RING_CONFLICT, fmt.Sprintf("ring v%d of gateway %q and of topic server %q differ in content",
			h.RingVersion, h.Gateway, s.cfg.ID)
	}
	return linkpb.Code_OK, ""
}

// maxName is the longest name of a topic or a gateway, in bytes.
const maxName = 255

// named replies INVALID, and reports false, for what is no topic name.
func (l *laneServer) named(name string, ref uint64) bool {
	if !validName(name) {
		l.turn.Reply(l.lane, ref, linkpb.Code_INVALID, badName, nil)
		return false
	}
	return true
}

const badName = "topic must be 1 to 255 bytes of UTF-8"

// validName reports whether a name may be a topic's. One that is not UTF-8 would make every batch that it is in undecodable
// for a strict Protobuf peer.
func validName(name string) bool {
	return name != "" && len(name) <= maxName && utf8.ValidString(name)
}

// valid replies TOO_LARGE or INVALID, and reports false, for a message that cannot be fanned out.
func (l *laneServer) valid(p *linkpb.Publish) bool {
	code, detail := linkpb.Code_TOO_LARGE, ""
	switch {
	case len(p.Payload) > link.MaxItem:
		detail = fmt.Sprintf("payload of %d bytes; the limit is %d", len(p.Payload), link.MaxItem)
	case len(p.Event) > link.MaxEvent:
		detail = fmt.Sprintf("event of %d bytes; the limit is %d", len(p.Event), link.MaxEvent)
	case !utf8.ValidString(p.Event):
		code, detail = linkpb.Code_INVALID, "event is not UTF-8"
	default:
		return true
	}
	l.turn.Reply(l.lane, p.Ref, code, detail, nil)
	return false
}

// remember registers a lane and ends the one that it takes the place of.
func (s *Server) remember(key laneKey, l *lane) {
	s.mu.Lock()
	old := s.lanes[key]
	s.lanes[key] = l
	s.mu.Unlock()
	if old != nil {
		old.wire.Close()
	}
}

// forget takes a lane out; it reports false when another has taken its place.
func (s *Server) forget(key laneKey, wire *link.Lane) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lanes[key]; l == nil || l.wire != wire {
		return false
	}
	delete(s.lanes, key)
	return true
}
