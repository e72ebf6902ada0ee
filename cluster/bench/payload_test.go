package bench

import (
	"fmt"
	"strings"
	"testing"
)

func TestPublishFrameSaysWhatItIsStamped(t *testing.T) {
	for _, size := range []int{minPayload, 128, 300, 7000} {
		f := newPublishFrame("bench:x", 7, size)
		for _, want := range []stamp{{7, 0, 0}, {7, 42, 12345678901234}, {7, 4294967295, 1<<63 - 1}, {7, 3, 5}} {
			fr, n, err := parseFrame([]byte(string(f.stamp(want.sequence, want.time))), true)
			if err != nil || n != len(f.bytes) || fr.op != opText {
				t.Fatalf("parseFrame: %+v, %d, %v", fr, n, err)
			}
			head := fmt.Sprintf(`["1","%010d","bench:x","publish",["m",{`, want.sequence)
			text := string(fr.payload)
			if !strings.HasPrefix(text, head) || !strings.HasSuffix(text, "\"}]]") {
				t.Fatalf("frame is %s", text)
			}
			payload := []byte(text[len(head)-1 : len(text)-2])
			if got, ok := readStamp(payload); !ok || got != want || len(payload) != size {
				t.Errorf("stamp is %+v, %t in %d bytes, want %+v in %d", got, ok, len(payload), want, size)
			}
		}
	}
}

func TestReadStampRefuses(t *testing.T) {
	payload := func(at int, c byte) []byte {
		p := newPayload(minPayload)
		p[at] = c
		return p
	}
	for name, p := range map[string][]byte{
		"empty":           nil,
		"short":           newPayload(minPayload)[:minPayload-1],
		"bad publisher":   payload(publisherAt, 'x'),
		"bad sequence":    payload(sequenceAt+9, '-'),
		"large sequence":  payload(sequenceAt, '9'),
		"bad time":        payload(timeAt, ' '),
		"time over int63": []byte(strings.Replace(string(newPayload(minPayload)), strings.Repeat("0", timeDigits), strings.Repeat("9", timeDigits), 1)),
	} {
		if s, ok := readStamp(p); ok {
			t.Errorf("%s: got %+v", name, s)
		}
	}
}

func TestDeliveryPayload(t *testing.T) {
	d := newDelivery("bench:x", 128)
	good := string(deliveryHead("bench:x", event)) + string(newPayload(128)) + "]"
	if p := d.payload([]byte(good)); string(p) != string(newPayload(128)) {
		t.Errorf("payload is %q", p)
	}
	for name, text := range map[string]string{
		"other topic":    strings.Replace(good, "bench:x", "bench:y", 1),
		"other join_ref": strings.Replace(good, `"1"`, `"2"`, 1),
		"longer":         good + " ",
		"shorter":        good[1:],
		"empty":          "",
		"reply":          `["1","1","bench:x","phx_reply",{"response":{},"status":"ok"}]`,
	} {
		if p := d.payload([]byte(text)); p != nil {
			t.Errorf("%s: taken for a delivery of %q", name, p)
		}
	}
}
