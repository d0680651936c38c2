package pebblelog

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// counters are what Stats reports.
type counters struct {
	groups, events, bytes, refused, replayedKeys, reopened, trimmed, forgotten, limited, waits, eventsRead, indexRead, written, clockJumps, corrupt, lost atomic.Uint64
	diskBytes, setAsideBytes                                                                                                                              atomic.Int64
}

// Stats implements fanfare.Operable.
func (l *Log) Stats() fanfare.LogStats {
	c, ahead := &l.stats, l.clock.ahead()
	st := fanfare.LogStats{
		Groups: c.groups.Load(), Events: c.events.Load(), Bytes: c.bytes.Load(), Refused: c.refused.Load(),
		ReplayedKeys: c.replayedKeys.Load(), Reopened: c.reopened.Load(), Trimmed: c.trimmed.Load(), Forgotten: c.forgotten.Load(),
		Limited: c.limited.Load(), EventsRead: c.eventsRead.Load(), IndexRead: c.indexRead.Load(), WrittenBytes: c.written.Load(),
		ClockJumps: c.clockJumps.Load(), ClockAhead: ahead, Corrupt: c.corrupt.Load(), Lost: c.lost.Load(), DiskBytes: c.diskBytes.Load(),
		SetAsideBytes: c.setAsideBytes.Load(), LimitWaits: c.waits.Load(), MaxBytes: l.maxBytes.Load(), Fsync: l.fsync.Counts(),
	}
	l.mu.Lock()
	st.QueueBytes = l.queueBytes
	s := l.session
	l.mu.Unlock()
	st.CachedChannels = s.catalog.channels.size()
	return st
}

// Oldest implements fanfare.Operable.
func (l *Log) Oldest(ctx context.Context) (t time.Time, ok bool, err error) {
	err = l.read(ctx, func(s *session) error {
		it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: keyOf(keyEvent, s.catalog.floor.Load()+1), UpperBound: keyOf(keyEvent, l.durable.Load()+1)})
		if err != nil {
			return err
		}
		defer it.Close()
		if !it.First() {
			return it.Error()
		}
		f := fields{b: it.Value()}
		f.number()
		f.number()
		t, ok = time.UnixMilli(int64(f.number())).UTC(), true
		return f.err
	})
	return t, ok && err == nil, err
}
