package pebblelog

import (
	"bytes"
	"log/slog"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// The limiter keeps the log within MaxBytes.
//
// Every second, and at once while there is little room, it measures the blocks that the files take.
// When they exceed MaxBytes, it drops the oldest events of all channels until the files fit into
// nine tenths of MaxBytes, so that it need not drop some all the time. Deleted bytes that are still
// on disk count as gone, so that no event is lost only because the store has not tidied up yet.
// Then the limiter has the store tidy up. Publishers that are faster than this wait (room.go).
//
// On a hub at rest the limiter tidies up too, for the sake of the disk (settle). Otherwise the
// store would keep a WAL of 64 MiB, and tables full of deleted events, until the next publish.

// figures are the bytes that the files take, and the parts of them that will be freed.
type figures struct {
	used    int64 // all files, by blocks
	leaving int64 // tables that are obsolete, or that a compaction is writing; they are freed without the limiter
	prefix  int64 // events up to the floor that are still in tables
	points  int64 // events and index entries that were deleted one by one, and are still in tables
	unswept int64 // index entries up to the floor that the sweep has not reached
	certain bool  // the store has looked at all its tables
}

// gone is the bytes that are deleted and still on disk.
func (f figures) gone() int64 { return f.prefix + f.points + f.unswept }

// held is the bytes that the files will take without those.
func (f figures) held() int64 { return f.used - f.leaving - f.gone() }

// limiter keeps the size of the log, in looks (keepSize).
type limiter struct {
	*retention // fixed

	mu        sync.Mutex      // held during a look; guards the fields below
	looks     int             // the number of looks since the figures were certain
	flushed   <-chan struct{} // closed when the last flush has ended; nil before the first
	flushFrom time.Time       // the last drop is flushed after this, if it is still in memory
	tidyAgain time.Time       // the store is not compacted before this
	sayAgain  time.Time       // a drop is not logged before this
	settled   uint64          // bytes written to WALs when there was nothing left to settle
	tidied    bool            // the tables were compacted since the last figures
	left      int64           // bytes that the figures call deleted, and that the last compaction did not remove
}

// figures returns the figures now, if the files take used bytes.
func (m *limiter) figures(used int64) (f figures, err error) {
	store := m.db.Metrics()
	f.used = used
	f.leaving = leaving(store) + store.Compact.InProgressBytes
	f.points = int64(store.Table.Garbage.PointDeletionsBytesEstimate) + m.unflushed()
	f.unswept = m.unswept.Load()
	if f.certain, err = m.looked(); err != nil {
		return f, err
	}
	prefix, err := m.db.EstimateDiskUsage(keyOf(keyEvent), keyOf(keyEvent, m.floor.Load()+1))
	f.prefix = int64(prefix)
	return f, err
}

// looked tells whether the store has looked at all its tables. The store does so in the background;
// until then its figures lack the deletions in some tables.
func (m *limiter) looked() (bool, error) {
	levels, err := m.db.SSTables()
	for _, tables := range levels {
		for _, t := range tables {
			if t.TableStats.NumEntries == 0 {
				return false, nil
			}
		}
	}
	return err == nil, err
}

// leaving returns the bytes of obsolete tables, including those that a reader or a backup still
// uses.
func leaving(m *pebble.Metrics) int64 {
	t, b := m.Table.Local, m.BlobFiles.Local
	return int64(t.ObsoleteSize + t.ZombieSize + b.ObsoleteSize + b.ZombieSize)
}

// keepSize is one look of the limiter. It blocks while it flushes or compacts. It may be called
// from any goroutine.
func (m *limiter) keepSize() error {
	l := m.log
	m.mu.Lock()
	defer m.mu.Unlock()
	used, most := l.upkeep.measure(), l.upkeep.maxBytes.Load()
	l.upkeep.use.sample(time.Now(), m.fs.wals.written.Load(), l.stats.bytes.Load())
	m.fs.follow(l.upkeep.use.setAside(most))
	if most <= 0 || used <= most {
		m.looks = 0
		return m.settleAtRest(used)
	}
	f, err := m.figures(used)
	if err != nil {
		return err
	}
	if m.looks++; !f.certain && m.looks < looksMost {
		return nil
	}
	m.looks = 0
	target := most * 9 / 10
	if f.held() > most*19/20 { // if less, the files will fit when the store has tidied up
		if err := m.dropOldest(f, target); err != nil {
			return err
		}
	}
	return m.reclaim(f, target)
}

// looksMost is the number of looks for which the limiter waits for certain figures.
const looksMost = 30

// sayPause is the least time between two records of drops.
const sayPause = 10 * time.Second

// dropOldest drops the oldest events, until the files hold no more than target bytes.
func (m *limiter) dropOldest(f figures, target int64) error {
	if fits, err := m.fits(target); err != nil || fits {
		return err // with fits, the store's figures are behind
	}
	floor := fanfare.Position(m.floor.Load())
	excess := uint64(f.held() - target)
	through, share, err := m.afterBytes(floor, excess)
	if err != nil || through <= floor {
		return err
	}
	if err := m.deletePrefix(through); err != nil {
		return err
	}
	m.unswept.Add(share)
	m.flushFrom = time.Now().Add(limitInterval)
	m.log.stats.limited.Add(1)
	if now := time.Now(); now.After(m.sayAgain) {
		m.sayAgain = now.Add(sayPause)
		m.log.opts.Logger.Warn("the log is larger than its limit: the oldest events are removed",
			slog.Int64("bytes", f.used), slog.Int64("limit", m.log.upkeep.maxBytes.Load()), slog.String("through",
				through.String()))
	}
	return nil
}

// reclaim frees deleted bytes on disk. It flushes deletions that are in memory, if publishers wait
// for room or no memtable was filled for a second. It has the sweep delete index entries, and the
// store rewrite tables.
func (m *limiter) reclaim(f figures, target int64) error {
	little := target / 20
	if f.unswept > little {
		m.log.upkeep.sweepSoon()
	}
	// A memtable that is flushed before it is full makes small tables, which are rewritten more
	// often.
	most := m.log.upkeep.maxBytes.Load()
	hurry := f.used > most+overshoot(most) || time.Now().After(m.flushFrom)
	if hurry && (m.unflushed() > little || f.prefix > little && m.fs.dropsInMemory()) {
		if err := m.flush(); err != nil {
			return err
		}
	}
	_, err := m.tidy(f, little)
	return err
}

// flush has the store write its memtables as tables, unless a flush is under way. It does not wait.
func (m *limiter) flush() error {
	if m.flushed != nil {
		select {
		case <-m.flushed:
		default:
			return nil
		}
	}
	flushed, err := m.db.AsyncFlush()
	m.flushed = flushed
	return err
}

// eventOverhead is the least number of bytes that an event takes besides its data: for two keys,
// and for the numbers in their values.
const eventOverhead = 80

// indexBytes is the part of eventOverhead that the index entry takes.
const indexBytes = 30

// fits tells whether the retained events must fit into target bytes, by the sums in the index
// entries of each channel. It looks at every channel, so it is called only before events would be
// dropped. It returns false for events without sums (format 1).
func (m *limiter) fits(target int64) (bool, error) {
	if m.unsized > fanfare.Position(m.floor.Load()) {
		return false, nil
	}
	reports, err := m.report(stopContext{m.log.stop}, nil)
	sum := uint64(0)
	for _, r := range reports {
		sum += r.Bytes + r.Events*eventOverhead
	}
	return err == nil && sum < uint64(target)*3/4, err
}

const (
	// The limiter's compactions take one part in tidyShare of the time at most.
	tidyShare = 5

	// One compaction of the limiter rewrites tables of about tidySlice bytes. Until it ends, the
	// old and the new tables are both on disk.
	tidySlice = 32 << 20
)

// tidy has the store rewrite its tables without the deleted bytes, if there are more than little of
// them, and if no compaction of the store's own is under way. It rewrites only the oldest events
// when most deleted bytes are there, and only the index when no event was deleted one by one. It
// reports whether it has rewritten tables.
func (m *limiter) tidy(f figures, little int64) (done bool, err error) {
	start := time.Now()
	if f.gone() < little || start.Before(m.tidyAgain) || m.db.Metrics().Compact.NumInProgress > 0 {
		return false, nil
	}
	lower, upper := []byte{keyEvent}, []byte{keyIndex + 1}
	if f.prefix > f.gone()/2 {
		upper = keyOf(keyEvent, m.floor.Load()+1)
	} else if !m.singly.Swap(false) {
		lower = []byte{keyIndex}
	}
	bounds, err := m.sliceBounds(lower, upper, tidySlice)
	for i := 0; err == nil && i+1 < len(bounds); i++ {
		err = m.db.Compact(stopContext{m.log.stop}, bounds[i], bounds[i+1], false)
		m.log.upkeep.measure()
	}
	m.tidyAgain = time.Now().Add(max(min(limitInterval, m.log.opts.TrimInterval), tidyShare*time.Since(start)))
	m.tidied = err == nil
	return err == nil, err
}

// sliceBounds divides a range of keys into slices of about slice bytes, and returns the keys at
// which the slices start, and upper. The slices end between tables of the level that has most of
// the range.
func (m *limiter) sliceBounds(lower, upper []byte, slice uint64) ([][]byte, error) {
	levels, err := m.db.SSTables(pebble.WithKeyRangeFilter(lower, upper))
	if err != nil {
		return nil, err
	}
	var most uint64
	var widest []pebble.SSTableInfo
	for _, tables := range levels[1:] { // tables of level 0 overlap
		sum := uint64(0)
		for _, t := range tables {
			sum += t.Size
		}
		if sum > most {
			most, widest = sum, tables
		}
	}
	bounds, sum := [][]byte{lower}, uint64(0)
	for _, t := range widest {
		if first := t.Smallest.UserKey; sum >= slice && bytes.Compare(first, bounds[len(bounds)-1]) > 0 {
			bounds, sum = append(bounds, first), 0
		}
		sum += t.Size
	}
	return append(bounds, upper), nil
}

// A hub at rest takes about as many bytes on disk as it retains, and at most twice as many and 100
// MB. Tables are rewritten only where that saves much: not for fewer than settleLeast deleted or
// unflushed bytes, and not when the deleted bytes are less than one part in settlePart of the
// others.
const (
	settleLeast = 16 << 20
	settlePart  = 3
)

// settle takes one step towards the size at rest: it flushes memtables, or has the sweep run, or
// has tables rewritten. It reports whether there was nothing left to do.
func (m *limiter) settle(used int64) (done bool, err error) {
	f, err := m.figures(used)
	if err != nil {
		return false, err
	}
	if m.tidied && f.certain {
		m.tidied, m.left = false, f.gone()
	}
	m.left = min(m.left, f.gone())
	worth := f.gone() - m.left
	inMemory := max(int64(m.db.Metrics().WAL.Size), m.unflushed())
	switch {
	case inMemory > settleLeast || f.prefix > settleLeast && m.fs.dropsInMemory():
		return false, m.flush()
	case f.unswept > settleLeast:
		m.log.upkeep.sweepSoon()
		return false, nil
	case !f.certain:
		return false, nil
	case worth < settleLeast || worth < f.held()/settlePart:
		return true, nil
	}
	return m.tidy(f, settleLeast)
}

// settleAtRest settles while little is published. When there is nothing left to do, it waits for
// the next write.
func (m *limiter) settleAtRest(used int64) error {
	written := m.fs.wals.written.Load()
	if written == m.settled || !m.log.upkeep.use.atRest() {
		return nil
	}
	done, err := m.settle(used)
	if done {
		m.settled = written
	}
	return err
}

// afterBytes finds the position through, so that the events in (after, through] take about the
// given number of bytes on disk, but at most half of all that follow after, because bytes in memory
// are not counted. It also returns an estimate of the bytes of these events' index entries.
func (m *limiter) afterBytes(after fanfare.Position, bytes uint64) (through fanfare.Position, index int64, err error) {
	durable := fanfare.Position(m.log.durable.Load())
	size := func(through fanfare.Position) (uint64, error) {
		return m.db.EstimateDiskUsage(keyOf(keyEvent, uint64(after)+1), keyOf(keyEvent, uint64(through)+1))
	}
	whole, err := size(durable)
	if err != nil || whole == 0 {
		return after, 0, err
	}
	bytes = min(bytes, whole/2)
	entries, err := m.db.EstimateDiskUsage([]byte{keyIndex}, []byte{keyIndex + 1})
	if err != nil {
		return after, 0, err
	}
	index = int64(float64(entries) * float64(bytes) / float64(whole))
	it, err := m.db.NewIter(eventsBetween(after, durable))
	if err != nil {
		return after, 0, err
	}
	defer it.Close()
	if !it.First() {
		return after, 0, it.Error()
	}
	low, high := fanfare.Position(lastNumber(it.Key())), durable
	for low < high {
		middle := low + (high-low)/2
		n, err := size(middle)
		if err != nil {
			return after, 0, err
		}
		if n < bytes {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return min(low, durable), index, nil
}
