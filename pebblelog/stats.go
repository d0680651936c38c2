package pebblelog

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/histogram"
)

// counters are the figures that Stats reports.
type counters struct {
	groups, events, bytes, refused, replayedKeys, notMet atomic.Uint64
	trimmed, expired, forgotten, limited, waits          atomic.Uint64
	scheduled, scheduledBytes, fellDue, late             atomic.Uint64
	eventsRead, indexRead, written                       atomic.Uint64
	reopened, clockJumps, corrupt, lost                  atomic.Uint64
	diskBytes, setAsideBytes                             atomic.Int64
	fsync                                                histogram.Histogram
}

// Stats implements fanfare.Operable.
func (l *Log) Stats() fanfare.LogStats {
	c, ahead := &l.stats, l.clock.ahead()
	st := fanfare.LogStats{
		Groups: c.groups.Load(), Events: c.events.Load(), Bytes: c.bytes.Load(), Refused: c.refused.Load(),
		ReplayedKeys: c.replayedKeys.Load(), NotMet: c.notMet.Load(), Fsync: c.fsync.Counts(),
		Expired: c.expired.Load(), Scheduled: c.scheduled.Load(), ScheduledBytes: c.scheduledBytes.Load(),
		FellDue: c.fellDue.Load(), Late: c.late.Load(),
		Trimmed: c.trimmed.Load(), Forgotten: c.forgotten.Load(), Limited: c.limited.Load(), LimitWaits: c.waits.Load(),
		EventsRead: c.eventsRead.Load(), IndexRead: c.indexRead.Load(), WrittenBytes: c.written.Load(),
		Reopened: c.reopened.Load(), ClockJumps: c.clockJumps.Load(), ClockAhead: ahead,
		Corrupt: c.corrupt.Load(), Lost: c.lost.Load(),
		DiskBytes: c.diskBytes.Load(), SetAsideBytes: c.setAsideBytes.Load(), MaxBytes: l.upkeep.maxBytes.Load(),
	}
	st.QueueBytes = l.proposals.waiting()
	st.CachedChannels = l.current().catalog.channels.size()
	return st
}

// Oldest implements fanfare.Operable.
func (l *Log) Oldest(ctx context.Context) (t time.Time, ok bool, err error) {
	err = l.read(ctx, func(s *session) error {
		it, err := s.db.NewIter(eventsBetween(
			fanfare.Position(s.catalog.floor.Load()), fanfare.Position(l.durable.Load())))
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
