package ring

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stage is a watcher at work on a file, in a bubble where time passes when everybody waits. The system's events come
// from the test.
type stage struct {
	t      *testing.T
	path   string
	events chan fsnotify.Event
	errs   chan error
	reload chan os.Signal
	inUse  atomic.Pointer[Ring]

	mu  sync.Mutex
	log []string // what the service was told since the last check
}

const (
	testDebounce = 100 * time.Millisecond
	testPoll     = 5 * time.Second
)

// play runs story with a watcher of a file of version 7 and the servers a, b, c and d, which is in use.
func play(t *testing.T, story func(s *stage)) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{
			t: t, path: filepath.Join(t.TempDir(), "ring.yaml"),
			events: make(chan fsnotify.Event), errs: make(chan error), reload: make(chan os.Signal),
		}
		s.write(inUse)
		s.inUse.Store(mustParse(t, inUse))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			newWatcher(s.config()).run(ctx, s.events, s.errs)
			close(done)
		}()
		time.Sleep(time.Second)
		s.told()
		story(s)
		s.told()
		cancel()
		<-done
	})
}

var inUse = ringFile(7, "", "a", "b", "c", "d")

func (s *stage) config() WatchConfig {
	return WatchConfig{
		Path:    s.path,
		Current: s.inUse.Load,
		Apply: func(r *Ring) error {
			s.inUse.Store(r)
			s.tell(fmt.Sprintf("apply %d: %d servers", r.Version(), len(r.Servers())))
			return nil
		},
		Fail:      func(err error) { s.tell(strings.ReplaceAll(err.Error(), "ring file "+s.path, "fail")) },
		Recovered: func() { s.tell("recovered") },
		Reload:    s.reload,
		Debounce:  testDebounce,
		Poll:      testPoll,
	}
}

func (s *stage) tell(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, what)
}

// write writes the file in place and tells nobody.
func (s *stage) write(data string) {
	s.t.Helper()
	if err := os.WriteFile(s.path, []byte(data), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// edit writes the file in place and has the system tell.
func (s *stage) edit(data string) {
	s.t.Helper()
	s.write(data)
	s.events <- fsnotify.Event{Name: s.path, Op: fsnotify.Write}
}

func (s *stage) remove() {
	s.t.Helper()
	if err := os.Remove(s.path); err != nil {
		s.t.Fatal(err)
	}
	s.events <- fsnotify.Event{Name: s.path, Op: fsnotify.Remove}
}

// told checks what the service was told since the last check.
func (s *stage) told(want ...string) {
	s.t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.log, want) {
		s.t.Errorf("told\n  %s\nwant\n  %s", strings.Join(s.log, "\n  "), strings.Join(want, "\n  "))
	}
	s.log = nil
}

// settle lets pass what a content needs to count, at most.
func settle() { time.Sleep(2*testDebounce + time.Millisecond) }

func TestEditIsAppliedAfterTheDebounce(t *testing.T) {
	play(t, func(s *stage) {
		s.edit(ringFile(8, "", "a", "b", "c"))
		time.Sleep(testDebounce - time.Nanosecond)
		s.told()
		time.Sleep(2 * time.Nanosecond)
		s.told("apply 8: 3 servers")
	})
}

func TestTwoEditsAreOneApply(t *testing.T) {
	play(t, func(s *stage) {
		s.edit(ringFile(8, "", "a", "b", "c"))
		time.Sleep(testDebounce / 2)
		s.edit(ringFile(9, "", "a", "b"))
		settle()
		s.told("apply 9: 2 servers")
	})
}

func TestHalfWrittenFileIsNotApplied(t *testing.T) {
	whole := ringFile(8, "", "a", "b", "c")
	half, _, _ := strings.Cut(whole, "  - id: c") // a good ring file by itself
	play(t, func(s *stage) {
		s.edit(half)
		time.Sleep(testDebounce * 9 / 10)
		s.edit(whole)
		settle()
		s.told("apply 8: 3 servers")
	})
}

func TestFileThatIsHalfWrittenForLongIsReadAgain(t *testing.T) {
	whole := ringFile(8, "", "a", "b", "c")
	play(t, func(s *stage) {
		s.edit(whole[:len(whole)-len("addr: c.example:7101\n")])
		settle()
		s.told(`fail:7:5: server "c": addr is missing`)
		s.edit(whole)
		settle()
		s.told("apply 8: 3 servers", "recovered")
	})
}

func TestTouchedFileSaysNothing(t *testing.T) {
	play(t, func(s *stage) {
		for range 3 {
			s.edit(inUse)
			settle()
		}
		s.edit(strings.ReplaceAll(inUse, "\n", "\r\n"))
		settle()
		s.edit("# the same with a comment\n" + inUse)
		settle()
		s.told()
	})
}

func TestCRLFIsApplied(t *testing.T) {
	play(t, func(s *stage) {
		s.edit(strings.ReplaceAll(ringFile(8, "", "a", "b"), "\n", "\r\n"))
		settle()
		s.told("apply 8: 2 servers")
	})
}

func TestBadFileIsReportedOncePerContent(t *testing.T) {
	play(t, func(s *stage) {
		s.edit("version: 8\n")
		settle()
		s.told("fail:1:1: servers is missing: a ring needs at least one server")
		s.edit("version: 8\n")
		time.Sleep(10 * testPoll)
		s.told()
		s.edit("version: 9\n")
		settle()
		s.told("fail:1:1: servers is missing: a ring needs at least one server")
		s.edit("\ufeff" + inUse)
		settle()
		s.told("fail:1:1: begins with a byte order mark: save it as UTF-8 without one")
		s.edit(ringFile(8, "", "a", "b", "c"))
		settle()
		s.told("apply 8: 3 servers", "recovered")
		s.edit("version: 8\n")
		settle()
		s.told("fail:1:1: servers is missing: a ring needs at least one server")
		s.edit(ringFile(8, "", "a", "b", "c"))
		settle()
		s.told("recovered")
	})
}

func TestVersionRulesHoldForTheFile(t *testing.T) {
	play(t, func(s *stage) {
		s.edit(ringFile(6, "", "a", "b"))
		settle()
		s.told("fail: version 6 is older than 7 in use")
		s.edit(ringFile(7, "", "a", "b"))
		settle()
		s.told("fail: RING_CONFLICT version 7: content differs from the ring in use")
		s.edit(ringFile(8, "", "a"))
		settle()
		s.told("fail: would move 75 % of topics; set force: true")
		s.edit(ringFile(8, "force: true\n", "a"))
		settle()
		s.told("apply 8: 1 servers", "recovered")
	})
}

func TestRemovedFileKeepsTheRing(t *testing.T) {
	play(t, func(s *stage) {
		s.remove()
		settle()
		s.told("fail: open: no such file or directory")
		time.Sleep(10 * testPoll)
		s.told()
		if v := s.inUse.Load().Version(); v != 7 {
			t.Errorf("ring version %d in use, want 7", v)
		}
		s.edit(inUse)
		settle()
		s.told("recovered")
	})
}

func TestFileThatIsAwayForAMomentIsNoFailure(t *testing.T) {
	play(t, func(s *stage) {
		s.remove()
		time.Sleep(testDebounce / 2)
		s.edit(ringFile(8, "", "a", "b", "c"))
		settle()
		s.told("apply 8: 3 servers")
	})
}

func TestPollFindsWhatNobodyTold(t *testing.T) {
	play(t, func(s *stage) {
		s.write(ringFile(8, "", "a", "b", "c"))
		time.Sleep(testPoll + testDebounce)
		s.told("apply 8: 3 servers")
		s.write("")
		time.Sleep(testPoll + testDebounce)
		s.told("fail:1:1: empty: want version and servers")
	})
}

func TestLostEventsAreALook(t *testing.T) {
	play(t, func(s *stage) {
		s.write(ringFile(8, "", "a", "b", "c"))
		s.errs <- fsnotify.ErrEventOverflow
		settle()
		s.told("apply 8: 3 servers")
	})
}

func TestReload(t *testing.T) {
	play(t, func(s *stage) {
		s.write(ringFile(8, "", "a", "b", "c"))
		s.reload <- syscall.SIGHUP
		settle()
		s.told("apply 8: 3 servers")
		s.reload <- syscall.SIGHUP
		settle()
		s.told()
		for range 2 {
			s.write("version: 9\n")
			s.reload <- syscall.SIGHUP
			settle()
			s.told("fail:1:1: servers is missing: a ring needs at least one server")
		}
		s.write(ringFile(8, "", "a", "b", "c"))
		s.reload <- syscall.SIGHUP
		settle()
		s.told("recovered")
		close(s.reload)
		settle()
		s.told()
	})
}

func TestNoisyDirectoryDelaysNothing(t *testing.T) {
	play(t, func(s *stage) {
		s.write(ringFile(8, "", "a", "b", "c"))
		for range 20 {
			s.events <- fsnotify.Event{Name: filepath.Join(filepath.Dir(s.path), "log"), Op: fsnotify.Write}
			time.Sleep(testDebounce / 10)
		}
		s.told("apply 8: 3 servers")
	})
}

// A peer told of version 9 while the file was at 7; then the file catches up.
func TestFileIsJudgedAgainWhenAnotherRingIsInUse(t *testing.T) {
	play(t, func(s *stage) {
		s.inUse.Store(mustParse(t, ringFile(9, "", "a", "b", "c")))
		time.Sleep(2 * testPoll)
		s.told("fail: version 7 is older than 9 in use")
		s.inUse.Store(mustParse(t, ringFile(10, "", "a", "b", "c")))
		time.Sleep(2 * testPoll)
		s.told("fail: version 7 is older than 10 in use")
		s.edit(ringFile(10, "", "a", "b", "c"))
		settle()
		s.told("recovered")
	})
}

// A peer's ring comes in between the look at the one in use and Apply.
func TestRingThatIsOvertakenFails(t *testing.T) {
	s := &stage{t: t, path: filepath.Join(t.TempDir(), "ring.yaml")}
	s.inUse.Store(mustParse(t, inUse))
	cfg := s.config()
	cfg.Apply = func(r *Ring) error {
		s.inUse.Store(mustParse(t, ringFile(9, "", "a", "b", "c")))
		return s.inUse.Load().Follow(r)
	}
	w := newWatcher(cfg)
	s.write(ringFile(8, "", "a", "b", "c"))
	if w.look() != true || w.look() != false || w.look() != false {
		t.Error("want a content to be judged at the second look")
	}
	want := []string{"fail: version 8 is older than 9 in use"}
	if !slices.Equal(s.log, want) {
		t.Errorf("told %q, want %q", s.log, want)
	}
}

func TestBadFileIsNotReportedAgainForAnotherRing(t *testing.T) {
	play(t, func(s *stage) {
		s.edit("version: 8\n")
		settle()
		s.told("fail:1:1: servers is missing: a ring needs at least one server")
		s.inUse.Store(mustParse(t, ringFile(9, "", "a", "b", "c")))
		time.Sleep(2 * testPoll)
		s.told()
	})
}

func TestWithoutTheSystemPollingRemains(t *testing.T) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	notify.Close()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, path: filepath.Join(t.TempDir(), "ring.yaml")}
		s.write(inUse)
		s.inUse.Store(mustParse(t, inUse))
		cfg := s.config()
		cfg.Recovered = nil
		fail, unwatched := cfg.Fail, 0
		cfg.Fail = func(err error) {
			if errors.Is(err, ErrUnwatched) {
				unwatched++
			}
			fail(err)
		}
		w := newWatcher(cfg)
		w.notify = notify
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			w.run(ctx, notify.Events, notify.Errors)
			close(done)
		}()
		time.Sleep(3 * testPoll)
		s.told("fail: changes are found by polling only: fsnotify: watcher already closed")
		s.write(ringFile(8, "", "a", "b", "c"))
		time.Sleep(testPoll + testDebounce)
		s.told("apply 8: 3 servers")
		cancel()
		<-done
		if unwatched != 1 {
			t.Errorf("%d errors are ErrUnwatched, want 1", unwatched)
		}
	})
}

func TestWatchRefusesABadConfig(t *testing.T) {
	good := WatchConfig{Path: "x", Current: func() *Ring { return nil }, Apply: func(*Ring) error { return nil }, Fail: func(error) {}}
	const missing = "ring.Watch: want Path, Current, Apply and Fail"
	for _, c := range []struct {
		change func(*WatchConfig)
		want   string
	}{
		{func(c *WatchConfig) { c.Path = "" }, missing},
		{func(c *WatchConfig) { c.Current = nil }, missing},
		{func(c *WatchConfig) { c.Apply = nil }, missing},
		{func(c *WatchConfig) { c.Fail = nil }, missing},
		{func(c *WatchConfig) { c.Debounce = -1 }, "ring.Watch: want no negative time: Debounce -1ns, Poll 0s"},
		{func(c *WatchConfig) { c.Poll = -time.Minute }, "ring.Watch: want no negative time: Debounce 0s, Poll -1m0s"},
	} {
		cfg := good
		c.change(&cfg)
		if err := Watch(t.Context(), cfg); err == nil || err.Error() != c.want {
			t.Errorf("error %v, want %s", err, c.want)
		}
	}
}

// live is a Watch of a file in a real directory, told by the real system. It never polls.
type live struct {
	t     *testing.T
	dir   string
	inUse atomic.Pointer[Ring]
	told  chan string
}

// watchLive watches name in the directory. When it returns, the system watches the directory too.
func watchLive(t *testing.T, dir, name string) *live {
	t.Helper()
	l := &live{t: t, dir: dir, told: make(chan string, 100)}
	r, err := Load(l.path(name))
	if err != nil {
		t.Fatal(err)
	}
	l.inUse.Store(r)
	looked := make(chan struct{}, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- Watch(ctx, WatchConfig{
			Path:     l.path(name),
			Current:  func() *Ring { looked <- struct{}{}; return l.inUse.Load() },
			Apply:    func(r *Ring) error { l.inUse.Store(r); l.told <- fmt.Sprintf("apply %d", r.Version()); return nil },
			Fail:     func(err error) { l.told <- err.Error() },
			Debounce: 5 * time.Millisecond,
			Poll:     time.Hour,
		})
	}()
	<-looked
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch returned %v", err)
		}
		goleak.VerifyNone(t)
	})
	return l
}

func (l *live) path(name string) string { return filepath.Join(l.dir, name) }

func (l *live) want(want string) {
	l.t.Helper()
	select {
	case got := <-l.told:
		if got != want {
			l.t.Fatalf("told %q, want %q", got, want)
		}
	case <-time.After(time.Minute):
		l.t.Fatalf("told nothing, want %q", want)
	}
}

// wantLast is want for a file that is not replaced but written to: where that takes long, half of it is reported as bad before.
func (l *live) wantLast(want string) {
	l.t.Helper()
	for {
		select {
		case got := <-l.told:
			if got == want {
				return
			}
			if !strings.HasPrefix(got, "ring file ") {
				l.t.Fatalf("told %q, want %q", got, want)
			}
		case <-time.After(time.Minute):
			l.t.Fatalf("told nothing, want %q", want)
		}
	}
}

func (l *live) do(errs ...error) {
	l.t.Helper()
	if err := errors.Join(errs...); err != nil {
		l.t.Fatal(err)
	}
}

func put(path string, version int) error {
	return os.WriteFile(path, []byte(ringFile(version, "", "a", "b", "c")), 0o600)
}

func TestWatchSeesAnAtomicRename(t *testing.T) {
	dir := t.TempDir()
	put(filepath.Join(dir, "ring.yaml"), 1)
	l := watchLive(t, dir, "ring.yaml")
	for v := 2; v < 5; v++ {
		l.do(put(l.path("new"), v), os.Rename(l.path("new"), l.path("ring.yaml")))
		l.want(fmt.Sprintf("apply %d", v))
	}
}

func TestWatchSeesAFileWrittenInPlace(t *testing.T) {
	dir := t.TempDir()
	put(filepath.Join(dir, "ring.yaml"), 1)
	l := watchLive(t, dir, "ring.yaml")
	for v := 2; v < 5; v++ {
		l.do(put(l.path("ring.yaml"), v))
		l.wantLast(fmt.Sprintf("apply %d", v))
	}
}

func TestWatchSeesAFileRemovedAndCreated(t *testing.T) {
	dir := t.TempDir()
	put(filepath.Join(dir, "ring.yaml"), 1)
	l := watchLive(t, dir, "ring.yaml")
	l.do(os.Remove(l.path("ring.yaml")))
	l.want("ring file " + l.path("ring.yaml") + ": open: no such file or directory")
	l.do(put(l.path("ring.yaml"), 2))
	l.wantLast("apply 2")
}

// A ConfigMap is mounted as ring.yaml → ..data/ring.yaml and ..data → a directory of its own per version. An update
// renames another link over ..data and removes the old directory.
func TestWatchSeesAConfigMapChange(t *testing.T) {
	dir := t.TempDir()
	l := &live{t: t, dir: dir}
	publish := func(v int) {
		t.Helper()
		data := fmt.Sprintf("..v%d", v)
		l.do(os.Mkdir(l.path(data), 0o700), put(l.path(data+"/ring.yaml"), v),
			os.Symlink(data, l.path("..data_tmp")), os.Rename(l.path("..data_tmp"), l.path("..data")))
	}
	publish(1)
	l.do(os.Symlink("..data/ring.yaml", l.path("ring.yaml")))
	watched := watchLive(t, dir, "ring.yaml")
	for v := 2; v < 5; v++ {
		publish(v)
		l.do(os.RemoveAll(l.path(fmt.Sprintf("..v%d", v-1))))
		watched.want(fmt.Sprintf("apply %d", v))
	}
}

func TestWatchSeesWritesThroughALink(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	put(filepath.Join(other, "data.yaml"), 1)
	if err := os.Symlink(filepath.Join(other, "data.yaml"), filepath.Join(dir, "ring.yaml")); err != nil {
		t.Fatal(err)
	}
	l := watchLive(t, dir, "ring.yaml")
	l.do(put(filepath.Join(other, "data.yaml"), 2))
	l.wantLast("apply 2")
	// The link goes elsewhere, and what is written there counts then.
	third := t.TempDir()
	l.do(put(filepath.Join(third, "data.yaml"), 3), os.Symlink(filepath.Join(third, "data.yaml"), l.path("new")),
		os.Rename(l.path("new"), l.path("ring.yaml")))
	l.want("apply 3")
	l.do(put(filepath.Join(third, "data.yaml"), 4))
	l.wantLast("apply 4")
}

func TestWatchSeesAddAndRemove(t *testing.T) {
	dir := t.TempDir()
	put(filepath.Join(dir, "ring.yaml"), 1)
	l := watchLive(t, dir, "ring.yaml")
	if _, err := Add(l.path("ring.yaml"), Server{ID: "d", Addr: "d.example:7101"}); err != nil {
		t.Fatal(err)
	}
	l.want("apply 2")
	if _, err := Remove(l.path("ring.yaml"), "a", false); err != nil {
		t.Fatal(err)
	}
	l.want("apply 3")
	if got := len(l.inUse.Load().Servers()); got != 3 {
		t.Errorf("%d servers, want 3", got)
	}
}
