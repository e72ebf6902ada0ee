package session

import (
	"errors"
	"fmt"
	"strings"
)

// Topics says which topics are served.
type Topics struct {
	patterns []pattern
}

// pattern is an exact name, or a prefix with its colon and any name behind it; an empty prefix stands for any.
type pattern struct {
	text     string
	wildcard bool
}

// MaxTopicBytes is the length of the longest topic name.
const MaxTopicBytes = 255

// seedNameError is the answer that clients of topics:… get for a bad name, word for word what the service that
// introduced these topics answers.
const seedNameError = "invalid topic name, must be between 2 and 64 characters long and only contain alphanumeric characters"

// ParseTopics parses a comma-separated list of patterns: `*:*` (any prefix:name), `prefix:*`, or an exact topic. The
// error has one line for each pattern that is wrong.
func ParseTopics(list string) (Topics, error) {
	var t Topics
	var errs []error
	for _, p := range strings.Split(list, ",") {
		p = strings.TrimSpace(p)
		prefix, wildcard := strings.CutSuffix(p, ":*")
		switch {
		case reserved(p):
			errs = append(errs, fmt.Errorf("pattern %q: reserved", p))
		case len(p) > MaxTopicBytes:
			errs = append(errs, fmt.Errorf("pattern %.32q…: %d bytes, at most %d are allowed", p, len(p), MaxTopicBytes))
		case p == "*:*":
			t.patterns = append(t.patterns, pattern{wildcard: true})
		case wildcard && prefix != "" && wellFormed(prefix):
			t.patterns = append(t.patterns, pattern{text: prefix + ":", wildcard: true})
		case !wildcard && wellFormed(p):
			t.patterns = append(t.patterns, pattern{text: p})
		default:
			errs = append(errs, fmt.Errorf("pattern %q: want *:*, prefix:* or a topic", p))
		}
	}
	return t, errors.Join(errs...)
}

// match reports whether a pattern serves the topic.
func (t *Topics) match(topic string) bool {
	for _, p := range t.patterns {
		switch {
		case !p.wildcard && topic == p.text:
			return true
		case p.wildcard && p.text == "":
			if i := strings.IndexByte(topic, ':'); i > 0 && i < len(topic)-1 {
				return true
			}
		case p.wildcard && len(topic) > len(p.text) && strings.HasPrefix(topic, p.text):
			return true
		}
	}
	return false
}

// verdict is what a topic's name alone decides about a join.
type verdict uint8

const (
	served verdict = iota
	unmatched
	invalid
	invalidSeedName // under topics:, which has a rule and a text of its own
)

// judge returns the verdict on a topic, and for invalid what is wrong with it.
func (t *Topics) judge(topic string) (verdict, string) {
	if name, ok := strings.CutPrefix(topic, "topics:"); ok && t.match(topic+"x") {
		if len(name) < 2 || len(name) > 64 || !alphanumeric(name) {
			return invalidSeedName, seedNameError
		}
	}
	switch {
	case topic == "":
		return invalid, "invalid topic: empty"
	case len(topic) > MaxTopicBytes:
		return invalid, fmt.Sprintf("invalid topic: %d bytes, at most %d are allowed", len(topic), MaxTopicBytes)
	case !wellFormed(topic):
		return invalid, "invalid topic: only ASCII letters, digits and _ . : - are allowed"
	case reserved(topic):
		return invalid, "invalid topic: reserved"
	case !t.match(topic):
		return unmatched, ""
	}
	return served, ""
}

// Check says why a topic is not served; nil means that it is. The text is what clients are told: "unmatched topic", or
// "invalid topic: …".
func (t *Topics) Check(topic string) error {
	switch v, text := t.judge(topic); v {
	case served:
		return nil
	case unmatched:
		return errors.New("unmatched topic")
	default:
		return errors.New(text)
	}
}

// reserved reports whether a topic is the protocol's or the service's own.
func reserved(topic string) bool {
	return topic == "phoenix" || topic == namesTopic || strings.HasPrefix(topic, "reg:")
}

func wellFormed(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlphanumeric(c) && c != '_' && c != '.' && c != ':' && c != '-' {
			return false
		}
	}
	return s != ""
}

func alphanumeric(s string) bool {
	for i := range len(s) {
		if !isAlphanumeric(s[i]) {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
