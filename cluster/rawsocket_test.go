package cluster_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/ringcast/ringcast/cluster"
	"github.com/ringcast/ringcast/gateway"
	sockets "github.com/ringcast/ringcast/gateway/socket"
)

// First bytes of WebSocket frames.
const (
	fin       = 0x80
	finText   = fin | 1
	finBinary = fin | 2
	finClose  = fin | 8
	finPing   = fin | 9
)

// clientFrame is one masked frame with the given first byte and the shortest length form.
func clientFrame(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return masked(b, payload)
}

// masked appends to b a masking key and the payload masked with it.
func masked(b, payload []byte) []byte {
	key := [4]byte{0x12, 0x34, 0x56, 0x78}
	b = append(b, key[:]...)
	for i, c := range payload {
		b = append(b, c^key[i%4])
	}
	return b
}

// rawSocket is a client that writes any bytes it likes behind a proper handshake.
type rawSocket struct {
	t          *testing.T
	conn       net.Conn
	in         *bufio.Reader
	extensions string // what the server agreed to
}

// dialRaw connects to a gateway's host:port. It offers compression, as browsers do.
func dialRaw(t *testing.T, addr string) *rawSocket {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	return shakeRaw(t, conn, addr, "permessage-deflate; client_max_window_bits")
}

// shakeRaw is dialRaw over a connection that there is, with an offer of extensions.
func shakeRaw(t *testing.T, conn net.Conn, addr, extensions string) *rawSocket {
	t.Helper()
	t.Cleanup(func() { _ = conn.Close() })
	s := &rawSocket{t: t, conn: conn, in: bufio.NewReader(conn)}
	s.write([]byte("GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: " + addr + "\r\n" +
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Extensions: " + extensions + "\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
	resp, err := http.ReadResponse(s.in, nil)
	if err != nil {
		t.Fatalf("handshake: %v", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("handshake: %s, headers %v", resp.Status, resp.Header)
	}
	s.extensions = resp.Header.Get("Sec-WebSocket-Extensions")
	return s
}

// write hands bytes to the socket. A server that has seen enough may have closed it: what it said counts, not that.
func (s *rawSocket) write(b []byte) {
	s.t.Helper()
	_ = s.conn.SetDeadline(time.Now().Add(patience))
	if _, err := s.conn.Write(b); err != nil {
		s.t.Logf("write: %v", err)
	}
}

func (s *rawSocket) say(text string) {
	s.t.Helper()
	s.write(clientFrame(finText, []byte(text)))
}

// read returns the next frame of the server: its first byte and its payload.
func (s *rawSocket) read() (first byte, payload []byte, err error) { return s.readWithin(patience) }

// readWithin is read with another patience.
func (s *rawSocket) readWithin(d time.Duration) (first byte, payload []byte, err error) {
	_ = s.conn.SetReadDeadline(time.Now().Add(d))
	var head [2]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1])
	switch head[1] {
	case 126:
		var b [2]byte
		_, err = io.ReadFull(s.in, b[:])
		n = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		_, err = io.ReadFull(s.in, b[:])
		n = binary.BigEndian.Uint64(b[:])
	}
	if err == nil && n > 4<<20 {
		err = fmt.Errorf("frame with length byte %#x claims %d bytes", head[1], n)
	}
	if err != nil {
		return 0, nil, err
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(s.in, payload)
	return head[0], payload, err
}

// expect reads one text frame.
func (s *rawSocket) expect(want string) {
	s.t.Helper()
	first, payload, err := s.read()
	if err != nil || first != finText || string(payload) != want {
		s.t.Fatalf("heard frame %#x %q, error %v\n\twant %s", first, payload, err, want)
	}
}

// expectClose reads a close frame and answers it; then the server has to end the connection.
func (s *rawSocket) expectClose(code int, reason string) {
	s.t.Helper()
	first, payload, err := s.read()
	if err != nil {
		s.t.Fatalf("no close frame: %v, want %d %q", err, code, reason)
	}
	if first != finClose || len(payload) < 2 {
		s.t.Fatalf("heard frame %#x %q, want close %d %q", first, payload, code, reason)
	}
	if got := int(binary.BigEndian.Uint16(payload)); got != code || string(payload[2:]) != reason {
		s.t.Fatalf("closed with %d %q, want %d %q", got, payload[2:], code, reason)
	}
	s.write(clientFrame(finClose, payload[:2]))
	s.expectEnd()
}

// expectEnd expects nothing but the end of the connection, and ends this side of it too.
func (s *rawSocket) expectEnd() {
	s.t.Helper()
	first, payload, err := s.read()
	if err == nil {
		s.t.Fatalf("heard frame %#x %q after the close", first, payload)
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		s.t.Fatalf("connection did not end: %v", err)
	}
	_ = s.conn.Close()
}

// neighborhood is a gateway with one event loop, so that whatever a client does to its loop it does to the witness,
// a client beside it.
type neighborhood struct {
	t       *testing.T
	cluster *cluster.Cluster
	gateway *cluster.Gateway
	witness *socket
	said    int
}

func newNeighborhood(t *testing.T, adjust ...func(*gateway.Config)) *neighborhood {
	t.Helper()
	c := start(t, func(cfg *cluster.Config) {
		cfg.TopicServers, cfg.Gateways = 1, 1
		cfg.Gateway = func(cfg *gateway.Config) {
			quick(cfg)
			cfg.Loops = 1
			for _, f := range adjust {
				f(cfg)
			}
		}
	})
	n := &neighborhood{t: t, cluster: c, gateway: c.Gateways[0], witness: dial(t, "witness", c.Gateways[0].WebSocketURL())}
	n.witness.join("topics:witness")
	return n
}

// unharmed shows that the witness still publishes and hears, that nothing but its socket is left, that no socket was
// ended for another reason than those given, and that nothing panicked.
func (n *neighborhood) unharmed(reasons ...sockets.End) {
	n.t.Helper()
	n.said++
	n.witness.say(fmt.Sprintf(`["1","2","topics:witness","publish",["event",{"n":%d}]]`, n.said))
	n.witness.expect(
		`["1","2","topics:witness","phx_reply",{"response":{},"status":"ok"}]`,
		fmt.Sprintf(`["1",null,"topics:witness","event",{"n":%d}]`, n.said))
	n.witness.silence()
	eventually(n.t, "only the witness is connected", func() bool {
		stats, _ := n.gateway.Stats()
		return stats.Open == 1
	})
	stats, _ := n.gateway.Stats()
	if stats.Panics != 0 {
		n.t.Errorf("%d panics", stats.Panics)
	}
	for end, count := range stats.Ended {
		if count > 0 && !slices.Contains(reasons, sockets.End(end)) {
			n.t.Errorf("%d sockets ended with reason %q, expected are %q", count, sockets.End(end), reasons)
		}
	}
}

// rejected has a new client do something and expects the close frame for it, and no harm to others. It runs as a
// subtest.
func (n *neighborhood) rejected(name string, do func(*rawSocket), code int, reason string, end sockets.End) {
	n.t.Helper()
	n.t.Run(name, func(t *testing.T) {
		s := dialRaw(t, n.gateway.Addr)
		do(s)
		s.expectClose(code, reason)
	})
	n.unharmed(end)
}
