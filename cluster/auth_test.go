package cluster_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"

	"github.com/ringcast/ringcast/cluster"
	"github.com/ringcast/ringcast/gateway"
	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/shared/daemon"
	"github.com/ringcast/ringcast/shared/ring"
	"github.com/ringcast/ringcast/topicserver"
)

const tokenSecret = "a secret for tokens, of more than 32 bytes"

// tokenFor returns a token of a user for some topics, with other claims by name and value.
func tokenFor(user string, life time.Duration, topics []string, more ...any) string {
	claims := jwt.MapClaims{
		"iss": "tests", "aud": "ringcast", "sub": user, "iat": time.Now().Unix() - 1, "exp": time.Now().Add(life).Unix(), "topics": topics,
	}
	for i := 0; i < len(more); i += 2 {
		claims[more[i].(string)] = more[i+1]
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(tokenSecret))
	if err != nil {
		panic(err)
	}
	return token
}

// withAuth makes gateways demand tokens.
func withAuth(cfg *gateway.Config) {
	cfg.APIOpen = true
	cfg.Auth.HMACSecret, cfg.Auth.Issuer, cfg.Auth.Audience = tokenSecret, "tests", "ringcast"
}

// startWithAuth starts a cluster whose clients need tokens.
func startWithAuth(t *testing.T, gateways, topicServers int) *cluster.Cluster {
	t.Helper()
	return start(t, func(cfg *cluster.Config) {
		cfg.Gateways, cfg.TopicServers = gateways, topicServers
		cfg.Gateway = func(g *gateway.Config) { quick(g); withAuth(g) }
	})
}

// handshake connects with these headers; query is appended to the URL.
func handshake(t *testing.T, url, query string, header http.Header, protocols ...string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, url+query, &websocket.DialOptions{HTTPHeader: header, Subprotocols: protocols})
	if err == nil {
		t.Cleanup(func() { _ = conn.CloseNow() })
	}
	return conn, resp, err
}

func TestRow5_HandshakesWithoutAGoodToken(t *testing.T) {
	t.Parallel()
	c := startWithAuth(t, 1, 1)
	url := c.Gateways[0].WebSocketURL()
	late := time.Now().Add(-time.Hour)
	for name, test := range map[string]struct{ token, text string }{
		"missing": {"", "token missing"},
		"expired": {tokenFor("neo", time.Until(late), nil), "token expired at " + late.UTC().Format(time.RFC3339)},
		"invalid": {tokenFor("neo", time.Hour, nil) + "x", "token invalid"},
		"no exp":  {tokenFor("neo", time.Hour, nil, "exp", nil), "token invalid"},
	} {
		_, resp, err := handshake(t, url, "&token="+test.token, nil)
		if err == nil {
			t.Errorf("%s: connected", name)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusUnauthorized || string(body) != test.text+"\n" || resp.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %d %q, want 401 %q", name, resp.StatusCode, body, test.text)
		}
		// A browser's page sees neither status nor body, so it is told by the close.
		conn, _, err := handshake(t, url, "&token="+test.token, http.Header{"Origin": {"https://app.example"}})
		if err != nil {
			t.Errorf("%s: from a browser: %v", name, err)
			continue
		}
		_, _, err = conn.Read(t.Context())
		var closed websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != 4401 || closed.Reason != test.text {
			t.Errorf("%s: a browser gets %v, want close 4401 %q", name, err, test.text)
		}
	}
}

func TestHandshakeTakesATokenFromEveryPlace(t *testing.T) {
	t.Parallel()
	c := startWithAuth(t, 1, 1)
	url, token := c.Gateways[0].WebSocketURL(), tokenFor("neo", time.Hour, []string{"room:*"})
	for name, test := range map[string]struct {
		query     string
		header    http.Header
		protocols []string
		want      string // the subprotocol that is chosen
	}{
		"query":       {query: "&token=" + token},
		"header":      {header: http.Header{"Authorization": {"Bearer " + token}}},
		"subprotocol": {protocols: []string{"phoenix", "base64url.bearer.phx." + base64.RawURLEncoding.EncodeToString([]byte(token))}, want: "phoenix"},
	} {
		conn, resp, err := handshake(t, url, test.query, test.header, test.protocols...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != test.want {
			t.Errorf("%s: chosen subprotocol %q, want %q", name, got, test.want)
		}
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(`["1","1","room:1","phx_join",{}]`)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := conn.Read(t.Context()); err != nil || string(got) != `["1","1","room:1","phx_reply",{"response":{},"status":"ok"}]` {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

func TestATokenOfEightSeconds(t *testing.T) {
	t.Parallel()
	c := startWithAuth(t, 1, 1)
	end := time.Now().Add(8 * time.Second)
	client := dial(t, "neo", c.Gateways[0].WebSocketURL()+"&token="+tokenFor("neo", time.Hour, []string{"room:*"}, "exp", end.Unix()))
	client.say(`["1","1","room:1","phx_join",{}]`)
	// The notice is due at once, so it comes before the join's reply, on the topic phoenix, or after it.
	var heard []string
	for range 2 {
		heard = append(heard, client.hear())
	}
	all := strings.Join(heard, "\n")
	if !strings.Contains(all, `["1","1","room:1","phx_reply",{"response":{},"status":"ok"}]`) ||
		!strings.Contains(all, fmt.Sprintf(`"token_expiring",{"expires_at":%d}]`, end.Unix())) {
		t.Errorf("heard %s, want the reply and a notice", all)
	}
	client.expectClose(4401, "token expired at "+end.UTC().Format(time.RFC3339))
	if early := time.Until(end); early > time.Second {
		t.Errorf("closed %v before the end", early)
	}
}

// Strangers who connect where tokens come with joins, and say nothing, are sent away; who has shown a token stays.
func TestAThousandSilentStrangers(t *testing.T) {
	t.Parallel()
	c := start(t, func(cfg *cluster.Config) {
		cfg.Gateways, cfg.TopicServers = 1, 1
		cfg.Gateway = func(g *gateway.Config) {
			quick(g)
			withAuth(g)
			g.Auth.AuthAt, g.Auth.AuthTimeout = auth.AtJoin, 6*time.Second
		}
	})
	gw := c.Gateways[0]
	neo := dial(t, "neo", gw.WebSocketURL())
	neo.say(fmt.Sprintf(`["1","1","room:1","phx_join",{"token":%q}]`, tokenFor("neo", time.Hour, []string{"room:*"})))
	neo.expect(`["1","1","room:1","phx_reply",{"response":{},"status":"ok"}]`)
	const strangers = 1000
	var heard sync.WaitGroup
	var rightly atomic.Int32
	for range strangers {
		s := dialRaw(t, gw.Addr)
		heard.Go(func() {
			if first, payload, err := s.readWithin(time.Minute); err == nil && first == finClose && string(payload) == "\x11\x38no token in time" {
				rightly.Add(1)
			}
			_ = s.conn.Close()
		})
	}
	heard.Wait()
	if n := rightly.Load(); n != strangers {
		t.Errorf("%d of %d were closed with 4408", n, strangers)
	}
	eventually(t, "they are gone", func() bool { stats, _ := gw.Stats(); return stats.Open == 1 })
	neo.say(`["1","2","room:1","publish",["e",{}]]`)
	neo.expect(`["1","2","room:1","phx_reply",{"response":{},"status":"ok"}]`, `["1",null,"room:1","e",{}]`)
}

func TestRevokeWhileJoined_OnEveryGateway(t *testing.T) {
	t.Parallel()
	c := startWithAuth(t, 3, 2)
	token := func(user string, more ...any) string {
		return "&token=" + tokenFor(user, time.Hour, []string{"room:*"}, more...)
	}
	var neo, others []*socket
	for i, g := range c.Gateways {
		for _, who := range []struct {
			list *[]*socket
			user string
		}{{&neo, "neo"}, {&others, "trinity"}} {
			client := dial(t, fmt.Sprint(who.user, i), g.WebSocketURL()+token(who.user, "jti", fmt.Sprint(who.user, i)))
			client.join("room:1")
			*who.list = append(*who.list, client)
		}
	}
	resp, err := http.Post("http://"+c.Gateways[0].Addr+"/api/revoke", "application/json", strings.NewReader(`{"user":"neo"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("revoke: %d %s", resp.StatusCode, body)
	}
	for _, client := range neo {
		client.expectClose(4401, "token revoked")
	}
	old := token("neo")
	for i, g := range c.Gateways {
		eventually(t, "the old token is refused", func() bool {
			_, resp, err := handshake(t, g.WebSocketURL(), old, nil)
			return err != nil && resp != nil && resp.StatusCode == http.StatusUnauthorized
		})
		if _, _, err := handshake(t, g.WebSocketURL(), token("neo", "iat", time.Now().Unix()+1), nil); err != nil {
			t.Errorf("gateway %d refuses a token that was made later: %v", i, err)
		}
	}
	// By token id: one of them alone.
	if err := c.Gateways[1].Disconnect(t.Context(), gateway.Target{TokenID: "trinity2"}); err != nil {
		t.Fatal(err)
	}
	others[2].expectClose(4401, "token revoked")
	others[0].silence()
	others[1].silence()
}

func TestDisconnectRefusesNonsense(t *testing.T) {
	t.Parallel()
	c := startWithAuth(t, 1, 1)
	for _, target := range []gateway.Target{
		{}, {User: "a", TokenID: "b"}, {Session: "no-such-session!"}, {Session: "x"}, {User: strings.Repeat("x", 513)},
	} {
		if err := c.Gateways[0].Disconnect(t.Context(), target); !errors.Is(err, gateway.ErrTarget) {
			t.Errorf("%+v: %v, want ErrTarget", target, err)
		}
	}
}

// lateNodes are nodes of one ring that the test starts when it wants.
type lateNodes struct {
	t    *testing.T
	ring *ring.Ring
}

// gateway starts a gateway whose clients need tokens. It does not wait for links.
func (n *lateNodes) gateway(id string) (*gateway.Gateway, string) {
	n.t.Helper()
	cfg := daemon.Defaults[gateway.Config]()
	quick(&cfg)
	withAuth(&cfg)
	cfg.ID = id
	g, err := gateway.New(cfg, n.ring, daemon.New(zap.NewNop()))
	if err != nil {
		n.t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	n.serve(lis, g.Serve)
	return g, "ws://" + lis.Addr().String() + "/socket/websocket?vsn=2.0.0"
}

func (n *lateNodes) topicserver(id string) (stop func()) {
	n.t.Helper()
	cfg := daemon.Defaults[topicserver.Config]()
	server, _ := n.ring.Server(id)
	cfg.ID, cfg.Addr = id, server.Addr
	s, err := topicserver.New(cfg, n.ring, daemon.New(zap.NewNop()))
	if err != nil {
		n.t.Fatal(err)
	}
	lis, err := net.Listen("tcp", server.Addr)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.serve(lis, s.Serve)
}

func (n *lateNodes) serve(lis net.Listener, serve func(context.Context, net.Listener) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, lis) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("serve: %v", err)
		}
	})
	n.t.Cleanup(stop)
	return stop
}

// A revocation reaches a gateway whose links are down once it has them again, one that is started later, and a topic server
// that has forgotten it. Until then the caller is told who has not confirmed it.
func TestRevocationsOutliveLostLinks(t *testing.T) {
	t.Parallel()
	rg, err := ring.New(1, []ring.Server{{ID: "ts-a", Addr: freeAddr(t)}, {ID: "ts-b", Addr: freeAddr(t)}})
	if err != nil {
		t.Fatal(err)
	}
	nodes := &lateNodes{t, rg}
	token := "&token=" + tokenFor("neo", time.Hour, []string{"room:*"})
	refused := func(url string) {
		t.Helper()
		eventually(t, "the token is refused", func() bool {
			_, resp, err := handshake(t, url, token, nil)
			return err != nil && resp != nil && resp.StatusCode == http.StatusUnauthorized
		})
	}
	first, firstURL := nodes.gateway("gw-1")
	_, secondURL := nodes.gateway("gw-2")
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err = first.Disconnect(soon, gateway.Target{User: "neo"})
	var unconfirmed *gateway.UnconfirmedError
	if !errors.As(err, &unconfirmed) || !slices.Equal(unconfirmed.Servers, []string{"ts-a", "ts-b"}) {
		t.Fatalf("Disconnect without links: %v, want both servers unconfirmed", err)
	}
	refused(firstURL)
	if _, _, err := handshake(t, secondURL, token, nil); err != nil {
		t.Fatalf("the other gateway knows already: %v", err)
	}
	stopA := nodes.topicserver("ts-a")
	refused(secondURL)
	stopB := nodes.topicserver("ts-b") // told by both gateways
	_, thirdURL := nodes.gateway("gw-3")
	refused(thirdURL)
	stopA()
	stopB()
	nodes.topicserver("ts-a") // new processes: they know nothing but what the gateways tell them
	_, fourthURL := nodes.gateway("gw-4")
	refused(fourthURL)
}
