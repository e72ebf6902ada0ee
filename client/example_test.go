package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/ringcast/ringcast/client"
)

func Example() {
	gateway := newStandIn()
	defer gateway.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	c, err := client.Dial(ctx, gateway.URL+"/socket", client.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	received := make(chan client.Message, 1)
	ch := c.Channel("topics:matrix", nil)
	ch.On("event", func(m client.Message) { received <- m })
	if err := ch.Join(ctx); err != nil {
		fmt.Println(err)
		return
	}
	if err := ch.Publish(ctx, "event", map[string]string{"message": "red pill or blue pill?"}); err != nil {
		fmt.Println(err)
		return
	}
	m := <-received
	fmt.Println(m.Topic, m.Event, string(m.Payload))
	// Output: topics:matrix event {"message":"red pill or blue pill?"}
}

// A connection breaks between two messages; the channel goes on where it was, and misses nothing.
func ExampleClient_Channel_resume() {
	gateway := newStandIn()
	defer gateway.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	reader, err := client.Dial(ctx, gateway.URL+"/socket", client.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reader.Close()

	var since any // nil: from now on
	received := make(chan client.Message, 3)
	ch := reader.Channel("topics:matrix", func() any { return map[string]any{"since": since} })
	ch.On("event", func(m client.Message) {
		since = m.Ref
		received <- m
	})
	if err := ch.Join(ctx); err != nil {
		fmt.Println(err)
		return
	}

	writer, err := client.Dial(ctx, gateway.URL+"/socket", client.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer writer.Close()
	for n := range 3 {
		if n == 1 {
			gateway.dropAll()
		}
		out, err := writer.Join(ctx, "topics:matrix", nil)
		for err != nil && ctx.Err() == nil { // its connection was dropped too
			out, err = writer.Join(ctx, "topics:matrix", nil)
		}
		if err := out.Publish(ctx, "event", map[string]int{"n": n}); err != nil {
			fmt.Println(err)
			return
		}
		if err := out.Leave(ctx); err != nil {
			fmt.Println(err)
			return
		}
	}
	for range 3 {
		m := <-received
		fmt.Println(m.Ref, string(m.Payload))
	}
	// Output:
	// epoch:1 {"n":0}
	// epoch:2 {"n":1}
	// epoch:3 {"n":2}
}

// After ErrUnknownOutcome a message with an id can simply be published again.
func ExampleChannel_PublishOnce() {
	gateway := newStandIn()
	defer gateway.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, gateway.URL+"/socket", client.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	ch, err := c.Join(ctx, "orders:all", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		err = ch.PublishOnce(ctx, "order-17", "paid", map[string]int{"order": 17})
		if !errors.Is(err, client.ErrUnknownOutcome) && !errors.Is(err, client.ErrNotSent) {
			break
		}
		_ = ch.WaitJoined(ctx)
	}
	fmt.Println(err)
	// Output: <nil>
}

func ExampleChannel_PublishBinary() {
	gateway := newStandIn()
	defer gateway.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, gateway.URL+"/socket", client.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	ch := c.Channel("room:1", nil)
	received := make(chan client.Message, 1)
	ch.On("picture", func(m client.Message) { received <- m })
	if err := ch.Join(ctx); err != nil {
		fmt.Println(err)
		return
	}
	if err := ch.PublishBinary(ctx, "picture", []byte{0xff, 0xd8, 0xff}); err != nil {
		fmt.Println(err)
		return
	}
	m := <-received
	fmt.Printf("% x\n", m.Binary)
	// Output: ff d8 ff
}

// Of prices that come faster than they can be read, only the newest counts; the others are skipped, and the program knows.
func ExampleChannel_OnSkipped() {
	gateway := newStandIn()
	defer gateway.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, gateway.URL+"/socket", client.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	done := make(chan struct{})
	ch := c.Channel("prices:gold", map[string]any{"slow": "latest"})
	ch.OnSkipped(func(s client.Skipped) { fmt.Println(s.Count, "skipped,", s.From, "to", s.To) })
	ch.On("price", func(m client.Message) {
		fmt.Println(string(m.Payload))
		close(done)
	})
	if err := ch.Join(ctx); err != nil {
		fmt.Println(err)
		return
	}
	gateway.publishTooFast("prices:gold", "price", `{"usd":1}`, `{"usd":2}`, `{"usd":3}`)
	<-done
	// Output:
	// 2 skipped, epoch:1 to epoch:2
	// {"usd":3}
}

func ExampleNewPresence() {
	gateway := newStandIn()
	defer gateway.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	told := make(chan string, 10)
	come := func(user string) *client.Client {
		c, err := client.Dial(ctx, gateway.URL+"/socket", client.Config{})
		if err != nil {
			log.Fatal(err)
		}
		ch := c.Channel("room:1", nil)
		cfg := client.PresenceConfig{Key: user, Meta: map[string]string{"device": "phone"}}
		if user == "ada" {
			cfg.OnJoin = func(key string, before, _ []client.PresenceMeta) {
				if len(before) == 0 {
					told <- key + " comes"
				}
			}
			cfg.OnLeave = func(key string, remain, _ []client.PresenceMeta) {
				if len(remain) == 0 {
					told <- key + " goes"
				}
			}
		}
		if _, err := client.NewPresence(ch, cfg); err != nil {
			log.Fatal(err)
		}
		if err := ch.Join(ctx); err != nil {
			log.Fatal(err)
		}
		return c
	}
	ada := come("ada")
	defer ada.Close()
	fmt.Println(<-told)
	bob := come("bob")
	fmt.Println(<-told)
	bob.Close()
	fmt.Println(<-told)
	// Output:
	// ada comes
	// bob comes
	// bob goes
}

// One client asks whoever holds a name, and gets the answer.
func ExampleNames_Request() {
	gateway := newStandIn()
	defer gateway.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	dial := func() *client.Client {
		c, err := client.Dial(ctx, gateway.URL+"/socket", client.Config{})
		if err != nil {
			log.Fatal(err)
		}
		return c
	}

	server := dial()
	defer server.Close()
	var names *client.Names
	ready := make(chan struct{})
	names, err := server.Names(ctx, client.NamesConfig{From: "clock", OnMessage: func(m client.NameMessage) {
		<-ready // names is set
		if err := names.Reply(ctx, m, "it is late, "+m.From); err != nil {
			log.Print(err)
		}
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	close(ready)
	if err := names.Register(ctx, "clock"); err != nil {
		fmt.Println(err)
		return
	}

	asker := dial()
	defer asker.Close()
	mine, err := asker.Names(ctx, client.NamesConfig{From: "ada"})
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, err := mine.Request(ctx, "clock", "what time is it?")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(answer.From, "says:", string(answer.Bytes()))
	err = mine.Send(ctx, "nobody", "hello?")
	fmt.Println(errors.Is(err, client.ErrNameNotFound))
	// Output:
	// clock says: it is late, ada
	// true
}
