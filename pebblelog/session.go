package pebblelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"github.com/fanfare-hub/fanfare"
)

// run is one stretch of consecutive positions, from one opening of the log. An empty run has last = first-1.
type run struct{ first, last fanfare.Position }

// session is one opening of the store.
type session struct {
	// Fixed after openSession.
	log   *Log
	fs    *sessionFS
	tip   *tipFS
	db    *pebble.DB
	first fanfare.Position // of this session's run
	runs  []run            // of earlier sessions, oldest first

	pieces pieces

	dead    chan struct{} // closed when the session fails
	slots   chan struct{} // one for each group in flight
	written chan *group   // from the committer to the publisher
	turned  chan struct{} // one token: a group has become visible
	loops   sync.WaitGroup

	failOnce sync.Once
	cause    error // why it failed; set before dead is closed

	// Owned by the committer.
	applier applier
	records recordSweep

	rules      atomic.Pointer[ruleSet] // replaced by the committer
	floor      atomic.Uint64           // everything up to here is gone, whatever its channel
	deleting   sync.Mutex              // held while events of a channel are deleted
	prefix     sync.Mutex              // held while the floor moves and what lies below is deleted
	sweptFloor atomic.Uint64           // and deleted up to here
	unsized    fanfare.Position        // up to here index entries have no sums; fixed
	jumped     int64                   // in a log of format 2, the highest second before the clock last went back; fixed
	limiter    limiter
	deleted    atomic.Int64 // bytes that the sweep has deleted one by one
	singly     atomic.Bool  // some of it were events, not only their index entries, since the last tidying
	unswept    atomic.Int64 // bytes of index entries below the floor that the sweep has not come to
	thinned    int64        // the second up to which the table of seconds is thin; owned by the sweep

	complained, unsaid atomic.Int64 // the second of Pebble's last complaint that was logged, and how many were not

	channels channelCache
	members  memberSets
	newest   atomic.Uint64 // channels below this number are in the store, with their names; moved by the committer
	ruled    chan struct{} // one token: other rules have come into force

	open   sync.RWMutex // readers hold it; close takes it
	closed bool         // guarded by open
}

// openSession opens the store and begins a new run, which is on disk before anybody can hear of it.
func (l *Log) openSession() (*session, error) {
	s := &session{
		log: l, pieces: defaultPieces,
		dead: make(chan struct{}), slots: make(chan struct{}, 2), written: make(chan *group, 2), ruled: make(chan struct{}, 1),
	}
	s.applier.session, s.records.session, s.turned = s, s, make(chan struct{}, 1)
	found, err := l.judge()
	if err != nil {
		return nil, err
	}
	folder := l.opts.FS.PathJoin(l.opts.Dir, "log")
	if err := makeDir(l.opts.FS, folder); err != nil {
		return nil, err
	}
	lazy := l.opts.Durability == DurabilityAsync
	s.tip = l.newTip(folder, found, lazy)
	s.fs = newSessionFS(s.tip, folder, lazy)
	s.channels.init()
	s.singly.Store(true) // by an earlier session, perhaps
	s.fs.failed = func(err error) { s.fail(fmt.Errorf("write the log: %w", err)) }
	s.fs.written = func(n int) { l.stats.written.Add(uint64(n)) }
	s.fs.deleted = s.deleted.Load
	err = s.guard(func() error {
		db, err := pebble.Open(folder, s.storeOptions())
		if err != nil {
			return openError(l.opts.Dir, err)
		}
		s.db = db
		if err := s.beginRun(found.tip.durable); err != nil {
			if pebble.IsCorruptionError(err) || errors.Is(err, errCorrupt) {
				return openError(l.opts.Dir, err)
			}
			return err
		}
		s.tip.begin(s.first, lazy)
		return markPlace(l.opts.FS, l.opts.Dir)
	})
	if err == nil && s.isDead() {
		err = s.cause
	}
	if err != nil {
		if s.db != nil {
			l.closers.Go(func() { _ = s.close() })
		} else {
			s.tip.close()
		}
		return nil, err
	}
	if after, through, lost := found.lost(); lost {
		l.stats.lost.Add(uint64(through - after)) // once, however often opening was tried
	}
	return s, nil
}

// memTable is how much gathers in memory before it is written as a table. A larger one is rewritten less often later: 64 MiB write
// two thirds of what 16 MiB do (BenchmarkWriteAmplification). The memory is taken as it fills.
const memTable = 64 << 20

const flushAtClose = 8 << 20

func (s *session) storeOptions() *pebble.Options {
	memory := memTableBytes(s.log.most)
	o := &pebble.Options{
		FS:                 s.fs,
		Logger:             storeLogger{s},
		FormatMajorVersion: pebble.FormatNewest,
		MemTableSize:       memory,
		CacheSize:          int64(s.log.opts.CacheBytes) + int64(memory), // of which it takes what a memtable needs
		Cleaner:            newCleaner(s.fs, pebble.Cleaner.Clean),
		EventListener:      &pebble.EventListener{DataCorruption: s.corrupted},
		MaxOpenFiles:       250, // the hub leaves 500 descriptors to the log and to requests
	}
	// One compaction at a time, but beside it tables that are deleted whole may go, and what the limiter asks for.
	o.CompactionConcurrencyRange = func() (int, int) { return 1, 2 }
	o.Experimental.L0CompactionConcurrency = math.MaxInt32
	o.Experimental.CompactionDebtConcurrency = math.MaxInt64
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return o
}

// corrupted is told of a damaged file. What does not need the file goes on: a read that does is answered with an error, and
// the operator hears which file it is. Pebble's own answer would be Fatalf.
func (s *session) corrupted(info pebble.DataCorruptionInfo) {
	s.log.stats.corrupt.Add(1)
	now := time.Now().Unix()
	if last := s.complained.Swap(now); last == now {
		return
	}
	s.log.opts.Logger.Error("a file of the log is damaged: some events cannot be read; stop the hub, see `fanfare verify`, and restore a backup",
		slog.String("file", info.Path), slog.Any("err", info.Details))
}

// memTableBytes keeps what waits in memory, and so the WAL, small beside a small log, and on a small disk.
func memTableBytes(most int64) uint64 {
	if most <= 0 {
		return memTable
	}
	return uint64(min(max(most/12, 1<<20), memTable))
}

// beginRun begins a run beyond all that was given, and beyond what was stored and is lost.
func (s *session) beginRun(stored fanfare.Position) error {
	last, err := s.loadRuns()
	if err != nil {
		return fmt.Errorf("read runs: %w", err)
	}
	if s.applier.nextNum, err = s.loadNextNumber(); err != nil {
		return fmt.Errorf("read channel numbers: %w", err)
	}
	if err := s.openClock(); err != nil {
		return fmt.Errorf("read the time: %w", err)
	}
	floors, err := s.loadFloors()
	if err != nil {
		return fmt.Errorf("read floors: %w", err)
	}
	if err := s.loadUnsized(last); err != nil {
		return fmt.Errorf("read format: %w", err)
	}
	at := s.log.clock.look()
	s.first = nextFirst(max(last, stored), s.runs, at.wall)
	s.applier.next = s.first
	b := s.db.NewBatch()
	defer b.Close()
	at, _ = s.log.clock.group(s.first)
	if err := saveClock(b, at, true); err != nil {
		return err
	}
	if err := s.loadSeconds(b, at.log/1000); err != nil {
		return fmt.Errorf("read times: %w", err)
	}
	if err := putRun(b, run{s.first, s.first - 1}, s.runs); err != nil {
		return err
	}
	if err := b.Set([]byte{keyFormat}, []byte(formatVersion), nil); err != nil {
		return err
	}
	if s.unsized > 0 {
		if err := b.Set([]byte{keyUnsized}, binary.AppendUvarint(nil, uint64(s.unsized)), nil); err != nil {
			return err
		}
	}
	if err := s.putRules(b, s.log.retention(), floors); err != nil {
		return err
	}
	if err := s.db.Apply(b, pebble.Sync); err != nil {
		return fmt.Errorf("begin run: %w", err)
	}
	s.newest.Store(s.applier.nextNum)
	return s.fs.syncDirty() // also with DurabilityAsync: a position that was handed out must not be given again
}

const perMillisecond = 1 << 20 // positions, where a run begins

// clockMost is the last millisecond of the wall clock that moves the counter, in the year 2109: positions stay below 2⁶³,
// whatever a broken clock says.
const clockMost = 1<<42 - 1

// nextFirst chooses where a run begins: past all that was given, and normally at the clock, so that numbers lost with a
// log's tail are not given again. Where the clock does not help (it went back, or two runs begin within one millisecond),
// the counter jumps by as much as a millisecond holds.
func nextFirst(last fanfare.Position, runs []run, wall int64) fanfare.Position {
	if len(runs) > 0 {
		last = max(last, runs[len(runs)-1].first)
	}
	if clock := fanfare.Position(max(wall, 1)) * perMillisecond; wall <= clockMost && clock > last {
		return clock
	}
	return last + perMillisecond
}

// loadUnsized finds up to where index entries have no sums: all that a log of format 1 held.
func (s *session) loadUnsized(last fanfare.Position) error {
	value, closer, err := s.db.Get([]byte{keyFormat})
	if err == nil {
		if string(value) == formatVersion1 {
			s.unsized = last
		}
		_ = closer.Close()
	} else if !isNotFound(err) {
		return err
	}
	if value, closer, err = s.db.Get([]byte{keyUnsized}); err == nil {
		s.unsized, err = readPosition(value)
		_ = closer.Close()
	}
	if isNotFound(err) {
		return nil
	}
	return err
}

// loadRuns fills s.runs and returns the highest position ever given.
func (s *session) loadRuns() (last fanfare.Position, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyRun}, UpperBound: []byte{keyRun + 1}})
	if err != nil {
		return 0, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		r, err := readRun(it.Key(), it.Value())
		if err != nil {
			return 0, err
		}
		s.runs = append(s.runs, r)
		last = max(last, r.last)
	}
	return last, it.Error()
}

func (s *session) loadNextNumber() (uint64, error) {
	next, _, err := s.number([]byte{keyNext})
	if err != nil {
		return 0, err
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyName}, UpperBound: []byte{keyName + 1}})
	if err != nil {
		return 0, err
	}
	defer it.Close()
	if it.Last() {
		next = max(next, lastNumber(it.Key())+1)
	}
	return max(next, 1), it.Error()
}

// loadFloors reads the floors of the rules that were in force, and the floor of all.
func (s *session) loadFloors() (map[string]fanfare.Position, error) {
	value, closer, err := s.db.Get([]byte{keyGone})
	switch {
	case err == nil:
		floor, err := readPosition(value)
		_ = closer.Close()
		if err != nil {
			return nil, err
		}
		s.floor.Store(uint64(floor))
		s.sweptFloor.Store(uint64(floor))
	case !isNotFound(err):
		return nil, err
	}
	floors := map[string]fanfare.Position{}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyFloor}, UpperBound: []byte{keyFloor + 1}})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		floor, err := readPosition(it.Value())
		if err != nil {
			return nil, err
		}
		floors[string(it.Key()[1:])] = floor
	}
	return floors, it.Error()
}

// putRules brings rules into force, and stores their floors instead of those that were.
func (s *session) putRules(b *pebble.Batch, rules []fanfare.Rule, floors map[string]fanfare.Position) error {
	set := newRuleSet(rules, floors)
	if err := b.DeleteRange([]byte{keyFloor}, []byte{keyFloor + 1}, nil); err != nil {
		return err
	}
	for _, r := range append([]*liveRule{set.forget}, set.rules...) {
		if err := b.Set(textKey(keyFloor, r.Pattern.String()), binary.AppendUvarint(nil, r.floor.Load()), nil); err != nil {
			return err
		}
	}
	before := s.rules.Swap(set)
	if before == nil {
		set.surveyed.Store(s.applier.nextNum == 1) // no channel was ever numbered
		return nil
	}
	set.takeOver(before)
	select {
	case s.ruled <- struct{}{}:
	default: // the survey has not come to the rules before, and takes these
	}
	return nil
}

// start sets the session to work.
func (s *session) start() {
	s.loops.Go(s.commitLoop)
	s.loops.Go(s.publishLoop)
	s.loops.Go(s.surveyLoop)
	s.loops.Go(func() { s.tip.syncLoop(s.dead, s.log.stop) })
	if s.fs.lazyWAL {
		s.loops.Go(s.syncLoop)
	}
}

// syncLoop is the one-second timer of DurabilityAsync.
func (s *session) syncLoop() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := s.syncWritten(); err != nil {
				s.fail(fmt.Errorf("sync the log: %w", err))
				return
			}
		case <-s.dead:
			return
		case <-s.log.stop:
			return
		}
	}
}

// syncWritten syncs what only seemed to be, and notes how far that was.
func (s *session) syncWritten() error {
	written := fanfare.Position(s.log.durable.Load()) // before: what comes meanwhile may be synced or not
	if err := s.fs.syncDirty(); err != nil {
		return err
	}
	s.tip.settle(written)
	return nil
}

// acquire keeps the store open until release; false when it is closed.
func (s *session) acquire() bool {
	s.open.RLock()
	if s.closed {
		s.open.RUnlock()
		return false
	}
	return true
}

// now is the time by which things are hidden and deleted.
func (s *session) now() moment { return s.log.order.now() }

func (s *session) release() { s.open.RUnlock() }

// close closes the store; it may hang with the disk. Nobody may use the session afterwards.
func (s *session) close() error {
	s.open.Lock()
	defer s.open.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.guard(func() error {
		if !s.isDead() && s.applier.next > 0 {
			if err := s.closeClock(); err != nil {
				return errors.Join(err, s.db.Close())
			}
		}
		// What waits in memory is written as a table now: the next open would have to read it from the WAL, which takes longer.
		if !s.isDead() && s.db.Metrics().WAL.Size > flushAtClose {
			if err := s.db.Flush(); err != nil {
				return errors.Join(err, s.db.Close())
			}
		}
		return s.db.Close()
	})
	s.tip.close()
	if s.isDead() {
		return nil // its files belong to a successor; what the close of a fenced store says does not matter
	}
	return err
}

func (s *session) isDead() bool {
	select {
	case <-s.dead:
		return true
	default:
		return false
	}
}

func isNotFound(err error) bool { return errors.Is(err, pebble.ErrNotFound) }
