package pebblelog

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"github.com/fanfare-hub/fanfare"
)

// session is one opening of the store, from the open to a failure or the close, with the parts that
// work on it: the committer writes, retention and the limiter delete, readers read, and a survey
// finds upper limits of the trim marks. All of them use the catalog.
type session struct {
	// Fixed after openSession.
	log       *Log
	fs        *sessionFS
	tip       *tipFS
	db        *pebble.DB
	catalog   *catalog
	committer *committer
	retention *retention
	limiter   *limiter
	readers   *readers

	dead       chan struct{}  // closed when the session fails
	loops      sync.WaitGroup // goroutines of the session
	complaints complaints

	failOnce sync.Once
	cause    error // of the failure; set before dead is closed

	inUse  sync.RWMutex // held for reading while the store is used, and for writing by close
	closed bool         // guarded by inUse
}

// newSession makes a session without a store.
func newSession(l *Log) *session {
	s := &session{log: l, dead: make(chan struct{})}
	s.catalog = newCatalog(l, s.dead)
	s.readers = &readers{catalog: s.catalog, pieces: defaultPieces}
	s.retention = newRetention(s.catalog)
	s.limiter = &limiter{retention: s.retention}
	s.committer = newCommitter(s)
	return s
}

// openSession opens the store and begins a new run. The run is on disk before a position of it can
// be seen.
func openSession(l *Log) (*session, error) {
	s := newSession(l)
	found, err := s.judge()
	if err != nil {
		return nil, err
	}
	folder := l.opts.FS.PathJoin(l.opts.Dir, "log")
	if err := makeDir(l.opts.FS, folder); err != nil {
		return nil, err
	}
	lazy := l.opts.Durability == DurabilityAsync
	s.tip = s.newTip(folder, found, lazy)
	s.fs = newSessionFS(s.tip, folder, lazy)
	s.fs.failed = func(err error) { s.fail(fmt.Errorf("write the log: %w", err)) }
	s.fs.written = func(n int) { l.stats.written.Add(uint64(n)) }
	s.fs.deleted = s.retention.deleted.Load
	s.retention.fs = s.fs
	err = s.guard(func() error {
		db, err := pebble.Open(folder, s.storeOptions())
		if err != nil {
			return openError(l.opts.Dir, err)
		}
		s.db, s.catalog.db, s.catalog.seconds.db, s.retention.records.db = db, db, db, db
		if err := s.beginRun(found.tip.durable); err != nil {
			if pebble.IsCorruptionError(err) || errors.Is(err, errCorrupt) {
				return openError(l.opts.Dir, err)
			}
			return err
		}
		s.tip.begin(s.catalog.runs.first, lazy)
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

// memTable is the number of bytes that gather in memory before they are written as a table. Larger
// tables are rewritten less often: 64 MiB write two thirds of the bytes that 16 MiB do
// (BenchmarkWriteAmplification). The memory is taken as it fills.
const memTable = 64 << 20

const flushAtClose = 8 << 20

func (s *session) storeOptions() *pebble.Options {
	memory := memTableBytes(s.log.upkeep.most)
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
	// One compaction at a time, and besides it deletions of whole tables, and the compactions that
	// the limiter asks for.
	o.CompactionConcurrencyRange = func() (int, int) { return 1, 2 }
	o.Experimental.L0CompactionConcurrency = math.MaxInt32
	o.Experimental.CompactionDebtConcurrency = math.MaxInt64
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return o
}

// corrupted is called when Pebble finds a damaged file. The log goes on without the file: a read
// that needs it gets an error, and the operator is told which file it is. By default Pebble would
// call Fatalf.
func (s *session) corrupted(info pebble.DataCorruptionInfo) {
	s.log.stats.corrupt.Add(1)
	if !s.complaints.due() {
		return
	}
	s.log.opts.Logger.Error("a file of the log is damaged: some events cannot be read; "+
		"stop the hub, see `fanfare verify`, and restore a backup",
		slog.String("file", info.Path), slog.Any("err", info.Details))
}

// memTableBytes returns the size of a memtable, and so of a WAL. It is small for a small log, and
// on a small disk.
func memTableBytes(most int64) uint64 {
	if most <= 0 {
		return memTable
	}
	return uint64(min(max(most/12, 1<<20), memTable))
}

// start starts the session's goroutines.
func (s *session) start() {
	s.loops.Go(s.committer.commitLoop)
	s.loops.Go(s.committer.publishLoop)
	s.loops.Go(s.surveyLoop)
	s.loops.Go(s.dueLoop)
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

// syncWritten syncs the WAL, and notes in the TIP up to which position.
func (s *session) syncWritten() error {
	written := fanfare.Position(s.log.durable.Load()) // before the sync, which may miss later events
	if err := s.fs.syncDirty(); err != nil {
		return err
	}
	s.tip.settle(written)
	return nil
}

// acquire keeps the store open until release; false when it is closed.
func (s *session) acquire() bool {
	s.inUse.RLock()
	if s.closed {
		s.inUse.RUnlock()
		return false
	}
	return true
}

func (s *session) release() { s.inUse.RUnlock() }

// close closes the store. It waits until no goroutine uses the store, and may hang with the disk.
func (s *session) close() error {
	s.inUse.Lock()
	defer s.inUse.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.guard(func() error {
		if !s.isDead() && s.committer.applier.next > 0 {
			if err := s.closeClock(); err != nil {
				return errors.Join(err, s.db.Close())
			}
		}
		// A full memtable is written as a table now, because the next open would have to read its
		// events from the WAL, which takes longer.
		if !s.isDead() && s.db.Metrics().WAL.Size > flushAtClose {
			if err := s.db.Flush(); err != nil {
				return errors.Join(err, s.db.Close())
			}
		}
		return s.db.Close()
	})
	s.tip.close()
	if s.isDead() {
		return nil // the files belong to a successor, so an error of a fenced store does not matter
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
