package cluster_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ringcast/ringcast/cluster"
	"github.com/ringcast/ringcast/gateway"
	"github.com/ringcast/ringcast/shared/certs"
)

// Each test here is a rule of Phoenix's protocol: the transport (1), frames (2), events (3), long polls (5). Those of the
// handshake stand in the gateway's tests, those of single frames in the codec's.

func TestPhoenix_1_NothingReceivedForTheTimeoutClosesWithACodeToComeBackFrom(t *testing.T) {
	c := start(t, func(cfg *cluster.Config) {
		cfg.Gateways = 1
		cfg.Gateway = func(cfg *gateway.Config) { quick(cfg); cfg.IdleTimeout = 500 * time.Millisecond }
	})
	dialRaw(t, c.Gateways[0].Addr).expectClose(4408, "idle timeout")
}

func TestPhoenix_1_ARestartCloses1012(t *testing.T) {
	c := start(t, func(cfg *cluster.Config) { cfg.Gateways = 1; cfg.Gateway = quick })
	s := dial(t, "client", c.Gateways[0].WebSocketURL())
	s.join("room:1")
	go func() { _ = c.Gateways[0].Stop() }()
	s.expectClose(1012, "gateway restarts")
}

func TestPhoenix_2_V1InABinaryFrame(t *testing.T) {
	c := start(t, func(cfg *cluster.Config) { cfg.Gateways = 1; cfg.Gateway = quick })
	s := dial(t, "client", c.Gateways[0].URL()+"/websocket")
	for _, kind := range []websocket.MessageType{websocket.MessageText, websocket.MessageBinary} {
		if err := s.ws.Write(t.Context(), kind, []byte(`{"topic":"phoenix","event":"heartbeat","payload":{},"ref":0}`)); err != nil {
			t.Fatal(err)
		}
		s.expect(`{"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":0,"topic":"phoenix"}`)
	}
}

// conversation is what a client says and hears on one socket, line by line: what it says begins with >.
var phoenixConversations = []struct{ rule, lines string }{
	{"2 refs are echoed with their type", `
> [7,0,"room:1","phx_join",{}]
[7,0,"room:1","phx_reply",{"response":{},"status":"ok"}]
> [7,"1","room:1","shout",{"n":1}]
[7,"1","room:1","phx_reply",{"response":{},"status":"ok"}]
[7,null,"room:1","shout",{"n":1}]
> ["7","2","room:1","shout",{}]
> [7,null,"room:1","shout",{"n":2}]
[7,null,"room:1","shout",{"n":2}]`},
	{"2 elements beyond the fifth are ignored", `
> [null,"1","phoenix","heartbeat",{},6,[7]]
[null,"1","phoenix","phx_reply",{"response":{},"status":"ok"}]`},
	{"3 heartbeat before any join, with a null payload", `
> [null,"1","phoenix","heartbeat",null]
[null,"1","phoenix","phx_reply",{"response":{},"status":"ok"}]`},
	{"3 join of a topic that nothing matches", `
> ["1","1","nocolon","phx_join",{}]
[null,"1","nocolon","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]
> [null,"2","phoenix","heartbeat",{}]
[null,"2","phoenix","phx_reply",{"response":{},"status":"ok"}]`},
	{"3 duplicate join: the new reply, then the old close", `
> ["1","1","room:1","phx_join",{}]
["1","1","room:1","phx_reply",{"response":{},"status":"ok"}]
> ["2","2","room:1","phx_join",{}]
["2","2","room:1","phx_reply",{"response":{},"status":"ok"}]
["1","1","room:1","phx_close",{}]`},
	{"3 a push with another join_ref is ignored, with none it counts", `
> ["1","1","room:1","phx_join",{}]
["1","1","room:1","phx_reply",{"response":{},"status":"ok"}]
> ["9","2","room:1","shout",{}]
> [null,"3","room:1","shout",{}]
["1","3","room:1","phx_reply",{"response":{},"status":"ok"}]
["1",null,"room:1","shout",{}]`},
	{"3 push before a join and after a leave", `
> ["1","1","room:1","shout",{}]
[null,"1","room:1","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]
> ["1","2","room:1","phx_join",{}]
["1","2","room:1","phx_reply",{"response":{},"status":"ok"}]
> ["1","3","room:1","phx_leave",{}]
["1","3","room:1","phx_reply",{"response":{},"status":"ok"}]
["1","1","room:1","phx_close",{}]
> ["1","4","room:1","shout",{}]
[null,"4","room:1","phx_reply",{"response":{"reason":"unmatched topic"},"status":"error"}]`},
	{"3 leave with an older join_ref is ignored, of what is not joined it is ok", `
> ["1","1","room:1","phx_join",{}]
["1","1","room:1","phx_reply",{"response":{},"status":"ok"}]
> ["0","2","room:1","phx_leave",{}]
> ["5","3","room:2","phx_leave",{}]
["5","3","room:2","phx_reply",{"response":{},"status":"ok"}]`},
}

func TestPhoenix_Conversations(t *testing.T) {
	c := start(t, func(cfg *cluster.Config) { cfg.Gateways = 1; cfg.Gateway = quick })
	for _, tt := range phoenixConversations {
		t.Run(tt.rule, func(t *testing.T) {
			s := dial(t, "client", c.Gateways[0].WebSocketURL())
			for line := range strings.Lines(strings.TrimSpace(tt.lines)) {
				line = strings.TrimSuffix(line, "\n")
				if said, ok := strings.CutPrefix(line, "> "); ok {
					s.say(said)
				} else {
					s.expect(line)
				}
			}
			s.silence()
			_ = s.ws.CloseNow()
		})
	}
}

// poller is a client by long polls whose requests go to the gateways in turn.
type poller struct {
	t        *testing.T
	gateways []*cluster.Gateway
	client   *http.Client // by https; nil is by http
	turn     int
	token    string
	heard    []string
}

func (p *poller) ask(method, body string) (status int, messages []string) {
	p.t.Helper()
	g := p.gateways[p.turn%len(p.gateways)]
	p.turn++
	scheme, client := "http", http.DefaultClient
	if p.client != nil {
		scheme, client = "https", p.client
	}
	target := scheme + "://" + g.Addr + "/socket/longpoll?vsn=2.0.0"
	if p.token != "" {
		target += "&token=" + p.token
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Close = true
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	var got struct {
		Status   int
		Token    string
		Messages []string
	}
	if err == nil {
		err = json.Unmarshal(text, &got)
	}
	if err != nil {
		p.t.Fatalf("%s: %v %s", method, err, text)
	}
	if p.token == "" {
		p.token = got.Token
	}
	return got.Status, got.Messages
}

func (p *poller) say(frames ...string) {
	p.t.Helper()
	if status, _ := p.ask("POST", strings.Join(frames, "\n")); status != 200 {
		p.t.Fatalf("posted: %d", status)
	}
}

// hear polls until so many frames have been heard.
func (p *poller) hear(n int) {
	p.t.Helper()
	for end := time.Now().Add(patience); len(p.heard) < n; {
		status, messages := p.ask("GET", "")
		if status != 200 && (status != 204 || time.Now().After(end)) { // 204: none came for a while
			p.t.Fatalf("polled: %d, heard %q, want %d", status, p.heard, n)
		}
		p.heard = append(p.heard, messages...)
	}
}

func (p *poller) expect(frames ...string) {
	p.t.Helper()
	p.hear(len(frames))
	if !slices.Equal(p.heard, frames) {
		p.t.Fatalf("heard %q, want %q", p.heard, frames)
	}
	p.heard = nil
}

func TestPhoenix_5_LongPollsOverAnyGateway(t *testing.T) {
	c := start(t, func(cfg *cluster.Config) {
		cfg.Gateways = 2
		cfg.Gateway = func(cfg *gateway.Config) { quick(cfg); cfg.LongpollSecret = strings.Repeat("secret", 6) }
	})
	p := &poller{t: t, gateways: c.Gateways}
	if status, _ := p.ask("GET", ""); status != 410 || p.token == "" {
		t.Fatalf("opening: %d", status)
	}
	other := dial(t, "other", c.Gateways[1].WebSocketURL())
	other.join("room:1")
	p.say(`["1","1","room:1","phx_join",{}]`)
	p.expect(`["1","1","room:1","phx_reply",{"response":{},"status":"ok"}]`)
	p.say(`["1","2","room:1","shout",{"n":1}]`, `["1","3","room:1","shout",{"n":2}]`)
	// The messages may come behind both replies.
	p.hear(4)
	reply := func(ref string) string {
		return `["1","` + ref + `","room:1","phx_reply",{"response":{},"status":"ok"}]`
	}
	shout := func(n string) string { return `["1",null,"room:1","shout",{"n":` + n + `}]` }
	for _, pair := range [][2]string{{reply("2"), reply("3")}, {reply("2"), shout("1")}, {reply("3"), shout("2")}, {shout("1"), shout("2")}} {
		first, second := slices.Index(p.heard, pair[0]), slices.Index(p.heard, pair[1])
		if first < 0 || second < first {
			t.Errorf("heard %q, want %s before %s", p.heard, pair[0], pair[1])
		}
	}
	p.heard = nil
	other.expect(`["1",null,"room:1","shout",{"n":1}]`, `["1",null,"room:1","shout",{"n":2}]`)
	other.say(`["1",null,"room:1","shout",{"n":3}]`)
	p.expect(`["1",null,"room:1","shout",{"n":3}]`)
	p.say(`["1","4","room:1","phx_leave",{}]`, `[null,"5","phoenix","heartbeat",{}]`)
	p.expect(`["1","4","room:1","phx_reply",{"response":{},"status":"ok"}]`, `["1","1","room:1","phx_close",{}]`,
		`[null,"5","phoenix","phx_reply",{"response":{},"status":"ok"}]`)
}

// Gateways that serve clients by TLS forward by TLS too: they have one certificate, or each its own for the same name.
func TestPhoenix_5_LongPollsOverAnyGatewayWithTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	ca, err := os.ReadFile(a.file("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"own-0", "own-1"} {
		a.issue(name, certs.Request{Hosts: []string{"localhost", "127.0.0.1"}})
		leaf, err := os.ReadFile(a.file(name + ".pem"))
		if err == nil {
			err = os.WriteFile(a.file(name+".pem"), append(leaf, ca...), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, pairs := range map[string][2]string{"one certificate": {"wss", "wss"}, "one each": {"own-0", "own-1"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := 0
			c := start(t, func(cfg *cluster.Config) {
				cfg.Gateway = func(cfg *gateway.Config) {
					quick(cfg)
					cfg.LongpollSecret = strings.Repeat("secret", 6)
					cfg.TLSCert, cfg.TLSKey = a.file(pairs[n]+".pem"), a.file(pairs[n]+"-key.pem")
					n++
				}
			})
			p := &poller{t: t, gateways: c.Gateways, client: a.client(nil)}
			if status, _ := p.ask("GET", ""); status != 410 || p.token == "" {
				t.Fatalf("opening: %d", status)
			}
			for range 3 { // both requests of each pair go to another gateway than in the one before
				p.say(`[null,"1","phoenix","heartbeat",{}]`)
				p.expect(`[null,"1","phoenix","phx_reply",{"response":{},"status":"ok"}]`)
				p.turn++
			}
		})
	}
	// One whose certificate has nothing to do with the other's gets nothing of its clients' sessions.
	t.Run("a stranger at the address", func(t *testing.T) {
		t.Parallel()
		stranger := newAuthority(t)
		n := 0
		c := start(t, func(cfg *cluster.Config) {
			cfg.Gateway = func(cfg *gateway.Config) {
				quick(cfg)
				cfg.LongpollSecret = strings.Repeat("secret", 6)
				from := []*authority{a, stranger}[n]
				cfg.TLSCert, cfg.TLSKey = from.file("wss.pem"), from.file("wss-key.pem")
				n++
			}
		})
		p := &poller{t: t, gateways: c.Gateways[1:], client: stranger.client(nil)}
		p.ask("GET", "")
		p.gateways, p.client = c.Gateways[:1], a.client(nil)
		if status, _ := p.ask("GET", ""); status != 500 {
			t.Errorf("polled: %d", status)
		}
	})
}
