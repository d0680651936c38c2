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
	groups, events, bytes, refused, replayedKeys, reopened, trimmed, forgotten, limited, eventsRead, indexRead, written, clockJumps atomic.Uint64
	diskBytes                                                                                                                       atomic.Int64
}

// Stats are counts since Open, and figures of the moment.
type Stats struct {
	Groups, Events, Bytes uint64 // committed; bytes of data
	Refused               uint64 // appends that were not stored: queue full, slow, failed, or low disk
	ReplayedKeys          uint64 // appends answered by an idempotency key
	Reopened              uint64 // times the store failed and was opened again
	Trimmed               uint64 // events removed by retention, channel by channel
	Forgotten             uint64 // channels that became empty and were forgotten
	Limited               uint64 // times the oldest events were removed because of MaxBytes
	EventsRead            uint64 // event values that reads have touched
	IndexRead             uint64 // index entries that reads have touched
	WrittenBytes          uint64 // written to files, by commits, flushes and compactions
	ClockJumps            uint64 // times the clock was found to have jumped by more than a minute

	DiskBytes      int64 // what the files take, a second ago
	MaxBytes       int64 // what they may take; 0: no limit
	QueueBytes     int   // wait to be committed
	CachedChannels int
	Fsync          fanfare.HistogramCounts // from a group's hand-over to the WAL until it is on disk
}

// Stats returns the figures. It does not block for long.
func (l *Log) Stats() Stats {
	c := &l.stats
	st := Stats{
		Groups: c.groups.Load(), Events: c.events.Load(), Bytes: c.bytes.Load(), Refused: c.refused.Load(),
		ReplayedKeys: c.replayedKeys.Load(), Reopened: c.reopened.Load(), Trimmed: c.trimmed.Load(), Forgotten: c.forgotten.Load(),
		Limited: c.limited.Load(), EventsRead: c.eventsRead.Load(), IndexRead: c.indexRead.Load(), WrittenBytes: c.written.Load(),
		ClockJumps: c.clockJumps.Load(), DiskBytes: c.diskBytes.Load(), MaxBytes: l.maxBytes.Load(), Fsync: l.fsync.Counts(),
	}
	l.mu.Lock()
	st.QueueBytes = l.queueBytes
	s := l.session
	l.mu.Unlock()
	st.CachedChannels = s.channels.size()
	return st
}

// Oldest returns the time of the oldest event in the store, and false when there is none. It may touch the disk.
func (l *Log) Oldest(ctx context.Context) (t time.Time, ok bool, err error) {
	err = l.read(ctx, func(s *session) error {
		it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: keyOf(keyEvent, s.floor.Load()+1), UpperBound: keyOf(keyEvent, l.durable.Load()+1)})
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
