package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/coder/websocket"

	"github.com/ringcast/ringcast/client"
)

// echo stands in for a ringcast gateway: it says ok to everything and hands each published message back.
func echo(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	for {
		_, data, err := ws.Read(r.Context())
		if err != nil {
			return
		}
		var frame [5]json.RawMessage
		if err := json.Unmarshal(data, &frame); err != nil {
			return
		}
		reply, _ := json.Marshal([]any{frame[0], frame[1], frame[2], "phx_reply", json.RawMessage(`{"status":"ok","response":{}}`)})
		_ = ws.Write(r.Context(), websocket.MessageText, reply) // a failure ends the next Read
		var message [2]json.RawMessage
		if json.Unmarshal(frame[4], &message) == nil {
			push, _ := json.Marshal([]any{frame[0], nil, frame[2], message[0], message[1]})
			_ = ws.Write(r.Context(), websocket.MessageText, push)
		}
	}
}

func Example() {
	gateway := httptest.NewServer(http.HandlerFunc(echo))
	defer gateway.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	c, err := client.Dial(ctx, gateway.URL+"/socket", client.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	received := make(chan client.Message, 1)
	ch := c.Channel("topics:matrix", nil)
	ch.On("event", func(m client.Message) { received <- m })
	if err := ch.Join(ctx); err != nil {
		fmt.Println(err)
		return
	}
	if err := ch.Publish(ctx, "event", map[string]string{"message": "red pill or blue pill?"}); err != nil {
		fmt.Println(err)
		return
	}
	m := <-received
	fmt.Println(m.Topic, m.Event, string(m.Payload))
	// Output: topics:matrix event {"message":"red pill or blue pill?"}
}
