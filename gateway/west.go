package gateway

import (
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"

	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/session"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
)

const (
	maxWestKey     = 255 // bytes
	minWestTimeout = 100 * time.Millisecond
	maxWestTimeout = 24 * time.Hour
)

// westFormats are the last but one part of a WEST client's path.
func westFormat(name string) (codec.Kind, bool) {
	switch name {
	case "json":
		return codec.WestJSON, true
	case "text":
		return codec.WestText, true
	case "pb":
		return codec.WestPB, true
	}
	return 0, false
}

// checkFormat keeps away what is no path of WEST's.
func (g *Gateway) checkFormat(c *fiber.Ctx) error {
	if _, ok := westFormat(c.Params("format")); !ok {
		return fiber.NewError(fiber.StatusNotFound, "want /websocket/json/NAME, /websocket/text/NAME or /websocket/pb/NAME")
	}
	return c.Next()
}

// checkWest reads what a WEST client asks for: its user name from the path, the rest from parameters. Those that other
// servers of WEST know and that are not looked at here are protocol, which the path says already, and close_unmasked,
// since an unmasked frame always closes the socket.
func (g *Gateway) checkWest(c *fiber.Ctx) error {
	kind, _ := westFormat(c.Params("format"))
	var opts session.WestOptions
	name, err := url.PathUnescape(c.Params("name"))
	if err != nil || len(name) > maxWestKey || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return fiber.NewError(fiber.StatusBadRequest, "invalid user name: want 1 to 255 bytes of UTF-8 without control characters")
	}
	if err := checkSlow(c); err != nil {
		return err
	}
	opts.Key = strings.Clone(name) // the server uses its buffers again
	for _, flag := range []struct {
		name  string
		value *bool
	}{{"keepalive", &opts.Keepalive}, {"drop", &opts.Drop}} {
		switch c.Query(flag.name, "false") {
		case "true":
			*flag.value = true
		case "false":
		default:
			return fiber.NewError(fiber.StatusBadRequest, "invalid "+flag.name+": want true or false")
		}
	}
	if text := c.Query("timeout", "infinity"); text != "infinity" {
		ms, err := strconv.ParseUint(text, 10, 32)
		opts.Timeout = time.Duration(ms) * time.Millisecond
		if err != nil || opts.Timeout < minWestTimeout || opts.Timeout > maxWestTimeout {
			return fiber.NewError(fiber.StatusBadRequest, "invalid timeout: want 100 to 86400000 milliseconds, or infinity")
		}
	}
	setOpener(c, func(ss *session.Sessions, conn *socket.Conn, id *auth.Identity) *session.Session {
		return ss.OpenWest(conn, kind, opts, id)
	})
	return c.Next()
}
