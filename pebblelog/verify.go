package pebblelog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
)

// Report is the result of Verify.
type Report struct {
	Events, Channels, Kept, Keys uint64

	Scheduled      uint64 // events that are to be published later
	Runs           int
	Oldest, Newest fanfare.Position
	Faults         uint64   // contradictions, and damaged values
	First          []string // the first faults, in words
}

const faultsShown = 20

// store is a log that is opened for reading only: nothing is changed, and no run begins.
type store struct {
	db     *pebble.DB
	lock   io.Closer
	gone   fanfare.Position
	runs   []run
	faults []string // of the judge, if the store can be read all the same
}

// openStore opens the log in a data directory, or a backup, for reading. No hub may use it
// meanwhile.
func openStore(fs vfs.FS, dir string) (*store, error) {
	if _, err := fs.Stat(fs.PathJoin(dir, "log")); err != nil {
		return nil, fmt.Errorf("%s holds no log: %w", dir, err)
	}
	lock, err := fs.Lock(fs.PathJoin(dir, lockFile))
	switch {
	case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EACCES):
		lock = io.NopCloser(nil) // a backup that may not be written to, and so not by another process either
	case err != nil:
		return nil, lockError(dir, err)
	}
	s := &store{lock: lock}
	if err := s.open(fs, dir); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if err := s.load(); err != nil {
		s.close()
		return nil, fmt.Errorf("the log in %s: %w", dir, err)
	}
	return s, nil
}

// open judges the log, and opens its store if it can be read.
func (s *store) open(fs vfs.FS, dir string) error {
	found, err := judge(fs, dir)
	var d *damage
	switch {
	case errors.As(err, &d) && d.readable:
		s.faults = found.faults
	case err != nil:
		return err
	case !found.exists || found.format == "":
		return fmt.Errorf("%s holds no log: nothing has been stored there", dir)
	}
	if after, through, lost := found.lost(); err == nil && lost {
		s.faults = append(s.faults,
			fmt.Sprintf("%s ends early: it ends at %v, and events up to %v were stored", found.newest, after, through))
	}
	err = guarded(func() (err error) {
		s.db, err = openReadOnly(unlocked{found.store(fs)}, fs.PathJoin(dir, "log"))
		return err
	})
	if what, ok := isDamage(err); ok {
		return &damage{dir: dir, what: what}
	}
	return err
}

func openReadOnly(fs vfs.FS, folder string) (*pebble.DB, error) {
	return pebble.Open(folder, &pebble.Options{
		FS: fs, ReadOnly: true, ErrorIfNotExists: true, Logger: silent{}, FormatMajorVersion: pebble.FormatNewest,
		MaxOpenFiles: 250,
		// The read returns the error too.
		EventListener: &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}},
	})
}

// guarded calls f, which calls Pebble, and turns Fatalf and panics into an error. Pebble panics
// when it cannot make sense of a store.
func guarded(f func() error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case storeFailure:
			err = p.err
		default:
			err = fmt.Errorf("the store panicked: %v", p)
		}
	}()
	return f()
}

func (s *store) load() error {
	value, ok, err := s.get([]byte{keyGone})
	if err != nil {
		return err
	}
	if ok {
		if s.gone, err = readPosition(value); err != nil {
			return err
		}
	}
	return s.each(keyRun, func(key, value []byte) error {
		r, err := readRun(key, value)
		s.runs = append(s.runs, r)
		return err
	})
}

func (s *store) close() {
	_ = s.db.Close()
	_ = s.lock.Close()
}

func (s *store) get(key []byte) (value []byte, ok bool, err error) {
	v, closer, err := s.db.Get(key)
	if isNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	value = append(value, v...)
	return value, true, closer.Close()
}

// each calls f for all keys of one kind. The key and the value are valid until f returns.
func (s *store) each(kind byte, f func(key, value []byte) error) error {
	it, err := s.db.NewIter(ofKind(kind))
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if err := f(it.Key(), it.Value()); err != nil {
			return err
		}
	}
	return it.Error()
}

// unlocked is a file system in which the store takes no lock of its own, because the data directory
// is locked, and the folder may be on a disk that can only be read.
type unlocked struct{ vfs.FS }

func (unlocked) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(format string, args ...any) {
	panic(storeFailure{fmt.Errorf(format, args...)})
}

// Verify reads all of the log in a data directory that no hub uses, or of a backup, and compares
// the facts that are stored in several places. It changes nothing. Contradictions are in the
// report; an error says that the log could not be read to the end.
func Verify(ctx context.Context, dir string) (Report, error) { return verify(ctx, vfs.Default, dir) }

func verify(ctx context.Context, fs vfs.FS, dir string) (report Report, err error) {
	s, err := openStore(fs, dir)
	if err != nil {
		return report, err
	}
	defer s.close()
	v := verifier{store: s, ctx: ctx, names: map[uint64]fanfare.Channel{}, marks: map[uint64]fanfare.Position{}}
	for _, fault := range s.faults {
		v.fault("%s", fault)
	}
	if clock, ok, err := s.clock(); ok && err == nil {
		v.due = clock.due
	}
	for _, step := range []func() error{v.checkRuns, v.checkNames, v.checkMarks, v.checkIndex, v.checkEvents,
		v.checkExpiries, v.checkClock, v.checkScheduled, v.checkRest} {
		if err := step(); err != nil {
			return v.Report, fmt.Errorf("read the log in %s: %w; restore a backup (fanfare restore), "+
				"or save what can be read (fanfare export)", dir, err)
		}
	}
	return v.Report, nil
}

type verifier struct {
	*store
	Report
	ctx   context.Context
	names map[uint64]fanfare.Channel
	marks map[uint64]fanfare.Position
	due   int64 // due time when the log was last written
	n     int
}

func (v *verifier) fault(format string, args ...any) {
	v.Faults++
	if len(v.First) < faultsShown {
		v.First = append(v.First, fmt.Sprintf(format, args...))
	}
}

// stopped looks at the context now and then.
func (v *verifier) stopped() error {
	if v.n++; v.n%4096 == 0 {
		return v.ctx.Err()
	}
	return nil
}

func (v *verifier) checkRuns() error {
	last := fanfare.Position(0)
	for _, r := range v.runs {
		if r.first <= last || r.last+1 < r.first {
			v.fault("run %v to %v begins below the end of the run before, or ends before it begins", r.first, r.last)
		}
		last = max(last, r.last)
	}
	v.Runs = len(v.runs)
	return nil
}

func (v *verifier) checkNames() error {
	err := v.each(keyName, func(key, value []byte) error {
		num := lastNumber(key)
		c, err := fanfare.ParseChannel(string(value))
		if err != nil {
			v.fault("channel number %d has the name %q: %v", num, value, err)
			return nil
		}
		v.names[num] = c
		back, ok, err := v.get(textKey(keyChannel, c.String()))
		if err == nil && (!ok || len(back) != 8 || binary.BigEndian.Uint64(back) != num) {
			v.fault("channel %s has number %d, but its name leads to %x", c, num, back)
		}
		return err
	})
	v.Channels = uint64(len(v.names))
	if err != nil {
		return err
	}
	n := 0
	if err := v.each(keyChannel, func([]byte, []byte) error { n++; return nil }); err != nil {
		return err
	}
	if n != len(v.names) {
		v.fault("%d channels have a number, %d numbers have a channel", n, len(v.names))
	}
	return nil
}

func (v *verifier) checkMarks() error {
	return v.each(keyMark, func(key, value []byte) error {
		num := lastNumber(key)
		mark, err := readMark(value)
		if err != nil || v.names[num] == (fanfare.Channel{}) {
			v.fault("the trim mark of channel number %d is damaged, or of no channel", num)
			return nil
		}
		v.marks[num] = mark.pos
		return nil
	})
}

// checkIndex checks each index entry against its event, and that a channel's events are counted
// without a hole.
func (v *verifier) checkIndex() error {
	var num, seq uint64
	return v.each(keyIndex, func(key, value []byte) error {
		e, err := readEntry(key, value)
		if err != nil || len(key) != 17 {
			v.fault("an index entry is damaged: %x", key)
			return nil
		}
		n := channelOfIndex(key)
		if v.names[n] == (fanfare.Channel{}) {
			v.fault("the index names channel number %d, which is none", n)
		}
		if n == num && e.seq != seq+1 && !(e.holed && e.seq > seq) {
			v.fault("channel %s: event %v has number %d after %d", v.names[n], e.pos, e.seq, seq)
		}
		num, seq = n, e.seq
		if e.pos <= v.gone || e.pos <= v.marks[n] {
			return v.stopped() // removed; the entry follows
		}
		event, ok, err := v.get(keyOf(keyEvent, uint64(e.pos)))
		if err != nil {
			return err
		}
		if !ok && e.expires > 0 && e.expires <= v.due {
			return v.stopped() // the event has expired, and is its channel's newest
		}
		if !ok {
			v.fault("channel %s: event %v is in the index, and is missing", v.names[n], e.pos)
			return nil
		}
		f := fields{b: event}
		expires, err := eventExpiry(event)
		if f.number() != n || f.number() != e.seq || int64(f.number()) != e.ms || f.err != nil || err != nil ||
			expires != e.expires {
			v.fault("channel %s: event %v is not the one that the index means", v.names[n], e.pos)
		}
		if expires > v.due { // an expired event that the sweep has looked at is not listed any more
			if _, listed, err := v.get(keyOf(keyExpiry, uint64(expires), n, uint64(e.pos))); err != nil {
				return err
			} else if !listed {
				v.fault("channel %s: event %v is not listed by its expiry, and would stay for ever", v.names[n], e.pos)
			}
		}
		return v.stopped()
	})
}

// checkEvents reads each event, and checks that the index knows it.
func (v *verifier) checkEvents() error {
	at := 0
	return v.each(keyEvent, func(key, value []byte) error {
		pos := fanfare.Position(lastNumber(key))
		num, err := eventChannel(value)
		if err != nil {
			v.fault("event %v: %v", pos, err)
			return nil
		}
		if pos <= v.gone || pos <= v.marks[num] {
			return v.stopped()
		}
		if _, err := readEvent(pos, v.names[num], value); err != nil {
			v.fault("%v", err)
		}
		v.Events++
		if v.Oldest == 0 {
			v.Oldest = pos
		}
		v.Newest = pos
		for at < len(v.runs) && v.runs[at].last < pos {
			at++
		}
		if at == len(v.runs) || pos < v.runs[at].first {
			v.fault("event %v has a position that was never given", pos)
		}
		if _, ok, err := v.get(keyOf(keyIndex, num, uint64(pos))); err != nil {
			return err
		} else if !ok {
			v.fault("event %v of channel %s is not in the index", pos, v.names[num])
		}
		return v.stopped()
	})
}

func (s *store) clock() (clockState, bool, error) { return loadClock(s.db) }

func (v *verifier) checkClock() error {
	_, _, err := v.clock()
	if errors.Is(err, errCorrupt) {
		v.fault("the log's time is damaged, or its phases are not in order")
		return nil
	}
	return err
}

func (v *verifier) checkRest() error {
	err := v.each(keyKept, func(key, value []byte) error {
		v.Kept++
		if _, err := readKept(string(key[1:]), value, time.Time{}); err != nil {
			v.fault("the kept position %q is damaged", key[1:])
		}
		return v.stopped()
	})
	if err != nil {
		return err
	}
	return v.each(keyUsed, func(key, value []byte) error {
		v.Keys++
		if _, err := readUsed(value); err != nil || len(key) != 17 {
			v.fault("an idempotency key is damaged: %x", key)
		}
		return v.stopped()
	})
}
