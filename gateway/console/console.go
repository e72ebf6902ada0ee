// Package console is the page that a gateway serves at /: a small client of its own to try topics with, and a view of
// the gateway. It is embedded, needs nothing from elsewhere, and holds no state on the server.
package console

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/gofiber/fiber/v2"
)

//go:embed index.html style.css app.js client.js icon.svg west.html west.css west.js
var files embed.FS

// policy lets the page load and call what its own gateway serves, and nothing else; nobody may put it into a frame.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// asset is one file and where it is served.
type asset struct {
	path, file, contentType string
}

func assets() []asset {
	return []asset{
		{"/", "index.html", "text/html; charset=utf-8"},
		{"/console/style.css", "style.css", "text/css; charset=utf-8"},
		{"/console/app.js", "app.js", "text/javascript; charset=utf-8"},
		{"/console/client.js", "client.js", "text/javascript; charset=utf-8"},
		{"/console/icon.svg", "icon.svg", "image/svg+xml"},
	}
}

// westAssets are those of the page for WEST's clients, which shares the console's style.
func westAssets() []asset {
	return []asset{
		{"/west", "west.html", "text/html; charset=utf-8"},
		{"/west/west.css", "west.css", "text/css; charset=utf-8"},
		{"/west/west.js", "west.js", "text/javascript; charset=utf-8"},
	}
}

// Register serves the page at / and its parts below /console/. Browsers keep them and ask with If-None-Match whether
// they have changed.
func Register(r fiber.Router) { register(r, assets()) }

// RegisterWest serves the page for WEST's clients at /west. It needs Register.
func RegisterWest(r fiber.Router) { register(r, westAssets()) }

func register(r fiber.Router, list []asset) {
	for _, a := range list {
		body, err := files.ReadFile(a.file)
		if err != nil {
			panic(fmt.Sprintf("console: %v", err)) // the list above and the embedded files differ: a bug found by any test
		}
		r.Get(a.path, serve(a.contentType, body))
	}
}

func serve(contentType string, body []byte) fiber.Handler {
	sum := sha256.Sum256(body)
	tag := `"` + hex.EncodeToString(sum[:12]) + `"`
	return func(c *fiber.Ctx) error {
		c.Set(fiber.HeaderETag, tag)
		c.Set(fiber.HeaderCacheControl, "no-cache") // keep it, but ask
		c.Set(fiber.HeaderContentSecurityPolicy, policy)
		c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
		c.Set(fiber.HeaderReferrerPolicy, "no-referrer")
		if matches(c.Get(fiber.HeaderIfNoneMatch), tag) {
			return c.SendStatus(fiber.StatusNotModified)
		}
		c.Set(fiber.HeaderContentType, contentType)
		return c.Send(body)
	}
}

// matches reports whether an If-None-Match header names the tag (RFC 9110, 13.1.2: by weak comparison).
func matches(header, tag string) bool {
	for part := range strings.SplitSeq(header, ",") {
		part = strings.TrimSpace(part)
		if part == "*" || strings.TrimPrefix(part, "W/") == tag {
			return true
		}
	}
	return false
}
