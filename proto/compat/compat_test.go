package compat

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ringcast/ringcast/proto/linkpb"
)

var release = flag.String("release", "", "write the transcript of the present code for the release of this name")

// A transcript has a line for every item that can travel in each direction, with every field set:
//
//	Up hello 0a2e…
//
// What a field is set to follows from its number and type alone, so a transcript is checked without anything beside it.

// batches are the messages that travel whole. Those with a oneof make a line for each of its members.
func batches() []proto.Message {
	return []proto.Message{new(linkpb.Up), new(linkpb.Down), new(linkpb.Wants), new(linkpb.Gives)}
}

// transcript returns the lines of the present code.
func transcript() (lines []string) {
	for _, m := range batches() {
		name := string(m.ProtoReflect().Descriptor().Name())
		items := m.ProtoReflect().Descriptor().Fields().ByName("items")
		if items == nil {
			fill(m.ProtoReflect())
			lines = append(lines, line(name, "whole", m))
			continue
		}
		members := items.Message().Fields()
		for i := range members.Len() {
			batch := m.ProtoReflect().New()
			item := batch.Mutable(items).List().AppendMutable().Message()
			fill(item.Mutable(members.Get(i)).Message())
			lines = append(lines, line(name, string(members.Get(i).Name()), batch.Interface()))
		}
	}
	return lines
}

func line(direction, item string, m proto.Message) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("%s %s %s", direction, item, hex.EncodeToString(b))
}

// fill sets every field of a message, and two elements of every list.
func fill(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case fd.IsList() && fd.Message() != nil:
			for range 2 {
				fill(m.Mutable(fd).List().AppendMutable().Message())
			}
		case fd.IsList():
			for range 2 {
				m.Mutable(fd).List().Append(sample(fd))
			}
		case fd.Message() != nil:
			fill(m.Mutable(fd).Message())
		default:
			m.Set(fd, sample(fd))
		}
	}
}

// sample is what a field is set to.
func sample(fd protoreflect.FieldDescriptor) protoreflect.Value {
	n := int64(fd.Number())
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(1 + n%3))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprintf("text %d", n))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(fmt.Appendf(nil, "bytes %d", n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(1000 + uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(1<<40 + uint64(n))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(-1000 - int32(n))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(-1<<40 - n)
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(n) + 0.5)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n) + 0.5)
	}
	panic(fmt.Sprintf("no sample for %v", fd.Kind()))
}

// check tells what the present code does not understand of a message that an earlier one filled: a field that it does
// not know any more, or takes for something else.
func check(m protoreflect.Message) (err error) {
	if len(m.GetUnknown()) > 0 {
		return fmt.Errorf("%s: fields are not known any more: %x", m.Descriptor().Name(), m.GetUnknown())
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		one := func(v protoreflect.Value) {
			switch {
			case err != nil:
			case fd.Message() != nil:
				err = check(v.Message())
			case !v.Equal(sample(fd)):
				err = fmt.Errorf("%s.%s: %v, want %v", m.Descriptor().Name(), fd.Name(), v, sample(fd))
			}
		}
		if fd.IsList() {
			for i := range v.List().Len() {
				one(v.List().Get(i))
			}
		} else {
			one(v)
		}
		return err == nil
	})
	return err
}

// understand checks one line of a transcript.
func understand(text string) error {
	words := strings.Fields(text)
	if len(words) != 3 {
		return fmt.Errorf("%d words, want 3", len(words))
	}
	b, err := hex.DecodeString(words[2])
	if err != nil {
		return err
	}
	for _, m := range batches() {
		if string(m.ProtoReflect().Descriptor().Name()) != words[0] {
			continue
		}
		if err := proto.Unmarshal(b, m); err != nil {
			return err
		}
		return check(m.ProtoReflect())
	}
	return fmt.Errorf("no message %s any more", words[0])
}

func TestReleasesAreUnderstood(t *testing.T) {
	if *release != "" {
		text := strings.Join(transcript(), "\n") + "\n"
		if err := os.WriteFile(filepath.Join("testdata", *release+".txt"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
		if len(lines) < 16 {
			t.Errorf("%s has only %d lines", file, len(lines))
		}
		for i, line := range lines {
			if err := understand(string(line)); err != nil {
				t.Errorf("%s:%d: %v", file, i+1, err)
			}
		}
	}
}

// The check finds what it is for.
func TestUnderstandFindsChanges(t *testing.T) {
	join := line("Up", "join", &linkpb.Up{Items: []*linkpb.UpItem{{Item: &linkpb.UpItem_Join{Join: &linkpb.Join{Topic: "text 1", Subscriber: 1<<40 + 2}}}}})
	for text, want := range map[string]string{
		join: "",
		line("Up", "join", &linkpb.Up{Items: []*linkpb.UpItem{{Item: &linkpb.UpItem_Join{Join: &linkpb.Join{Topic: "text 2"}}}}}): "Join.topic",
		"Up later 0a03fa3e00": "not known any more", // an item of number 1007
		"Up torn 0a05":        "cannot parse",
		"Sideways x 00":       "no message Sideways",
		"Up":                  "1 words",
	} {
		err := understand(text)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
