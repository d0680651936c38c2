package storeapi

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// tsids makes time-sorted unique identifiers: 42 bits of milliseconds since 2020 and 22 random
// bits, which count up within a millisecond. Their text is that of a position.
type tsids struct {
	mu   sync.Mutex
	last uint64
}

var tsidEpoch = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

func (t *tsids) next() string {
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	id := uint64(max(time.Since(tsidEpoch).Milliseconds(),
		0))<<22 | uint64(binary.LittleEndian.Uint32(random[:])&(1<<22-1))
	t.mu.Lock()
	defer t.mu.Unlock()
	if id <= t.last {
		id = t.last + 1
	}
	t.last = id
	return fanfare.Position(id).String()
}
