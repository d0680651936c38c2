package histogram_test

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare/histogram"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ExampleHistogram() {
	var h histogram.Histogram
	for ms := range 100 {
		h.Observe(time.Duration(ms) * time.Millisecond)
	}
	c := h.Counts()
	fmt.Println(c.Count, c.Quantile(0.5), c.Quantile(0.99))
	// Output: 100 50ms 100ms
}

// TestCounts: what is longer than all bounds counts, a difference counts what came later, and
// nobody can change the bounds.
func TestCounts(t *testing.T) {
	var h histogram.Histogram
	h.ObserveN(time.Hour, 3)
	before := h.Counts()
	h.Observe(time.Microsecond)
	before.Bounds[0] = 0
	c := h.Counts().Since(before)
	if c.Count != 1 || c.Counts[0] != 1 || c.Sum != time.Microsecond || c.Bounds[0] != 50*time.Microsecond {
		t.Errorf("%+v", c)
	}
	if q := before.Quantile(0.5); q != 10*time.Second {
		t.Errorf("the longest bound is %v", q)
	}
	if q := (histogram.Counts{}).Quantile(0.5); q != 0 {
		t.Errorf("of nothing: %v", q)
	}
}
