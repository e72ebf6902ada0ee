package gateway

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/gofiber/fiber/v2"
)

// origins says which origins browsers may come from.
type origins struct {
	any      bool // whatever Origin says
	sameHost bool // the host that the request is for, by whatever scheme and port
	sameSite bool // its scheme and port too
	rules    []originRule
}

// originRule is one allowed origin, or several: empty parts match anything.
type originRule struct {
	origin
	below bool // host, and all names below it
}

// origin is a scheme, host and port, in lower case. The port is the one that the scheme implies if none is written.
type origin struct {
	scheme, host, port string
}

// parseOrigins parses a list of what Phoenix's check_origin takes: scheme://host[:port], //host[:port], either with *.
// before the host; :conn for the scheme, host and port that the request is for, true for its host; * or false for
// anything.
func parseOrigins(list []string) (origins, error) {
	var o origins
	var errs []error
	for _, text := range list {
		text = strings.TrimSpace(text)
		switch text {
		case "*", "false":
			o.any = true
		case "true":
			o.sameHost = true
		case ":conn":
			o.sameSite = true
		default:
			rule, ok := parseOriginRule(text)
			if !ok {
				errs = append(errs, fmt.Errorf("%q: want scheme://host[:port], //host[:port], //*.host, :conn, true or *", text))
				continue
			}
			o.rules = append(o.rules, rule)
		}
	}
	return o, errors.Join(errs...)
}

// parseOriginRule reports false for a text that is no rule.
func parseOriginRule(text string) (rule originRule, ok bool) {
	anyScheme := strings.HasPrefix(text, "//")
	if anyScheme {
		text = "any:" + text
	}
	scheme, host, ok := strings.Cut(text, "://")
	if !ok {
		return originRule{}, false
	}
	host, rule.below = strings.CutPrefix(host, "*.")
	if rule.origin, ok = parseOrigin(scheme + "://" + host); !ok {
		return originRule{}, false
	}
	if anyScheme {
		rule.scheme = ""
	}
	return rule, true
}

// parseOrigin reports false for a text that is no origin, such as null.
func parseOrigin(text string) (o origin, ok bool) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Hostname() == "" || strings.Contains(u.Host, "*") || (url.URL{Scheme: u.Scheme, Host: u.Host}) != *u {
		return origin{}, false
	}
	o = origin{strings.ToLower(u.Scheme), strings.ToLower(u.Hostname()), u.Port()}
	if o.port == "" {
		o.port = map[string]string{"http": "80", "https": "443"}[o.scheme]
	}
	return o, true
}

// site returns the origin that pages of the request's own host have, if they come as the request has come.
func site(c *fiber.Ctx) origin {
	scheme := "http"
	if c.Secure() || c.Get(fiber.HeaderXForwardedProto) == "https" { // the TLS may end before the gateway
		scheme = "https"
	}
	o, _ := parseOrigin(scheme + "://" + string(c.Request().Host()))
	return o
}

// allows reports whether a browser may come that says its page is of the given origin, to the site that it is for.
func (o *origins) allows(text string, site origin) bool {
	if o.any {
		return true
	}
	got, ok := parseOrigin(text)
	if !ok {
		return false
	}
	if o.sameSite && got == site || o.sameHost && got.host == site.host {
		return true
	}
	for _, rule := range o.rules {
		if rule.matches(got) {
			return true
		}
	}
	return false
}

// matches compares names whole: a name that merely ends like an allowed one is another.
func (r *originRule) matches(o origin) bool {
	switch {
	case r.scheme != "" && r.scheme != o.scheme, r.port != "" && r.port != o.port:
		return false
	case r.host == o.host:
		return true
	}
	return r.below && strings.HasSuffix(o.host, "."+r.host)
}
