// Command composetraffic is the traffic of scripts/compose-test: it publishes and listens while the script kills, starts
// and adds containers, and answers the script's questions about what has become of it. It reads one command a line and
// answers each with one line, "ok: …" or "FAIL: …":
//
//	publish URL      publish numbered messages to every topic, ten a second each, until stop
//	listen NAME URL  join all topics; a NAME that is there already moves to URL and goes on where it was
//	more [NAME…]     wait until the listeners, all or those, have heard what is published from now on
//	say NAME         have a listener publish a line, and wait until all have heard it
//	v1 URL           join and shout as a page that speaks protocol version 1 by hand
//	lost NAME        wait until a listener has lost its connection
//	back NAME        wait until it has joined all topics again
//	calm             fail if a listener had to join again since the last calm, but for those that back told of
//	stop             stop publishing, and wait until all have heard the rest
//
// Every publish must succeed, and every listener must hear each message once, in order: a fault that is found at any time
// is the answer to every command from then on.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// patience bounds each wait. It covers a container that starts on a slow machine.
const patience = 45 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := serve(ctx, os.Stdin, os.Stdout, 100*time.Millisecond, patience)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "composetraffic:", err)
		os.Exit(1)
	}
}

// serve carries out the commands from in until it ends, and waits for what it started. pace is the time between two
// messages of a topic, limit bounds each command.
func serve(ctx context.Context, in io.Reader, out io.Writer, pace, limit time.Duration) error {
	t := newTraffic(ctx, pace, limit)
	defer t.close()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		answer, err := t.do(strings.Fields(lines.Text()))
		if err == nil {
			err = t.fault()
		}
		if err != nil {
			answer = "FAIL: " + strings.ReplaceAll(err.Error(), "\n", "; ")
		} else {
			answer = "ok: " + answer
		}
		if _, err := fmt.Fprintln(out, answer); err != nil {
			return err
		}
	}
	return lines.Err()
}

// do carries out one command.
func (t *traffic) do(words []string) (answer string, err error) {
	if len(words) == 0 {
		return "", fmt.Errorf("empty command")
	}
	ctx, cancel := context.WithTimeout(t.ctx, t.limit)
	defer cancel()
	name, args := words[0], words[1:]
	want := map[string]int{"publish": 1, "listen": 2, "say": 1, "v1": 1, "lost": 1, "back": 1, "calm": 0, "stop": 0}
	if n, known := want[name]; name != "more" && (!known || len(args) != n) {
		return "", fmt.Errorf("%q: no such command, or not with %d arguments", name, len(args))
	}
	switch name {
	case "publish":
		return t.publish(ctx, args[0])
	case "listen":
		return t.listen(ctx, args[0], args[1])
	case "more":
		return t.more(ctx, args)
	case "say":
		return t.say(ctx, args[0])
	case "v1":
		return shoutV1(ctx, args[0])
	case "lost":
		return t.lost(ctx, args[0])
	case "back":
		return t.back(ctx, args[0])
	case "calm":
		return t.calm()
	default:
		return t.stop(ctx)
	}
}
