package ring

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Defaults of WatchConfig.
const (
	DefaultDebounce = 100 * time.Millisecond
	DefaultPoll     = 5 * time.Second
)

// ErrUnwatched is in the error that WatchConfig.Fail gets when the system does not tell of changes, for example
// because it is out of inotify watches. Polling still finds them, so this says nothing about the ring file.
var ErrUnwatched = errors.New("changes are found by polling only")

// WatchConfig says what Watch watches and whom it tells. All functions are called by the goroutine that runs Watch,
// one at a time; while one of them runs, nothing else is looked at, and nothing is missed.
type WatchConfig struct {
	Path string // the ring file

	// Current returns the ring in use, never nil.
	Current func() *Ring

	// Apply puts a ring to use that may follow the current one; Current returns it from then on. If rings also come
	// from elsewhere, a peer, say, one may have come since Current was asked: Apply asks Follow again, under the lock
	// that serializes them, and returns its error. That, like any other, goes to Fail.
	Apply func(*Ring) error

	// Fail gets the reason why the file is of no use: what Load returns, or what Follow or Apply returns with the
	// file's name before it. It is called once for each content and each reason, not at every look. The ring in use
	// stays.
	Fail func(error)

	// Recovered, if set, is called when the file is in order again after Fail: applied, or back at the ring in use.
	Recovered func()

	// Reload, if set, asks for a look at the file, whatever the signal. signal.Notify may feed it, or the service
	// itself. A file that is still wrong is reported again then.
	Reload <-chan os.Signal

	// Debounce is how long a new content must stay the same before it counts; 0 means DefaultDebounce.
	Debounce time.Duration

	// Poll is the time between looks at a file of whose changes the system did not tell; 0 means DefaultPoll.
	Poll time.Duration
}

// Watch keeps the ring in use at what the ring file says. It blocks until ctx is canceled, and returns nil then; any
// other error says what is missing in cfg, at once. When it returns, no goroutine of it is left.
//
// It watches the directories of the file and of what the file links to, so it sees a file that is renamed into place,
// a swapped symbolic link (as in a Kubernetes ConfigMap) and a file that is written in place. What it does not see,
// on a network file system, say, the poll finds. It goes by content, never by time stamps.
//
// A content counts when it was read twice, Debounce apart, without a change between. That keeps a half-written file
// from being applied unless its writer pauses for longer; only renaming a finished file into place rules it out.
func Watch(ctx context.Context, cfg WatchConfig) error {
	if cfg.Path == "" || cfg.Current == nil || cfg.Apply == nil || cfg.Fail == nil {
		return errors.New("ring.Watch: want Path, Current, Apply and Fail")
	}
	if cfg.Debounce < 0 || cfg.Poll < 0 {
		return fmt.Errorf("ring.Watch: want no negative time: Debounce %s, Poll %s", cfg.Debounce, cfg.Poll)
	}
	w := newWatcher(cfg)
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w.unwatched(err)
		w.run(ctx, nil, nil)
		return nil
	}
	defer func() { _ = notify.Close() }()
	w.notify = notify
	w.run(ctx, notify.Events, notify.Errors)
	return nil
}

// content stands for what one look at the file found: the hash of its bytes, and why it could not be read or must not hold
// a secret. The zero value stands for nothing that a look could find.
type content struct {
	sum     [sha256.Size]byte
	problem string
}

// verdict is what Fail was told last. The zero value says that all is well.
type verdict struct {
	about content
	text  string
}

// watcher is the state of one Watch. All of it is owned by the goroutine that runs Watch.
type watcher struct {
	cfg    WatchConfig
	notify *fsnotify.Watcher // nil if the system gives none
	dirs   map[string]bool   // what notify was asked to watch

	seen   content // found by the last look
	judged content // what was judged last,
	inUse  *Ring   // and the ring in use after that

	failed          verdict
	unwatchedReason string // told to Fail
}

func newWatcher(cfg WatchConfig) *watcher {
	if cfg.Debounce == 0 {
		cfg.Debounce = DefaultDebounce
	}
	if cfg.Poll == 0 {
		cfg.Poll = DefaultPoll
	}
	return &watcher{cfg: cfg, dirs: map[string]bool{}}
}

// run looks at the file at the start, on events and errors (one of them says that events were lost), on reloads and
// polls, until ctx is canceled.
//
// Invariant: while a content was seen but not judged, settle is running, so every content is judged in the end. An
// event while it runs needs no look of its own: the look at the end of it is still to come. So a directory where
// much happens costs two looks per Debounce.
func (w *watcher) run(ctx context.Context, events <-chan fsnotify.Event, errs <-chan error) {
	w.watchDirs()
	settle := time.NewTimer(0)
	defer settle.Stop()
	settling := true
	poll := time.NewTicker(w.cfg.Poll)
	defer poll.Stop()
	reload := w.cfg.Reload
	for ctx.Err() == nil {
		again := false
		select {
		case <-ctx.Done():
			return
		case <-settle.C:
			settling = false
			again = w.look()
		case _, ok := <-events:
			if !ok {
				events = nil
			} else if !settling {
				w.look()
				again = true
			}
		case _, ok := <-errs:
			if !ok {
				errs = nil
			}
			again = !settling
		case <-poll.C:
			// A directory that was away comes back as another one, which is not watched yet.
			w.watchDirs()
			if !settling {
				again = w.look()
			}
		case _, ok := <-reload:
			if !ok {
				reload = nil
				continue
			}
			// Without its text the last failure differs from every next one, and is still there to recover from.
			w.seen, w.judged, w.failed.text = content{}, content{}, ""
			again = w.look()
		}
		if again {
			settle.Reset(w.cfg.Debounce)
			settling = true
		}
	}
}

// look reads the file and judges it if this is the second time that it has this content. It returns true if another
// look is due after the debounce.
func (w *watcher) look() bool {
	t, err := readNamed(w.cfg.Path)
	now := content{sum: sha256.Sum256(t.data)}
	if problem := cmp.Or(err, t.exposed); problem != nil {
		now.problem = problem.Error()
	}
	// A file that was judged against one ring is judged again when another is in use.
	if now == w.judged && w.cfg.Current() == w.inUse {
		w.seen = now
		return false
	}
	if now != w.seen {
		w.seen = now
		w.watchDirs()
		return true
	}
	w.judge(t, err)
	return false
}

// judge applies or reports the content seen last: a text, or the error of reading it.
func (w *watcher) judge(t text, err error) {
	if err == nil {
		err = w.follow(t)
	}
	w.judged, w.inUse = w.seen, w.cfg.Current()
	if err == nil {
		w.recovered()
		return
	}
	if v := (verdict{w.seen, err.Error()}); v != w.failed {
		w.failed = v
		w.cfg.Fail(err)
	}
}

// follow applies the ring that a text says, unless it is in use already.
func (w *watcher) follow(t text) error {
	next, err := t.ring(w.cfg.Path)
	if err != nil {
		return err
	}
	if err = w.cfg.Current().Follow(next); err == nil {
		err = w.cfg.Apply(next)
	}
	if err != nil && !errors.Is(err, ErrSame) {
		return named(w.cfg.Path, err)
	}
	return nil
}

func (w *watcher) recovered() {
	if w.failed == (verdict{}) {
		return
	}
	w.failed = verdict{}
	if w.cfg.Recovered != nil {
		w.cfg.Recovered()
	}
}

// watchDirs asks for events of the directory of the file and of that of what it links to. The one covers renames and
// swapped links, also those a ConfigMap makes of its data directory; the other covers writing through a link.
func (w *watcher) watchDirs() {
	if w.notify == nil {
		return
	}
	want := map[string]bool{filepath.Dir(w.cfg.Path): true}
	if target, err := filepath.EvalSymlinks(w.cfg.Path); err == nil {
		want[filepath.Dir(target)] = true
	}
	for dir := range w.dirs {
		if !want[dir] {
			// The directory may be gone, and its watch with it.
			_ = w.notify.Remove(dir)
		}
	}
	w.dirs = want
	for dir := range want {
		// A directory that does not exist is for the look to report.
		if err := w.notify.Add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.unwatched(err)
		}
	}
}

func (w *watcher) unwatched(err error) {
	if text := err.Error(); text != w.unwatchedReason {
		w.unwatchedReason = text
		w.cfg.Fail(fmt.Errorf("ring file %s: %w: %w", w.cfg.Path, ErrUnwatched, err))
	}
}
