package main

import (
	"testing"
	"time"
)

// TestMemoryIsGivenBack: once after a burst, when it is quiet; not during one, not for trifles, not
// all the time.
func TestMemoryIsGivenBack(t *testing.T) {
	const mb = 1 << 20
	var w memoryWatch
	now := time.Now()
	for i, step := range []struct {
		allocated uint64
		after     time.Duration
		want      bool
	}{
		{100 * mb, memoryLook, false},       // the burst
		{300 * mb, memoryLook, false},       // still
		{300*mb + 1000, memoryLook, true},   // over
		{300*mb + 2000, memoryLook, false},  // nothing since
		{320 * mb, memoryLook, false},       // the next burst
		{320*mb + 1000, memoryLook, false},  // over, but too soon
		{320*mb + 1000, memoryAgain, true},  // now
		{325 * mb, memoryAgain, false},      // a trifle
		{325*mb + 1000, memoryAgain, false}, // quiet after it
	} {
		now = now.Add(step.after)
		if got := w.due(step.allocated, now); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
}
