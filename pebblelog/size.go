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
// Once a second, and again at once while there is little room, it measures the blocks that the
// files take. Beyond MaxBytes it drops the oldest events, of all channels, until nine tenths are
// left, so that it does not have to drop some all the time. Bytes that are deleted and still on
// disk count as gone: nobody may lose events because the store has not tidied up. Then the limiter
// has the store tidy up. Publishers that are faster than all this wait for it (room.go).
//
// On a hub at rest it does the same for the sake of the disk (settle): the store would leave a WAL
// of 64 MiB, and tables full of deleted events, as they are until somebody publishes again.

// figures say what the files take, and how much of that will go.
type figures struct {
	used    int64 // all files, by blocks
	leaving int64 // tables that are obsolete, or that a compaction is writing: they go by themselves
	prefix  int64 // events up to the floor, in tables yet
	points  int64 // events and index entries that were deleted one by one, in tables yet
	unswept int64 // index entries up to the floor that the sweep has not come to
	certain bool  // the store has looked at all its tables
}

func (f figures) gone() int64 { return f.prefix + f.points + f.unswept }

// held is what the files take when everything that is deleted has gone.
func (f figures) held() int64 { return f.used - f.leaving - f.gone() }

// limiter holds what the limiter knows from one look to the next.
type limiter struct {
	*retention // fixed

	mu        sync.Mutex      // held during a look
	looks     int             // in a row at figures that are not certain
	flushed   <-chan struct{} // closed when what was in memory is a table
	flushFrom time.Time       // from then on the last drop is flushed, if it is still in memory
	tidyAgain time.Time       // from then on the store is compacted again
	sayAgain  time.Time       // from then on a drop is logged again
	settled   uint64          // bytes written to WALs when there was nothing left to settle
	tidied    bool            // the tables were compacted since the last figures
	left      int64           // bytes that the last compaction did not remove, though the figures called them deleted
}

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

// looked tells whether the store has looked at all its tables. It does so in the background; until
// then no figure knows the deletions in a table.
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

// leaving is what obsolete tables take, with those that only a reader or a backup still needs.
func leaving(m *pebble.Metrics) int64 {
	t, b := m.Table.Local, m.BlobFiles.Local
	return int64(t.ObsoleteSize + t.ZombieSize + b.ObsoleteSize + b.ZombieSize)
}

// keepSize is one look of the limiter.
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
	if f.held() > most*19/20 { // below that, the files come within the limit when the store has tidied up
		if err := m.dropOldest(f, target); err != nil {
			return err
		}
	}
	return m.reclaim(f, target)
}

// looksMost is how many looks the store has to gather its figures.
const looksMost = 30

// sayPause is the least time between two records of drops.
const sayPause = 10 * time.Second

// dropOldest drops the oldest events, until the files hold no more than target.
func (m *limiter) dropOldest(f figures, target int64) error {
	if fits, err := m.fits(target); err != nil || fits {
		return err // the store'm figures are behind
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

// reclaim has deleted bytes go from the disk: it flushes deletions that are in memory (when
// publishers have to wait for them, or no memtable was filled for a second), calls the sweep for
// index entries, and has tables rewritten.
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

// flush begins to write the memtables as tables, unless a flush is under way.
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

// eventOverhead is at least what an event takes besides its data: two keys, and the values' own
// numbers.
const eventOverhead = 80

// indexBytes is the part of eventOverhead that its index entry takes.
const indexBytes = 30

// fits tells whether all that is retained is so little that it must fit, by the sums that the index
// keeps of each channel. It looks at every channel, and is asked only before something would be
// removed. Where events have no sums (format 1), nobody knows.
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
	// Compactions that the limiter asks for take at most one part in tidyShare of the time.
	tidyShare = 5

	// A compaction that the limiter asks for rewrites about tidySlice of tables: until it ends, the
	// old and the new tables are both on disk.
	tidySlice = 32 << 20
)

// tidy has the store rewrite its tables without deleted bytes, if there are more than little of
// them, and if the store does not compact by itself at present. It rewrites the oldest events alone
// when most deleted bytes are there, and the index alone when no event was deleted one by one. It
// reports whether it has done so.
func (m *limiter) tidy(f figures, little int64) (done bool, err error) {
	began := time.Now()
	if f.gone() < little || began.Before(m.tidyAgain) || m.db.Metrics().Compact.NumInProgress > 0 {
		return false, nil
	}
	lower, upper := []byte{keyEvent}, []byte{keyIndex + 1}
	if f.prefix > f.gone()/2 {
		upper = keyOf(keyEvent, m.floor.Load()+1)
	} else if !m.singly.Swap(false) {
		lower = []byte{keyIndex}
	}
	cuts, err := m.cuts(lower, upper, tidySlice)
	for i := 0; err == nil && i+1 < len(cuts); i++ {
		err = m.db.Compact(stopContext{m.log.stop}, cuts[i], cuts[i+1], false)
		m.log.upkeep.measure()
	}
	m.tidyAgain = time.Now().Add(max(min(limitInterval, m.log.opts.TrimInterval), tidyShare*time.Since(began)))
	m.tidied = err == nil
	return err == nil, err
}

// cuts divides a range of keys into slices of about slice bytes, between tables of the level that
// has most of the range.
func (m *limiter) cuts(lower, upper []byte, slice uint64) ([][]byte, error) {
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
	cuts, sum := [][]byte{lower}, uint64(0)
	for _, t := range widest {
		if first := t.Smallest.UserKey; sum >= slice && bytes.Compare(first, cuts[len(cuts)-1]) > 0 {
			cuts, sum = append(cuts, first), 0
		}
		sum += t.Size
	}
	return append(cuts, upper), nil
}

// A hub at rest takes about what it retains, and at most twice that and 100 MB. Less than
// settleLeast of deleted or unflushed bytes is left as it is, and so are deleted bytes that are
// less than one part in settlePart of those that stay: tables are rewritten only where it saves
// much.
const (
	settleLeast = 16 << 20
	settlePart  = 3
)

// settle takes one step towards rest: it flushes memtables, or calls the sweep, or has tables
// rewritten without deleted bytes. It reports whether there was nothing left to do.
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

// settleAtRest settles while little is published, until there is nothing left to do; then not
// before more has been written.
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

// afterBytes finds the position up to which the events after another take a number of bytes on
// disk. It takes at most half of the bytes there are, because those in memory are not counted. It
// returns what the index entries of these events take, too.
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
