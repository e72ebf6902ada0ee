package ring

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// errLayout is about a ring file in order whose YAML is of a kind that an edit does not know how to change.
var errLayout = errors.New("the file is written in a way that this edit does not know: edit it by hand")

// maxPlaces is how many places an edit tries before it gives up with errLayout.
const maxPlaces = 64

// source is the text of a ring file and what it means. The nodes of root say where in the text things stand; nothing
// but the text that an edit is about is ever changed, so comments, blank lines, quotes and line ends stay.
//
// The nodes do not say where things end. An edit therefore tries one place after the other, and takes the first that
// gives a file with exactly the meaning wanted.
type source struct {
	text
	root  *yaml.Node
	file  file
	lines []int // offsets of the beginnings of the lines
}

// splice replaces data[from:to] by text.
type splice struct {
	from, to int
	text     string
}

func newSource(path string, t text) (*source, error) {
	f, root, err := parse(path, t)
	if err != nil {
		return nil, err
	}
	s := &source{text: t, root: root, file: f, lines: []int{0}}
	for i, c := range t.data {
		if c == '\n' {
			s.lines = append(s.lines, i+1)
		}
	}
	return s, nil
}

// add returns the text with one more server, behind the others.
func (s *source) add(want file, server Server) ([]byte, error) {
	list := s.value("servers")
	last := list.Content[len(list.Content)-1]
	_, end := s.span(last)
	if list.Style&yaml.FlowStyle != 0 {
		text := ", " + flowServer(server, quotesKeys(last))
		return s.first(want, end, '}', func(at int) splice { return splice{at, at, text} })
	}
	indent := strings.Repeat(" ", list.Column-1)
	lines := []string{indent + "- " + flowServer(server, quotesKeys(last))}
	if last.Style&yaml.FlowStyle == 0 {
		lines = blockServer(server, indent)
	}
	eol := s.lineEnd()
	return s.first(want, end, '\n', func(at int) splice {
		text := strings.Join(lines, eol) + eol
		if at > 0 && s.data[at-1] != '\n' {
			text = eol + strings.Join(lines, eol)
		}
		return splice{at, at, text}
	})
}

// remove returns the text without server number i. Comments on its own lines go with it, those above it stay.
func (s *source) remove(want file, i int) ([]byte, error) {
	list := s.value("servers")
	item := list.Content[i]
	begin, end := s.span(item)
	if list.Style&yaml.FlowStyle == 0 {
		// The dash may stand on a line above, with nothing behind it but a comment.
		line := item.Line
		for line > 1 && !strings.HasPrefix(strings.TrimLeft(s.line(line), " "), "-") {
			line--
		}
		from := s.lines[line-1]
		return s.first(want, end, '\n', func(at int) splice { return splice{from, at, ""} })
	}
	return s.first(want, end, '}', func(at int) splice {
		rest := bytes.TrimLeft(s.data[at:], " \t\r\n")
		if i+1 < len(list.Content) && bytes.HasPrefix(rest, []byte(",")) {
			// What follows moves up to where this one began.
			rest = bytes.TrimLeft(rest[1:], " \t\r\n")
			return splice{begin, len(s.data) - len(rest), ""}
		}
		before := bytes.TrimRight(s.data[:begin], " \t\r\n")
		return splice{len(bytes.TrimSuffix(before, []byte(","))), at, ""}
	})
}

// first makes the edit that change describes at the first place that gives a file meaning want: just behind each
// of the given bytes from offset from on, and at the end of the text. Version and force are edited along.
func (s *source) first(want file, from int, behind byte, change func(at int) splice) ([]byte, error) {
	head, err := s.head(want)
	if err != nil {
		return nil, err
	}
	for range maxPlaces {
		n := bytes.IndexByte(s.data[from:], behind)
		from += n + 1
		if n < 0 {
			from = len(s.data)
		}
		if out := s.apply(append(slices.Clone(head), change(from))); means(out, want) {
			return out, nil
		}
		if from == len(s.data) {
			break
		}
	}
	return nil, errLayout
}

// salted returns the text with another salt.
func (s *source) salted(want file) ([]byte, error) {
	head, err := s.head(want)
	if err != nil {
		return nil, err
	}
	if out := s.apply(head); means(out, want) {
		return out, nil
	}
	return nil, errLayout
}

// head returns the edits of version, force and salt.
func (s *source) head(want file) ([]splice, error) {
	edits, err := s.set("version", strconv.FormatUint(want.version, 10))
	if err == nil && (want.force || s.value("force") != nil) {
		edits, err = s.set("force", strconv.FormatBool(want.force), edits...)
	}
	if err == nil && want.salt != s.file.salt {
		edits, err = s.set("hash_salt", strconv.Quote(want.salt), edits...)
	}
	return edits, err
}

// set adds to edits the one that gives a field of the file another value. A field that is not there comes behind the
// version.
func (s *source) set(field, value string, edits ...splice) ([]splice, error) {
	if n := s.value(field); n != nil {
		old := n.Value
		switch {
		case n.Style&yaml.DoubleQuotedStyle != 0:
			old = `"` + old + `"`
		case n.Style&yaml.SingleQuotedStyle != 0:
			old = "'" + old + "'"
		}
		begin := s.offset(n)
		if !bytes.HasPrefix(s.data[begin:], []byte(old)) {
			return nil, errLayout
		}
		return append(edits, splice{begin, begin + len(old), value}), nil
	}
	version := s.value("version")
	if s.root.Style&yaml.FlowStyle != 0 {
		if quotesKeys(s.root) {
			field = strconv.Quote(field)
		}
		_, end := s.span(version)
		return append(edits, splice{end, end, ", " + field + ": " + value}), nil
	}
	line := strings.Repeat(" ", s.root.Column-1) + field + ": " + value
	if version.Line < len(s.lines) {
		at := s.lines[version.Line]
		return append(edits, splice{at, at, line + s.lineEnd()}), nil
	}
	return append(edits, splice{len(s.data), len(s.data), s.lineEnd() + line}), nil
}

// apply returns the text with all edits made. They do not overlap; edits at one place come out in their order.
func (s *source) apply(edits []splice) []byte {
	slices.SortStableFunc(edits, func(a, b splice) int { return cmp.Compare(a.from, b.from) })
	var out []byte
	done := 0
	for _, e := range edits {
		out = append(out, s.data[done:max(done, e.from)]...)
		out = append(out, e.text...)
		done = max(done, e.to)
	}
	return append(out, s.data[done:]...)
}

// value returns the value of a field of the file, or nil.
func (s *source) value(field string) *yaml.Node {
	for i := 0; i+1 < len(s.root.Content); i += 2 {
		if s.root.Content[i].Value == field {
			return s.root.Content[i+1]
		}
	}
	return nil
}

// span returns the offsets at which n begins and at which its last scalar would end if it were plain text. A place
// that the text does not have comes out as its end.
func (s *source) span(n *yaml.Node) (begin, end int) {
	begin = s.offset(n)
	for len(n.Content) > 0 {
		n = n.Content[len(n.Content)-1]
	}
	return begin, min(s.offset(n)+len(n.Value), len(s.data))
}

// offset returns where n begins. The library counts columns in characters, which are bytes here: in front of a value,
// a file in order has only field names, ids, addresses and punctuation on the line.
func (s *source) offset(n *yaml.Node) int {
	if n.Line < 1 || n.Line > len(s.lines) {
		return len(s.data)
	}
	return min(s.lines[n.Line-1]+n.Column-1, len(s.data))
}

// line returns a line, counted from 1, without its end.
func (s *source) line(number int) string {
	if number > len(s.lines) {
		return ""
	}
	text, _, _ := bytes.Cut(s.data[s.lines[number-1]:], []byte("\n"))
	return string(text)
}

// lineEnd is how the first line ends.
func (s *source) lineEnd() string {
	if first, _, _ := bytes.Cut(s.data, []byte("\n")); bytes.HasSuffix(first, []byte("\r")) {
		return "\r\n"
	}
	return "\n"
}

// means says whether data is a file in order with the meaning of want.
func means(data []byte, want file) bool {
	got, _, err := parse("", text{data: data})
	return err == nil && got.version == want.version && got.force == want.force && got.salt == want.salt &&
		slices.EqualFunc(got.servers, want.servers, func(a, b entry) bool { return a.Server == b.Server })
}

// quotesKeys says whether a mapping is written as JSON wants it.
func quotesKeys(n *yaml.Node) bool {
	return len(n.Content) > 0 && n.Content[0].Style&yaml.DoubleQuotedStyle != 0
}

func flowServer(s Server, quoted bool) string {
	key := func(name string) string {
		if quoted {
			return strconv.Quote(name)
		}
		return name
	}
	text := fmt.Sprintf("{%s: %q, %s: %q", key("id"), s.ID, key("addr"), s.Addr)
	if s.Weight != 1 {
		text += fmt.Sprintf(", %s: %d", key("weight"), s.Weight)
	}
	return text + "}"
}

func blockServer(s Server, indent string) []string {
	lines := []string{indent + "- id: " + scalar(s.ID), indent + "  addr: " + scalar(s.Addr)}
	if s.Weight != 1 {
		lines = append(lines, fmt.Sprintf("%s  weight: %d", indent, s.Weight))
	}
	return lines
}

// scalar writes text as YAML, in quotes where it would mean something else without.
func scalar(text string) string {
	var n yaml.Node
	if err := yaml.Unmarshal([]byte("- "+text), &n); err == nil && len(n.Content) == 1 && len(n.Content[0].Content) == 1 {
		if n := n.Content[0].Content[0]; n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" && n.Value == text && n.Anchor == "" {
			return text
		}
	}
	return strconv.Quote(text)
}
