package client

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
)

// refsOf shows metas by their references.
func refsOf(metas []PresenceMeta) string {
	refs := make([]string, len(metas))
	for i, m := range metas {
		if refs[i] = m.Ref; m.Prev != "" {
			refs[i] += "<" + m.Prev
		}
	}
	return "[" + strings.Join(refs, " ") + "]"
}

func listed(p *Presence) string {
	var b strings.Builder
	for _, present := range p.List() {
		b.WriteString(present.Key + refsOf(present.Metas))
	}
	return b.String()
}

// watch makes a Presence that records in log what it tells.
func watch(t *testing.T, ch *Channel, log *journal, cfg PresenceConfig) *Presence {
	t.Helper()
	var p *Presence
	cfg.OnJoin = func(key string, before, joined []PresenceMeta) {
		log.add("join %s %s+%s", key, refsOf(before), refsOf(joined))
	}
	cfg.OnLeave = func(key string, remain, left []PresenceMeta) {
		log.add("leave %s %s-%s", key, refsOf(remain), refsOf(left))
	}
	cfg.OnSync = func() { log.add("sync %s", listed(p)) }
	p, err := NewPresence(ch, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func metas(refs ...string) string {
	list := make([]string, len(refs))
	for i, ref := range refs {
		ref, prev, changed := strings.Cut(ref, "<")
		list[i] = fmt.Sprintf(`{"phx_ref":%q,"n":1}`, ref)
		if changed {
			list[i] = fmt.Sprintf(`{"phx_ref":%q,"phx_ref_prev":%q,"n":2}`, ref, prev)
		}
	}
	return `{"metas":[` + strings.Join(list, ",") + `]}`
}

// State and diffs are merged by reference as phoenix.js merges them.
func TestPresenceMerges(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		ch := c.Channel("room:1", map[string]int{"x": 1})
		var log journal
		pr := watch(t, ch, &log, PresenceConfig{Key: "ada", Meta: map[string]string{"device": "phone"}})
		j := join(t, p, ch)
		if want := `{"presence":{"key":"ada","meta":{"device":"phone"}},"x":1}`; j.payload != want {
			t.Errorf("joins with %s, want %s", j.payload, want)
		}
		broadcast := func(joins, leaves string) {
			p.write(fmt.Sprintf(`[null,null,"room:1","presence_diff",{"joins":{%s},"leaves":{%s}}]`, joins, leaves))
		}
		broadcast(`"cy":`+metas("4"), "") // waits for the state
		log.want(t)
		p.push(j, "presence_state", `{"bob":`+metas("2", "3")+`,"ada":`+metas("1")+`}`)
		log.want(t, "join ada []+[1]", "join bob []+[2 3]", "join cy []+[4]", "sync ada[1]bob[2 3]cy[4]")
		broadcast(`"ada":`+metas("5<1"), `"ada":`+metas("1"))
		log.want(t, "join ada [1]+[5<1]", "leave ada [5<1]-[1]", "sync ada[5<1]bob[2 3]cy[4]")
		broadcast("", `"bob":`+metas("3")+`,"cy":`+metas("4")+`,"nobody":`+metas("9"))
		log.want(t, "leave bob [2]-[3]", "leave cy []-[4]", "sync ada[5<1]bob[2]")
		if got := string(pr.Get("ada")[0].Meta); got != `{"phx_ref":"5","phx_ref_prev":"1","n":2}` || pr.Get("cy") != nil {
			t.Errorf("ada shows %s", got)
		}

		// Another join: the view goes on from what was there, and only the difference is told.
		p.push(j, "phx_error", "{}")
		j = p.accept()
		broadcast(`"dee":`+metas("6"), `"bob":`+metas("2")) // ahead of the state, which has that already
		p.push(j, "presence_state", `{"ada":`+metas("5")+`,"dee":`+metas("6")+`}`)
		log.want(t, "join dee []+[6]", "leave bob []-[2]", "join dee [6]+[6]", "sync ada[5<1]dee[6]")
		p.push(j, "presence_state", `{"ada":7}`) // no server of ours says that
		p.push(j, "presence_diff", `[]`)
		log.want(t)
	})
}

// What the channel shows is said again with every join: the last word that was not refused.
func TestPresenceTrack(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		ch := c.Channel("room:1", nil)
		pr := watch(t, ch, new(journal), PresenceConfig{Watch: true})
		if err := pr.Track(t.Context(), map[string]int{"n": 1}); !errors.Is(err, ErrNotJoined) {
			t.Error(err)
		}
		if err := pr.Untrack(t.Context()); !errors.Is(err, ErrNotJoined) {
			t.Error(err)
		}
		result := start(func() error { return ch.Join(t.Context()) })
		j := p.expect("phx_join")
		if j.payload != `{"presence":{"meta":null}}` {
			t.Errorf("joins with %s", j.payload)
		}
		if err := pr.Track(t.Context(), map[string]int{"n": 1}); !errors.Is(err, ErrNotJoined) {
			t.Error(err)
		}
		p.reply(j, "ok", `{"presence":{"key":"1xyz"}}`) // made up, and kept from now on
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		w := p.expect("presence_update") // what was asked for when the join was on its way
		if w.payload != `{"n":1}` {
			t.Errorf("updates with %s", w.payload)
		}
		p.reply(w, "ok", "{}")
		synctest.Wait()
		if pr.Key() != "1xyz" {
			t.Errorf("key %q", pr.Key())
		}
		call := func(event, payload, status string, do func() error) {
			t.Helper()
			result := start(do)
			w := p.expect(event)
			if w.payload != payload {
				t.Errorf("%s %s, want %s", event, w.payload, payload)
			}
			p.reply(w, status, `{"reason":"invalid presence meta"}`)
			if err := <-result; (err == nil) != (status == "ok") {
				t.Error(err)
			}
		}
		rejoined := func(want string) {
			t.Helper()
			p.push(j, "phx_error", "{}")
			if j = p.accept(); j.payload != want {
				t.Errorf("rejoins with %s, want %s", j.payload, want)
			}
			p.expectNothing()
		}
		rejoined(`{"presence":{"key":"1xyz","meta":{"n":1}}}`)
		call("presence_update", `{"n":2}`, "ok", func() error { return pr.Track(t.Context(), map[string]int{"n": 2}) })
		call("presence_update", `{"n":3}`, "error", func() error { return pr.Track(t.Context(), map[string]int{"n": 3}) })
		rejoined(`{"presence":{"key":"1xyz","meta":{"n":2}}}`)
		call("presence_leave", `{}`, "ok", func() error { return pr.Untrack(t.Context()) })
		rejoined(`{"presence":{"key":"1xyz","meta":null}}`)
		if err := pr.Track(t.Context(), 7); !errors.Is(err, ErrNotSent) {
			t.Error(err)
		}
	})
}

func TestPresenceRefusesWhatCannotBe(t *testing.T) {
	inBubble(t, func(t *testing.T, s *server) {
		c, p := s.dial(Config{})
		ch := c.Channel("room:1", nil)
		for _, meta := range []any{7, "x", []int{}, func() {}} {
			if _, err := NewPresence(ch, PresenceConfig{Meta: meta}); err == nil {
				t.Errorf("%T is a meta", meta)
			}
		}
		watch(t, ch, new(journal), PresenceConfig{})
		if _, err := NewPresence(ch, PresenceConfig{}); err == nil || err.Error() != "client: presence on room:1: the channel has one" {
			t.Error(err)
		}
		joined := c.Channel("room:2", nil)
		join(t, p, joined)
		if _, err := NewPresence(joined, PresenceConfig{}); err == nil || err.Error() != "client: presence on room:2: the channel is joined" {
			t.Error(err)
		}
		for params, want := range map[any]string{
			"x":                             `client: phx_join room:3: not sent: params: "x" is no object, which presence needs`,
			[1]int{}:                        `client: phx_join room:3: not sent: params: [0] is no object, which presence needs`,
			presenceTaken{Presence: "mine"}: `client: phx_join room:3: not sent: params: "presence" is there already`,
		} {
			ch := c.Channel("room:3", params)
			watch(t, ch, new(journal), PresenceConfig{})
			if err := ch.Join(t.Context()); err == nil || err.Error() != want {
				t.Errorf("%v\nwant %s", err, want)
			}
		}
	})
}

type presenceTaken struct {
	Presence string `json:"presence"`
}
