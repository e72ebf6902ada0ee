package cluster_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/coder/websocket"
)

// chatPage is the chat page that writes the protocol's first version by hand: no vsn in the URL, a ref that is always the number 0.
type chatPage struct{ *socket }

func openPage(t *testing.T, name string, gw *gatewayProc) *chatPage {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, gw.url()+"/websocket", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://localhost:8000"}}})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	p := &chatPage{&socket{t, name, ws}}
	p.say(`{"topic":"room:1","event":"phx_join","payload":{},"ref":0}`)
	p.expect(`{"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":0,"topic":"room:1"}`)
	return p
}

// chat has each page shout, which all of them hear, the one that shouts too.
func chat(pages ...*chatPage) {
	for _, from := range pages {
		from.t.Helper()
		from.say(fmt.Sprintf(`{"topic":"room:1","event":"shout","payload":{"message":"I am %s"},"ref":0}`, from.name))
		from.expect(`{"event":"phx_reply","payload":{"response":{},"status":"ok"},"ref":0,"topic":"room:1"}`)
		for _, to := range pages {
			to.expect(fmt.Sprintf(`{"ref":null,"topic":"room:1","event":"shout","payload":{"message":"I am %s"}}`, from.name))
		}
	}
}

// Pages on two nodes see each other's lines; one node is killed and the other's pages chat on; it is started again, and a
// third one is added, without a restart of anything.
func TestS3_S6_AChatOverNodesThatComeAndGo(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.topicserver("ts-a")
	s.topicserver("ts-b")
	ws1, ws2 := s.gateway("GATEWAY_ID=ws1"), s.gateway("GATEWAY_ID=ws2")
	ws1.ready()
	ws2.ready()
	ada, ben, cy := openPage(t, "ada", ws1), openPage(t, "ben", ws1), openPage(t, "cy", ws2)
	chat(ada, ben, cy)

	ws2.kill()
	if _, _, err := cy.ws.Read(t.Context()); err == nil {
		t.Error("a page on the killed node is still connected")
	}
	chat(ada, ben)

	ws2.start(t)
	ws2.ready()
	cy = openPage(t, "cy", ws2)
	chat(ada, ben, cy)

	ws3 := s.gateway("GATEWAY_ID=ws3")
	ws3.ready()
	chat(ada, ben, cy, openPage(t, "dee", ws3))
}
