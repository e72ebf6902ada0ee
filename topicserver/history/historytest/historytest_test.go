package historytest_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/topicserver/history"
	"github.com/ringcast/ringcast/topicserver/history/historytest"
)

// faultEnv names the fault that TestFaultyStore runs the suite against, in a process of its own.
const faultEnv = "HISTORYTEST_FAULT"

type (
	position = history.Position
	message  = history.Message
)

// faulty is a good Store but for the one method that is set.
type faulty struct {
	*history.Memory

	append  func(topic string, m message, now time.Time) error
	after   func(topic string, since, top position, now time.Time) ([]message, bool)
	restore func(topic string, msgs []message, now time.Time) error
	forget  func(topic string)
	sweep   func(now time.Time) int
	stats   func() history.Stats
}

func (f *faulty) Append(topic string, m message, now time.Time) error { return f.append(topic, m, now) }

func (f *faulty) After(topic string, since, top position, now time.Time) ([]message, bool) {
	return f.after(topic, since, top, now)
}

func (f *faulty) Restore(topic string, msgs []message, now time.Time) error {
	return f.restore(topic, msgs, now)
}
func (f *faulty) Forget(topic string)     { f.forget(topic) }
func (f *faulty) Sweep(now time.Time) int { return f.sweep(now) }
func (f *faulty) Stats() history.Stats    { return f.stats() }

// faults are mistakes that a Store could make, by name. Each takes a good one apart.
var faults = map[string]func(f *faulty, good *history.Memory){
	"none": func(*faulty, *history.Memory) {},
	"loses a message in a thousand": func(f *faulty, good *history.Memory) {
		n := 0
		f.append = func(topic string, m message, now time.Time) error {
			if n++; n%1000 == 0 {
				good.Forget(topic)
			}
			return good.Append(topic, m, now)
		}
	},
	"takes holes": func(f *faulty, good *history.Memory) {
		f.append = func(topic string, m message, now time.Time) error {
			err := good.Append(topic, m, now)
			if err != nil && m.Offset != 0 {
				good.Forget(topic)
				return good.Append(topic, m, now)
			}
			return err
		}
	},
	"always complete": func(f *faulty, good *history.Memory) {
		f.after = func(topic string, since, top position, now time.Time) ([]message, bool) {
			msgs, _ := good.After(topic, since, top, now)
			return msgs, true
		}
	},
	"never complete without messages": func(f *faulty, good *history.Memory) {
		f.after = func(topic string, since, top position, now time.Time) ([]message, bool) {
			msgs, complete := good.After(topic, since, top, now)
			return msgs, complete && len(msgs) > 0
		}
	},
	"hides a run with a gap before it": func(f *faulty, good *history.Memory) {
		f.after = func(topic string, since, top position, now time.Time) ([]message, bool) {
			if msgs, complete := good.After(topic, since, top, now); complete {
				return msgs, true
			}
			return nil, false
		}
	},
	"ignores the epoch of since": func(f *faulty, good *history.Memory) {
		f.after = func(topic string, since, top position, now time.Time) ([]message, bool) {
			since.Epoch = top.Epoch
			return good.After(topic, since, top, now)
		}
	},
	"newest first": func(f *faulty, good *history.Memory) {
		f.after = func(topic string, since, top position, now time.Time) ([]message, bool) {
			msgs, complete := good.After(topic, since, top, now)
			slices.Reverse(msgs)
			return msgs, complete
		}
	},
	"starts at since": func(f *faulty, good *history.Memory) {
		f.after = func(topic string, since, top position, now time.Time) ([]message, bool) {
			if since.Epoch == top.Epoch && since.Offset < top.Offset && since.Offset > 1 {
				since.Offset--
			}
			return good.After(topic, since, top, now)
		}
	},
	"hands out its own slice": func(f *faulty, good *history.Memory) {
		kept := make(map[string][]message)
		f.after = func(topic string, since, top position, now time.Time) ([]message, bool) {
			msgs, complete := good.After(topic, since, top, now)
			kept[topic] = append(kept[topic][:0], msgs...)
			return kept[topic], complete
		}
	},
	"restores behind what was there": func(f *faulty, good *history.Memory) {
		f.restore = func(topic string, msgs []message, now time.Time) error {
			for _, m := range msgs {
				if err := good.Append(topic, m, now); err != nil {
					return err
				}
			}
			return nil
		}
	},
	"forgets before a bad restore": func(f *faulty, good *history.Memory) {
		f.restore = func(topic string, msgs []message, now time.Time) error {
			good.Forget(topic)
			return good.Restore(topic, msgs, now)
		}
	},
	"does not forget": func(f *faulty, _ *history.Memory) {
		f.forget = func(string) {}
	},
	"sweeps the young": func(f *faulty, good *history.Memory) {
		f.sweep = func(now time.Time) int { return good.Sweep(now.AddDate(1, 0, 0)) }
	},
	"counts what was forgotten": func(f *faulty, good *history.Memory) {
		f.forget = func(topic string) {
			good.Forget(topic)
			f.stats = func() history.Stats {
				s := good.Stats()
				s.Evicted++
				return s
			}
		}
	},
}

// open makes a good Store and breaks it.
func open(fault func(f *faulty, good *history.Memory)) func(t *testing.T) history.Store {
	return func(*testing.T) history.Store {
		good := history.NewMemory(history.Config{Messages: 1000, TTL: time.Hour})
		f := &faulty{
			Memory: good, append: good.Append, after: good.After, restore: good.Restore, forget: good.Forget,
			sweep: good.Sweep, stats: good.Stats,
		}
		fault(f, good)
		return f
	}
}

// TestFaultyStore is what TestSuiteFindsFaults runs.
func TestFaultyStore(t *testing.T) {
	name := os.Getenv(faultEnv)
	if name == "" {
		return
	}
	historytest.Run(t, open(faults[name]))
}

// A suite that lets a broken Store pass is no evidence for the others.
func TestSuiteFindsFaults(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name := range faults {
		t.Run(name, func(t *testing.T) {
			// The parallel test is left out: the faults are not made for it, and a data race is no finding here.
			cmd := exec.Command(self, "-test.run=^TestFaultyStore$", "-test.skip=/Parallel$", "-test.v")
			cmd.Env = append(os.Environ(), faultEnv+"="+name)
			out, err := cmd.CombinedOutput()
			failed := strings.Count(string(out), "    --- FAIL: ")
			switch {
			case strings.Contains(string(out), "panic:") || !strings.Contains(string(out), "TestFaultyStore"):
				t.Fatalf("the suite did not run: %v\n%s", err, out)
			case name == "none" && err != nil:
				t.Fatalf("the suite fails a good store: %v\n%s", err, out)
			case name != "none" && (err == nil || failed == 0):
				t.Fatalf("the suite passes a store that %s\n%s", name, out)
			}
			t.Logf("%d tests of the suite fail", failed)
		})
	}
}
