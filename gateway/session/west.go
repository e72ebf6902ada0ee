package session

import (
	"bytes"
	"fmt"
	"time"

	"github.com/ringcast/ringcast/gateway/auth"
	"github.com/ringcast/ringcast/gateway/router"
	"github.com/ringcast/ringcast/gateway/socket"
	"github.com/ringcast/ringcast/proto/codec"
	"github.com/ringcast/ringcast/proto/linkpb"
)

// westTopic stands before the channel in the topic of a WEST channel.
const westTopic = "west:"

const (
	// westPing is the silence after which a client that asked for keepalive, and for no timeout, is pinged.
	westPing = 30 * time.Second
	// westGrace is how long such a client may take to answer.
	westGrace = 2 * time.Second
)

// WestOptions is what a WEST client asks for when it connects.
type WestOptions struct {
	// Key is the client's user name: the sender of everything that it sends. Without one the client is sent away.
	Key string
	// Timeout is the silence after which the client is told so; 0 is never.
	Timeout time.Duration
	// Keepalive has the client pinged after Timeout instead, and told if it does not answer.
	Keepalive bool
	// Drop closes the socket of a client that was told.
	Drop bool
}

// west is what the session of a WEST client has more: commands and their replies, in one of three formats.
type west struct {
	*Session
	opts WestOptions // static

	// Owned by the loop.
	asked           bool   // pinged, and no answer yet
	texts, binaries uint64 // messages received
	timer           *time.Timer
}

// OpenWest is Open for a WEST client.
func (ss *Sessions) OpenWest(conn *socket.Conn, kind codec.Kind, opts WestOptions, id *auth.Identity) *Session {
	s := ss.Open(conn, kind, id)
	w := &west{Session: s, opts: opts}
	s.extras().west = w
	if opts.Key == "" {
		w.notUnderstood(codec.WestBadRequest)
		conn.Close(closeBadFrame, "no user name: want /websocket/FORMAT/NAME")
		return s
	}
	w.reply(nil, "", codec.WestEstablished)
	conn.KeepAlive()
	if opts.Keepalive && opts.Timeout == 0 {
		w.opts.Timeout = westPing
	}
	if w.opts.Timeout > 0 {
		w.timer = time.AfterFunc(w.opts.Timeout, func() { conn.Loop().Post(w.quiet) })
	}
	return s
}

// message handles one command.
func (w *west) message(op socket.Opcode, data []byte) {
	if w.codec == codec.WestJSON && op == socket.OpText && string(data) == "bye" {
		w.bye()
		return
	}
	f, err := codec.ForKind(w.codec).Decode(data, op == socket.OpBinary)
	if err == nil && string(f.Event) == "bye" {
		w.bye()
		return
	}
	if op == socket.OpBinary {
		w.binaries++
	} else {
		w.texts++
	}
	if w.limited(&f) {
		return
	}
	if err != nil {
		w.notUnderstood(err.Error())
		return
	}
	switch string(f.Event) {
	case "ping":
		w.reply(f.Ref, "", codec.WestPong)
	case "register", "unregister", "send":
		w.name(&f)
	case "subscribe":
		w.subscribe(&f)
	case "unsubscribe":
		w.unsubscribe(&f)
	case "publish":
		w.publish(&f)
	case codec.WestEcho:
		if w.codec == codec.WestText && f.Payload != nil {
			w.conn.Send(socket.OpText, f.Payload)
			return
		}
		w.reply(f.Ref, string(f.Topic), "action_not_allowed")
	default:
		w.reply(f.Ref, string(f.Topic), "action_not_allowed")
	}
}

// stop ends what a closed session would go on with.
func (w *west) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// name handles the commands about exclusive names.
func (w *west) name(f *codec.Frame) {
	id, channel := bytes.Clone(f.Ref), string(f.Topic)
	var succeeded, failed string
	done := func(reason, _ string) {
		event := failed
		switch {
		case w.closed:
			return
		case reason == "":
			event = succeeded
		case reason == nameTaken:
			event = "registration_denied"
		case reason == nameRegistered:
			event = "registration_already_exist"
		case reason == nameNotFound:
			event = "registration_not_found"
		case reason == "busy" || reason == "unavailable" || reason == "internal" || reason == "unknown_outcome":
			event = "internal_error"
		}
		w.reply(id, channel, event)
	}
	switch string(f.Event) {
	case "register":
		succeeded, failed = "registration_succeeded", "registration_failed"
		w.register(channel, done)
	case "unregister":
		succeeded, failed = "unregistration_succeeded", "unregistration_failed"
		if f.Topic == nil {
			done(failed, "")
			return
		}
		w.unregister(channel, done)
	case "send":
		succeeded, failed = "sending_succeeded", "sending_failed"
		if f.Payload == nil {
			done(failed, "")
			return
		}
		w.sendTo(channel, codec.WestMessage, codec.AppendWestPayload(nil, "name", channel, w.opts.Key, string(id), f.Payload), done)
	}
}

// bye says what was received and closes the socket.
func (w *west) bye() {
	for _, line := range []string{
		"Goodbye !", fmt.Sprintf("%d text messages received", w.texts), fmt.Sprintf("%d binary messages received", w.binaries),
	} {
		w.conn.Send(socket.OpText, []byte(line))
	}
	w.conn.Close(socket.CloseNormal, "bye")
}

// quiet is called when the client may have been silent for its timeout.
func (w *west) quiet() {
	if w.closed || w.conn.Closing() {
		return
	}
	w.asked = w.asked && !w.conn.Answered()
	left := w.opts.Timeout - w.conn.Silence()
	switch {
	case left > 0:
	case w.opts.Keepalive && !w.asked:
		w.asked = true
		w.conn.Ping()
		left = westGrace
	default:
		w.asked = false
		w.reply(nil, "", codec.WestTimeout)
		if w.opts.Drop {
			w.conn.Close(socket.CloseIdleTimeout, "timeout")
			return
		}
		left = w.opts.Timeout
	}
	w.timer.Reset(left)
}

// topicOf returns the topic of a channel, and whether such a topic is served.
func (w *west) topicOf(channel []byte) (string, bool) {
	topic := westTopic + string(channel)
	v, _ := w.ss.cfg.Topics.judge(topic)
	return topic, v == served && len(channel) > 0
}

func (w *west) subscribe(f *codec.Frame) {
	topic, ok := w.topicOf(f.Topic)
	switch {
	case ok && w.find([]byte(topic)) != nil:
		w.reply(f.Ref, string(f.Topic), "subscription_already_exist")
		return
	case !ok || len(w.channels) >= w.ss.cfg.MaxChannels || !w.allowed(topic, auth.Join):
		w.reply(f.Ref, string(f.Topic), "subscription_failed")
		return
	}
	id := bytes.Clone(f.Ref)
	w.enter(topic, func(o router.Outcome) {
		w.answer(id, topic, o, "subscription_succeeded", "subscription_failed")
	})
}

// enter joins a topic and calls done with the outcome, unless it is left before.
func (w *west) enter(topic string, done func(router.Outcome)) {
	c := &channel{topic: topic}
	c.Conn, c.Codec = w.conn, w.codec
	w.channels = append(w.channels, c)
	w.ss.local.Join(topic, &c.Channel, nil, func(o router.Outcome) {
		if !o.OK() {
			w.remove(c)
		}
		done(o)
	})
}

// unsubscribe leaves a channel; a subscription that waits for its owner ends without another reply.
func (w *west) unsubscribe(f *codec.Frame) {
	topic, ok := w.topicOf(f.Topic)
	c := w.find([]byte(topic))
	switch {
	case !ok:
		w.reply(f.Ref, string(f.Topic), "unsubscription_failed")
		return
	case c == nil:
		w.reply(f.Ref, string(f.Topic), "subscription_not_found")
		return
	}
	w.remove(c)
	w.ss.local.Leave(topic, &c.Channel)
	w.reply(f.Ref, string(f.Topic), "unsubscription_succeeded")
}

func (w *west) publish(f *codec.Frame) {
	topic, ok := w.topicOf(f.Topic)
	if !ok || f.Payload == nil || !w.allowed(topic, auth.Publish) {
		w.reply(f.Ref, string(f.Topic), "publication_failed")
		return
	}
	channel := string(f.Topic)
	p := linkpb.Publish{Topic: topic, Event: codec.WestMessage}
	p.Payload = codec.AppendWestPayload(nil, "channel", channel, w.opts.Key, string(f.Ref), f.Payload)
	id := bytes.Clone(f.Ref)
	w.inFlight++
	w.ss.local.Publish(&p, func(o router.Outcome) {
		w.inFlight--
		w.answer(id, topic, o, "publication_succeeded", "publication_failed")
	})
}

// answer sends the reply to a command about a channel. What failed for the command's own fault is told apart from what
// failed here.
func (w *west) answer(id codec.Ref, topic string, o router.Outcome, succeeded, failed string) {
	event := "internal_error"
	switch o.Code {
	case linkpb.Code_RATE_LIMITED:
		w.replyRefused(id, topic[len(westTopic):], reason(o.Code), o.RetryAfter)
		return
	case linkpb.Code_OVERLOADED:
		w.replyRefused(id, topic[len(westTopic):], reason(o.Code), busyPause)
		return
	case linkpb.Code_OK:
		event = succeeded
	case linkpb.Code_INVALID, linkpb.Code_TOO_LARGE:
		event = failed
	}
	w.reply(id, topic[len(westTopic):], event)
}

// lost tells the client that messages of a channel were lost, and subscribes it again: a WEST client does not know that it
// should. If that fails too the client is to connect anew.
func (w *west) lost(c *channel) {
	w.reply(nil, c.topic[len(westTopic):], "internal_error")
	w.enter(c.topic, func(o router.Outcome) {
		if !o.OK() {
			w.conn.Close(socket.CloseRestart, "a subscription was lost")
		}
	})
}

// reply sends a record from the service.
func (w *west) reply(id codec.Ref, channel, event string) { w.replyData(id, channel, event, nil) }

// replyData is reply with data, which texts have no place for.
func (w *west) replyData(id codec.Ref, channel, event string, data []byte) {
	op := socket.OpText
	if w.codec == codec.WestPB {
		op = socket.OpBinary
	}
	ss := w.ss
	ss.buf = codec.ForKind(w.codec).AppendReply(ss.buf[:0], nil, id, channel, event, data)
	w.conn.Send(op, ss.buf)
}

// notUnderstood answers what is no command, with a bare word but where only records are understood.
func (w *west) notUnderstood(reason string) {
	if w.codec == codec.WestPB && reason == codec.WestBadRequest {
		w.reply(nil, "", reason)
		return
	}
	w.conn.Send(socket.OpText, []byte(reason))
}
