package ring

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/ringcast/ringcast/shared/secretfile"
)

// Load reads the ring file at path. It follows symbolic links and reads at most MaxFileSize+1 bytes.
//
// An error about the content is an *Error. Other errors wrap the cause, so errors.Is(err, fs.ErrNotExist) works; their
// text names the file and what was tried: "ring file /etc/ring.yaml: open: no such file or directory".
func Load(path string) (*Ring, error) {
	t, err := readNamed(path)
	if err != nil {
		return nil, err
	}
	return t.ring(path)
}

// text is what stands in a ring file.
type text struct {
	data    []byte
	exposed error // why the file must not hold a secret, or nil
}

// ring is Parse of a text.
func (t text) ring(path string) (*Ring, error) {
	f, _, err := parse(path, t)
	if err != nil {
		return nil, err
	}
	return build(f), nil
}

// readNamed is read with errors that name the file and what was tried.
func readNamed(path string) (text, error) {
	t, err := read(path)
	if err != nil {
		return text{}, named(path, err)
	}
	return t, nil
}

// named says of err which ring file it is about. A path that err names itself is left out: it is the same one, or
// that of a file nobody asked for.
func named(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("ring file %s: %s: %w", path, pe.Op, pe.Err)
	}
	return fmt.Errorf("ring file %s: %w", path, err)
}

func read(path string) (text, error) {
	// Opening a named pipe would wait for its writer, for ever if need be.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		if info.IsDir() {
			return text{}, errors.New("open: is a directory")
		}
		return text{}, errors.New("open: not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return text{}, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return text{}, err
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	return text{data, secretfile.CheckMode(info)}, err
}

// Parse builds the ring that data, the content of a ring file, describes. path only names the file in errors. Parse
// is strict: a field it does not know, a field given twice, a wrong type, an anchor or alias, a second document, or a
// value out of bounds refuses the whole file, with an *Error that names every such problem.
func Parse(path string, data []byte) (*Ring, error) { return text{data: data}.ring(path) }

// parse is Parse without building the ring. The root is that of the one document in the text; its nodes say where things
// stand.
func parse(path string, t text) (f file, root *yaml.Node, err error) {
	var rep report
	rep.checkText(t.data)
	if err := rep.err(path); err != nil {
		return file{}, nil, err
	}
	root = rep.document(t.data)
	if err := rep.err(path); err != nil {
		return file{}, nil, err
	}
	f = rep.file(root)
	rep.checkExposed(f, t.exposed)
	if err := rep.err(path); err != nil {
		return file{}, nil, err
	}
	return f, root, nil
}

// checkText reports what keeps data from being YAML text at all, before the YAML parser sees it: that one would
// accept UTF-16 and byte order marks, and says of bad bytes only that there are some.
func (r *report) checkText(data []byte) {
	if len(data) > MaxFileSize {
		r.add(position{}, "larger than %d bytes: this is no ring file", MaxFileSize)
		return
	}
	if bytes.HasPrefix(data, []byte("\xef\xbb\xbf")) {
		r.add(position{1, 1}, "begins with a byte order mark: save it as UTF-8 without one")
		return
	}
	at := position{1, 1}
	for len(data) > 0 {
		c, size := utf8.DecodeRune(data)
		switch {
		case c == utf8.RuneError && size == 1:
			r.add(at, "byte 0x%02x is not UTF-8", data[0])
			return
		case c < ' ' && c != '\t' && c != '\n' && c != '\r', c >= 0x7f && c < 0xa0 && c != 0x85, c == 0xfeff:
			r.add(at, "control character %U", c)
			return
		}
		at.column++
		if c == '\n' {
			at = position{at.line + 1, 1}
		}
		data = data[size:]
	}
}

// document returns the root of the only document in data, or reports why there is none.
func (r *report) document(data []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	err := dec.Decode(&doc)
	if err == nil {
		err = dec.Decode(&next)
		if err == nil {
			r.add(position{next.Line, next.Column}, "a second document begins: a ring file is one document")
			return nil
		}
		if errors.Is(err, io.EOF) {
			return doc.Content[0]
		}
	}
	if errors.Is(err, io.EOF) {
		r.add(position{1, 1}, "empty: want version and servers")
		return nil
	}
	line, text := splitYAMLError(err)
	// The end of the file counts as a line of its own there.
	line = min(line, bytes.Count(data, []byte("\n"))+1)
	r.add(position{line: line}, "not YAML: %s", text)
	return nil
}

// grammarProblem matches the problems whose line the library counts from 0: those its parser finds, not its scanner.
var grammarProblem = regexp.MustCompile(`^did not find expected (<document start>|node content|key|'-' indicator|',' or '.')$` +
	`|^found undefined tag handle$`)

// splitYAMLError takes "yaml: line 3: text" apart. The library leaves the line out when it is the first, and when
// the problem is an alias of nothing, which then has line 0 here.
func splitYAMLError(err error) (line int, text string) {
	text = strings.TrimPrefix(err.Error(), "yaml: ")
	if strings.HasPrefix(text, "unknown anchor ") {
		return 0, "an alias, text with * before it, of nothing" // what is taken for its name may be a secret
	}
	line = 1
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		number, rest, _ := strings.Cut(rest, ": ")
		if n, err := strconv.Atoi(number); err == nil {
			line, text = n, rest
			if grammarProblem.MatchString(text) {
				line++
			}
		}
	}
	return line, text
}

// file reads the root of a ring file and reports everything wrong in it.
func (r *report) file(root *yaml.Node) file {
	var f file
	if !r.plain(root) {
		return f
	}
	if root.Kind != yaml.MappingNode {
		r.add(at(root), "want the fields version and servers, found %s", kind(root))
		return f
	}
	fields := r.fields(root, "the file", "version", "servers", "force", "hash_salt")
	if n := fields["version"]; n == nil {
		r.add(at(root), "version is missing: the first version is 1, every edit raises it")
	} else {
		f.version = r.version(n)
	}
	if n := fields["force"]; n != nil {
		f.force = r.force(n)
	}
	if n := fields["hash_salt"]; n != nil {
		f.salt, f.saltAt = r.salt(n), at(n)
	}
	n := fields["servers"]
	switch {
	case n == nil:
		r.add(at(root), "servers is missing: a ring needs at least one server")
	case !r.plain(n):
	case n.Kind == yaml.SequenceNode || n.ShortTag() == "!!null":
		for i, item := range n.Content {
			f.servers = append(f.servers, r.server(i, item))
		}
		r.checkServers(at(n), f.servers)
	default:
		r.add(at(n), "servers: want a list, each element beginning with \"- id:\", found %s", kind(n))
	}
	return f
}

// server reads element i of the list of servers.
func (r *report) server(i int, n *yaml.Node) (e entry) {
	e.at.entry = at(n)
	if !r.plain(n) {
		return e
	}
	if n.Kind != yaml.MappingNode {
		r.add(at(n), "server number %d: want the fields id and addr, found %s", i+1, kind(n))
		return e
	}
	fields := r.fields(n, fmt.Sprintf("server number %d", i+1), "id", "addr", "weight")
	if v := fields["id"]; v != nil {
		e.at.id = at(v)
		if id, ok := r.text(v, fmt.Sprintf("server number %d: id", i+1)); ok {
			e.ID, e.has = id, e.has|hasID
		}
	} else {
		r.add(e.at.entry, "server number %d: id is missing", i+1)
	}
	if v := fields["addr"]; v != nil {
		e.at.addr = at(v)
		if addr, ok := r.text(v, e.name(i)+": addr"); ok {
			e.Addr, e.has = addr, e.has|hasAddr
		}
	} else {
		r.add(e.at.entry, "%s: addr is missing", e.name(i))
	}
	v := fields["weight"]
	if v == nil {
		e.Weight, e.has = 1, e.has|hasWeight
		return e
	}
	e.at.weight = at(v)
	if w, ok := r.weight(v, e.name(i)); ok {
		e.Weight, e.has = w, e.has|hasWeight
	}
	return e
}

// fields returns the values of mapping n by name, without those that are unknown or repeated, which it reports.
func (r *report) fields(n *yaml.Node, owner string, known ...string) map[string]*yaml.Node {
	first := map[string]*yaml.Node{} // keys, to say where a repeated one stood before
	values := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !r.plain(key) {
			continue
		}
		name, ok := "", key.Kind == yaml.ScalarNode
		for _, k := range known {
			if ok && key.Value == k {
				name = k
			}
		}
		switch {
		case name == "":
			r.add(at(key), "%s has an unknown field %s: known are %s", owner, quote(key.Value), strings.Join(known, ", "))
		case first[name] != nil:
			r.add(at(key), "%s has the field %s twice: first on line %d", owner, name, first[name].Line)
		default:
			first[name], values[name] = key, value
		}
	}
	return values
}

// plain reports anchors and aliases and says whether n is free of them itself.
func (r *report) plain(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode {
		r.add(at(n), "alias *%s: a ring file spells everything out", bare(n.Value))
		return false
	}
	if n.Anchor != "" {
		r.add(at(n), "anchor &%s: a ring file spells everything out", bare(n.Anchor))
		return false
	}
	return true
}

func (r *report) text(n *yaml.Node, what string) (string, bool) {
	if !r.plain(n) {
		return "", false
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		hint := ""
		if n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null" {
			hint = "; quotes make it text"
		}
		r.add(at(n), "%s: want text, found %s%s", what, kind(n), hint)
		return "", false
	}
	return n.Value, true
}

func (r *report) version(n *yaml.Node) uint64 {
	if !r.plain(n) {
		return 0
	}
	v, err := strconv.ParseUint(n.Value, 10, 64)
	switch {
	case !isNumber(n):
		r.add(at(n), "version: want a whole number from 1, found %s", kind(n))
	case strings.HasPrefix(n.Value, "-") || n.Value == "0":
		r.add(at(n), "version is %s: the first version is 1", bare(n.Value))
	case errors.Is(err, strconv.ErrRange):
		r.add(at(n), "version %s is too large", quote(n.Value))
	case err != nil || strconv.FormatUint(v, 10) != n.Value:
		r.add(at(n), "version %s: want plain decimal digits", quote(n.Value))
	}
	return v
}

func (r *report) force(n *yaml.Node) bool {
	if !r.plain(n) {
		return false
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || n.Value != "true" && n.Value != "false" {
		r.add(at(n), "force: want true or false, found %s", kind(n))
	}
	return n.Value == "true"
}

// salt reads a salt. Nothing that it reports has a part of the text: a salt may look like an alias, a tag or a number.
func (r *report) salt(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || n.Anchor != "" || n.ShortTag() != "!!str" {
		r.add(at(n), "hash_salt: want text; quotes make it text")
		return ""
	}
	if n.Value == "" {
		r.add(at(n), "hash_salt is empty: leave it out if there is to be none")
	}
	r.checkSalt(at(n), n.Value)
	return n.Value
}

func (r *report) weight(n *yaml.Node, owner string) (int, bool) {
	if !r.plain(n) {
		return 0, false
	}
	if !isNumber(n) {
		r.add(at(n), "%s: weight: want a whole number from 1 to %d, found %s", owner, MaxWeight, kind(n))
		return 0, false
	}
	w, err := strconv.Atoi(n.Value)
	if err != nil || strconv.Itoa(w) != n.Value {
		r.add(at(n), "%s: weight %s: want plain decimal digits, from 1 to %d", owner, quote(n.Value), MaxWeight)
		return 0, false
	}
	return w, true
}

// isNumber says whether n is what YAML takes for a whole number. One that is too large for YAML's integers turns
// into a float, and is still made of digits.
func isNumber(n *yaml.Node) bool {
	if n.Kind != yaml.ScalarNode {
		return false
	}
	tag := n.ShortTag()
	return tag == "!!int" || tag == "!!float" && n.Value != "" && strings.Trim(n.Value, "0123456789") == ""
}

func at(n *yaml.Node) position { return position{n.Line, n.Column} }

// kind describes a node to somebody who does not know YAML's own words.
func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "fields"
	case yaml.SequenceNode:
		return "a list"
	}
	switch tag := n.ShortTag(); tag {
	case "!!null":
		return "nothing"
	case "!!str":
		return "the text " + quote(n.Value)
	case "!!int", "!!float":
		return "the number " + bare(n.Value)
	case "!!bool":
		return "the truth value " + bare(n.Value)
	default:
		return quote(n.Value) + " of type " + quote(tag)
	}
}
