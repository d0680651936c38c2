package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A fleet that comes back leaves a hub with many times the memory that its streams take: the memory
// of some seconds of handshakes and requests, and as much again that the collector keeps ready. The
// runtime gives it back within minutes, or within hours on an idle hub. So after a burst, once
// little is allocated, the command makes the runtime give it back at once.

const (
	memoryLook  = 5 * time.Second
	memoryLeast = 16 << 20        // bytes allocated since the last time: less is no burst
	memoryQuiet = 1 << 20         // bytes allocated between two looks: more is no quiet
	memoryAgain = 2 * time.Minute // no sooner: a collection takes some of the processors' time
)

// memoryWatch decides when memory is given back.
type memoryWatch struct {
	last    uint64 // bytes allocated when it was last looked
	given   uint64 // and when memory was last given back
	givenAt time.Time
}

// due is told how many bytes have been allocated since the process began.
func (w *memoryWatch) due(allocated uint64, now time.Time) bool {
	grown := allocated - w.last
	w.last = allocated
	if grown > memoryQuiet || allocated-w.given < memoryLeast || now.Sub(w.givenAt) < memoryAgain {
		return false
	}
	w.given, w.givenAt = allocated, now
	return true
}

// giveMemoryBack runs until ctx ends.
func giveMemoryBack(ctx context.Context) {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	ticker := time.NewTicker(memoryLook)
	defer ticker.Stop()
	var w memoryWatch
	for {
		select {
		case now := <-ticker.C:
			if metrics.Read(sample); w.due(sample[0].Value.Uint64(), now) {
				debug.FreeOSMemory()
			}
		case <-ctx.Done():
			return
		}
	}
}
