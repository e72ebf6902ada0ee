package record

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestParsePosition(t *testing.T) {
	for _, tt := range []struct {
		text string
		want Position
	}{
		{"9f3c:17", Position{"9f3c", 17}},
		{"1:0", Position{"1", 0}},
		{"a:b:18446744073709551615", Position{"a:b", 1<<64 - 1}},
	} {
		got, err := ParsePosition(tt.text)
		if err != nil || got != tt.want || got.String() != tt.text {
			t.Errorf("%q: %v, %v", tt.text, got, err)
		}
	}
	for _, text := range []string{"", "1", ":1", "1:", "1:-1", "1:01", "1:+1", "1:18446744073709551616", "1:2 "} {
		if got, err := ParsePosition(text); err == nil {
			t.Errorf("%q: accepted as %v", text, got)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, seed := range []string{"9f3c:17", "1:01", ":1", "a:b:3", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := ParsePosition(text); err == nil && p.String() != text {
			t.Errorf("%q parses as %v", text, p)
		}
	})
}

func TestRecordsAreInTheOrderOfTheirTimes(t *testing.T) {
	log := NewLog()
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c"} {
		actor := log.Actor(name)
		wg.Go(func() {
			for i := range 500 {
				actor.Add(Record{Kind: Recv, Position: Position{"e", uint64(i)}})
			}
		})
	}
	wg.Wait()
	all := log.Records()
	if len(all) != 1500 {
		t.Fatalf("%d records", len(all))
	}
	next := map[string]uint64{}
	for i, r := range all {
		if i > 0 && r.T < all[i-1].T {
			t.Fatalf("record %d is older than the one before", i)
		}
		if r.Position.Offset != next[r.Actor] {
			t.Fatalf("%s: record %d after %d", r.Actor, r.Position.Offset, next[r.Actor])
		}
		next[r.Actor]++
	}
}

func TestSaveAndLoad(t *testing.T) {
	log := NewLog()
	sub, pub := log.Actor("sub-1"), log.Actor("pub-1")
	pub.Add(Record{Kind: Invoke, Topic: "topics:a", ID: "pub-1-1", SHA: "aa"})
	sub.Add(Record{Kind: Join, Topic: "topics:a", Asked: Position{"e", 1}, Position: Position{"e", 1}, Recovered: true})
	sub.Add(Record{Kind: Close, Code: 1012, Reason: "restart"})
	pub.Add(Record{Kind: OK, Topic: "topics:a", ID: "pub-1-1", Position: Position{"e", 2}, Tries: 2})
	dir := filepath.Join(t.TempDir(), "run")
	if err := log.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := log.Records(); !slices.Equal(got, want) {
		t.Errorf("loaded\n%v\nwant\n%v", got, want)
	}
	if _, err := Load(t.TempDir()); err == nil {
		t.Error("an empty directory was loaded")
	}
	if err := os.WriteFile(filepath.Join(dir, "bad.jsonl"), []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "bad.jsonl: line 1") {
		t.Errorf("error %v, want one that names file and line", err)
	}
}

func TestString(t *testing.T) {
	r := Record{T: 1500000000, Actor: "sub-1", Kind: Join, Topic: "topics:a", Position: Position{"e", 7}}
	if got, want := r.String(), "  1.500000s sub-1     join       topics:a asked=none recovered=false position=e:7"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"t":1,"actor":"a","kind":"recv","topic":"topics:a","position":{"epoch":"e","offset":1}}` + "\n"))
	f.Add([]byte(`{"t":1}` + "\n{"))
	f.Fuzz(func(t *testing.T, data []byte) {
		records, err := Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		enc := json.NewEncoder(&again)
		for _, r := range records {
			if err := enc.Encode(r); err != nil {
				t.Fatal(err)
			}
		}
		back, err := Read(&again)
		if err != nil || !slices.Equal(back, records) {
			t.Errorf("%v read again as %v: %v", records, back, err)
		}
	})
}
