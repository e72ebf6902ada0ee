package gateway

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
	recovery "github.com/gofiber/fiber/v2/middleware/recover"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/admission"
	"github.com/ringcast/ringcast/gateway/api"
	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/console"
	"github.com/ringcast/ringcast/gateway/session"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
)

// newApp returns the HTTP side of the gateway: it takes the handshakes and hands the connections to the event loops.
func (g *Gateway) newApp() *fiber.App {
	app := fiber.New(fiber.Config{
		AppName:               "ringcast gateway",
		DisableStartupMessage: true,
		CaseSensitive:         true, // as api.Owns is
		ReadTimeout:           handshakeTimeout,
		WriteTimeout:          answerTimeout,
		ReadBufferSize:        maxHeaderBytes,
		StreamRequestBody:     true, // see receiveBody
		// A form is a body like any other, and no temporary file.
		DisablePreParseMultipartForm: true,
		ErrorHandler:                 g.httpError,
	})
	app.Server().HeaderReceived = g.headerReceived
	answer := app.Server().ErrorHandler
	app.Server().ErrorHandler = func(c *fasthttp.RequestCtx, err error) { // of what is no request, or too long a header
		endUnread(c)
		answer(c, err)
	}
	app.Use(arrived, recovery.New(recovery.Config{EnableStackTrace: true, StackTraceHandler: g.handlerPanicked}), checkFraming, g.receiveBody, g.answers.bound)
	app.Server().Logger = strangerLog{g.log}
	app.Server().SecureErrorLogMessage = true // else it logs the headers that it does not understand, with their tokens
	upgrade := g.opens(websocket.New(g.adopt, websocket.Config{
		Subprotocols:   []string{auth.Subprotocol},
		RecoverHandler: g.recoverHandshake,
		// The connection leaves this library right after the handshake; small buffers are all it needs.
		ReadBufferSize: 256, WriteBufferSize: 256,
	}))
	app.All("/socket/websocket", g.checkUpgrade, g.checkOrigin, g.checkProtocol, g.checkVersion, g.authenticate, g.admit, upgrade)
	app.All("/realtime/v1/websocket", g.checkUpgrade, g.checkOrigin, g.checkProtocol, g.checkRealtime, g.authenticate, g.admit, upgrade)
	app.Get("/ws", g.hint, g.checkUpgrade, g.checkOrigin, g.checkPlain, g.authenticate, g.admit, upgrade)
	if g.cfg.West {
		app.All("/websocket/:format/:name?", g.checkFormat, g.checkUpgrade, g.checkOrigin, g.checkWest, g.authenticate, g.admit, upgrade)
	}
	app.All("/socket/longpoll", g.polls.Serve)
	app.Get("/api/cluster", g.requireToken, g.clusterView)
	app.Get("/api/topics/:topic/messages", g.mayRead, g.serveHistory)
	app.Get("/api/topics/:topic/subscribers", g.mayRead, g.topicSubscribers)
	app.Get("/api/topics/:topic/count", g.mayRead, g.topicCount)
	g.api.Register(app)
	g.registerRealtime(app)
	console.Register(app)
	if g.cfg.West {
		console.RegisterWest(app)
	}
	return app
}

// mayRead lets a request pass that has an API key for reading or, where clients need tokens, one that allows to join the
// topic.
func (g *Gateway) mayRead(c *fiber.Ctx) error {
	if g.auth != nil && !g.api.Known(c) {
		return g.requireJoin(c)
	}
	if err := g.api.Allowed(c, api.Read); err != nil {
		return err
	}
	return c.Next()
}

// strangerLog takes what the HTTP server says of connections that fail, such as a TLS handshake with a port scanner. The
// server writes it to stderr as it is; here it is worth a line to those who look for it.
type strangerLog struct{ log *zap.Logger }

// Printf implements fasthttp.Logger.
func (l strangerLog) Printf(format string, args ...any) {
	l.log.Debug("connection failed", zap.String("detail", fmt.Sprintf(format, args...)))
}

// httpError answers a failed request with its status and one line: JSON from the API, else text.
//
// The HTTP server calls it outside of all handlers, and so outside of what recovers their panics.
func (g *Gateway) httpError(c *fiber.Ctx, err error) (answered error) {
	defer func() {
		if p := recover(); p != nil {
			g.handlerPanicked(c, p)
			answered = c.Status(fiber.StatusInternalServerError).SendString("internal error\n")
		}
		g.httpErrors.add(c.Response().StatusCode())
	}()
	status := fiber.StatusInternalServerError
	var fe *fiber.Error
	if errors.As(err, &fe) {
		status = fe.Code
	}
	if api.Owns(c.Path()) {
		if status == fiber.StatusRequestEntityTooLarge {
			err = g.tooLarge(c)
		}
		if api.IsBug(err) {
			g.log.Error("request failed", zap.String("path", c.Path()), zap.Error(err))
		}
		return api.Answer(c, err)
	}
	if fe == nil {
		g.log.Error("request failed", zap.String("path", c.Path()), zap.Error(err))
		err = errors.New("internal error")
	}
	return c.Status(status).SendString(err.Error() + "\n")
}

// errorStatuses are those that failed requests end with.
var errorStatuses = [...]int{400, 401, 403, 404, 405, 408, 413, 415, 426, 429, 431, 500, 501, 503, 504}

// errorCounts counts failed requests by status.
type errorCounts struct {
	by    [len(errorStatuses)]atomic.Uint64
	other atomic.Uint64
}

func (e *errorCounts) add(status int) {
	if i := slices.Index(errorStatuses[:], status); i >= 0 {
		e.by[i].Add(1)
		return
	}
	e.other.Add(1)
}

// checkUpgrade answers what is no WebSocket handshake (RFC 6455, 4.2.1). The library behind would answer 426 to all.
func (g *Gateway) checkUpgrade(c *fiber.Ctx) error {
	switch {
	case c.Method() != fiber.MethodGet:
		c.Set(fiber.HeaderAllow, fiber.MethodGet)
		return fiber.NewError(fiber.StatusMethodNotAllowed, "want GET")
	case !hasToken(c.Get(fiber.HeaderConnection), "upgrade") || !hasToken(c.Get(fiber.HeaderUpgrade), "websocket"):
		c.Set(fiber.HeaderUpgrade, "websocket")
		c.Set(fiber.HeaderConnection, "Upgrade")
		return fiber.NewError(fiber.StatusUpgradeRequired, "expected a WebSocket upgrade")
	case c.Get("Sec-WebSocket-Version") != "13":
		c.Set("Sec-WebSocket-Version", "13")
		return fiber.NewError(fiber.StatusBadRequest, "unsupported Sec-WebSocket-Version: want 13")
	}
	key := c.Get("Sec-WebSocket-Key")
	if key == "" {
		return fiber.NewError(fiber.StatusBadRequest, "missing Sec-WebSocket-Key")
	}
	if raw, err := base64.StdEncoding.DecodeString(key); err != nil || len(raw) != 16 {
		return fiber.NewError(fiber.StatusBadRequest, "invalid Sec-WebSocket-Key")
	}
	return c.Next()
}

// hasToken reports whether a comma-separated header value has the token, whatever its case.
func hasToken(header, token string) bool {
	for part := range strings.SplitSeq(header, ",") {
		if strings.EqualFold(strings.TrimSpace(part), token) {
			return true
		}
	}
	return false
}

// checkOrigin keeps browsers of other sites away.
func (g *Gateway) checkOrigin(c *fiber.Ctx) error {
	if err := g.allowOrigin(c); err != nil {
		return err
	}
	return c.Next()
}

// allowOrigin refuses browsers of other sites. A client that sends no Origin is no browser.
func (g *Gateway) allowOrigin(c *fiber.Ctx) error {
	origins := c.Request().Header.PeekAll(fiber.HeaderOrigin)
	if len(origins) == 0 || (len(origins) == 1 && g.origins.allows(string(origins[0]), site(c))) {
		return nil
	}
	return fiber.NewError(fiber.StatusForbidden, "origin not allowed")
}

// checkProtocol refuses clients that offer subprotocols and not Phoenix's.
func (g *Gateway) checkProtocol(c *fiber.Ctx) error {
	if offered := c.Get(fiber.HeaderSecWebSocketProtocol); offered != "" && !hasToken(offered, auth.Subprotocol) {
		return fiber.NewError(fiber.StatusForbidden, "unsupported Sec-WebSocket-Protocol: want "+auth.Subprotocol)
	}
	return c.Next()
}

// checkVersion picks the codec of a socket.
func (g *Gateway) checkVersion(c *fiber.Ctx) error {
	kind, err := version(c)
	if err != nil {
		return err
	}
	setOpener(c, phoenix(kind))
	return c.Next()
}

// checkRealtime is checkVersion for clients of @supabase/realtime-js.
func (g *Gateway) checkRealtime(c *fiber.Ctx) error {
	kind, err := version(c)
	if err != nil {
		return err
	}
	if kind == codec.PhoenixV2 {
		kind = codec.Realtime
	}
	setOpener(c, func(ss *session.Sessions, conn *socket.Conn, id *auth.Identity) *session.Session {
		return ss.OpenRealtime(conn, kind, id)
	})
	return c.Next()
}

// version picks the codec by Phoenix's vsn parameter; absent means 1.0.0.
func version(c *fiber.Ctx) (codec.Kind, error) {
	vsn := c.Query("vsn", "1.0.0")
	kind, ok := codec.ForVersion(vsn)
	if !ok {
		return 0, fiber.NewError(fiber.StatusForbidden, fmt.Sprintf("unsupported vsn %.32q: want 1.0.0 or 2.0.0", vsn))
	}
	return kind, nil
}

// opener begins the conversation on an upgraded connection of a client with an identity, or nil. The handlers that judge a handshake choose it.
type opener func(ss *session.Sessions, conn *socket.Conn, id *auth.Identity) *session.Session

// phoenix opens conversations of Phoenix clients.
func phoenix(kind codec.Kind) opener {
	return func(ss *session.Sessions, conn *socket.Conn, id *auth.Identity) *session.Session {
		return ss.Open(conn, kind, id)
	}
}

// openerKey is where they leave it for adopt.
const openerKey = "opener"

func setOpener(c *fiber.Ctx, open opener) { c.Locals(openerKey, open) }

// quickPaths begin the targets of handshakes. Nothing behind them waits for anybody, so event loops may serve them.
var quickPaths = [][]byte{[]byte("/socket/websocket"), []byte("/realtime/v1/websocket"), []byte("/ws"), []byte("/websocket/")}

// quick reports whether a whole request without a body is a handshake, for an event loop to serve. What it says no to is
// served all the same.
func quick(request []byte) bool {
	target, ok := bytes.CutPrefix(request, []byte("GET "))
	if !ok || len(request) > maxHeaderBytes/2 || !slices.ContainsFunc(quickPaths, func(path []byte) bool {
		rest, ok := bytes.CutPrefix(target, path)
		return ok && (rest[0] == '?' || rest[0] == ' ' || path[len(path)-1] == '/')
	}) {
		return false
	}
	for line := range bytes.Lines(target) {
		name, _, _ := bytes.Cut(line, []byte(":"))
		for _, body := range []string{fiber.HeaderContentLength, fiber.HeaderTransferEncoding, fiber.HeaderExpect} {
			if len(name) >= len(body) && bytes.EqualFold(bytes.TrimSpace(name), []byte(body)) {
				return false
			}
		}
	}
	return true
}

// opens has the connection opened behind the handshake where an event loop serves that.
func (g *Gateway) opens(upgrade fiber.Handler) fiber.Handler {
	return func(c *fiber.Ctx) error {
		if err := upgrade(c); err != nil {
			return err
		}
		if a, ok := socket.Arrived(c.Context().Conn()); ok {
			a.Open(g.judged(func(key string) any { return c.Locals(key) }))
		}
		return nil
	}
}

// judged returns what begins a connection by what the handlers that judged its handshake have left.
func (g *Gateway) judged(local func(key string) any) func(*socket.Conn) socket.Handler {
	if r, ok := local(turnedAwayKey).(admission.Refusal); ok {
		return g.turnAway(r)
	}
	id, _ := local(identityKey).(*auth.Identity)
	refusal, _ := local(refusalKey).(*auth.Error)
	return g.begin(local(openerKey).(opener), id, refusal)
}

// adopt hands an upgraded connection to its event loop, unless that has it. On return the HTTP server drops its end of it.
func (g *Gateway) adopt(conn *websocket.Conn) {
	if _, ok := socket.Arrived(conn.NetConn()); ok {
		return
	}
	err := g.loops.Adopt(conn.NetConn(), g.judged(func(key string) any { return conn.Locals(key) }))
	if err != nil {
		g.log.Warn("connection not adopted", zap.Error(err))
	}
}

// openPolled is for a session by long polls what the handshake is for a socket's.
func (g *Gateway) openPolled(c *fiber.Ctx) (func(*socket.Conn) socket.Handler, error) {
	kind, err := version(c)
	if err != nil {
		return nil, err
	}
	id, refusal, err := g.identify(tokenOf(c))
	switch {
	case err != nil:
		return nil, fiber.NewError(fiber.StatusServiceUnavailable, err.Error())
	case refusal != nil:
		return nil, fiber.NewError(fiber.StatusUnauthorized, refusal.Error())
	}
	if r := g.room(); r.Refused() {
		return nil, fiber.NewError(fiber.StatusServiceUnavailable, r.String())
	}
	return g.begin(phoenix(kind), id, nil), nil
}

// begin returns what opens the session of a connection, on its event loop, and closes it at once if there is a refusal.
func (g *Gateway) begin(open opener, id *auth.Identity, refusal *auth.Error) func(*socket.Conn) socket.Handler {
	return func(c *socket.Conn) socket.Handler {
		// Either this sees stopping, or the connection is there when stop closes all of them.
		if g.stopping.Load() {
			c.Close(socket.CloseRestart, restartReason)
		}
		if refusal != nil {
			c.Close(session.CloseUnauthorized, refusal.Error())
		}
		return open(g.sessions[c.Loop().Index()], c, id)
	}
}

// handlerPanicked notes that the handler of a request has panicked; the request ends as one that failed. The HTTP server
// itself would let the process die of it.
func (g *Gateway) handlerPanicked(c *fiber.Ctx, p any) {
	g.panics.Add(1)
	g.log.Error("HTTP handler panicked", zap.String("path", c.Path()), zap.Any("panic", p), zap.Stack("stack"))
}

// recoverHandshake stands in for the library's, which sends the panic's text to the client.
func (g *Gateway) recoverHandshake(*websocket.Conn) {
	if p := recover(); p != nil {
		g.panics.Add(1)
		g.log.Error("handshake panicked", zap.Any("panic", p), zap.Stack("stack"))
	}
}

// APIRoutes lists the routes of the HTTP API, as `POST /api/topics/:topic/publish`.
func (g *Gateway) APIRoutes() []string {
	var routes []string
	for _, r := range g.app.GetRoutes(true) {
		// Every GET answers HEAD too, and OPTIONS is for browsers alone.
		if api.Owns(r.Path) && r.Method != fiber.MethodHead && r.Method != fiber.MethodOptions {
			routes = append(routes, r.Method+" "+r.Path)
		}
	}
	return routes
}
