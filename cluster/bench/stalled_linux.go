package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// staller measures a Stalled load: the last subscriber of each topic is a victim, and the others' latency is taken in
// phases, in turn with all victims reading and with all of their sockets full.
type staller struct {
	*pacer
	victims []*conn
	calm    []*histogram // one more than there are pairs
	full    []*histogram
}

func (r *runner) stalled(ctx context.Context) (*Run, error) {
	if err := r.populate(ctx); err != nil {
		return nil, err
	}
	s := &staller{pacer: newPacer(r), victims: r.loop.conns[r.load.Connections-r.load.Topics:]}
	for _, v := range s.victims {
		v.unmeasured = true
	}
	if err := s.publishFor(ctx, r.load.Duration); err != nil { // warming up
		return nil, err
	}
	from, err := r.usage()
	if err != nil {
		return nil, err
	}
	before := r.loop.deliveries
	for i := range 2*r.load.Pairs + 1 {
		// Odd phases are those with full sockets.
		if err := s.phase(ctx, i%2 == 1); err != nil {
			return nil, err
		}
	}
	to, err := r.usage()
	if err != nil {
		return nil, err
	}
	for _, t := range r.topics {
		verdict(&r.loop.faults, t.subscribers, t.sent)
	}
	r.run.Faults.add(r.loop.faults)
	r.run.Faults.Refused += s.published - s.answered
	s.figures()
	busy := (to.server - from.server + to.client - from.client).Seconds()
	r.figure("machine_busy", busy/(float64(to.at-from.at)/1e9)/float64(runtime.NumCPU()))
	r.cpuFigures(from, to, float64(r.loop.deliveries-before), "million", 1e6)
	return &r.run, nil
}

// phase measures for the load's duration. In one that is full the victims do not read meanwhile, and it returns when
// they have read what they missed. The messages that fill their sockets go out before the other phases too, so that what
// they leave behind in the servers is the same.
func (s *staller) phase(ctx context.Context, full bool) error {
	published := s.published
	behind := func() int64 { return 0 }
	if full {
		behind = func() int64 { return s.published - published } // each topic has one victim
		if err := s.watchVictims(unix.EPOLL_CTL_DEL, 0); err != nil {
			return err
		}
	}
	if err := s.fill(ctx, full, behind); err != nil {
		return err
	}
	if err := s.pacedFor(ctx, settling, behind); err != nil {
		return err
	}
	s.loop.latency = new(histogram)
	if err := s.pacedFor(ctx, s.load.Duration, behind); err != nil {
		return err
	}
	if full {
		s.full = append(s.full, s.loop.latency)
	} else {
		s.calm = append(s.calm, s.loop.latency)
	}
	s.loop.latency = new(histogram) // what is between phases counts in none
	if !full {
		return nil
	}
	if err := s.watchVictims(unix.EPOLL_CTL_ADD, unix.EPOLLIN); err != nil {
		return err
	}
	return s.rest(ctx, func() int64 { return 0 })
}

// pacedFor publishes at the load's rate and waits for what comes of it, but for so many deliveries as without says.
func (s *staller) pacedFor(ctx context.Context, d time.Duration, without func() int64) error {
	start := clock()
	s.loop.lastAt = start
	if err := s.paced(ctx, start, d); err != nil {
		return err
	}
	return s.rest(ctx, without)
}

func (s *staller) watchVictims(op int, events uint32) error {
	for _, v := range s.victims {
		if err := s.loop.watch(op, v.fd, v.slot, events); err != nil {
			return err
		}
	}
	return nil
}

// settling is how long a phase publishes before it measures.
const settling = 300 * time.Millisecond

const fillSteps = 200 // messages at most to fill one socket

// fill publishes long messages until the kernel takes nothing more for any victim, or a usual number of them if sockets
// are not to be full. What comes on top, two or three messages for each victim, waits in the servers.
func (s *staller) fill(ctx context.Context, full bool, behind func() int64) error {
	const usual = 4
	last := make([]int64, len(s.victims))
	for step := range fillSteps {
		queues := make([]int64, len(s.victims))
		if full {
			if err := kernelQueues(s.victims, queues); err != nil {
				return err
			}
		}
		done := true
		for i, v := range s.victims {
			if full && queues[i] > 0 && queues[i] == last[i] || !full && step == usual {
				continue
			}
			done = false
			if err := s.loop.send(v.topic.publishers[0].conn, v.topic.filler); err != nil {
				return err
			}
			if err := s.publish(v.topic.publishers[0]); err != nil { // who has got this has got the filler, too
				return err
			}
		}
		if done {
			return nil
		}
		if err := s.rest(ctx, behind); err != nil {
			return err
		}
		last = queues
	}
	return errors.New("the sockets of those who do not read do not get full")
}

// figures notes, for each quantile, the medians of the phases, and what the stalled ones add: the difference between
// each and the mean of the calm phases before and after it. What two calm phases in a row differ by says how much of
// that is chance.
func (s *staller) figures() {
	for _, q := range []struct {
		name string
		q    float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		var calm, full, added, chance []float64
		for i, h := range s.calm {
			calm = append(calm, millis(h.quantile(q.q)))
			if i > 0 {
				full = append(full, millis(s.full[i-1].quantile(q.q)))
				added = append(added, full[i-1]-(calm[i-1]+calm[i])/2)
				chance = append(chance, max(calm[i]-calm[i-1], calm[i-1]-calm[i]))
			}
		}
		s.figure("calm_"+q.name+"_ms", quantileOf(calm, 0.5))
		s.figure("stalled_"+q.name+"_ms", quantileOf(full, 0.5))
		s.figure("added_"+q.name+"_ms", quantileOf(added, 0.5))
		s.figure("added_"+q.name+"_lower_quartile_ms", quantileOf(added, 0.25))
		s.figure("added_"+q.name+"_upper_quartile_ms", quantileOf(added, 0.75))
		s.figure("calm_to_calm_"+q.name+"_ms", quantileOf(chance, 0.5))
	}
}

// quantileOf interpolates between the values, of which there is at least one.
func quantileOf(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

// kernelQueues sets queues to how many bytes wait in the kernel at the servers' ends of the connections.
func kernelQueues(conns []*conn, queues []int64) error {
	file := "/proc/net/tcp"
	if conns[0].addr.IP.To4() == nil {
		file = "/proc/net/tcp6"
	}
	wanted := make(map[string]int, len(conns)) // by the server's and the client's address
	for i, c := range conns {
		local, err := localAddr(c.fd)
		if err != nil {
			return err
		}
		wanted[procAddr(c.addr)+" "+procAddr(local)] = i
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	found, err := readQueues(f, wanted, queues)
	if err == nil && found < len(conns) {
		err = fmt.Errorf("%s does not show the servers' ends of %d connections: they must be on this machine", file, len(conns)-found)
	}
	return err
}

// readQueues reads the send queues of the wanted connections from the text of /proc/net/tcp, and says how many it found.
func readQueues(text io.Reader, wanted map[string]int, queues []int64) (found int, err error) {
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		const local, remote, queue = 1, 2, 4
		if len(fields) <= queue {
			continue
		}
		i, ok := wanted[fields[local]+" "+fields[remote]]
		if !ok {
			continue
		}
		sending, _, _ := strings.Cut(fields[queue], ":")
		if queues[i], err = strconv.ParseInt(sending, 16, 64); err != nil {
			return found, fmt.Errorf("/proc/net/tcp: %w", err)
		}
		found++
	}
	return found, lines.Err()
}

// procAddr writes an address as /proc/net/tcp does: words of four bytes, which a little-endian machine prints backwards.
func procAddr(a *net.TCPAddr) string {
	ip := a.IP.To4()
	if ip == nil {
		ip = a.IP.To16()
	}
	var sb strings.Builder
	for word := range slices.Chunk(ip, 4) {
		fmt.Fprintf(&sb, "%08X", binary.NativeEndian.Uint32(word))
	}
	return fmt.Sprintf("%s:%04X", sb.String(), a.Port)
}

func localAddr(fd int) (*net.TCPAddr, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return nil, fmt.Errorf("address of a connection: %w", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}, nil
	case *unix.SockaddrInet6:
		return &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}, nil
	}
	return nil, fmt.Errorf("address of a connection: %T", sa)
}
