package pebblelog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
)

// Durability says which failures an acknowledged event survives.
type Durability int

// The durabilities.
const (
	DurabilitySync   Durability = iota // on disk: survives a power cut
	DurabilityAsync                    // in the kernel's hands, on disk within a second: survives kill -9
	DurabilityMemory                   // nothing: there is no file
)

// Options set up a Log. The zero value of each field but Dir is good.
type Options struct {
	Dir               string         // the data directory, made when absent; not used with DurabilityMemory
	Durability        Durability     // default DurabilitySync
	Retention         []fanfare.Rule // default DefaultRetention; the most specific pattern wins
	MinFreeBytes      int64          // refuse publishes while the disk has less; default 64 MiB, negative: never
	MaxQueueBytes     int            // most bytes that wait to be committed; default 64 MiB
	CacheBytes        int            // memory for blocks read from the disk, taken as it is needed; default 64 MiB
	SlowCommit        time.Duration  // answer CodeUnavailable when a commit takes longer; default 10 s
	KeyMemory         time.Duration  // time for which idempotency keys are remembered; default 10 min
	MaxScheduledBytes int64          // most bytes of events that are to be published later; default 1 GiB
	MaxBytes          int64          // drop the oldest events when the files take more; default: no limit
	TrimInterval      time.Duration  // pause between two sweeps, which delete the hidden events; default 10 s
	Logger            *slog.Logger   // default: discard

	order func(order) order // for tests; puts another order in the place of the queue
	FS    vfs.FS            // for tests; default the machine's, or a new memory with DurabilityMemory
	Now   func() time.Time  // for tests; default time.Now
	// For tests; the time since some moment, which no setting of the clock changes; default the
	// kernel's monotonic clock, or that of Now.
	Elapsed func() time.Duration
}

func (o Options) withDefaults() Options {
	if o.Durability == DurabilityMemory {
		o.Dir = "memory"
		if o.FS == nil {
			o.FS = vfs.NewMem()
		}
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Retention == nil {
		o.Retention = fanfare.DefaultRetention()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	setDefault(&o.MinFreeBytes, 64<<20)
	setDefault(&o.MaxQueueBytes, 64<<20)
	setDefault(&o.CacheBytes, 64<<20)
	setDefault(&o.SlowCommit, 10*time.Second)
	setDefault(&o.KeyMemory, 10*time.Minute)
	setDefault(&o.MaxScheduledBytes, 1<<30)
	setDefault(&o.TrimInterval, 10*time.Second)
	return o
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Log is a fanfare.Log and fanfare.Keeper in one directory. Make it with Open, end it with Close.
type Log struct {
	// Fixed after Open.
	opts      Options
	clock     *clock
	order     order
	proposals *proposals
	upkeep    *upkeep
	stop      chan struct{} // closed by Close
	end       func() error  // closes the log, once

	durable  atomic.Uint64
	ids      atomic.Uint64 // the highest id of a scheduled event that is durable
	stats    counters
	watchers watchers

	mu      sync.Mutex     // guards the fields below; nothing slow happens under it
	rules   []fanfare.Rule // for the next session
	session *session       // the one to read from; it may have failed

	background sync.WaitGroup // goroutines of the Log itself
	closers    sync.WaitGroup // sessions being closed; one may hang
}

var (
	_ fanfare.Log       = (*Log)(nil)
	_ fanfare.Keeper    = (*Log)(nil)
	_ fanfare.Scheduler = (*Log)(nil)
	_ fanfare.Operable  = (*Log)(nil)
)

// watchers are told of the events that become visible. The mutex is held meanwhile, so that they
// are told one thing at a time, and in order. It is taken before Log.mu.
type watchers struct {
	sync.Mutex
	list []*watch
}

type watch struct{ w fanfare.Watcher }

// Open opens the log in Options.Dir, or makes a new one, and begins a new run. It fails, and
// changes nothing, when another process uses the directory, or when the log there is damaged or of
// another version. A log whose newest events are lost is opened, and the loss is logged as an
// error. Open blocks for the disk. The caller must close the log.
func Open(opts Options) (*Log, error) {
	l := &Log{opts: opts.withDefaults(), stop: make(chan struct{})}
	l.rules = l.opts.Retention
	l.clock = newClock(l.opts, func() { l.stats.clockJumps.Add(1) })
	l.proposals = newProposals(&l.opts, &l.stats, l.stop)
	l.upkeep = newUpkeep(l)
	l.order = queueOrder{l}
	if l.opts.order != nil {
		l.order = l.opts.order(l.order)
	}
	fs := l.opts.FS
	if l.opts.Dir == "" {
		return nil, errors.New("open log: no data directory given")
	}
	if err := makeDir(fs, l.opts.Dir); err != nil {
		return nil, fmt.Errorf("make data directory %s: %w", l.opts.Dir, err)
	}
	lock, err := fs.Lock(fs.PathJoin(l.opts.Dir, lockFile))
	if err != nil {
		return nil, lockError(l.opts.Dir, err)
	}
	l.end = sync.OnceValue(func() error { return errors.Join(l.close(), lock.Close()) })
	l.upkeep.most = mostBytes(l.opts)
	s, err := openSession(l)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open log in %s: %w", l.opts.Dir, err), lock.Close())
	}
	l.session = s
	l.durable.Store(uint64(s.catalog.runs.first) - 1)
	l.upkeep.measure()
	_ = l.upkeep.checkFree() // so that Status tells of a full disk before the first publish
	s.start()
	l.background.Go(l.proposals.watch)
	l.upkeep.start()
	return l, nil
}

// makeDir makes a folder and those above it, and syncs each entry that is new: a log in a folder
// that a power cut can take away is not durable.
func makeDir(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(dir); err == nil {
		return nil
	}
	parent := fs.PathDir(dir)
	if parent != dir {
		if err := makeDir(fs, parent); err != nil {
			return err
		}
	}
	if err := fs.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return syncDir(fs, parent)
}

// Close commits the queued requests, refuses later ones, and closes the files. It blocks for a slow
// disk for Options.SlowCommit at most. A second call does nothing and returns the same error.
func (l *Log) Close() error { return l.end() }

func (l *Log) close() error {
	l.mu.Lock()
	l.proposals.close()
	s := l.session
	l.mu.Unlock()
	close(l.stop)
	done := make(chan error, 1)
	go func() {
		s.loops.Wait()
		l.background.Wait()
		l.mu.Lock()
		s = l.session // the background may have replaced it before it stopped
		l.mu.Unlock()
		s.loops.Wait()
		err := s.close()
		l.closers.Wait()
		done <- err
	}()
	timer := time.NewTimer(l.opts.SlowCommit)
	defer timer.Stop()
	var err error
	select {
	case err = <-done:
	case <-timer.C:
		err = errors.New("the store did not close in time: the disk hangs")
	}
	l.proposals.refuseAll(fanfare.Unavailable("the log is closing", nil))
	if err != nil {
		return fmt.Errorf("close log in %s: %w", l.opts.Dir, err)
	}
	return nil
}

// Append implements fanfare.Log. It does not block. If the queue refuses the batch, done is called
// before Append returns; otherwise later, by another goroutine.
func (l *Log) Append(b *fanfare.Batch, done func(fanfare.Receipt, error)) {
	l.order.propose(&request{batch: b, done: done, bytes: batchBytes(b)})
}

// Watch implements fanfare.Log.
func (l *Log) Watch(w fanfare.Watcher) (fanfare.Position, func()) {
	l.watchers.Lock()
	defer l.watchers.Unlock()
	entry := &watch{w}
	l.watchers.list = append(l.watchers.list, entry)
	return fanfare.Position(l.durable.Load()), func() {
		l.watchers.Lock()
		defer l.watchers.Unlock()
		l.watchers.list = slices.DeleteFunc(slices.Clone(l.watchers.list),
			func(other *watch) bool { return other == entry })
	}
}

// Status implements fanfare.Log.
func (l *Log) Status() fanfare.Status {
	durable := fanfare.Position(l.durable.Load())
	return fanfare.Status{Durable: durable, Err: l.proposals.err()}
}

// Now implements fanfare.Log.
func (l *Log) Now() time.Time { return time.UnixMilli(l.order.now().due).UTC() }

// Kept implements fanfare.Keeper.
func (l *Log) Kept(ctx context.Context, name string) (k fanfare.Kept, ok bool, err error) {
	err = l.read(ctx, func(s *session) error {
		value, closer, err := s.db.Get(textKey(keyKept, name))
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read kept position: %w", err)
		}
		defer closer.Close()
		now := l.order.now().guardedTime()
		k, err = readKept(name, value, now)
		ok = err == nil && k.Expires.After(now)
		return err
	})
	return k, ok && err == nil, err
}

// EachKept implements fanfare.Keeper.
func (l *Log) EachKept(ctx context.Context, prefix string, f func(fanfare.Kept) bool) error {
	return l.read(ctx, func(s *session) error {
		lower := textKey(keyKept, prefix)
		it, err := s.db.NewIter(between(lower, []byte{keyKept + 1}))
		if err != nil {
			return err
		}
		defer it.Close()
		now := l.order.now().guardedTime()
		for ok := it.First(); ok && bytes.HasPrefix(it.Key(), lower); ok = it.Next() {
			k, err := readKept(string(it.Key()[1:]), it.Value(), now)
			if err != nil {
				return err
			}
			if k.Expires.After(now) && !f(k) {
				break
			}
		}
		return errors.Join(it.Error(), ctx.Err())
	})
}

// read runs f on the current session, and keeps it open meanwhile.
func (l *Log) read(ctx context.Context, f func(*session) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s := l.current()
	if !s.acquire() {
		return fanfare.Unavailable("the log is closed", nil)
	}
	defer s.release()
	err := s.guard(func() error { return f(s) })
	var public *fanfare.Error
	if err == nil || errors.As(err, &public) || ctx.Err() != nil {
		return err
	}
	return fanfare.Unavailable("the log cannot be read at present", err)
}
