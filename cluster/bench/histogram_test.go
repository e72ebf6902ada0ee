package bench

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestBucketsCoverEveryValueOnce(t *testing.T) {
	last := -1
	for _, v := range []uint64{0, 1, 255, 256, 257, 258, 511, 512, 1023, 1024, 1 << 20, 1<<20 + 1<<13, 1 << 62, math.MaxInt64} {
		b := bucket(v)
		if b < last {
			t.Errorf("bucket(%d) = %d, below the one before", v, b)
		}
		last = b
		if top := uint64(highest(b)); top < v || float64(top-v) > 0.01*float64(v) {
			t.Errorf("bucket(%d) = %d ends at %d", v, b, top)
		}
	}
	for b := range bucket(1 << 40) {
		if bucket(uint64(highest(b))) != b || bucket(uint64(highest(b))+1) != b+1 {
			t.Fatalf("bucket %d ends at %d, which is not its end", b, highest(b))
		}
	}
	if b := bucket(math.MaxUint64); b != len(new(histogram).counts)-1 {
		t.Errorf("the last bucket is %d of %d", b, len(new(histogram).counts))
	}
}

func TestQuantilesAgreeWithSorting(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	h := new(histogram)
	var values []int64
	for range 20_000 {
		v := int64(math.Exp(rnd.Float64() * 20))
		values = append(values, v)
		h.add(v)
	}
	slices.Sort(values)
	for _, q := range []float64{0, 0.001, 0.5, 0.99, 0.999, 1} {
		want := values[max(int(q*float64(len(values))+0.5)-1, 0)]
		if got := h.quantile(q); got < want || float64(got-want) > 0.01*float64(want) {
			t.Errorf("quantile(%g) = %d, want %d", q, got, want)
		}
	}
	if h.max != values[len(values)-1] || h.quantile(1) != h.max {
		t.Errorf("max is %d, quantile(1) %d, want %d", h.max, h.quantile(1), values[len(values)-1])
	}
}

func TestHistogramAtItsEnds(t *testing.T) {
	h := new(histogram)
	if q := h.quantile(0.5); q != 0 {
		t.Errorf("empty: %d", q)
	}
	h.add(-5)
	h.add(math.MaxInt64)
	if h.quantile(0.5) != 0 || h.quantile(1) != math.MaxInt64 || h.total != 2 {
		t.Errorf("%d, %d, %d", h.quantile(0.5), h.quantile(1), h.total)
	}
}
