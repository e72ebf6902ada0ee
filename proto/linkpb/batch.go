// Package linkpb is link.proto in Go: generated types, and by hand the packing of items into batches.
package linkpb

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Kind is the field number of an item within UpItem or DownItem.
type Kind = protowire.Number

// The items of an Up.
const (
	KindHello       Kind = 1
	KindSubscribe   Kind = 2
	KindUnsubscribe Kind = 3
	KindJoin        Kind = 4
	KindLeave       Kind = 5
	KindPublish     Kind = 6
	KindUpPing      Kind = 7
	KindUpRing      Kind = 8
	KindHistory     Kind = 60
	KindUpRevoke    Kind = 90
)

// The items of a Down.
const (
	KindWelcome  Kind = 1
	KindRefusal  Kind = 2
	KindReply    Kind = 3
	KindMessage  Kind = 4
	KindDownPing Kind = 5
	KindDownRing Kind = 6
	KindDigest   Kind = 7
	KindSealed   Kind = 8
	KindPast     Kind = 60

	KindDownRevoke  Kind = 90
	KindNameMessage Kind = 110
	KindNameLost    Kind = 111
)

// The items that are about who is there, of an Up and of a Down.
const (
	KindWatch        Kind = 40
	KindUnwatch      Kind = 41
	KindTrack        Kind = 42
	KindUntrack      Kind = 43
	KindList         Kind = 44
	KindPresenceDiff Kind = 40
	KindListing      Kind = 41
)

// The items that are about load, of an Up and of a Down.
const (
	KindUpLoad   Kind = 120
	KindDownLoad Kind = 120
)

// itemsTag is the tag of field 1, length-delimited: Up.items and Down.items alike.
const itemsTag = 1<<3 | byte(protowire.BytesType)

// Item is a message that an UpItem or DownItem can hold.
type Item interface {
	SizeVT() int
	MarshalToSizedBufferVT(dst []byte) (int, error)
}

// AppendItem appends one item to an encoded Up or Down. Repeated fields of Protobuf concatenate, so a batch grows
// item by item in the buffer that is sent, with no tree of messages behind it.
func AppendItem(batch []byte, kind Kind, m Item) []byte {
	size := m.SizeVT()
	batch = append(batch, itemsTag)
	batch = protowire.AppendVarint(batch, uint64(protowire.SizeTag(kind)+protowire.SizeBytes(size)))
	batch = protowire.AppendTag(batch, kind, protowire.BytesType)
	batch = protowire.AppendVarint(batch, uint64(size))
	start := len(batch)
	batch = slices.Grow(batch, size)[:start+size]
	if _, err := m.MarshalToSizedBufferVT(batch[start:]); err != nil {
		// Only a message that changed between SizeVT and here can get here.
		panic(fmt.Sprintf("linkpb: marshal item %d: %v", kind, err))
	}
	return batch
}

var errTorn = errors.New("linkpb: torn batch")

// EachItem calls yield with the kind and the encoded body of every item of an encoded Up or Down, in order. It stops
// at yield's first error and returns it. The body aliases batch and is not validated; what stands before a torn place
// has been yielded by the time the error says so. Items of unknown kind are yielded too; fields that are no items are
// skipped.
func EachItem(batch []byte, yield func(kind Kind, body []byte) error) error {
	for len(batch) > 0 {
		num, item, n := consumeField(batch)
		if n < 0 {
			return errTorn
		}
		batch = batch[n:]
		if num != 1 {
			continue
		}
		for len(item) > 0 {
			kind, body, n := consumeField(item)
			if n < 0 {
				return errTorn
			}
			item = item[n:]
			if kind == 0 {
				continue
			}
			if err := yield(kind, body); err != nil {
				return err
			}
		}
	}
	return nil
}

// consumeField reads one field of n bytes. A field that is not length-delimited can be no item: num is 0, which no
// field has on the wire. n is negative when b is torn.
func consumeField(b []byte) (num protowire.Number, value []byte, n int) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 || num > protowire.MaxValidNumber {
		return 0, nil, -1
	}
	if typ == protowire.BytesType {
		v, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return 0, nil, m
		}
		return num, v, n + m
	}
	m := protowire.ConsumeFieldValue(num, typ, b[n:])
	if m < 0 {
		return 0, nil, m
	}
	return 0, nil, n + m
}
