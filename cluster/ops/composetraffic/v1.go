package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/coder/websocket"
)

// frameV1 is one frame of protocol version 1.
type frameV1 struct {
	Topic   string          `json:"topic"`
	Event   string          `json:"event"`
	Payload json.RawMessage `json:"payload"`
	Ref     any             `json:"ref"`
}

// shoutV1 does what a page with a hand-written client does: no vsn, a page of another origin, refs that are numbers and
// repeat. It wants its join answered and to hear its own shout.
func shoutV1(ctx context.Context, url string) (string, error) {
	const topic, shout = "room:page", `{"message":"hello from the page"}`
	page := &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://localhost:8000"}}}
	ws, _, err := websocket.Dial(ctx, strings.TrimSuffix(url, "/")+"/websocket", page) //nolint:bodyclose // the library closes it
	if err != nil {
		return "", err
	}
	defer func() { _ = ws.CloseNow() }()
	say := func(event, payload string) error {
		frame := fmt.Sprintf(`{"topic":%q,"event":%q,"payload":%s,"ref":0}`, topic, event, payload)
		return ws.Write(ctx, websocket.MessageText, []byte(frame))
	}
	// hear reads frames until one has the event, and wants that payload in it.
	hear := func(event, payload string) error {
		for {
			_, data, err := ws.Read(ctx)
			if err != nil {
				return fmt.Errorf("waiting for %s: %w", event, err)
			}
			var f frameV1
			if err := json.Unmarshal(data, &f); err != nil || f.Topic != topic {
				return fmt.Errorf("waiting for %s: heard %s", event, data)
			}
			if f.Event != event {
				continue
			}
			if !strings.Contains(string(f.Payload), payload) {
				return fmt.Errorf("heard %s, want %s", data, payload)
			}
			return nil
		}
	}
	if err := say("phx_join", "{}"); err != nil {
		return "", err
	}
	if err := hear("phx_reply", `"status":"ok"`); err != nil {
		return "", err
	}
	if err := say("shout", shout); err != nil {
		return "", err
	}
	if err := hear("shout", shout); err != nil {
		return "", err
	}
	return "the page joined and heard its own shout", nil
}
