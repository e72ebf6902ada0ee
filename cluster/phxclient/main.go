// Command phxclient drives github.com/nshafer/phx, a client library for Phoenix channels that is not ours, unmodified and
// with its default settings: phxclient URL URL, with the /socket URLs of two gateways of one cluster. It prints and asks
// what the programs in scripts/clients do, see harness.mjs there.
//
// It is a process of its own, built without the race detector and on one processor, because the library (v0.2.0) is not
// safe on several: its goroutines share maps without a lock, and a push is sent before anybody waits for its reply.
// Nothing here disconnects: the library can hang in it while it reconnects, with the lock held that its reconnecting waits for.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

const library = "github.com/nshafer/phx"

// patience bounds each wait.
const patience = time.Minute

func main() {
	runtime.GOMAXPROCS(1)
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: phxclient URL URL")
		os.Exit(2)
	}
	p := &player{answers: bufio.NewScanner(os.Stdin), out: json.NewEncoder(os.Stdout), patience: patience}
	for _, arg := range os.Args[1:] {
		u, err := url.Parse(arg)
		if err != nil {
			fmt.Fprintln(os.Stderr, "phxclient:", err)
			os.Exit(2)
		}
		p.urls = append(p.urls, *u)
	}
	if err := p.run(libraryVersion(), p.scenarios()); err != nil {
		fmt.Fprintln(os.Stderr, "phxclient:", err)
		os.Exit(1)
	}
}

// libraryVersion returns the version of the library that is linked in, without its v.
func libraryVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == library {
				return strings.TrimPrefix(dep.Version, "v")
			}
		}
	}
	return "of unknown version"
}

// A scenario returns what there is to say of it beyond its result.
type scenario struct {
	name string
	play func() (detail string)
}

// player plays scenarios. Its methods belong to one goroutine; but for note, which the library's goroutines call.
type player struct {
	urls     []url.URL
	answers  *bufio.Scanner
	out      *json.Encoder
	patience time.Duration
	err      error // why the scenario has failed; then nothing more is done or waited for in it

	mu sync.Mutex // guards what clients and rooms record
}

// run plays the scenarios in their order. One that fails does not keep the others from running.
func (p *player) run(version string, scenarios []scenario) error {
	for _, s := range scenarios {
		p.err = nil
		result, detail := "ok", s.play()
		if p.err != nil {
			result, detail = "failed", p.err.Error()
		}
		line := map[string]string{"client": "phx", "version": version, "scenario": s.name, "result": result, "detail": detail}
		if err := p.out.Encode(line); err != nil {
			return err
		}
	}
	return nil
}

// fail ends the scenario with an error, unless it is nil.
func (p *player) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

// note records what the library has told.
func (p *player) note(record func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	record()
}

// until waits for cond, which reads what is recorded. what says it in words, when that has not come.
func (p *player) until(cond func() bool, what func() string) {
	holds := func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return cond()
	}
	for end := time.Now().Add(p.patience); p.err == nil && !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			p.note(func() { p.fail(fmt.Errorf("never: %s", what())) })
		}
	}
}

func (p *player) same(what, got, want string) {
	if got != want {
		p.fail(fmt.Errorf("%s: got %s, want %s", what, got, want))
	}
}

// ask has something done to a gateway: kill, term or start.
func (p *player) ask(what string, gateway int) {
	if p.err != nil {
		return
	}
	p.fail(p.out.Encode(map[string]any{"ask": what, "gateway": gateway}))
	if !p.answers.Scan() {
		p.fail(fmt.Errorf("no answer to %s: %w", what, cmp.Or(p.answers.Err(), io.EOF)))
	}
}

// compact returns a payload as JSON.
func compact(payload any) string {
	data, err := json.Marshal(payload)
	if err != nil {
		return err.Error()
	}
	return string(data)
}
