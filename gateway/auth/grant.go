package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

const (
	maxGrants  = 64
	maxPattern = 255
)

// grant is one element of the claim topics: a pattern, or {"topic": pattern or patterns, "allow": ["join", "publish"]}. A
// bare pattern allows both.
type grant struct {
	pattern pattern
	rights  Right
}

// pattern is an exact topic, `prefix:*`, `*:*` for any prefix:name, or `*` for everything.
type pattern struct {
	text string // of a wildcard: the prefix with its colon
	kind patternKind
}

type patternKind uint8

const (
	exact patternKind = iota
	prefixed
	anyPrefix
	everything
)

var errPattern = errors.New("want *:*, prefix:* or a topic")

func parsePattern(s string) (pattern, error) {
	prefix, wildcard := strings.CutSuffix(s, ":*")
	switch {
	case s == "" || len(s) > maxPattern:
		return pattern{}, errPattern
	case s == "*":
		return pattern{kind: everything}, nil
	case s == "*:*":
		return pattern{kind: anyPrefix}, nil
	case strings.Contains(prefix, "*"):
		return pattern{}, errPattern
	case wildcard && prefix != "":
		return pattern{text: prefix + ":", kind: prefixed}, nil
	case wildcard:
		return pattern{}, errPattern
	}
	return pattern{text: s}, nil
}

func parsePatterns(list string) ([]pattern, error) {
	var all []pattern
	for s := range strings.SplitSeq(list, ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		p, err := parsePattern(s)
		if err != nil {
			return nil, fmt.Errorf("pattern %.64q: %w", s, err)
		}
		all = append(all, p)
	}
	return all, nil
}

func (p *pattern) matches(topic string) bool {
	switch p.kind {
	case exact:
		return topic == p.text
	case prefixed:
		return len(topic) > len(p.text) && strings.HasPrefix(topic, p.text)
	case anyPrefix:
		i := strings.IndexByte(topic, ':')
		return i > 0 && i < len(topic)-1
	}
	return true
}

// grants is the claim topics.
type grants []grant

// UnmarshalJSON implements json.Unmarshaler.
func (gs *grants) UnmarshalJSON(data []byte) error {
	var items []json.RawMessage
	if err := json.Unmarshal(data, &items); err != nil {
		return errors.New("topics: want an array")
	}
	for _, item := range items {
		if err := gs.add(item); err != nil {
			return fmt.Errorf("topics: %w", err)
		}
	}
	return nil
}

func (gs *grants) add(item json.RawMessage) error {
	var one struct {
		Topic stringOrStrings `json:"topic"`
		Allow []string        `json:"allow"`
	}
	rights := Join | Publish
	if len(item) > 0 && item[0] == '"' {
		if err := json.Unmarshal(item, &one.Topic); err != nil {
			return err
		}
	} else {
		if err := json.Unmarshal(item, &one); err != nil {
			return errors.New(`want a pattern or {"topic", "allow"}`)
		}
		rights = 0
		for _, name := range one.Allow {
			switch name {
			case "join":
				rights |= Join
			case "publish":
				rights |= Publish
			default:
				return fmt.Errorf("right %.16q: want join or publish", name)
			}
		}
	}
	if len(*gs)+len(one.Topic) > maxGrants {
		return fmt.Errorf("more than %d patterns", maxGrants)
	}
	for _, text := range one.Topic {
		p, err := parsePattern(text)
		if err != nil {
			return fmt.Errorf("pattern %.64q: %w", text, err)
		}
		*gs = append(*gs, grant{pattern: p, rights: rights})
	}
	return nil
}

type stringOrStrings []string

// UnmarshalJSON implements json.Unmarshaler.
func (s *stringOrStrings) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		*s = make([]string, 1)
		return json.Unmarshal(data, &(*s)[0])
	}
	return json.Unmarshal(data, (*[]string)(s))
}
