// Package codec turns client messages into frames and back, one codec per client format.
//
// A codec is stateless: every method may be called from any goroutine, none blocks, and none keeps a slice it was
// given. Decoding checks the form of a frame (syntax, types, nesting, the size of refs) and nothing of its meaning:
// which topics and events exist, and who may use them, is for the session to say.
package codec

import "fmt"

// Kind numbers the codecs. A hub indexes an array of NumKinds encodings with it.
type Kind uint8

// The codecs there are.
const (
	PhoenixV2 Kind   = iota // Phoenix Channels, vsn 2.0.0
	PhoenixV1               // Phoenix Channels, vsn 1.0.0
	WestJSON                // WEST's record as JSON
	WestText                // WEST's commands as lines of text
	WestPB                  // WEST's record in Protobuf
	Plain                   // payloads alone
	Realtime                // Phoenix Channels as @supabase/realtime-js has them, vsn 2.0.0
	NumKinds  = iota        // how many codecs there are
)

// String returns the name of k in logs and metrics.
func (k Kind) String() string {
	switch k {
	case PhoenixV2:
		return "phoenix_v2"
	case PhoenixV1:
		return "phoenix_v1"
	case WestJSON:
		return "west_json"
	case WestText:
		return "west_text"
	case WestPB:
		return "west_pb"
	case Plain:
		return "plain"
	case Realtime:
		return "realtime"
	default:
		return fmt.Sprintf("codec(%d)", uint8(k))
	}
}

// Carries tells whether the frames of k have a place for p. Only PhoenixV1 has none for binary pushes. Who delivers a push
// skips the subscribers whose codec does not carry it, and counts them: they miss that message for good.
func (k Kind) Carries(p *Push) bool {
	return !p.Binary || k.CarriesBinary()
}

// CarriesBinary tells whether the frames of k have a place for binary pushes.
func (k Kind) CarriesBinary() bool { return k != PhoenixV1 }

// Limits on the frames of clients.
const (
	// MaxDepth is how deep a payload may nest. Every array and object counts one level, the payload itself being
	// the first: `1` has depth 0, `{}` and `[1]` depth 1, `{"a":[]}` depth 2. The array or object that is the frame
	// does not count.
	MaxDepth = 32
	// MaxRef is the size of the largest Ref in bytes, the quotes of a string included.
	MaxRef = 64
	// MaxBinaryText is the size in bytes of the longest text (topic, event, join_ref) in a binary Phoenix frame,
	// which has one byte for each length.
	MaxBinaryText = 255
)

// Ref is the ref or join_ref of a Phoenix frame: the JSON token as the client wrote it (`"1"`, `7`), with its quotes
// and escapes, so that it can be echoed with its type. Nil is null.
//
// Two refs are the same if their bytes are: "1" is not 1, and a client that spells one ref in two ways ("1" and
// "\u0031") has two refs.
type Ref []byte

// Frame is one decoded client frame. Its slices alias the message it was decoded from, so they are good for as long
// as that is; escaped text and the refs of binary frames are copies.
type Frame struct {
	// JoinRef names the client's join that the frame belongs to, Ref the frame itself, for its reply. A client that wants
	// no reply sends a null Ref.
	JoinRef, Ref Ref
	// Topic and Event are text without JSON escapes, valid UTF-8, of any length, perhaps empty.
	Topic, Event []byte
	// Payload is JSON text without white space around it, known to be well formed and to nest no deeper than
	// MaxDepth; or any bytes if Binary is set.
	Payload []byte
	Binary  bool // it came in a format's binary form: Payload is no JSON
}

// Push is what subscribers are sent. Its texts should be valid UTF-8.
type Push struct {
	Topic, Event string
	// Payload is well-formed JSON text, empty meaning `{}`; or any bytes if Binary is set.
	Payload []byte
	Binary  bool
}

// Validate tells whether p fits into the frames of every codec that carries it (see Kind.Carries): the topic and event
// of a binary push have at most MaxBinaryText bytes. It does not look into the payload. The error is an *Error.
func (p *Push) Validate() error {
	if !p.Binary {
		return nil
	}
	for _, text := range [...]struct{ name, value string }{{"topic", p.Topic}, {"event", p.Event}} {
		if len(text.value) > MaxBinaryText {
			return errorf("bad push: %s of %d bytes: a binary push has room for %d",
				text.name, len(text.value), MaxBinaryText)
		}
	}
	return nil
}

// Codec is one client format. What its terms mean for WEST's records, west.go says.
type Codec interface {
	// Kind returns the number of the codec.
	Kind() Kind

	// Decode parses one client message. Binary tells which kind of WebSocket message it came in; PhoenixV1 does not
	// care. The error is an *Error; the frame is then empty.
	Decode(data []byte, binary bool) (Frame, error)

	// AppendReply appends the frame that answers a client's frame with the given refs. Response is JSON text,
	// empty meaning `{}`. No frame of PhoenixV1 has a join_ref; there it is left out, here and in heads.
	AppendReply(dst []byte, joinRef, ref Ref, topic, status string, response []byte) []byte

	// AppendHead and AppendBody append the two halves of the frame that carries p to a subscriber: the head, then
	// the body. The head differs from subscriber to subscriber (its join_ref; its ref, which is null or the
	// position of the message as a JSON string). The body is the same for all of them, so it is encoded once. They
	// are for pushes that Kind().Carries.
	AppendHead(dst []byte, joinRef, ref Ref, p *Push) []byte
	AppendBody(dst []byte, p *Push) []byte

	// Binary tells whether the frame that carries p goes out in a binary WebSocket message. Replies go out as text, but
	// for those of WestPB.
	Binary(p *Push) bool
}

// ForKind returns the codec with number k. It panics if there is none.
func ForKind(k Kind) Codec {
	return [NumKinds]Codec{
		PhoenixV2: phoenixV2{},
		PhoenixV1: phoenixV1{},
		WestJSON:  westJSON{},
		WestText:  westText{},
		WestPB:    westPB{},
		Plain:     bare{},
		Realtime:  realtime{},
	}[k]
}

// AppendControl appends a whole frame with event phx_close or phx_error and payload `{}`, which tells the client what
// became of the channel it joined with joinRef. Such a frame has its join_ref as its ref, too; in PhoenixV1 that is
// the only place it has, and it is null for a client that joins without one.
func AppendControl(dst []byte, c Codec, joinRef Ref, topic, event string) []byte {
	p := Push{Topic: topic, Event: event}
	return c.AppendBody(c.AppendHead(dst, joinRef, joinRef, &p), &p)
}

// Error says what is wrong with bytes that a client sent. Its text quotes at most a byte of them and has at most 123
// bytes, which makes it fit for the reason of a WebSocket close frame.
type Error struct {
	Reason string // for the client, in English; it names the place in the bytes where that helps
}

func (e *Error) Error() string { return e.Reason }

func errorf(format string, args ...any) error {
	return &Error{Reason: fmt.Sprintf(format, args...)}
}
