package pebblelog

import (
	"sync"
	"time"
)

// use measures how much is published at present. The room that is set aside depends on it, and so
// does whether the hub is at rest. Its methods may be called from any goroutine.
type use struct {
	mu      sync.Mutex
	samples [useSpan + 1]useSample // the newest first
}

type useSample struct {
	at           time.Time
	wal, payload uint64 // bytes since the session, and the log, were opened
}

const (
	useSpan  = 10      // seconds over which the use of the WAL is measured
	restSpan = 5       // seconds over which a hub at rest publishes less than restMost
	restMost = 1 << 20 // bytes of payload

	// A spare is worth its room when it will be written over within useAhead times useSpan, two
	// minutes.
	useAhead = 12
)

// sample takes a sample, unless the last one is less than a second old. The limiter calls it.
func (u *use) sample(now time.Time, wal, payload uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Sub(u.samples[0].at) < time.Second {
		return
	}
	copy(u.samples[1:], u.samples[:])
	u.samples[0] = useSample{now, wal, payload}
}

// setAside returns the number of bytes that may be set aside for the next WAL, in a log with a
// limit of most bytes (0: none).
func (u *use) setAside(most int64) int64 {
	u.mu.Lock()
	recent := max(int64(u.samples[0].wal)-int64(u.samples[useSpan].wal), 0) // a new session counts from 0
	u.mu.Unlock()
	aside := max(useAhead*recent, spareLeast)
	if most > 0 {
		aside = min(aside, most/8)
	}
	return aside
}

// atRest tells whether less than restMost was published in the last restSpan seconds.
func (u *use) atRest() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	now, before := u.samples[0], u.samples[restSpan]
	return !before.at.IsZero() && now.payload-before.payload < restMost
}
