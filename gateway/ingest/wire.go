package ingest

import (
	"bufio"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// wire is the connection to the broker as the library sees it. The library believes what a broker sends: it makes room for as much
// as a message says that it has, whatever that is, and ends the process at some frames that it does not expect. So wire cuts the
// input into frames and lets those through that a broker may send.
//
// A message that is larger than what can be published is cut one byte above that, and one whose headers nest too deep, or have
// values of kinds that the library does not know, loses them: these are rejected then like any other that can never be published,
// and the broker hands its own copy on.
type wire struct {
	net.Conn
	in    *bufio.Reader
	limit uint64 // bytes of a message that are let through

	// Owned by the caller of Read.
	frame []byte // the present one
	rest  []byte // of it that was not read yet
	body  uint64 // bytes of the present message that are still to be let through
}

const (
	// maxFrame is the largest frame that the broker is told to send, in bytes. It is RabbitMQ's own default.
	maxFrame = 128 << 10
	// maxNested is how deep tables and arrays may nest in headers. The library copies each level.
	maxNested = 16
	// writeTimeout is how long the broker may take to take what is written.
	writeTimeout = 10 * time.Second
)

// Kinds of frames, and what stands behind each.
const (
	methodFrame    = 1
	headerFrame    = 2
	bodyFrame      = 3
	heartbeatFrame = 8
	frameEnd       = 0xce
	frameHead      = 7 // bytes: kind, channel, size
)

// newWire returns a wire over nc that lets messages of up to limit bytes through as they are.
func newWire(nc net.Conn, limit int) *wire {
	return &wire{Conn: nc, in: bufio.NewReader(nc), limit: uint64(limit) + 1, frame: make([]byte, maxFrame)}
}

// plainURL returns a URL by which the library does no TLS, and the configuration for doing it below wire, nil if there is none to be
// done. It is made of what the library's URLs say.
func plainURL(broker string) (string, *tls.Config, error) {
	uri, err1 := amqp.ParseURI(broker)
	u, err2 := url.Parse(broker)
	if err1 != nil || err2 != nil || uri.Scheme != "amqps" {
		return broker, nil, errors.Join(err1, err2)
	}
	u.Scheme, u.Host = "amqp", net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port))
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cmp.Or(uri.ServerName, uri.Host)}
	if uri.CACertFile != "" {
		pem, err := os.ReadFile(uri.CACertFile)
		if err != nil {
			return "", nil, fmt.Errorf("read the broker's authority: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		cfg.RootCAs.AppendCertsFromPEM(pem)
	}
	if uri.CertFile != "" && uri.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(uri.CertFile, uri.KeyFile)
		if err != nil {
			return "", nil, fmt.Errorf("load the certificate for the broker: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return u.String(), cfg, nil
}

// Write fails when the broker takes nothing for too long: the library waits in it with a lock held.
func (w *wire) Write(p []byte) (int, error) {
	if err := w.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return w.Conn.Write(p)
}

// Read reads what is let through.
func (w *wire) Read(p []byte) (int, error) {
	for len(w.rest) == 0 {
		if err := w.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

// next reads a frame into rest, or as much of it as is let through.
func (w *wire) next() error {
	head := w.frame[:frameHead]
	if _, err := io.ReadFull(w.in, head); err != nil {
		return err
	}
	kind, channel, size := head[0], binary.BigEndian.Uint16(head[1:]), binary.BigEndian.Uint32(head[3:])
	if size > maxFrame-frameHead-1 {
		return fmt.Errorf("the broker sends a frame of %d bytes: at most %d were agreed upon", size, maxFrame)
	}
	whole := w.frame[:frameHead+size+1]
	if _, err := io.ReadFull(w.in, whole[frameHead:]); err != nil {
		return err
	}
	payload := whole[frameHead : frameHead+size]
	w.rest = whole
	switch {
	case whole[frameHead+size] != frameEnd:
		return errors.New("the broker sends a frame without an end")
	case kind == methodFrame && channel <= 1:
		return checkMethod(payload)
	case kind == headerFrame && channel == 1:
		return w.header(payload)
	case kind == bodyFrame && channel == 1:
		n := min(uint64(size), w.body)
		w.body -= n
		w.rest = w.cut(int(n))
		return nil
	case kind == heartbeatFrame && channel == 0 && size == 0:
		return nil
	}
	return fmt.Errorf("the broker sends a frame of kind %d on channel %d", kind, channel)
}

// cut returns the present frame with the first n bytes of its payload; nothing if that is nothing.
func (w *wire) cut(n int) []byte {
	if n == 0 {
		return nil
	}
	binary.BigEndian.PutUint32(w.frame[3:], uint32(n)) //nolint:gosec // no frame is longer
	w.frame[frameHead+n] = frameEnd
	return w.frame[:frameHead+n+1]
}

// header handles what stands before the body of a message: class and weight, 2 bytes each, the size of the body in 8, then the
// properties.
func (w *wire) header(payload []byte) error {
	const sizeAt, propertiesAt = 4, 12
	if len(payload) < propertiesAt+2 {
		return errTorn
	}
	w.body = min(binary.BigEndian.Uint64(payload[sizeAt:]), w.limit)
	binary.BigEndian.PutUint64(payload[sizeAt:], w.body)
	err := checkProperties(payload[propertiesAt:])
	if encoding := refused[err]; encoding != "" {
		payload = append(payload[:propertiesAt], 0x40, 0) // content-encoding alone
		payload = append(append(payload, byte(len(encoding))), encoding...)
		w.rest = w.cut(len(payload))
		return nil
	}
	return err
}

var (
	errTorn    = errors.New("the broker sends a frame that is torn")
	errNested  = errors.New("headers nest too deep")
	errUnknown = errors.New("headers have values of a kind that is not supported")
)

// refused are the content encodings that messages are given whose headers the library is not to see: there are none such, so the
// messages are rejected.
var refused = map[error]string{
	errNested:  "of headers that nest too deep",
	errUnknown: "of headers of an unknown kind",
}

// checkMethod returns an error for a method that is none of those by which a broker answers and delivers. What is in them is bounded,
// but for long texts and tables.
func checkMethod(b []byte) error {
	if len(b) < 4 {
		return errTorn
	}
	class, method := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	var err error
	switch f := fields(b[4:]); [2]uint16{class, method} {
	case [2]uint16{10, 10}: // connection.start
		_ = f.skip(2) && f.table(&err, 0) && f.long(&err) && f.long(&err)
		return err
	case [2]uint16{20, 11}: // channel.open-ok
		f.long(&err)
		return err
	case [2]uint16{10, 30}, [2]uint16{10, 41}, [2]uint16{10, 50}, [2]uint16{10, 51}, [2]uint16{10, 60}, [2]uint16{10, 61}, // connection
		[2]uint16{20, 20}, [2]uint16{20, 40}, [2]uint16{20, 41}, // channel
		[2]uint16{40, 11}, [2]uint16{50, 11}, [2]uint16{50, 21}, // exchange and queue
		[2]uint16{60, 11}, [2]uint16{60, 21}, [2]uint16{60, 30}, [2]uint16{60, 31}, [2]uint16{60, 60}: // basic
		return nil
	}
	return fmt.Errorf("the broker sends method %d.%d", class, method)
}

// checkProperties looks at the properties of a message up to its headers: flags, content type, content encoding, headers.
func checkProperties(b []byte) (err error) {
	flags, f := binary.BigEndian.Uint16(b), fields(b[2:])
	for _, flag := range []uint16{0x8000, 0x4000} {
		if flags&flag != 0 && !f.short() {
			return errTorn
		}
	}
	if flags&0x2000 != 0 {
		f.table(&err, 0)
	}
	return err
}

// fields is what is left of a run of values. Its methods take one off, and report false if it is not there; those with err say why.
type fields []byte

func (f *fields) skip(n int) bool {
	if n > len(*f) {
		return false
	}
	*f = (*f)[n:]
	return true
}

// short takes a text of up to 255 bytes off.
func (f *fields) short() bool { return len(*f) > 0 && f.skip(1+int((*f)[0])) }

// block takes off what has its length in 4 bytes before it.
func (f *fields) block(err *error) (fields, bool) {
	if len(*f) >= 4 {
		if n := binary.BigEndian.Uint32(*f); uint64(n) <= uint64(len(*f)-4) {
			inner := (*f)[4 : 4+n]
			return inner, f.skip(4 + int(n))
		}
	}
	*err = errTorn
	return nil, false
}

func (f *fields) long(err *error) bool {
	_, ok := f.block(err)
	return ok
}

// table takes a table off: pairs of a short text and a value.
func (f *fields) table(err *error, depth int) bool {
	inner, ok := f.block(err)
	for ok && len(inner) > 0 {
		if ok = inner.short(); !ok {
			*err = errTorn
			break
		}
		ok = inner.value(err, depth)
	}
	return ok
}

// sizes are those of the values that always have the same, by their kind.
var sizes = map[byte]int{'t': 1, 'B': 1, 'b': 1, 's': 2, 'I': 4, 'f': 4, 'l': 8, 'd': 8, 'T': 8, 'D': 5, 'V': 0}

// unknown are the kinds of numbers that a broker hands on, and at which the library ends the connection
// (github.com/rabbitmq/amqp091-go/issues/302): the message would come again and again.
const unknown = "uiUL"

// value takes a value off, with the kind before it.
func (f *fields) value(err *error, depth int) bool {
	if len(*f) == 0 {
		*err = errTorn
		return false
	}
	kind := (*f)[0]
	*f = (*f)[1:]
	if depth >= maxNested && (kind == 'F' || kind == 'A') {
		*err = errNested
		return false
	}
	switch kind {
	case 'S', 'x':
		return f.long(err)
	case 'F':
		return f.table(err, depth+1)
	case 'A':
		inner, ok := f.block(err)
		for ok && len(inner) > 0 {
			ok = inner.value(err, depth+1)
		}
		return ok
	}
	if strings.IndexByte(unknown, kind) >= 0 {
		*err = errUnknown
		return false
	}
	if n, ok := sizes[kind]; ok && f.skip(n) {
		return true
	}
	*err = errTorn
	return false
}
