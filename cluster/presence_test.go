package cluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ringcast/ringcast/cluster"
	"github.com/ringcast/ringcast/gateway"
	"github.com/ringcast/ringcast/topicserver"
)

// attendee is a client that takes part in a topic's presence and keeps, as phoenix.js does, what it is told: it merges by
// phx_ref, and complains of diffs that do not fit.
type attendee struct {
	*socket
	topic string
	join  string // the params of its joins

	mu      sync.Mutex
	joinRef int             // of the last join: after phx_error it joins again
	state   map[string]meta // by phx_ref; nil before presence_state
	shown   int             // the join of the last state
	diffs   int
	joins   []string // keys, in their order
	leaves  []string
	replies map[string]string // payloads of replies, by ref
	errors  []string
}

// meta is one presence as clients see it.
type meta struct {
	Key  string `json:"-"`
	Ref  string `json:"phx_ref"`
	Prev string `json:"phx_ref_prev"`
	Name string `json:"name"`
}

type metas map[string]struct{ Metas []meta }

func (m metas) each(do func(meta)) {
	for key, v := range m {
		for _, one := range v.Metas {
			one.Key = key
			do(one)
		}
	}
}

// attend connects a client and joins the topic with presence. Params are those of presence: {"key": …}.
func attend(t *testing.T, name, url, topic, params string) *attendee {
	t.Helper()
	a := &attendee{socket: dial(t, name, url), topic: topic, join: params, joinRef: 1, replies: make(map[string]string)}
	a.say(a.joinFrame())
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { a.read(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	a.eventually("is joined", func() bool { return a.state != nil || strings.Contains(a.replies["1"], "error") })
	return a
}

func (a *attendee) joinFrame() string {
	return fmt.Sprintf(`["%d","%d",%q,"phx_join",{"presence":%s}]`, a.joinRef, a.joinRef, a.topic, a.join)
}

func (a *attendee) read(ctx context.Context) {
	for {
		_, data, err := a.ws.Read(ctx)
		if err != nil {
			return
		}
		var f []json.RawMessage
		if err := json.Unmarshal(data, &f); err != nil || len(f) != 5 {
			a.fail("bad frame %s", data)
			continue
		}
		a.mu.Lock()
		rejoin := a.frame(string(f[0]), string(f[1]), string(f[3]), f[4])
		a.mu.Unlock()
		if rejoin != "" {
			_ = a.ws.Write(ctx, websocket.MessageText, []byte(rejoin))
		}
	}
}

func (a *attendee) fail(format string, args ...any) {
	a.errors = append(a.errors, fmt.Sprintf(format, args...))
}

// frame takes a frame in, and returns what is to be said because of it.
func (a *attendee) frame(joinRef, ref, event string, payload json.RawMessage) (answer string) {
	current := fmt.Sprintf(`"%d"`, a.joinRef)
	switch event {
	case `"phx_reply"`:
		a.replies[strings.Trim(ref, `"`)] = string(payload)
		if ref == current && strings.Contains(string(payload), `"unavailable"`) {
			a.joinRef++
			return a.joinFrame()
		}
	case `"phx_error"`:
		a.joinRef++
		return a.joinFrame()
	case `"presence_state"`:
		var all metas
		_ = json.Unmarshal(payload, &all)
		if joinRef != current || ref != "null" || a.replies[strings.Trim(current, `"`)] == "" || a.shown == a.joinRef {
			a.fail("state with join_ref %s, ref %s, after %v", joinRef, ref, a.replies)
		}
		a.shown = a.joinRef
		a.sync(all)
	case `"presence_diff"`:
		a.diff(joinRef, ref, payload)
	default:
		a.fail("event %s %s", event, payload)
	}
	return ""
}

// sync takes a state. One that follows another join is compared with what is known, as phoenix.js does.
func (a *attendee) sync(all metas) {
	old := a.state
	a.state = make(map[string]meta)
	all.each(func(m meta) {
		a.state[m.Ref] = m
		if _, was := old[m.Ref]; old != nil && !was {
			a.joins = append(a.joins, m.Key)
		}
	})
	for ref, m := range old {
		if _, is := a.state[ref]; !is {
			a.leaves = append(a.leaves, m.Key)
		}
	}
}

func (a *attendee) diff(joinRef, ref string, payload json.RawMessage) {
	var d struct{ Joins, Leaves metas }
	_ = json.Unmarshal(payload, &d)
	if joinRef != "null" || ref != "null" || a.state == nil || d.Joins == nil || d.Leaves == nil {
		a.fail("diff with join_ref %s, ref %s, state %v: %s", joinRef, ref, a.state, payload)
	}
	a.diffs++
	d.Joins.each(func(m meta) {
		if _, ok := a.state[m.Ref]; ok || m.Ref == "" {
			a.fail("join of %v, who is there", m)
		}
		a.state[m.Ref] = m
		a.joins = append(a.joins, m.Key)
	})
	d.Leaves.each(func(m meta) {
		if _, ok := a.state[m.Ref]; !ok {
			a.fail("leave of %v, who is not there", m)
		}
		delete(a.state, m.Ref)
		a.leaves = append(a.leaves, m.Key)
	})
}

// present lists who is there, as key or key/name, sorted.
func (a *attendee) present() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []string
	for _, m := range a.state {
		text := m.Key
		if m.Name != "" {
			text += "/" + m.Name
		}
		list = append(list, text)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// refs is what the client knows, to compare clients with each other.
func (a *attendee) refs() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []string
	for _, m := range a.state {
		list = append(list, fmt.Sprint(m))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func (a *attendee) eventually(what string, cond func() bool) {
	a.t.Helper()
	eventually(a.t, a.name+" "+what, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return cond()
	})
}

// sees waits until these are present.
func (a *attendee) sees(want string) {
	a.t.Helper()
	for end := time.Now().Add(patience); a.present() != want; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			a.t.Fatalf("%s sees %s, want %s", a.name, a.present(), want)
		}
	}
}

// reply waits for the reply to a push.
func (a *attendee) reply(ref string) (payload string) {
	a.t.Helper()
	a.eventually("gets the reply "+ref, func() bool { payload = a.replies[ref]; return payload != "" })
	return payload
}

// counts returns how many joins, leaves and diffs the client was told of.
func (a *attendee) counts() [3]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return [3]int{len(a.joins), len(a.leaves), a.diffs}
}

// check fails the test for everything that did not fit.
func check(t *testing.T, all ...*attendee) {
	t.Helper()
	for _, a := range all {
		a.mu.Lock()
		for _, e := range a.errors {
			t.Errorf("%s: %s", a.name, e)
		}
		a.mu.Unlock()
	}
}

func patientPresence(cfg *topicserver.Config) { cfg.PresenceGrace = time.Hour }

func quickPresence(c *cluster.Config) {
	c.TopicServer = func(cfg *topicserver.Config) { cfg.PresenceGrace = 100 * time.Millisecond }
}

const topicP = "room:presence"

func TestPhoenixPresence_StateAndDiffsOverTwoGateways(t *testing.T) {
	c := start(t, quickPresence)
	url1, url2 := c.Gateways[0].WebSocketURL(), c.Gateways[1].WebSocketURL()
	plain := dial(t, "plain", url1)
	plain.join(topicP)
	ada := attend(t, "ada", url1, topicP, `{"key":"ada","meta":{"name":"Ada"}}`)
	ada.sees("ada/Ada")
	ben := attend(t, "ben", url2, topicP, `{"key":"ben"}`)
	watcher := attend(t, "watcher", url2, topicP, `{"key":"ghost","meta":null}`)
	for _, a := range []*attendee{ada, ben, watcher} {
		a.sees("ada/Ada ben")
	}
	if ada.refs() != ben.refs() || ada.refs() != watcher.refs() {
		t.Errorf("states differ: %s, %s, %s", ada.refs(), ben.refs(), watcher.refs())
	}

	// Another device of ada, then an update of it, then it leaves with presence_leave and comes back with an update.
	phone := attend(t, "phone", url2, topicP, `{"key":"ada","meta":{"name":"phone"}}`)
	ben.sees("ada/Ada ada/phone ben")
	phone.sees("ada/Ada ada/phone ben")
	before := phone.refs()
	phone.say(fmt.Sprintf(`["1","2",%q,"presence_update",{"name":"tablet"}]`, topicP))
	if got := phone.reply("2"); got != `{"response":{},"status":"ok"}` {
		t.Errorf("reply to presence_update: %s", got)
	}
	ada.sees("ada/Ada ada/tablet ben")
	linked := 0
	ada.mu.Lock()
	for _, m := range ada.state {
		if m.Prev != "" {
			linked++
			if m.Name != "tablet" || !strings.Contains(before, m.Prev) {
				t.Errorf("%v is linked to what was not there: %s", m, before)
			}
		}
	}
	ada.mu.Unlock()
	if linked != 1 {
		t.Errorf("%d presences with phx_ref_prev, want 1", linked)
	}
	phone.say(fmt.Sprintf(`["1","3",%q,"presence_leave",{}]`, topicP))
	phone.reply("3")
	phone.sees("ada/Ada ben")
	phone.say(fmt.Sprintf(`["1","4",%q,"presence_update",{"name":"again"}]`, topicP))
	phone.reply("4")
	ben.sees("ada/Ada ada/again ben")

	// A leave is seen at once, a closed socket after the grace.
	phone.say(fmt.Sprintf(`["1","5",%q,"phx_leave",{}]`, topicP))
	ada.sees("ada/Ada ben")
	_ = ben.ws.CloseNow()
	ada.sees("ada/Ada")
	watcher.sees("ada/Ada")
	check(t, ada, ben, watcher)
	plain.silence()
}

func TestPhoenixPresence_ACrowdIsFewDiffsAndFewSends(t *testing.T) {
	c := start(t, func(c *cluster.Config) {
		c.TopicServer = func(cfg *topicserver.Config) { cfg.PresenceInterval = 500 * time.Millisecond }
	})
	first := attend(t, "first", c.Gateways[0].WebSocketURL(), topicP, `{"key":"first"}`)
	first.sees("first")
	var crowd []*attendee
	began := time.Now()
	for i := range 60 {
		crowd = append(crowd, attend(t, fmt.Sprint("member ", i), c.Gateways[i%2].WebSocketURL(), topicP, fmt.Sprintf(`{"key":"u%02d"}`, i)))
	}
	crowd = append(crowd, first)
	for _, a := range crowd {
		a.eventually("sees all", func() bool { return len(a.state) == 61 })
	}
	for _, a := range crowd {
		if a.refs() != first.refs() {
			t.Errorf("%s sees %s, first sees %s", a.name, a.refs(), first.refs())
		}
	}
	intervals := int(time.Since(began)/(500*time.Millisecond)) + 2
	if n := first.counts()[2]; n > intervals {
		t.Errorf("%d diffs in %d intervals", n, intervals)
	}
	if n := c.Owner(topicP).Stats().PresenceSends; n > uint64(2*intervals) {
		t.Errorf("%d sends to two gateways in %d intervals", n, intervals)
	}
	check(t, crowd...)
}

func TestPhoenixPresence_AReconnectWithinTheGraceIsUnseen(t *testing.T) {
	c := start(t, func(c *cluster.Config) { c.TopicServer = patientPresence })
	url1, url2 := c.Gateways[0].WebSocketURL(), c.Gateways[1].WebSocketURL()
	ada := attend(t, "ada", url1, topicP, `{"key":"ada"}`)
	ben := attend(t, "ben", url1, topicP, `{"key":"ben","meta":{"name":"Ben"}}`)
	ada.sees("ada ben/Ben")
	ben.sees("ada ben/Ben")
	was, refs := ada.counts(), ada.refs()
	for i := range 4 {
		_ = ben.ws.CloseNow()
		eventually(t, "the gateways know that ben is gone", func() bool {
			return c.Owner(topicP).Stats().Subscribers == 1
		})
		ben = attend(t, "ben again", []string{url2, url1}[i%2], topicP, `{"key":"ben","meta":{"name":"Ben"}}`)
		ben.sees("ada ben/Ben")
		if ben.refs() != refs {
			t.Errorf("ben sees %s, it was %s", ben.refs(), refs)
		}
	}
	carol := attend(t, "carol", url2, topicP, `{"key":"carol"}`)
	ada.sees("ada ben/Ben carol") // so whatever came before has been seen
	if now := ada.counts(); now != [3]int{was[0] + 1, was[1], was[2] + 1} {
		t.Errorf("ada was told of %v, want one join more than %v", now, was)
	}
	check(t, ada, ben, carol)
}

func TestPhoenixPresence_RefusalsAreTyped(t *testing.T) {
	c := start(t, func(c *cluster.Config) {
		c.TopicServer = func(cfg *topicserver.Config) { cfg.MaxPresences = 2 }
	})
	s := dial(t, "client", c.Gateways[0].WebSocketURL())
	refuse := func(params, reason string) {
		t.Helper()
		s.say(fmt.Sprintf(`["7","7",%q,"phx_join",{"presence":%s}]`, topicP, params))
		want := fmt.Sprintf(`["7","7",%q,"phx_reply",{"response":{"reason":%q`, topicP, reason)
		if got := s.hear(); !strings.HasPrefix(got, want) {
			t.Errorf("%.60s: heard %s, want %s…", params, got, want)
		}
	}
	for _, key := range []string{"__proto__", "constructor", "prototype", "toString", "hasOwnProperty", `\u005f_proto__`} {
		refuse(`{"key":"`+key+`"}`, "invalid presence key: reserved")
	}
	refuse(`{"key":""}`, "invalid presence key: empty")
	refuse(`{"key":"`+strings.Repeat("k", 256)+`"}`, "invalid presence key: 256 bytes, at most 255 are allowed")
	refuse(`{"key":7}`, `invalid presence: want {"key": "…", "meta": {…}}`)
	refuse(`true`, `invalid presence: want {"key": "…", "meta": {…}}`)
	refuse(`{"meta":[]}`, "invalid presence meta: want an object")
	refuse(`{"meta":{"phx_ref":"x"}}`, "invalid presence meta: phx_ref is reserved")
	refuse(`{"meta":{"\u0070hx_ref_prev":"x"}}`, "invalid presence meta: phx_ref_prev is reserved")
	refuse(`{"meta":{"x":"`+strings.Repeat("m", 4100)+`"}}`, "invalid presence meta: 4108 bytes, at most 4096 are allowed")

	one := attend(t, "one", c.Gateways[0].WebSocketURL(), topicP, `{"key":"`+strings.Repeat("k", 255)+`"}`)
	two := attend(t, "two", c.Gateways[1].WebSocketURL(), topicP, `{}`)
	if got := two.reply("1"); !strings.HasPrefix(got, `{"response":{"presence":{"key":"`) {
		t.Errorf("reply to a join without a key: %s", got)
	}
	refuse(`{}`, "too many presences")
	_ = one.ws.CloseNow()
	three := attend(t, "watcher", c.Gateways[0].WebSocketURL(), topicP, `{"meta":null}`)
	for i, tt := range []struct{ event, payload, want string }{
		{"presence_state", `{}`, `{"response":{"reason":"reserved event"},"status":"error"}`},
		{"publish", `["presence_diff",{}]`, `{"response":{"reason":"reserved event"},"status":"error"}`},
		{"presence_update", `7`, `{"response":{"reason":"invalid presence meta: want an object"},"status":"error"}`},
		{"presence_leave", `{}`, `{"response":{},"status":"ok"}`},
	} {
		ref := fmt.Sprint("r", i)
		three.say(fmt.Sprintf(`["1",%q,%q,%q,%s]`, ref, topicP, tt.event, tt.payload))
		if got := three.reply(ref); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.event, got, tt.want)
		}
	}
	s.join(topicP)
	s.say(fmt.Sprintf(`["1","2",%q,"presence_update",{}]`, topicP))
	s.expect(fmt.Sprintf(`["1","2",%q,"phx_reply",{"response":{"reason":"joined without presence"},"status":"error"}]`, topicP))
	check(t, two, three)
}

// Who joins a topic whose state is longer than MAX_QUEUE_BYTES gets it; so does who joins two of them at once.
func TestPhoenixPresence_AFullTopicCanBeJoined(t *testing.T) {
	// So many members as fill the queue of a gateway as it is by default would be written to each other for a minute.
	c := start(t, func(c *cluster.Config) {
		c.Gateway = func(cfg *gateway.Config) { quick(cfg); cfg.MaxQueue, cfg.SoftQueue = 128<<10, 32<<10 }
	})
	const members, topics = 48, 2 // of 4 KiB each, so that a state is longer than 128 KiB
	long := `{"name":"` + strings.Repeat("n", 4000) + `"}`
	var drains sync.WaitGroup
	t.Cleanup(drains.Wait)
	for i := range members {
		s := dialRaw(t, c.Gateways[i%2].Addr)
		for n := range topics {
			s.say(fmt.Sprintf(`["%d","%d","room:full%d","phx_join",{"presence":{"key":"u%03d","meta":%s}}]`, n, n, n, i, long))
		}
		_ = s.conn.SetDeadline(time.Time{})
		drains.Go(func() { _, _ = io.Copy(io.Discard, s.in) })
		t.Cleanup(func() { _ = s.conn.Close() })
	}
	// A client whose reads are as small as its window, and whose gateway has to wait for it.
	slow := dialRaw(t, c.Gateways[0].Addr)
	_ = slow.conn.(*net.TCPConn).SetReadBuffer(32 << 10)
	for n := range topics {
		slow.say(fmt.Sprintf(`["%d","%d","room:full%d","phx_join",{"presence":{"key":"late"}}]`, n, n, n))
	}
	sizes := make(map[string]int) // of states, by topic
	seen := make(map[string]map[string]bool)
	full := func() bool {
		for n := range topics {
			if len(seen[fmt.Sprintf("room:full%d", n)]) != members+1 {
				return false
			}
		}
		return true
	}
	for !full() {
		first, payload, err := slow.read()
		if err != nil || first != finText {
			t.Fatalf("frame %#x %.100q, %v", first, payload, err)
		}
		var f []json.RawMessage
		if err := json.Unmarshal(payload, &f); err != nil || len(f) != 5 {
			t.Fatalf("bad frame: %v", err)
		}
		var topic, event string
		_, _ = json.Unmarshal(f[2], &topic), json.Unmarshal(f[3], &event)
		var state metas
		switch event {
		case "presence_state":
			_ = json.Unmarshal(f[4], &state)
			sizes[topic] = len(payload)
			seen[topic] = make(map[string]bool)
		case "presence_diff":
			var d struct{ Joins metas }
			_ = json.Unmarshal(f[4], &d)
			state = d.Joins
		}
		state.each(func(m meta) { seen[topic][m.Key] = true })
	}
	t.Logf("states of %v bytes", sizes)
}
