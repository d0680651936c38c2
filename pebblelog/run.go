package pebblelog

import (
	"encoding/binary"
	"fmt"
	"sort"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// run is one stretch of consecutive positions, from one opening of the log. An empty run has last =
// first-1.
type run struct{ first, last fanfare.Position }

// runs are the runs of a log: the earlier ones, and that of the session. They are fixed after
// openSession.
type runs struct {
	earlier []run            // oldest first
	first   fanfare.Position // of this session's run
}

// beginRun begins a run above all positions that were given, and above stored, up to which events
// were stored, even if they are lost now.
func (s *session) beginRun(stored fanfare.Position) error {
	c, a := s.catalog, &s.committer.applier
	last, err := c.runs.load(s.db)
	if err != nil {
		return fmt.Errorf("read runs: %w", err)
	}
	if a.nextNum, err = loadNextNumber(s.db); err != nil {
		return fmt.Errorf("read channel numbers: %w", err)
	}
	if err := s.openClock(); err != nil {
		return fmt.Errorf("read the time: %w", err)
	}
	if err := s.loadWaiting(); err != nil {
		return fmt.Errorf("read what is scheduled: %w", err)
	}
	floors, err := c.loadFloors()
	if err != nil {
		return fmt.Errorf("read floors: %w", err)
	}
	s.retention.sweptFloor.Store(c.floor.Load())
	if err := c.loadUnsized(last); err != nil {
		return fmt.Errorf("read format: %w", err)
	}
	c.runs.first = nextFirst(max(last, stored), c.runs.earlier, s.log.clock.look().wall)
	a.next = c.runs.first
	b := s.db.NewBatch()
	defer b.Close()
	if err := s.putBeginning(b, floors); err != nil {
		return err
	}
	if err := s.db.Apply(b, pebble.Sync); err != nil {
		return fmt.Errorf("begin run: %w", err)
	}
	c.newest.Store(a.nextNum)
	return s.fs.syncDirty() // also with DurabilityAsync, because no position may be given twice
}

// putBeginning adds the keys that are stored when a run begins.
func (s *session) putBeginning(b *pebble.Batch, floors map[string]fanfare.Position) error {
	c, a := s.catalog, &s.committer.applier
	first := c.runs.first
	at, _ := s.log.clock.group(first)
	if err := saveClock(b, at, true); err != nil {
		return err
	}
	tail, err := c.seconds.load(b, at.log/1000, len(c.runs.earlier) == 0)
	if err != nil {
		return fmt.Errorf("read times: %w", err)
	}
	a.tail = tail
	if err := putRun(b, run{first, first - 1}, c.runs.earlier); err != nil {
		return err
	}
	if err := b.Set([]byte{keyFormat}, []byte(formatVersion), nil); err != nil {
		return err
	}
	if c.unsized > 0 {
		if err := b.Set([]byte{keyUnsized}, binary.AppendUvarint(nil, uint64(c.unsized)), nil); err != nil {
			return err
		}
	}
	return c.putRules(b, s.log.nextRules(), floors, a.nextNum == 1)
}

const perMillisecond = 1 << 20 // positions, where a run begins

// clockMost is the last millisecond of the wall clock that moves the counter, in the year 2109:
// positions stay below 2⁶³, whatever a broken clock says.
const clockMost = 1<<42 - 1

// nextFirst chooses the first position of a run: above all given ones, and normally at the clock's
// time, so that positions that were lost with a log's end are not given again. Where the clock does
// not help (it went back, or two runs begin within one millisecond), the position is one
// perMillisecond above the last.
func nextFirst(last fanfare.Position, runs []run, wall int64) fanfare.Position {
	if len(runs) > 0 {
		last = max(last, runs[len(runs)-1].first)
	}
	if clock := fanfare.Position(max(wall, 1)) * perMillisecond; wall <= clockMost && clock > last {
		return clock
	}
	return last + perMillisecond
}

// load reads the earlier runs, and returns the highest position ever given.
func (rs *runs) load(db *pebble.DB) (last fanfare.Position, err error) {
	it, err := db.NewIter(ofKind(keyRun))
	if err != nil {
		return 0, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		r, err := readRun(it.Key(), it.Value())
		if err != nil {
			return 0, err
		}
		rs.earlier = append(rs.earlier, r)
		last = max(last, r.last)
	}
	return last, it.Error()
}

func loadNextNumber(db *pebble.DB) (uint64, error) {
	next, _, err := readNumber(db, []byte{keyNext})
	if err != nil {
		return 0, err
	}
	it, err := db.NewIter(ofKind(keyName))
	if err != nil {
		return 0, err
	}
	defer it.Close()
	if it.Last() {
		next = max(next, lastNumber(it.Key())+1)
	}
	return max(next, 1), it.Error()
}

// gapReason returns the reason why events after a position may be missing, or "" (P4).
func (rs *runs) gapReason(after, durable, trimmed fanfare.Position) fanfare.GapReason {
	all := append(rs.earlier[:len(rs.earlier):len(rs.earlier)], run{rs.first, max(durable, rs.first-1)})
	i := sort.Search(len(all), func(i int) bool { return all[i].first-1 > after }) - 1 // the run at or below it
	switch {
	case after > durable:
		return fanfare.GapFuture
	case i < 0 || after < trimmed:
		return fanfare.GapTrimmed
	case after > all[i].last:
		return fanfare.GapLost
	}
	return ""
}

// given returns the number of positions in (after, through] that were given. That is the number of
// events, if retention has removed none.
func (rs *runs) given(after, through fanfare.Position) (n uint64) {
	for i := len(rs.earlier); i >= 0; i-- {
		r := run{rs.first, through}
		if i < len(rs.earlier) {
			r = rs.earlier[i]
		}
		if from, to := max(after, r.first-1), min(through, r.last); from < to {
			n += uint64(to - from)
		}
		if r.first <= after {
			break
		}
	}
	return n
}

// firstEver returns the first position that this log has given.
func (rs *runs) firstEver() fanfare.Position {
	if len(rs.earlier) > 0 {
		return rs.earlier[0].first
	}
	return rs.first
}
