package client

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
	"unicode/utf8"
)

// namesTopic is the topic on which the server speaks about names.
const namesTopic = "names"

// Refusals of a name, which an *Error matches.
var (
	// ErrNameTaken says that another session holds the name.
	ErrNameTaken = errors.New("name is taken")

	// ErrNameRegistered says that the client has the name already.
	ErrNameRegistered = errors.New("name is registered already")

	// ErrNameNotFound says that nobody holds the name that was sent to, or that the client does not hold the one to be
	// given up.
	ErrNameNotFound = errors.New("name is not registered")
)

// nameTakenFor bounds how long a name that the client had is asked for again after a reconnect while another session holds
// it: the server takes some seconds to notice that the old connection is dead.
const nameTakenFor = 15 * time.Second

// NameMessage is a message to a name.
type NameMessage struct {
	Name     string          `json:"name"` // the one that it was sent to
	From     string          `json:"from"` // as the sender says
	ID       string          `json:"id"`   // as the sender chose, for its reply; empty if it wants none
	Data     json.RawMessage `json:"data"`
	Encoding string          `json:"encoding"` // "base64" if Data is a string that stands for bytes
}

// Bytes returns the data as bytes: what a string says, decoded if it is base64; of any other data its JSON text.
func (m *NameMessage) Bytes() []byte { return dataBytes(m.Data, m.Encoding) }

func dataBytes(data json.RawMessage, encoding string) []byte {
	var text string
	if json.Unmarshal(data, &text) != nil {
		return data
	}
	if encoding == "base64" {
		if b, err := base64.StdEncoding.DecodeString(text); err == nil {
			return b
		}
	}
	return []byte(text)
}

// NamesConfig configures a Names. The zero value sends without a sender's name and hears nothing.
type NamesConfig struct {
	// From is the sender of what is sent, and the name under which Request gets its replies.
	From string
	// OnMessage runs on the callback goroutine for each message to a name of the client that is no reply to a Request.
	OnMessage func(NameMessage)
	// OnLost runs on the callback goroutine when a name is not the client's any more though it has not given it up: the
	// server says so, or another session holds it after a reconnect.
	OnLost func(name string, err error)
}

// Names is a client's part in messages from one session to another. A name belongs to one session of the whole cluster at a
// time; it ends with the connection, and the client asks for it again when it has reconnected. All methods may be called
// from any goroutine.
type Names struct {
	ch  *Channel
	cfg NamesConfig

	mu       sync.Mutex
	held     map[string]bool // names to be asked for again; false while that goes on
	requests map[string]chan NameMessage
	restores int // how many restores have begun; only the last one goes on
}

// Names joins the part of the service that knows names. A client has one Names at a time; the second is ErrTopicInUse.
// Leave ends it.
func (c *Client) Names(ctx context.Context, cfg NamesConfig) (*Names, error) {
	n := &Names{cfg: cfg, held: make(map[string]bool), requests: make(map[string]chan NameMessage)}
	n.ch = c.Channel(namesTopic, map[string]string{"from": cfg.From})
	n.ch.On("new_message", n.message)
	n.ch.On("lost", n.lost)
	n.ch.OnChange(func(change ChannelChange) {
		if change.State == ChannelJoined && change.Rejoin {
			c.running.Go(n.restore) // the callback goroutine is one of those that are running
		}
	})
	if err := n.ch.Join(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// Register makes a name the client's. Refusals are an *Error that matches ErrNameTaken or ErrNameRegistered; else it fails as
// Channel.Publish does.
func (n *Names) Register(ctx context.Context, name string) error {
	if err := n.push(ctx, "register", name); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held[name] = true
	return nil
}

// Unregister gives a name up; ErrNameNotFound if the client does not have it.
func (n *Names) Unregister(ctx context.Context, name string) error {
	n.mu.Lock()
	delete(n.held, name)
	n.mu.Unlock()
	return n.push(ctx, "unregister", name)
}

func (n *Names) push(ctx context.Context, event, name string) error {
	_, err := n.ch.Push(ctx, event, map[string]string{"name": name})
	return err
}

// Held lists the client's names, sorted.
func (n *Names) Held() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	names := make([]string, 0, len(n.held))
	for name := range n.held {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Send sends data, anything encoding/json takes, to whoever holds the name. Nil means that it is on its way there;
// ErrNameNotFound that nobody holds the name.
func (n *Names) Send(ctx context.Context, name string, data any) error {
	return n.send(ctx, name, "", data)
}

// SendBytes is Send for bytes, which clients of other formats get as they are. Its errors are Send's.
func (n *Names) SendBytes(ctx context.Context, name string, data []byte) error {
	_, err := n.ch.Push(ctx, "send", bytesPayload(map[string]string{"name": name}, data))
	return err
}

func (n *Names) send(ctx context.Context, name, id string, data any) error {
	payload := map[string]any{"name": name, "data": data}
	if id != "" {
		payload["id"] = id
	}
	_, err := n.ch.Push(ctx, "send", payload)
	return err
}

// Request sends data to whoever holds the name and returns the reply, which that session sends with Reply or any client by
// sending to From with the same id. It registers From if the client does not have it. ctx should have a deadline: whether
// and when a reply comes is the other session's doing. A request that fails after it was sent may have been received.
func (n *Names) Request(ctx context.Context, name string, data any) (NameMessage, error) {
	if n.cfg.From == "" {
		return NameMessage{}, errors.New("client: request: NamesConfig.From is empty: there is no name for the reply")
	}
	if err := n.Register(ctx, n.cfg.From); err != nil && !errors.Is(err, ErrNameRegistered) {
		return NameMessage{}, fmt.Errorf("client: request: a name for the reply: %w", err)
	}
	id, reply := rand.Text(), make(chan NameMessage, 1)
	n.mu.Lock()
	n.requests[id] = reply
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.requests, id)
	}()
	if err := n.send(ctx, name, id, data); err != nil {
		return NameMessage{}, err
	}
	select {
	case m := <-reply:
		return m, nil
	case <-ctx.Done():
		return NameMessage{}, outcome("request", name, true, ctx.Err())
	case <-n.ch.client.ctx.Done():
		return NameMessage{}, outcome("request", name, true, ErrClosed)
	}
}

// Reply answers a message that was sent by Request. A message without From or ID wants no reply, which is an error; the others
// are Send's. A callback may call it.
func (n *Names) Reply(ctx context.Context, m NameMessage, data any) error {
	if m.From == "" || m.ID == "" {
		return errors.New("client: reply: the message wants no reply")
	}
	return n.send(ctx, m.From, m.ID, data)
}

// Leave gives all names up and ends the Names. They are given up even if it returns an error: Channel.Leave's.
func (n *Names) Leave(ctx context.Context) error {
	n.mu.Lock()
	clear(n.held)
	n.mu.Unlock()
	return n.ch.Leave(ctx)
}

// message handles a message to a name, on the callback goroutine.
func (n *Names) message(msg Message) {
	var m NameMessage
	if json.Unmarshal(msg.Payload, &m) != nil {
		return
	}
	n.mu.Lock()
	reply := n.requests[m.ID]
	if m.Name != n.cfg.From {
		reply = nil
	}
	n.mu.Unlock()
	if reply != nil {
		select {
		case reply <- m:
		default: // answered twice
		}
		return
	}
	if n.cfg.OnMessage != nil {
		n.cfg.OnMessage(m)
	}
}

// lost handles the server's word that a name is another's.
func (n *Names) lost(msg Message) {
	var m NameMessage
	if json.Unmarshal(msg.Payload, &m) != nil {
		return
	}
	n.mu.Lock()
	_, had := n.held[m.Name]
	delete(n.held, m.Name)
	n.mu.Unlock()
	if had && n.cfg.OnLost != nil {
		n.cfg.OnLost(m.Name, fmt.Errorf("client: name %q: %w", m.Name, ErrNameTaken))
	}
}

// restore asks for the names again after a reconnect. A later one takes over from it.
func (n *Names) restore() {
	ctx, c := n.ch.client.ctx, n.ch.client
	began := time.Now()
	n.mu.Lock()
	n.restores++
	mine := n.restores
	n.mu.Unlock()
	for attempt := 0; n.restoring(mine); attempt++ {
		left := 0
		for _, name := range n.Held() {
			err := n.push(ctx, "register", name)
			switch {
			case err == nil, errors.Is(err, ErrNameRegistered):
			case errors.Is(err, ErrNotJoined), errors.Is(err, errConnectionLost), errors.Is(err, ErrClosed):
				return
			case errors.Is(err, ErrNameTaken) && time.Since(began) > nameTakenFor:
				gone, _ := json.Marshal(NameMessage{Name: name})
				c.mu.Lock()
				life := n.ch.life
				c.mu.Unlock()
				_ = c.events.addMessage(n.ch, life, Message{Topic: namesTopic, Event: "lost", Payload: gone})
			default:
				left++
			}
		}
		if left == 0 {
			return
		}
		select {
		case <-time.After(backoff(c.cfg.RejoinMin/4, c.cfg.RejoinMax/4, attempt, 1)):
		case <-ctx.Done():
			return
		}
	}
}

func (n *Names) restoring(mine int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.restores == mine
}

// bytesPayload adds bytes to a payload: as a string, or as base64 if they are not UTF-8.
func bytesPayload(payload map[string]string, data []byte) map[string]string {
	if utf8.Valid(data) {
		payload["data"] = string(data)
	} else {
		payload["data"], payload["encoding"] = base64.StdEncoding.EncodeToString(data), "base64"
	}
	return payload
}
