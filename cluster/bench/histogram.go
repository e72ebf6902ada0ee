package bench

import "math/bits"

// histogram counts durations in nanoseconds with a relative error below 1 %: values below 2^subBits have a bucket
// each, and above that every power of two is cut into 2^(subBits-1) buckets. One goroutine at a time may use it.
type histogram struct {
	counts [(64 - subBits + 2) << (subBits - 1)]uint64
	total  uint64
	max    int64
}

const subBits = 8

// add counts one value; a negative one counts as 0.
func (h *histogram) add(ns int64) {
	ns = max(ns, 0)
	h.counts[bucket(uint64(ns))]++
	h.total++
	h.max = max(h.max, ns)
}

func bucket(v uint64) int {
	shift := max(bits.Len64(v)-subBits, 0)
	return shift<<(subBits-1) + int(v>>shift)
}

// highest is the highest value of a bucket.
func highest(bucket int) int64 {
	shift := max(bucket>>(subBits-1)-1, 0)
	return int64((uint64(bucket-shift<<(subBits-1))+1)<<shift - 1)
}

// quantile returns a value that a share q of all values do not exceed, by at most 1 % too high; 0 without values.
func (h *histogram) quantile(q float64) int64 {
	rank := uint64(q*float64(h.total) + 0.5)
	rank = max(min(rank, h.total), 1)
	var seen uint64
	for i, n := range h.counts {
		if seen += n; n > 0 && seen >= rank {
			return min(highest(i), h.max)
		}
	}
	return 0
}
