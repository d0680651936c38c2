package pebblelog

import (
	"sync"
	"time"
)

// use knows how much is published at present. What is set aside follows it, and a hub at rest is
// found by it.
type use struct {
	mu      sync.Mutex
	samples [useSpan + 1]useSample // the newest first
}

type useSample struct {
	at           time.Time
	wal, payload uint64 // bytes since the session, and the log, were opened
}

const (
	useSpan  = 10      // seconds that the use of the WAL is judged by
	restSpan = 5       // seconds after which a hub is at rest
	restMost = 1 << 20 // payload in restSpan that does not disturb the rest

	// A spare is worth its room when it will be written over within useAhead times useSpan, two
	// minutes.
	useAhead = 12
)

// sample is called by the limiter; it takes one sample a second.
func (u *use) sample(now time.Time, wal, payload uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Sub(u.samples[0].at) < time.Second {
		return
	}
	copy(u.samples[1:], u.samples[:])
	u.samples[0] = useSample{now, wal, payload}
}

// setAside is how many bytes may be set aside for the next WAL, in a log of at most most bytes; 0
// is no limit.
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

// atRest tells whether little has been published lately.
func (u *use) atRest() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	now, before := u.samples[0], u.samples[restSpan]
	return !before.at.IsZero() && now.payload-before.payload < restMost
}
