// Package histogram counts durations, so that the core and engines can report figures without
// knowing where they are published.
package histogram

import (
	"slices"
	"sync/atomic"
	"time"
)

// Histogram counts durations in buckets. Its zero value is ready; its methods may be called from
// any goroutine and do not block.
type Histogram struct {
	buckets [len(bounds) + 1]atomic.Uint64
	nanos   atomic.Int64
}

// bounds are the upper bounds of the buckets; one more bucket holds longer durations.
var bounds = [...]time.Duration{
	50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// Observe counts d once.
func (h *Histogram) Observe(d time.Duration) { h.ObserveN(d, 1) }

// ObserveN counts d n times.
func (h *Histogram) ObserveN(d time.Duration, n uint64) {
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	h.buckets[i].Add(n)
	h.nanos.Add(int64(d) * int64(n))
}

// Counts are a histogram's figures at one moment.
type Counts struct {
	Bounds []time.Duration // upper bounds of all buckets but the last
	Counts []uint64        // of each bucket, not added up; one more than Bounds
	Count  uint64
	Sum    time.Duration
}

// Counts returns the figures.
func (h *Histogram) Counts() Counts {
	c := Counts{Bounds: slices.Clone(bounds[:]), Counts: make([]uint64, len(h.buckets)),
		Sum: time.Duration(h.nanos.Load())}
	for i := range h.buckets {
		c.Counts[i] = h.buckets[i].Load()
		c.Count += c.Counts[i]
	}
	return c
}

// Quantile returns the bound below which the share q (0 to 1) of the durations lies: the upper
// bound of a bucket. It is zero when nothing was counted.
func (c Counts) Quantile(q float64) time.Duration {
	if c.Count == 0 {
		return 0
	}
	want, seen := q*float64(c.Count), uint64(0)
	for i, n := range c.Counts {
		seen += n
		if float64(seen) >= want && i < len(c.Bounds) {
			return c.Bounds[i]
		}
	}
	return c.Bounds[len(c.Bounds)-1]
}

// Since returns the counts since an earlier moment.
func (c Counts) Since(earlier Counts) Counts {
	d := Counts{Bounds: c.Bounds, Counts: make([]uint64, len(c.Counts)), Count: c.Count - earlier.Count,
		Sum: c.Sum - earlier.Sum}
	for i := range c.Counts {
		d.Counts[i] = c.Counts[i]
		if i < len(earlier.Counts) {
			d.Counts[i] -= earlier.Counts[i]
		}
	}
	return d
}
