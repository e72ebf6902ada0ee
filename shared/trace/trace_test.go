package trace

import (
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const example = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		example: "sampled",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00":       "valid",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03":       "sampled",
		"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01":       "sampled",
		"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later": "sampled",
		"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.later": "none",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x":     "none",
		"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01":       "none",
		"00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01":       "none",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01":       "none",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01":       "none",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0":        "none",
		"00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01":       "none",
		"00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01":       "none",
		"": "none",
	} {
		c, got := Parse(text), "none"
		switch {
		case c.Sampled():
			got = "sampled"
		case c.Valid():
			got = "valid"
		case c != nil:
			got = "broken"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(example)
	f.Add("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later")
	f.Fuzz(func(t *testing.T, text string) {
		c := Parse(text)
		if c == nil {
			return
		}
		again := fmt.Sprintf("%s-%s-%s-%s", text[:2], hex.EncodeToString(c[:16]), hex.EncodeToString(c[16:24]), hex.EncodeToString(c[24:]))
		if !c.Valid() || again != text[:55] {
			t.Errorf("%q is %x", text, []byte(c))
		}
	})
}

// Whoever does not trace does not pay.
func TestOffIsFree(t *testing.T) {
	var off *Tracer
	context := Parse(example)
	now := time.Now()
	allocs := testing.AllocsPerRun(100, func() {
		if off.Sample() {
			t.Error("nobody samples")
		}
		s := off.Start(context, "x", Producer, now)
		s.Text("a", "b")
		s.Number("a", 1)
		s.Fail("no")
		s.End(now)
		if got := s.Context(context); &got[0] != &context[0] {
			t.Error("the context is not passed on")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	off.Close()
}

func TestSampleShare(t *testing.T) {
	for _, test := range []struct{ share, least, most float64 }{{0, 0, 0}, {0.25, 0.2, 0.3}, {1, 1, 1}} {
		tr, n := &Tracer{sample: test.share}, 0.0
		for range 10000 {
			if tr.Sample() {
				n++
			}
		}
		if n /= 10000; n < test.least || n > test.most {
			t.Errorf("share %v: %v are sampled", test.share, n)
		}
	}
}

func TestBadEndpoints(t *testing.T) {
	for _, text := range []string{"localhost:4318", "ftp://a", "http://", "://", "http://a b"} {
		if tr, err := New(Config{Endpoint: text}); err == nil {
			t.Errorf("%q is taken", text)
			tr.Close()
		}
	}
	if tr, err := New(Config{}); tr != nil || err != nil {
		t.Errorf("no endpoint: %v, %v", tr, err)
	}
}

// A collector that is not there holds nothing up for long.
func TestCloseWithoutCollector(t *testing.T) {
	tr, err := New(Config{Endpoint: "http://127.0.0.1:1", Service: "test"})
	if err != nil {
		t.Fatal(err)
	}
	tr.Start(nil, "step", Producer, time.Now()).End(time.Now())
	began := time.Now()
	tr.Close()
	if took := time.Since(began); took > 10*closeTimeout { // without the bound it is a minute
		t.Errorf("closing took %v", took)
	}
}
