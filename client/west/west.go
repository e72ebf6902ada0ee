// Package west is the six verbs of WEST for Go programs: names (Reg, Unreg, Send) and channels (Sub, Unsub, Pub), with one
// callback for all that comes. A Peer speaks to the same names and channels as WEST's clients over WebSocket, whatever
// their format.
//
//	p, err := west.Start(ctx, "ws://localhost:4000/socket", "u1", func(e west.Event) { … }, client.Config{})
//	err = p.Reg(ctx, "r1")
//	err = p.Send(ctx, "r2", []byte("hello!"))
package west

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/ringcast/ringcast/client"
)

// Event is a message: to a name of the peer, or on a channel that it has subscribed.
type Event struct {
	From    string // the sender
	Channel string // the name or the channel
	Data    []byte // any bytes
}

// Refusals. Those of names are the client's.
var (
	// ErrSubscribed says that the peer has subscribed the channel already.
	ErrSubscribed = errors.New("west: subscribed already")

	// ErrNotSubscribed says that it has not.
	ErrNotSubscribed = errors.New("west: not subscribed")
)

// channelTopic stands before a channel in the name of its topic.
const channelTopic = "west:"

// newMessage is the event of a message.
const newMessage = "new_message"

// Peer is one user. All methods may be called from any goroutine.
type Peer struct {
	// Static.
	key    string
	client *client.Client
	names  *client.Names

	mu       sync.Mutex
	callback func(Event)

	channels sync.Mutex // held while channels are joined, left and published to; locked before mu
	joined   map[string]*client.Channel
}

// Start connects a user. The callback runs for one event at a time and must not call Stop; SetCallback changes it. The url and
// cfg are those of client.Dial; ctx matters only for Start itself.
func Start(ctx context.Context, url, key string, callback func(Event), cfg client.Config) (*Peer, error) {
	c, err := client.Dial(ctx, url, cfg)
	if err != nil {
		return nil, err
	}
	p := &Peer{key: key, client: c, callback: callback, joined: make(map[string]*client.Channel)}
	p.names, err = c.Names(ctx, client.NamesConfig{From: key, OnMessage: func(m client.NameMessage) {
		p.event(Event{From: m.From, Channel: m.Name, Data: m.Bytes()})
	}})
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return p, nil
}

// Stop disconnects the user: its names and subscriptions end. It returns when the callback has run for the last time. Its
// error is client.Client.Close's.
func (p *Peer) Stop() error { return p.client.Close() }

// SetCallback changes the callback for all that comes from now on.
func (p *Peer) SetCallback(callback func(Event)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.callback = callback
}

func (p *Peer) event(e Event) {
	p.mu.Lock()
	callback := p.callback
	p.mu.Unlock()
	if callback != nil {
		callback(e)
	}
}

// Events lists the names that the peer has and the channels that it has subscribed, each sorted.
func (p *Peer) Events() (names, channels []string) {
	p.channels.Lock()
	defer p.channels.Unlock()
	for channel := range p.joined {
		channels = append(channels, channel)
	}
	slices.Sort(channels)
	return p.names.Held(), channels
}

// Reg registers a name: client.ErrNameRegistered if the peer has it, client.ErrNameTaken if somebody else does.
func (p *Peer) Reg(ctx context.Context, name string) error { return p.names.Register(ctx, name) }

// Unreg gives a name up: client.ErrNameNotFound if the peer does not have it.
func (p *Peer) Unreg(ctx context.Context, name string) error { return p.names.Unregister(ctx, name) }

// Send sends data to whoever has the name: client.ErrNameNotFound if nobody has.
func (p *Peer) Send(ctx context.Context, name string, data []byte) error {
	return p.names.SendBytes(ctx, name, data)
}

// Sub subscribes a channel: ErrSubscribed if the peer has done so already.
func (p *Peer) Sub(ctx context.Context, channel string) error {
	p.channels.Lock()
	defer p.channels.Unlock()
	if p.joined[channel] != nil {
		return ErrSubscribed
	}
	ch := p.client.Channel(channelTopic+channel, nil)
	ch.On(newMessage, func(m client.Message) { p.published(channel, m) })
	if err := ch.Join(ctx); err != nil {
		return err
	}
	p.joined[channel] = ch
	return nil
}

// published hands a message of a channel to the callback.
func (p *Peer) published(channel string, m client.Message) {
	var payload client.NameMessage
	if json.Unmarshal(m.Payload, &payload) != nil || payload.Data == nil {
		payload.Data = m.Payload
	}
	p.event(Event{From: payload.From, Channel: channel, Data: payload.Bytes()})
}

// Unsub ends a subscription: ErrNotSubscribed if there is none.
func (p *Peer) Unsub(ctx context.Context, channel string) error {
	p.channels.Lock()
	defer p.channels.Unlock()
	ch := p.joined[channel]
	if ch == nil {
		return ErrNotSubscribed
	}
	delete(p.joined, channel)
	return ch.Leave(ctx)
}

// message is the payload of a message on a channel.
type message struct {
	Channel  string `json:"channel"`
	From     string `json:"from"`
	Data     string `json:"data"`
	Encoding string `json:"encoding,omitempty"`
}

// Pub publishes data to all that have subscribed the channel, the peer included if it has. A channel that it has not
// subscribed is joined for as long as that takes; data that is published when leaving it fails is published all the same,
// and the error says so. Others are those of client.Channel.Join and Publish.
func (p *Peer) Pub(ctx context.Context, channel string, data []byte) error {
	p.channels.Lock()
	defer p.channels.Unlock()
	payload := message{Channel: channel, From: p.key, Data: string(data)}
	if !utf8.Valid(data) {
		payload.Data, payload.Encoding = base64.StdEncoding.EncodeToString(data), "base64"
	}
	ch := p.joined[channel]
	if ch != nil {
		return ch.Publish(ctx, newMessage, payload)
	}
	ch, err := p.client.Join(ctx, channelTopic+channel, nil)
	if err != nil {
		return err
	}
	err = ch.Publish(ctx, newMessage, payload)
	if left := ch.Leave(ctx); err == nil && left != nil {
		return fmt.Errorf("west: published to %s, but %w", channel, left)
	}
	return err
}
