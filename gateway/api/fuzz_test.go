package api

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/gateway/session"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/shared/ring"
)

// FuzzBodies: whatever body a request has, it is understood or refused as JSON, with an offset that lies in it.
func FuzzBodies(f *testing.F) {
	paths := []string{"/api/topics/room:1/publish", "/api/publish", "/api/broadcast", "/api/revoke", "/api/topics/room:1/unsubscribe"}
	for i, seed := range []string{
		`{"event":"e","payload":{}}`, `{"event":"e","binary":true,"payload":"AAAA"}`, `{"messages":[{"topic":"a:b","event":"e","id":"x"}]}`,
		`{"topics":["a:b","a:c"],"event":"e"}`, `{"user":"neo"}`, `{"event":"e","event":"e"}`, `{"\u0065vent":"\ud800"}`, `[]`, ``, "\n\n\n", "\xff",
		`{"event":"e","payload":` + strings.Repeat(`{"a":`, 40) + `1` + strings.Repeat(`}`, 40) + `}`, `{"messages":[` + strings.Repeat(`{},`, 1001) + `{}]}`,
	} {
		f.Add(byte(i), []byte(seed))
		f.Add(byte(i+1), []byte(seed))
	}
	rg, err := ring.New(1, []ring.Server{{ID: "ts", Addr: "127.0.0.1:1"}})
	if err != nil {
		f.Fatal(err)
	}
	loops, err := socket.New(socket.Config{Loops: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(loops.Close)
	unlinked, err := router.New(router.Config{Gateway: "gw", Ring: rg, Loops: loops, Lanes: 1})
	if err != nil {
		f.Fatal(err)
	}
	topics, err := session.ParseTopics("*:*")
	if err != nil {
		f.Fatal(err)
	}
	a := New(Config{
		Router: unlinked, Topics: topics, Open: true, Timeout: 1, // nobody answers
		Disconnect: func(context.Context, Target) ([]string, error) { return nil, nil },
	})
	app := fiber.New(fiber.Config{ErrorHandler: Answer})
	a.Register(app)
	serve := app.Handler()
	f.Fuzz(func(t *testing.T, path byte, body []byte) {
		var ctx fasthttp.RequestCtx
		ctx.Request.Header.SetMethod(fiber.MethodPost)
		ctx.Request.SetRequestURI(paths[int(path)%len(paths)])
		ctx.Request.Header.SetContentType(fiber.MIMEApplicationJSON)
		ctx.Request.SetBody(bytes.Clone(body))
		serve(&ctx)
		var answer struct {
			Error  string
			Offset *int
		}
		text := ctx.Response.Body()
		if err := json.Unmarshal(text, &answer); err != nil {
			t.Fatalf("%q is answered with %q", body, text)
		}
		switch status := ctx.Response.StatusCode(); {
		case status == 400 && (answer.Error != "bad_request" || answer.Offset != nil && (*answer.Offset < 0 || *answer.Offset > len(body))),
			status != 200 && status != 202 && status != 400 && status != 413 && status != 503 && status != 504:
			t.Errorf("%q is answered with %d %q", body, status, text)
		}
	})
}
