// Package longpoll serves Phoenix's second transport, for clients whose WebSockets something on the way refuses: frames
// come in POSTs and go out in the answers to GETs, which wait for them.
//
// A session is a mailbox of an event loop, so its conversation is that of a socket. It lives on the gateway that opened
// it, its home; the token that the client brings with each request names the home, and a gateway that is not it forwards
// the request there. So requests may come to any gateway.
//
// HTTP's own status is 200 always. The status that counts stands in the body, with words of HTTP that mean other things
// here: 410 without a token is "here is your session", 410 with one is "that session is gone: open another".
package longpoll

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
)

// tokenHeader carries the token of clients that do not put it into the query.
const tokenHeader = "X-Phoenix-Longpoll-Token"

// DefaultWindow is how long a GET waits for frames.
const DefaultWindow = 10 * time.Second

// maxBodyBytes bounds a POST, whatever its frames may be.
const maxBodyBytes = 10_000_000

// Config describes a gateway's long polls. Loops, Allow and Open are needed.
type Config struct {
	Loops *socket.Loops // that the sessions' connections are on
	// Allow is asked at every request, and Open for a new session after it; Open's first result is what the session's
	// connection is opened with. A *fiber.Error of theirs refuses the client: as forbidden, or for now if it is 5xx.
	Allow func(*fiber.Ctx) error
	Open  func(*fiber.Ctx) (func(*socket.Conn) socket.Handler, error)

	// Full, if set, reports whether too many answers wait for their clients. Then no GET takes frames out of a session.
	Full func() bool

	Window     time.Duration // how long a GET waits; a session ends 1.5 windows after its last; default DefaultWindow
	MaxMessage int           // bytes of a frame from a client, of which a POST has up to 100; default 64 KiB
	Key        []byte        // signs tokens; gateways with the same key serve each other's sessions; default random
	Home       string        // host:port where other gateways reach this one
	Peers      *tls.Config   // of connections to other gateways; nil if they serve clients in plain text
	Log        *zap.Logger   // default none
}

// Server is one gateway's long polls. Any goroutine may call its methods.
type Server struct {
	// Static.
	cfg     Config
	tokens  *tokens
	process uint64
	maxBody int
	peers   *http.Client    // to other gateways
	relays  chan struct{}   // holds one value for each request that is being forwarded
	crowded atomic.Uint64   // requests that were not forwarded for want of room there
	serving context.Context // until Close
	cancel  context.CancelFunc

	mu    sync.Mutex
	boxes map[uint64]*socket.Mailbox // by the ID of their connections
}

// New returns the long polls of a gateway. They have no goroutines of their own. The caller must Close them.
func New(cfg Config) *Server {
	if cfg.Window <= 0 {
		cfg.Window = DefaultWindow
	}
	if cfg.MaxMessage <= 0 {
		cfg.MaxMessage = 64 << 10
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	var process [8]byte
	_, _ = rand.Read(process[:]) // never fails
	serving, cancel := context.WithCancel(context.Background())
	return &Server{
		serving: serving, cancel: cancel,
		cfg: cfg, tokens: newTokens(cfg.Key), process: binary.BigEndian.Uint64(process[:]),
		maxBody: min(maxBatch*(base64.StdEncoding.EncodedLen(cfg.MaxMessage)+2), maxBodyBytes),
		peers:   newPeers(cfg.Window, cfg.Peers), relays: make(chan struct{}, maxRelays),
		boxes: make(map[uint64]*socket.Mailbox),
	}
}

// Close lets go of other gateways: requests that are being forwarded are answered 500, so that their clients begin anew by
// another one. Sessions end with their event loops.
func (s *Server) Close() {
	s.cancel()
	s.peers.CloseIdleConnections()
}

// BodyLimit returns how long the body of a request to Serve may be, in bytes, and 0 if that is not for it to say. Only who
// has a token may send a long one, so that a stranger cannot have memory set aside.
func (s *Server) BodyLimit(h *fasthttp.RequestHeader) int {
	if !h.IsPost() {
		return 0
	}
	var uri fasthttp.URI
	if uri.Parse(nil, h.RequestURI()) != nil {
		return 0
	}
	if _, err := s.tokens.verify(tokenOf(h, uri.QueryArgs()), time.Now()); err != nil {
		return 0
	}
	return s.maxBody
}

// Serve answers one request of a client.
func (s *Server) Serve(c *fiber.Ctx) error {
	c.Set(fiber.HeaderAccessControlAllowOrigin, "*") // whose pages may come is for Allow to say
	c.Set(fiber.HeaderCacheControl, "no-store")
	if err := s.cfg.Allow(c); err != nil {
		return refuse(c, err)
	}
	switch c.Method() {
	case fiber.MethodOptions:
		c.Set(fiber.HeaderAccessControlAllowHeaders, c.Get(fiber.HeaderAccessControlRequestHeaders))
		c.Set(fiber.HeaderAccessControlAllowMethods, "get, post, options")
		c.Set(fiber.HeaderAccessControlMaxAge, "3600")
		return c.SendString("")
	case fiber.MethodGet, fiber.MethodPost:
	default:
		c.Set(fiber.HeaderAllow, "GET, POST, OPTIONS")
		return fiber.NewError(fiber.StatusMethodNotAllowed, "want GET or POST")
	}
	if len(c.Request().Header.ContentEncoding()) > 0 { // a few bytes that inflate to many
		return answer(c, reasoned(400, "bad body: want no Content-Encoding"))
	}
	token := tokenOf(&c.Request().Header, c.Context().QueryArgs())
	if token == "undefined" {
		// A phoenix.js before 1.8 that was told 410 takes that for a new session, whose token this is, and does not join
		// its channels again. From 500 it does.
		return answer(c, `{"status":500,"reason":"no session"}`)
	}
	claim, err := s.tokens.verify(token, time.Now())
	switch {
	case err == nil && c.Method() == fiber.MethodGet && s.cfg.Full != nil && s.cfg.Full():
		return refuse(c, fiber.NewError(fiber.StatusServiceUnavailable, "too many answers wait for their clients"))
	case err == errForeign && c.Method() == fiber.MethodGet: //nolint:errorlint // it is returned as it is
		return s.open(c)
	case err != nil:
		return gone(c, err)
	case claim.process != s.process:
		return s.forward(c, claim)
	}
	s.mu.Lock()
	box := s.boxes[claim.id]
	s.mu.Unlock()
	switch {
	case box == nil:
		return gone(c, errors.New("session ended"))
	case c.Method() == fiber.MethodPost:
		return receive(c, box)
	}
	return s.poll(c, box, token)
}

// tokenOf returns the token of a request, "" if there is none. Of several in the query the last is it: the params of a
// client may have a token of their own, and come first.
func tokenOf(h *fasthttp.RequestHeader, query *fasthttp.Args) string {
	if token := h.Peek(tokenHeader); len(token) > 0 {
		return string(token)
	}
	all := query.PeekMulti("token")
	if len(all) == 0 {
		return ""
	}
	return string(all[len(all)-1])
}

// open opens a session and answers with its token.
func (s *Server) open(c *fiber.Ctx) error {
	open, err := s.cfg.Open(c)
	if err != nil {
		return refuse(c, err)
	}
	// Ended may come before OpenMailbox has returned.
	var id uint64
	ended := false
	box, err := s.cfg.Loops.OpenMailbox(socket.MailboxConfig{
		Remote: c.Context().RemoteAddr().String(),
		Idle:   s.cfg.Window * 3 / 2,
		Ended: func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			ended = true
			delete(s.boxes, id)
		},
	}, func(conn *socket.Conn) socket.Handler {
		id = conn.ID()
		return open(conn)
	})
	if err != nil {
		s.cfg.Log.Warn("long poll session not opened", zap.Error(err))
		return refuse(c, fiber.NewError(fiber.StatusServiceUnavailable, "no session can be opened"))
	}
	s.mu.Lock()
	if !ended {
		s.boxes[id] = box
	}
	s.mu.Unlock()
	token := s.tokens.sign(claim{process: s.process, id: id, home: s.cfg.Home, expires: time.Now().Add(tokenLife)})
	return answer(c, `{"status":410,"token":"`+token+`","messages":[]}`)
}

// poll answers with what is queued, as soon as there is something.
func (s *Server) poll(c *fiber.Ctx, box *socket.Mailbox, token string) error {
	frames, err := box.Poll(s.cfg.Window)
	body := append(make([]byte, 0, len(frames)+len(frames)/4+len(token)+64), `{"status":204,"token":"`...)
	body = append(body, token...)
	body, n := appendMessages(append(body, `","messages":`...), frames)
	if n == 0 && err != nil {
		return gone(c, err)
	}
	if n > 0 {
		copy(body, `{"status":200`)
	}
	return answer(c, string(append(body, '}')))
}

// receive hands the frames of a POST to the session.
func receive(c *fiber.Ctx, box *socket.Mailbox) error {
	messages, err := splitBody(c.Request().Body(), c.Get(fiber.HeaderContentType) == "application/x-ndjson")
	if err != nil {
		return answer(c, reasoned(400, "bad body: "+err.Error()))
	}
	if err := box.Deliver(each(messages)); err != nil {
		return gone(c, err)
	}
	return answer(c, `{"status":200}`)
}

// answer sends a body that is JSON.
func answer(c *fiber.Ctx, body string) error {
	c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSONCharsetUTF8)
	return c.SendString(body)
}

// gone tells a client that its session is no more. If it was closed, the answer has the code and the reason that a
// socket's close frame would have had.
func gone(c *fiber.Ctx, err error) error {
	var ce *socket.CloseError
	if errors.As(err, &ce) {
		return answer(c, `{"code":`+strconv.Itoa(ce.Code)+`,`+reasoned(410, ce.Reason)[1:])
	}
	return answer(c, reasoned(410, err.Error()))
}

// refuse tells a client that it gets no session: never, or not now. phoenix.js knows a status for either and no others.
func refuse(c *fiber.Ctx, err error) error {
	var fe *fiber.Error
	if !errors.As(err, &fe) {
		return err
	}
	status := 403
	if fe.Code >= 500 {
		status = 500
	}
	return answer(c, reasoned(status, fe.Message))
}

func reasoned(status int, reason string) string {
	return `{"status":` + strconv.Itoa(status) + `,"reason":` + string(codec.AppendString(nil, reason)) + `}`
}
