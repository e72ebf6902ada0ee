package auth

import (
	"encoding/base64"
	"strings"
)

// protocolPrefix begins the subprotocol by which phoenix.js (1.8 and later) sends its authToken.
const protocolPrefix = "base64url.bearer.phx."

// Subprotocol is the one that is chosen when a client offers protocols. phoenix.js offers it beside its token.
const Subprotocol = "phoenix"

// Offer is where a request may have a token. Each field is as it stands in the request, "" if it is not there.
type Offer struct {
	Authorization string // header
	Phoenix       string // header X-Phoenix-AuthToken
	Protocols     string // header Sec-WebSocket-Protocol
	Query         string // parameter token, unescaped
}

// Token returns the token of a request: of the Authorization header, else of Phoenix's, else of the subprotocol, else of the
// query, where it may end up in the logs of others. It is "" if there is none. What is there and makes no sense is returned as it is, to
// be refused as invalid.
func (o Offer) Token() string {
	if o.Authorization != "" {
		scheme, token, _ := strings.Cut(strings.TrimSpace(o.Authorization), " ")
		if strings.EqualFold(scheme, "Bearer") {
			return strings.TrimSpace(token)
		}
	}
	if o.Phoenix != "" {
		return o.Phoenix
	}
	if token, ok := protocolToken(o.Protocols); ok {
		return token
	}
	return o.Query
}

// protocolToken finds the token among offered protocols.
func protocolToken(protocols string) (string, bool) {
	if len(protocols) > 2*MaxToken {
		return "", false
	}
	for offer := range strings.SplitSeq(protocols, ",") {
		encoded, ok := strings.CutPrefix(strings.TrimSpace(offer), protocolPrefix)
		if !ok {
			continue
		}
		// phoenix.js writes the alphabet of plain base64, in spite of the prefix.
		encoded = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(encoded, "="))
		raw, err := base64.RawURLEncoding.DecodeString(encoded)
		if err != nil {
			return "?", true
		}
		return string(raw), true
	}
	return "", false
}
