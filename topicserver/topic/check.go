package topic

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/ringcast/ringcast/proto/linkpb"
	"github.com/ringcast/ringcast/shared/link"
)

// maxGateway is the longest id of a gateway, in bytes.
const maxGateway = 255

// maxOffset is the highest offset that a topic may come with. Behind it there is room for all messages that can ever be.
const maxOffset = 1 << 62

// namePrefix begins the topics that stand for exclusive names.
const namePrefix = "reg:"

// CheckState returns what is wrong with the state of a topic that another server has given, nil if nothing is. One that is good can
// be installed, and everything in it be sent to gateways. It may be called by any goroutine.
func CheckState(state *linkpb.TopicState) error {
	if state.Absent {
		return nil
	}
	p := state.Position
	switch {
	case p.GetEpoch() == 0:
		return errors.New("it has no epoch")
	case p.Offset > maxOffset:
		return fmt.Errorf("offset %d leaves no room for messages to come", p.Offset)
	case uint64(len(state.History)) > p.Offset:
		return fmt.Errorf("%d messages up to offset %d", len(state.History), p.Offset)
	}
	first := p.Offset - uint64(len(state.History)) + 1
	for i, item := range state.History {
		if err := checkPast(state.Topic, item, p.Epoch, first+uint64(i)); err != nil {
			return fmt.Errorf("message %d of %d: %w", i+1, len(state.History), err)
		}
	}
	for i, id := range state.Ids {
		// Messages to an exclusive name have ids, and no place.
		if o := id.GetOffset(); o > p.Offset || o == 0 && (id == nil || !strings.HasPrefix(state.Topic, namePrefix)) {
			return fmt.Errorf("publish id %d of %d has offset %d, the topic is at %d", i+1, len(state.Ids), o, p.Offset)
		}
	}
	if n := state.Name; n.GetClaim() != 0 && (n.Gateway == "" || len(n.Gateway) > maxGateway) {
		return fmt.Errorf("its name is held by a gateway with an id of %d bytes; want 1 to %d", len(n.Gateway), maxGateway)
	}
	return nil
}

// checkPast returns what is wrong with a remembered message: it must be the topic's one at this position, within the bounds that a
// publish has.
func checkPast(topic string, item []byte, epoch, offset uint64) error {
	var m *linkpb.Message
	err := linkpb.EachItem(item, func(kind linkpb.Kind, body []byte) error {
		if kind != linkpb.KindMessage || m != nil {
			return errors.New("it is not one message")
		}
		m = new(linkpb.Message)
		return m.UnmarshalVTUnsafe(body)
	})
	switch {
	case err != nil:
		return err
	case m == nil:
		return errors.New("it is not one message")
	case m.Topic != topic:
		return fmt.Errorf("it is of topic %.255q", m.Topic)
	case m.Position.GetEpoch() != epoch:
		return fmt.Errorf("it is of epoch %d, the topic of %d", m.Position.GetEpoch(), epoch)
	case m.Position.GetOffset() != offset:
		return fmt.Errorf("it has offset %d, want %d", m.Position.GetOffset(), offset)
	case len(m.Payload) > link.MaxItem:
		return fmt.Errorf("payload of %d bytes; the limit is %d", len(m.Payload), link.MaxItem)
	case len(m.Event) > link.MaxEvent || !utf8.ValidString(m.Event):
		return fmt.Errorf("event of %d bytes; want UTF-8, and %d at most", len(m.Event), link.MaxEvent)
	}
	return nil
}
