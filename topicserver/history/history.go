// Package history is what a topic server remembers of its topics, so that a subscriber who was away gets the messages
// it missed, in order and once, or is told that they are gone.
//
// A Store is the seam between topics and the place where their past is kept; historytest.Run is what every Store has
// to pass. Memory keeps the past in the process, within bounds.
package history

import (
	"errors"
	"fmt"
	"time"
)

// Position is a place in a topic's order. Offsets start at 1 and have no holes within an epoch; offset 0 is the place
// before the first message. Epochs are names, not numbers: of two epochs neither is the later one.
type Position struct {
	Epoch  uint64 // never 0
	Offset uint64
}

// Message is one message of a topic.
type Message struct {
	Position

	// Item is the message as it goes to gateways, opaque to a Store. It is immutable from the moment it is given to a
	// Store: the Store may keep the slice, and those who read the message share it.
	Item []byte
}

// Store remembers the recent messages of topics. It may forget a topic's oldest messages, or all of a topic, when it
// pleases (that is what its bounds are for); what it has of a topic is of one epoch and has no holes.
//
// Any goroutine may call any method. The calls for one topic have an order because their caller gives them one, by
// holding that topic's lock. No call waits for the network, and the Store calls nobody back.
//
// now is the caller's clock, the same for all calls; ages are counted from the now that a message came with.
type Store interface {
	// Append remembers m, the next message of a topic. A message of another epoch than the one remembered forgets
	// what was there before. In one epoch it has to be the next offset, if the Store still knows the one before: the
	// error is ErrOrder otherwise, as it is for offset 0, and ErrClosed after Close. An error changes nothing.
	//
	// A Store that is out of room forgets: Append does not fail for it, even when it is m itself that finds no room.
	Append(topic string, m Message, now time.Time) error

	// After returns the messages that stand behind since, up to and with top, the topic's last position. complete
	// says that these are all of them. If it is false some are not remembered any more, and msgs is the longest run
	// that ends at top, nil when there is none; a since of another epoch than top's, or beyond top, is answered with
	// nil and false. A since that equals top misses nothing: nil and true, with whatever the Store remembers.
	//
	// After Close nothing is remembered. The slice belongs to the caller, the items in it are shared and read-only.
	After(topic string, since, top Position, now time.Time) (msgs []Message, complete bool)

	// Restore makes msgs all that is remembered of a topic, as far as there is room for them: the past of a topic that
	// comes from another server. They are of one epoch, contiguous, oldest first; the error is ErrOrder otherwise, and
	// ErrClosed after Close. An error changes nothing. No msgs is no past. Their age counts from now. The slice stays
	// the caller's, the items become the Store's.
	Restore(topic string, msgs []Message, now time.Time) error

	// Forget forgets a topic.
	Forget(topic string)

	// Sweep forgets topics that have only messages that are too old, and returns how many; the owner of the Store calls
	// it now and then. It is for the memory they take: a message that is too old is never handed out, swept or not. What
	// is too old in topics that are in use is forgotten as they are used.
	Sweep(now time.Time) (dropped int)

	// Stats returns the current counts.
	Stats() Stats

	// Close forgets everything and frees what the Store holds. Closing again does nothing.
	Close() error
}

// Stats counts what a Store holds and what it has forgotten because of its bounds. What was forgotten by Forget,
// Restore, Close or a new epoch is not counted.
type Stats struct {
	Topics   int   // that have a message, now
	Messages int   // over all topics, now
	Bytes    int64 // now, overheads included

	Evicted uint64 // messages forgotten since the start with their whole topic: all topics together were too large
	Expired uint64 // messages forgotten since the start: too old
	Trimmed uint64 // messages forgotten since the start: too many or too large for one topic
}

var (
	// ErrOrder is the error for messages that do not follow one another.
	ErrOrder = errors.New("not contiguous")

	// ErrClosed is the error for writing to a Store after Close.
	ErrClosed = errors.New("history: store is closed")
)

// checkRun returns an ErrOrder unless msgs are of one epoch and contiguous from an offset of at least 1.
func checkRun(topic string, msgs []Message) error {
	for i, m := range msgs {
		switch {
		case m.Offset == 0:
			return fmt.Errorf("history: restore topic %q: message %d has offset 0, the first is 1: %w", topic, i, ErrOrder)
		case i == 0:
		case m.Epoch != msgs[0].Epoch:
			return fmt.Errorf("history: restore topic %q: message %d is of epoch %d, those before of %d: %w",
				topic, i, m.Epoch, msgs[0].Epoch, ErrOrder)
		case m.Offset-1 != msgs[i-1].Offset:
			return fmt.Errorf("history: restore topic %q: message %d has offset %d, the one before %d: %w",
				topic, i, m.Offset, msgs[i-1].Offset, ErrOrder)
		}
	}
	return nil
}
