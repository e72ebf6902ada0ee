package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/ringcast/ringcast/client"
	"github.com/ringcast/ringcast/cluster"
)

// script speaks to a running serve as scripts/compose-test does.
type script struct {
	t       *testing.T
	ask     io.Writer
	answers *bufio.Scanner
}

func startTraffic(t *testing.T, limit time.Duration) *script {
	t.Helper()
	askReader, ask := io.Pipe()
	answerReader, answer := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- serve(t.Context(), askReader, answer, 2*time.Millisecond, limit) }()
	t.Cleanup(func() {
		_ = ask.Close()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return &script{t, ask, bufio.NewScanner(answerReader)}
}

// says sends a command and wants an answer that has the text in it.
func (s *script) says(command, want string) {
	s.t.Helper()
	fmt.Fprintln(s.ask, command)
	if !s.answers.Scan() || !strings.Contains(s.answers.Text(), want) {
		s.t.Fatalf("%s: answered %q, want %q", command, s.answers.Text(), want)
	}
}

func startCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Config{TopicServers: 2, Gateways: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// The script's whole course, with a gateway of the process in place of a container.
func TestTrafficOverALostGateway(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	s := startTraffic(t, patience)
	first, second := c.Gateways[0].URL(), c.Gateways[1].URL()
	s.says("v1 "+second, "ok: the page joined and heard its own shout")
	s.says("listen ws1 "+first, "ok: ws1 listens to 8 topics")
	s.says("listen ws2 "+second, "ok: ws2 listens")
	s.says("listen guest "+second, "ok: guest listens")
	s.says("publish "+first, "ok: publishing to 8 topics")
	s.says("publish "+first, "FAIL: publishing already")
	s.says("more", "ok: heard once and in order by guest, ws1, ws2")
	s.says("say ws2", "ok: 3 listeners heard it")
	s.says("calm", "ok: none of 3")

	if err := c.Gateways[1].Stop(); err != nil {
		t.Fatal(err)
	}
	s.says("lost ws2", "ok: ws2 has lost its connection")
	s.says("more ws1", "ok: heard once and in order by ws1")
	s.says("listen ws2 "+first, "ok: ws2 listens to 8 topics at "+first)
	s.says("listen guest "+first, "ok: guest listens")
	s.says("more", "ok: heard once and in order by guest, ws1, ws2")
	s.says("calm", "ok: none of 3")
	s.says("stop", "every publish acknowledged; heard once and in order by guest, ws1, ws2")
}

// What the script must be told of.
func TestTrafficFindsFaults(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	url := c.Gateways[0].URL()
	for _, test := range []struct {
		name, event, payload, want string
		times                      int
	}{
		{"a stranger's message is one too many", "n", `{"n":100000000}`, "ws1 heard message 100000000 of room:1, want ", 1},
		{"a line twice", "line", `{"line":7}`, "ws1 heard line 7 2 times", 2},
		{"no number", "n", `{"n":"x"}`, `ws1 heard n {"n":"x"} on room:1`, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := startTraffic(t, patience)
			s.says("listen ws1 "+url, "ok")
			s.says("publish "+url, "ok")
			s.says("more", "ok")
			stranger, err := client.Dial(t.Context(), url, config)
			if err != nil {
				t.Fatal(err)
			}
			defer stranger.Close()
			ch, err := stranger.Join(t.Context(), "room:1", nil)
			if err != nil {
				t.Fatal(err)
			}
			for range test.times {
				if err := ch.Publish(t.Context(), test.event, rawJSON(test.payload)); err != nil {
					t.Fatal(err)
				}
			}
			s.says("stop", "FAIL: "+test.want)
			s.says("calm", "FAIL: "+test.want)
		})
	}
}

// rawJSON passes through encoding/json as it is.
type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

// What only a cluster in trouble does is told to a listener directly.
func TestListenerFindsFaults(t *testing.T) {
	t.Parallel()
	const epoch = "1:5"
	joined := func(response string, rejoin bool) client.ChannelChange {
		return client.ChannelChange{State: client.ChannelJoined, Rejoin: rejoin, Response: []byte(response)}
	}
	for _, test := range []struct {
		name   string
		change client.ChannelChange
		want   string // in the fault that calm tells; none if empty
	}{
		{"resumed in vain", joined(`{"since":"1:5","recovered":false}`, false), "ws1 lost messages of room:1: joined since 1:5"},
		{"resumed elsewhere", joined(`{"since":"1:5","recovered":true}`, false), ""},
		{"joined again", joined(`{"since":"1:5","recovered":true}`, true), "ws1 had to join again 1 times"},
		{"joined again with a gap", joined(`{"since":"2:0","recovered":false}`, true), "ws1 lost messages of room:1"},
		{"odd reply", joined(`[]`, false), "ws1: reply to the join of room:1: []"},
		{"waiting", client.ChannelChange{State: client.ChannelWaiting}, ""},
	} {
		tr := newTraffic(t.Context(), time.Second, time.Second)
		l := &listener{name: "ws1", t: tr}
		tr.listeners["ws1"] = l
		l.change(&listened{since: epoch}, "room:1", test.change)
		_, err := tr.calm()
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(tr.fault()); !strings.Contains(got, test.want) || test.want == "" && got != "<nil>" {
			t.Errorf("%s: fault %s, want %q", test.name, got, test.want)
		}
	}

	at := &listened{}
	l := &listener{name: "ws1", t: newTraffic(t.Context(), time.Second, time.Second)}
	l.change(at, "room:1", joined(`{"since":"1:5","recovered":false}`, false))
	if err := l.t.fault(); err != nil || at.since != epoch || !at.joined {
		t.Errorf("a first join from now on: %v, since %v, joined %t; want no fault, %s, true", err, at.since, at.joined, epoch)
	}
}

func TestTrafficRefusesAndGivesUp(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	s := startTraffic(t, 3*time.Second)
	for command, want := range map[string]string{
		"":                            "FAIL: empty command",
		"dance":                       `FAIL: "dance": no such command`,
		"listen ws1":                  `FAIL: "listen": no such command, or not with 1 arguments`,
		"more":                        "FAIL: nobody publishes",
		"stop":                        "FAIL: nobody listens",
		"calm":                        "FAIL: nobody listens",
		"say ws9":                     `FAIL: no listener "ws9"`,
		"back ws9":                    `FAIL: no listener "ws9"`,
		"listen x ws://127.0.0.1:1/s": "FAIL: listener x: ",
		"publish ws://127.0.0.1:1/s":  "FAIL: ",
		"v1 ws://127.0.0.1:1/s":       "FAIL: ",
	} {
		s.says(command, want)
	}
	s.says("listen ws1 "+c.Gateways[0].URL(), "ok")
	s.says("lost ws1", "FAIL: waited for 3s: ws1 to lose its connection")
	s.says("back ws1", "FAIL: waited for 3s: ws1 to join again")
	s.says("say ws1", "ok: 1 listeners heard it")
}
