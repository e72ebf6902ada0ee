package socket

import (
	"encoding/binary"
	"io"
	"sync"
	"testing"
)

// asleep waits until the loop sleeps.
func asleep(t *testing.T, l *Loop) {
	t.Helper()
	eventually(t, "the loop sleeps", l.asleep.Load)
}

func TestRunOnASleepingLoop(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	l := ls.Loop(0)
	ran, turn := 0, uint64(0)
	eventually(t, "both tasks ran on the caller's goroutine, and the loop sleeps on", func() bool {
		asleep(t, l) // it wakes up now and then to look at its deadlines; then this is tried again
		ran = 0
		here := make(chan struct{})
		l.Run(func() bool { return true }, func() {
			ran, turn = 1, l.Turn()
			l.Run(nil, func() { ran = 2; close(here) }) // within the turn it is a Post
			if ran != 1 {
				t.Error("a task ran inside another")
			}
		})
		select {
		case <-here:
			return l.asleep.Load()
		default:
			<-here
			return false
		}
	})
	onLoop(t, l, func() {
		if l.Turn() == turn {
			t.Error("the borrowed turn and the next one have the same number")
		}
	})
}

// What is not small wakes the loop.
func TestRunOfABigTask(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	l := ls.Loop(0)
	asleep(t, l)
	ran := make(chan struct{})
	l.Run(func() bool { return false }, func() { ran <- struct{}{} }) // would wait for ever on this goroutine
	<-ran
}

// A busy loop gets the task behind those that it has.
func TestRunOnABusyLoop(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	l := ls.Loop(0)
	release := make(chan struct{})
	var order []int
	l.Post(func() { <-release })
	l.Post(func() { order = append(order, 1) })
	l.Run(nil, func() { order = append(order, 2) })
	l.Post(func() { order = append(order, 3) })
	close(release)
	onLoop(t, l, func() {
		if len(order) != 3 || order[0] != 1 || order[1] != 2 {
			t.Errorf("order %v", order)
		}
	})
}

func TestPanicInABorrowedTurn(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	l := ls.Loop(0)
	asleep(t, l)
	l.Run(nil, func() { panic("task") })
	eventually(t, "counted", func() bool { return ls.Stats().Panics == 1 })
	onLoop(t, l, func() {})
}

func TestRunAfterClose(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	l := ls.Loop(0)
	ls.Close()
	l.Run(nil, func() { t.Error("ran") })
}

// Frames sent in a borrowed turn go out at its end, and a close is finished.
func TestSendInABorrowedTurn(t *testing.T) {
	ls := start(t, Config{Loops: 1})
	l := ls.Loop(0)
	client, server := tcpPair(t)
	h := newProbe(nil)
	c := adopt(t, ls, server, h)
	asleep(t, l)
	l.Run(nil, func() { c.Send(OpText, []byte("hi")) })
	buf := make([]byte, 4)
	if _, err := io.ReadFull(client, buf); err != nil || string(buf[2:]) != "hi" {
		t.Fatalf("got %q, %v", buf, err)
	}
	asleep(t, l)
	l.Run(nil, func() { c.Close(CloseNormal, "") })
	if _, err := io.ReadFull(client, buf); err != nil || buf[0] != 0x88 {
		t.Fatalf("got %q, %v", buf, err)
	}
	client.Close()
	h.wantClose(t, CloseError{Code: CloseNormal})
}

// Loops that are borrowed, posted to and read sockets on, all at once, with connections that come and go, lose, double
// and reorder nothing. -race tells if two take a turn at once.
func TestBorrowedAndOwnTurns(t *testing.T) {
	const runners, rounds, clients, lives = 4, 1500, 3, 30
	ls := start(t, Config{Loops: 2})
	var wg sync.WaitGroup
	var next [2][runners]int
	for r := range runners {
		wg.Go(func() {
			for i := range rounds {
				for k := range 2 {
					task := func() {
						if next[k][r] != i {
							t.Errorf("loop %d: task %d of runner %d ran when %d was due", k, i, r, next[k][r])
						}
						next[k][r]++
					}
					if i%5 == r {
						ls.Loop(k).Post(task)
					} else {
						ls.Loop(k).Run(func() bool { return i%7 > 0 }, task)
					}
				}
			}
		})
	}
	for range clients {
		wg.Go(func() {
			for life := range lives {
				client, server := tcpPair(t)
				h := newProbe(echo)
				adopt(t, ls, server, h)
				for i := range 5 {
					frame := []byte{0x82, 0x84, 0, 0, 0, 0, 0, 0, 0, 0}
					binary.BigEndian.PutUint32(frame[6:], uint32(life*100+i))
					if _, err := client.Write(frame); err != nil {
						t.Error(err)
						return
					}
					got := make([]byte, 6)
					if _, err := io.ReadFull(client, got); err != nil || binary.BigEndian.Uint32(got[2:]) != uint32(life*100+i) {
						t.Errorf("echo %x, %v; want %d", got, err, life*100+i)
						return
					}
				}
				client.Close()
				h.end(t)
			}
		})
	}
	wg.Wait()
	for k := range 2 {
		onLoop(t, ls.Loop(k), func() {
			for r, n := range next[k] {
				if n != rounds {
					t.Errorf("loop %d: %d of %d tasks of runner %d ran", k, n, rounds, r)
				}
			}
		})
	}
}
