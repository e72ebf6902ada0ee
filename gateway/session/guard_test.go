package session

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
)

const testSecret = "a test secret of more than 32 bytes, for HS256"

// guarded is a house whose clients need tokens.
type guarded struct {
	*house
	verifier *auth.Verifier
	start    time.Time
	later    atomic.Int64 // nanoseconds since start on the sessions' clock, which stands still but for wait
	revoked  atomic.Value // string: the user whose tokens are
}

func newGuarded(t *testing.T, at string) *guarded {
	t.Helper()
	cfg := auth.Config{
		AuthAt: at, HMACSecret: testSecret, Issuer: "iss", Audience: "aud", MaxTokenLife: time.Hour, AuthTimeout: 10 * time.Second,
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	v, err := auth.New(cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	g := &guarded{verifier: v, start: time.Now()}
	g.revoked.Store("")
	g.house = newHouseWith(t, "*:*", Config{Auth: v, Revoked: func(id *auth.Identity) bool { return id.User == g.revoked.Load() }})
	g.onLoop(func() { g.sessions.now = func() time.Time { return g.start.Add(time.Duration(g.later.Load())) } })
	return g
}

// onLoop runs a task on the loop and waits for it.
func (g *guarded) onLoop(task func()) {
	done := make(chan struct{})
	g.loops.Loop(0).Post(func() { task(); close(done) })
	<-done
}

// wait lets the sessions' clock go on.
func (g *guarded) wait(d time.Duration) {
	g.later.Add(int64(d))
	g.onLoop(g.sessions.Tick)
}

// token returns a token that is good for so long, with grants.
func (g *guarded) token(user string, life time.Duration, topics ...any) string {
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": "iss", "aud": "aud", "sub": user, "iat": g.start.Unix() - 1, "exp": g.start.Add(life).Unix(), "topics": topics,
	}).SignedString([]byte(testSecret))
	if err != nil {
		panic(err)
	}
	return token
}

func (g *guarded) connectWith(t *testing.T, k codec.Kind, token string) *client {
	t.Helper()
	id, err := g.verifier.Verify(token)
	if err != nil {
		t.Fatal(err)
	}
	return g.connectAs(t, k, id)
}

func (g *guarded) ends(life time.Duration) int64 { return g.start.Add(life).Unix() }

const (
	okReply      = `["%s","%s","%s","phx_reply",{"response":{},"status":"ok"}]`
	refusalReply = `[%s,"%s","%s","phx_reply",{"response":{"reason":"%s","detail":"%s"},"status":"error"}]`
	noJoin       = "the token does not allow to join this topic"
	noPublish    = "the token does not allow to publish to this topic"
)

func joinFrame(ref, topic, params string) string {
	return fmt.Sprintf(`["%s","%s","%s","phx_join",%s]`, ref, ref, topic, params)
}

func TestGuardRights(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, auth.AtConnect)
	c := g.connectWith(t, codec.PhoenixV2, g.token("neo", time.Minute, "room:1",
		map[string]any{"topic": "room:*", "allow": []string{"join"}}, map[string]any{"topic": "log:*", "allow": []string{"publish"}}))
	c.say(joinFrame("1", "room:1", "{}"), joinFrame("2", "room:2", "{}"), joinFrame("3", "hall:1", "{}"), joinFrame("4", "log:1", "{}"))
	c.expect(fmt.Sprintf(refusalReply, `"3"`, "3", "hall:1", "forbidden", noJoin), fmt.Sprintf(refusalReply, `"4"`, "4", "log:1", "forbidden", noJoin),
		fmt.Sprintf(okReply, "1", "1", "room:1"), fmt.Sprintf(okReply, "2", "2", "room:2"))
	c.say(`["2","5","room:2","e",{}]`, `["2","6","room:2","publish",["e",{}]]`)
	c.expect(fmt.Sprintf(refusalReply, `"2"`, "5", "room:2", "forbidden", noPublish), fmt.Sprintf(refusalReply, `"2"`, "6", "room:2", "forbidden", noPublish))
	c.say(`["1","7","room:1","e",{}]`)
	c.expect(fmt.Sprintf(okReply, "1", "7", "room:1"), `["1",null,"room:1","e",{}]`)
}

func TestGuardJoinTokens(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, auth.AtConnect)
	c := g.connectWith(t, codec.PhoenixV2, g.token("neo", time.Minute))
	param := func(token string) string { return fmt.Sprintf(`{"token":%q}`, token) }
	c.say(joinFrame("1", "room:1", param(g.token("neo", time.Minute, "room:1"))))
	c.expect(fmt.Sprintf(okReply, "1", "1", "room:1"))
	c.say(`["1","2","room:1","e",{}]`)
	c.expect(fmt.Sprintf(okReply, "1", "2", "room:1"), `["1",null,"room:1","e",{}]`)
	for name, test := range map[string]struct{ params, reason, detail string }{
		"of another topic":            {param(g.token("neo", time.Minute, "room:1")), "forbidden", noJoin},
		"of another user":             {param(g.token("smith", time.Minute, "room:*")), "unauthorized", "token invalid"},
		"as realtime-js has it":       {fmt.Sprintf(`{"access_token":%q}`, g.token("neo", time.Minute, "room:3")), "forbidden", noJoin},
		"null, so the session's":      {`{"token":null}`, "forbidden", noJoin},
		"none, but a word like token": {`{"tokens":[]}`, "forbidden", noJoin},
	} {
		c.say(joinFrame("9", "room:2", test.params))
		if got, want := c.hear(), fmt.Sprintf(refusalReply, `"9"`, "9", "room:2", test.reason, test.detail); got != want {
			t.Errorf("%s: heard %s, want %s", name, got, want)
		}
	}
	// The right of a token ends with its channel.
	c.say(`["1","3","room:1","phx_leave",{}]`, joinFrame("4", "room:1", "{}"))
	c.expect(fmt.Sprintf(okReply, "1", "3", "room:1"), `["1","1","room:1","phx_close",{}]`,
		fmt.Sprintf(refusalReply, `"4"`, "4", "room:1", "forbidden", noJoin))
}

// Each bad token costs a verification on the loop, so a session may present only a few.
func TestGuardStrikes(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, auth.AtConnect)
	c := g.connectWith(t, codec.PhoenixV2, g.token("neo", time.Minute))
	for range 3 {
		c.say(joinFrame("1", "room:1", `{"token":"a.b.c"}`))
	}
	for range 2 {
		c.expect(fmt.Sprintf(refusalReply, `"1"`, "1", "room:1", "unauthorized", "token invalid"))
	}
	c.expect("close 4401 token invalid")
}

func TestGuardExpiry(t *testing.T) {
	t.Parallel()
	for _, k := range []codec.Kind{codec.PhoenixV1, codec.PhoenixV2} {
		g := newGuarded(t, auth.AtConnect)
		c := g.connectWith(t, k, g.token("neo", time.Minute, "room:*"))
		lonely := g.connectWith(t, k, g.token("neo", time.Minute, "room:*"))
		want := []string{
			fmt.Sprintf(`["1",null,"room:1","token_expiring",{"expires_at":%d}]`, g.ends(time.Minute)),
			fmt.Sprintf(`[null,null,"phoenix","token_expiring",{"expires_at":%d}]`, g.ends(time.Minute)),
		}
		if k == codec.PhoenixV1 {
			c.say(`{"topic":"room:1","event":"phx_join","payload":{},"ref":"1"}`)
			want = []string{
				fmt.Sprintf(`{"ref":null,"topic":"room:1","event":"token_expiring","payload":{"expires_at":%d}}`, g.ends(time.Minute)),
				fmt.Sprintf(`{"ref":null,"topic":"phoenix","event":"token_expiring","payload":{"expires_at":%d}}`, g.ends(time.Minute)),
			}
		} else {
			c.say(joinFrame("1", "room:1", "{}"))
		}
		c.hear()
		g.wait(29 * time.Second)
		g.wait(2 * time.Second) // the notice
		g.wait(28 * time.Second)
		g.wait(2 * time.Second)
		closed := "close 4401 token expired at " + time.Unix(g.ends(time.Minute), 0).UTC().Format(time.RFC3339)
		c.expect(want[0], closed)
		lonely.expect(want[1], closed)
	}
}

func TestGuardRefresh(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, auth.AtConnect)
	c := g.connectWith(t, codec.PhoenixV2, g.token("neo", time.Minute, "room:*"))
	c.say(joinFrame("1", "room:1", "{}"), joinFrame("2", "room:2", fmt.Sprintf(`{"token":%q}`, g.token("neo", 40*time.Second, "room:2"))))
	c.expect(fmt.Sprintf(okReply, "1", "1", "room:1"), fmt.Sprintf(okReply, "2", "2", "room:2"))

	// The channel's own token ends first. It is told, and a fresh token on the channel is for it alone.
	g.wait(11 * time.Second)
	c.expect(fmt.Sprintf(`["2",null,"room:2","token_expiring",{"expires_at":%d}]`, g.ends(40*time.Second)))
	c.say(fmt.Sprintf(`["2","3","room:2","access_token",{"access_token":%q}]`, g.token("neo", 50*time.Second, "room:2")))
	c.expect(fmt.Sprintf(okReply, "2", "3", "room:2"))
	g.wait(10 * time.Second)
	c.expect(fmt.Sprintf(`["2",null,"room:2","token_expiring",{"expires_at":%d}]`, g.ends(50*time.Second)))

	// One that is no good changes nothing.
	c.say(`["1","4","room:1","access_token",{"access_token":"x"}]`, `["1","5","room:1","access_token",{}]`)
	c.expect(fmt.Sprintf(refusalReply, `"1"`, "4", "room:1", "unauthorized", "token invalid"),
		fmt.Sprintf(refusalReply, `"1"`, "5", "room:1", "unauthorized", "token missing"))
	c.say(fmt.Sprintf(`["0","6","room:1","access_token",{"access_token":%q}]`, g.token("neo", time.Hour, "room:2"))) // of an older join
	c.say(fmt.Sprintf(`["9","7","room:9","access_token",{"access_token":%q}]`, g.token("neo", time.Hour, "room:2")))
	c.expect(`[null,"7","room:9","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]`)

	// The session's is replaced on the topic phoenix; what it does not allow any more ends.
	c.say(fmt.Sprintf(`[null,"8","phoenix","access_token",{"token":%q}]`, g.token("neo", 59*time.Minute, "hall:*")))
	c.expect(`[null,"8","phoenix","phx_reply",{"response":{},"status":"ok"}]`, `["1","1","room:1","phx_error",{}]`)

	// The channel's own ends, and its channel alone.
	g.wait(30 * time.Second)
	c.expect(`["2","2","room:2","phx_error",{}]`)
	c.say(joinFrame("9", "hall:1", "{}"))
	c.expect(fmt.Sprintf(okReply, "9", "9", "hall:1"))
	if n := g.owner.present("room:2"); n != 0 {
		g.eventually("the channel has left", func() bool { return g.owner.present("room:2") == 0 })
	}
}

func TestGuardAtJoin(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, auth.AtJoin)
	silent, bad, good, fresh := g.connect(t, codec.PhoenixV2), g.connect(t, codec.PhoenixV2), g.connect(t, codec.PhoenixV2), g.connect(t, codec.PhoenixV2)
	bad.say(joinFrame("1", "room:1", `{}`))
	bad.expect(fmt.Sprintf(refusalReply, `"1"`, "1", "room:1", "unauthorized", "token missing"))
	good.say(joinFrame("1", "room:1", fmt.Sprintf(`{"token":%q}`, g.token("neo", time.Minute, "room:1"))))
	good.expect(fmt.Sprintf(okReply, "1", "1", "room:1"))
	fresh.say(fmt.Sprintf(`[null,"1","phoenix","access_token",{"access_token":%q}]`, g.token("neo", time.Minute, "room:1")))
	fresh.expect(`[null,"1","phoenix","phx_reply",{"response":{},"status":"ok"}]`)
	g.wait(9 * time.Second)
	g.wait(2 * time.Second)
	silent.expect("close 4408 no token in time")
	bad.expect("close 4408 no token in time")
	for _, c := range []*client{good, fresh} {
		c.say(`[null,"hb","phoenix","heartbeat",{}]`)
		c.expect(`[null,"hb","phoenix","phx_reply",{"response":{},"status":"ok"}]`)
	}
	// Its only token ends: the channel does, and the client may join again with another.
	g.wait(20 * time.Second)
	good.expect(fmt.Sprintf(`["1",null,"room:1","token_expiring",{"expires_at":%d}]`, g.ends(time.Minute)))
	g.wait(30 * time.Second)
	good.expect(`["1","1","room:1","phx_error",{}]`)
	good.say(joinFrame("2", "room:1", fmt.Sprintf(`{"token":%q}`, g.token("neo", time.Hour, "room:1"))))
	good.expect(fmt.Sprintf(okReply, "2", "2", "room:1"))
}

// Whoever brings no token is gone in time also when the clock is set back, an hour here.
func TestGuardAtJoinWhenTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, auth.AtJoin)
	silent, more := g.connect(t, codec.PhoenixV2), g.connect(t, codec.PhoenixV2)
	neo := g.connectWith(t, codec.PhoenixV2, g.token("neo", time.Minute, "room:*"))
	g.wait(time.Second)
	g.wait(-time.Hour)
	late := g.connect(t, codec.PhoenixV2)
	g.wait(9 * time.Second)
	late.say(`[null,"hb","phoenix","heartbeat",{}]`)
	late.expect(`[null,"hb","phoenix","phx_reply",{"response":{},"status":"ok"}]`)
	g.wait(2 * time.Second)
	for _, c := range []*client{silent, more, late} {
		c.expect("close 4408 no token in time")
	}
	// A token's end is a time of day, and comes when it comes.
	neo.say(`[null,"hb","phoenix","heartbeat",{}]`)
	neo.expect(`[null,"hb","phoenix","phx_reply",{"response":{},"status":"ok"}]`)
	g.wait(time.Hour + 20*time.Second)
	neo.expect(fmt.Sprintf(`[null,null,"phoenix","token_expiring",{"expires_at":%d}]`, g.ends(time.Minute)))
}

func TestGuardAtConnectNeedsAToken(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, auth.AtConnect)
	g.connect(t, codec.PhoenixV2).expect("close 4401 token missing")
}

func TestGuardRevoked(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, auth.AtJoin)
	neo := g.connectWith(t, codec.PhoenixV2, g.token("neo", time.Minute, "room:*"))
	neo.say(joinFrame("1", "room:1", "{}"))
	neo.expect(fmt.Sprintf(okReply, "1", "1", "room:1"))
	trinity := g.connectWith(t, codec.PhoenixV2, g.token("trinity", time.Minute, "room:*"))
	own := g.connect(t, codec.PhoenixV2)
	own.say(joinFrame("1", "room:1", fmt.Sprintf(`{"token":%q}`, g.token("neo", time.Minute, "room:1"))))
	own.expect(fmt.Sprintf(okReply, "1", "1", "room:1"))

	token := g.token("neo", time.Minute, "room:1")
	id, err := g.verifier.Verify(token)
	if err != nil {
		t.Fatal(err)
	}
	g.revoked.Store("neo")
	g.loops.Each(func(c *socket.Conn) { c.Handler().(*Session).CheckRevoked() })
	neo.expect("close 4401 token revoked")
	own.expect(`["1","1","room:1","phx_error",{}]`)
	own.say(joinFrame("2", "room:1", fmt.Sprintf(`{"token":%q}`, token)))
	own.expect(fmt.Sprintf(refusalReply, `"2"`, "2", "room:1", "unauthorized", "token revoked"))
	trinity.say(joinFrame("1", "room:1", "{}"))
	trinity.expect(fmt.Sprintf(okReply, "1", "1", "room:1"))
	// Its token was verified before the revocation, and its session opened after it.
	g.connectAs(t, codec.PhoenixV2, id).expect("close 4401 token revoked")
}

func TestGuardIsGivenBack(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, auth.AtConnect)
	for range 20 {
		c := g.connectWith(t, codec.PhoenixV2, g.token("neo", time.Minute, "room:*"))
		c.say(joinFrame("1", "room:1", fmt.Sprintf(`{"token":%q}`, g.token("neo", time.Minute, "room:1"))))
		c.hear()
		c.nc.Close()
	}
	g.eventually("no session is watched", func() (done bool) {
		g.onLoop(func() { done = len(g.sessions.watched) == 0 })
		return done
	})
}

// Where clients need no tokens, a library that sends them anyway is not disturbed.
func TestAccessTokenWithoutAuth(t *testing.T) {
	t.Parallel()
	newHouse(t, "*:*", 0).play(t, codec.PhoenixV2, `
		> ["1","1","room:1","phx_join",{"access_token":"x"}]
		< ["1","1","room:1","phx_reply",{"response":{},"status":"ok"}]
		> ["1","2","room:1","access_token",{"access_token":"x"}]
		< ["1","2","room:1","phx_reply",{"response":{},"status":"ok"}]
		> [null,"3","phoenix","access_token",{"access_token":"x"}]
		< [null,"3","phoenix","phx_reply",{"response":{},"status":"ok"}]
		> ["1","4","room:2","access_token",{"access_token":"x"}]
		< [null,"4","room:2","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]`)
}

// A token's rights are asked of clients of every protocol, for everything that they do.
func TestGuardRightsInOtherProtocols(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, auth.AtConnect)
	identity := func(topics ...any) *auth.Identity {
		id, err := g.verifier.Verify(g.token("neo", time.Minute, topics...))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	only := func(right, topic string) any { return map[string]any{"topic": topic, "allow": []string{right}} }
	plain := func(id *auth.Identity, topic string) *client {
		return g.connectTo(t, func(c *socket.Conn) socket.Handler {
			return g.sessions.OpenPlain(c, PlainOptions{Topics: []string{topic}, Publish: true, Event: PlainEvent}, id)
		})
	}
	plain(identity("room:1"), "room:2").expect("close 4403 not allowed to join room:2")
	plain(identity(only("publish", "room:1")), "room:1").expect("close 4403 not allowed to join room:1")
	listener := plain(identity(only("join", "room:1")), "room:1")
	listener.say("hello")
	listener.expect("close 4403 not allowed to publish to room:1")
	talker := plain(identity("room:1"), "room:1")
	g.eventually("it has joined", func() bool { return g.owner.present("room:1") == 1 })
	talker.say("hello")
	talker.expect(`hello`)

	west := func(id *auth.Identity) *client {
		c := g.connectTo(t, func(c *socket.Conn) socket.Handler {
			return g.sessions.OpenWest(c, codec.WestJSON, WestOptions{Key: "u1"}, id)
		})
		c.text = true
		c.expect(`{"event":"connection_established","from":"west"}`)
		return c
	}
	c := west(identity(only("join", "west:a"), only("publish", "west:b")))
	for _, tt := range [][2]string{
		{`{"event":"subscribe","channel":"b"}`, `{"event":"subscription_failed","channel":"b","from":"west"}`},
		{`{"event":"publish","channel":"a","data":"x"}`, `{"event":"publication_failed","channel":"a","from":"west"}`},
		{`{"event":"register","channel":"c"}`, `{"event":"registration_failed","channel":"c","from":"west"}`},
		{`{"event":"subscribe","channel":"a"}`, `{"event":"subscription_succeeded","channel":"a","from":"west"}`},
		{`{"event":"publish","channel":"b","data":"x"}`, `{"event":"publication_succeeded","channel":"b","from":"west"}`},
	} {
		c.say(tt[0])
		c.expect(tt[1])
	}

	v1 := g.connectAs(t, codec.PhoenixV1, identity(only("join", "room:1")))
	v1.say(`{"topic":"room:2","event":"phx_join","payload":{},"ref":"1"}`)
	v1.expect(`{"event":"phx_reply","payload":{"response":{"reason":"forbidden","detail":"` + noJoin + `"},"status":"error"},"ref":"1","topic":"room:2"}`)
	realtime := g.connectTo(t, func(c *socket.Conn) socket.Handler {
		return g.sessions.OpenRealtime(c, codec.Realtime, identity(only("join", "realtime:a")))
	})
	realtime.say(joinFrame("1", "realtime:a", `{"config":{"broadcast":{"ack":true}}}`))
	realtime.hear()
	realtime.say(`["1","2","realtime:a","broadcast",{"type":"broadcast","event":"e","payload":{}}]`)
	realtime.expect(fmt.Sprintf(refusalReply, `"1"`, "2", "realtime:a", "forbidden", noPublish))
	names := g.connectAs(t, codec.PhoenixV2, identity("room:1"))
	names.say(`["1","1","names","phx_join",{}]`)
	names.hear()
	names.say(`["1","2","names","register",{"name":"r1"}]`, `["1","3","names","send",{"name":"r1","data":"x"}]`)
	for range 2 {
		if heard := names.hear(); !strings.Contains(heard, `"reason":"forbidden"`) {
			t.Errorf("heard %s", heard)
		}
	}
}

// A session that is closed when its own token ends, or is revoked, has no business any more, though the token of a channel ends soon
// too. It used to be due for ever, and its loop did nothing else.
func TestGuardOfAClosingSessionIsNotDue(t *testing.T) {
	t.Parallel()
	for name, closeIt := range map[string]func(g *guarded){
		"expired": func(g *guarded) { g.wait(16 * time.Minute) },
		"revoked": func(g *guarded) {
			g.revoked.Store("neo")
			g.onLoop(func() { g.loops.Each(func(c *socket.Conn) { c.Handler().(*Session).CheckRevoked() }) })
		},
	} {
		g := newGuarded(t, auth.AtConnect)
		c := g.connectWith(t, codec.PhoenixV2, g.token("neo", 15*time.Minute))
		c.say(joinFrame("1", "room:1", fmt.Sprintf(`{"token":%q}`, g.token("neo", 20*time.Minute, "room:1"))))
		c.expect(fmt.Sprintf(okReply, "1", "1", "room:1"))
		closeIt(g)
		g.later.Store(int64(20*time.Minute - 15*time.Second)) // now the channel's token is near its end
		due, ticks := false, make(chan struct{})
		g.loops.Loop(0).Post(func() {
			g.sessions.Tick()
			due = len(g.sessions.watched) > 0 && g.sessions.watched[0].guard.when <= g.sessions.now().Unix()
			close(ticks)
		})
		select {
		case <-ticks:
		case <-time.After(patience):
			t.Fatalf("%s: the loop does nothing else any more", name)
		}
		if due {
			t.Errorf("%s: the session is due still", name)
		}
	}
}
