package pebblelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"
)

// openClock has the clock go on from its stored state when the log is opened. When the store is
// opened again after a failure, it does nothing, because the clock went on meanwhile.
func (s *session) openClock() error {
	state, err := s.loadClock()
	if err != nil {
		return err
	}
	s.log.clock.open(state)
	return nil
}

func (s *session) loadClock() (clockState, error) {
	state, ok, err := loadClock(s.db)
	if ok || err != nil {
		return state, err
	}
	newest, err := s.newestTime()
	return firstState(newest, s.log.opts.Now().UnixMilli()), err
}

// loadClock reads the stored state of the clock; false when the store has none, as in logs of
// earlier formats.
func loadClock(db *pebble.DB) (state clockState, ok bool, err error) {
	read := func(key byte, f func(value []byte) error) {
		value, closer, getErr := db.Get([]byte{key})
		if getErr != nil {
			err = errors.Join(err, getErr)
			return
		}
		err = errors.Join(err, f(value), closer.Close())
	}
	read(keyClock, func(value []byte) error {
		f := fields{b: value}
		state.log = f.signed()
		state.due = int64(f.optional())
		return f.err
	})
	if isNotFound(err) {
		return state, false, nil
	}
	read(keyPhases, func(value []byte) (err error) {
		state.believed, state.phases, err = readPhases(value)
		return err
	})
	if isNotFound(err) || (err == nil && !state.sound()) {
		err = errCorrupt
	}
	return state, err == nil, err
}

// newestTime returns the wall time of the newest event in a log that has no log time yet; without
// events, the time at which the last run began. A log with neither is new, and may believe any
// clock.
func (s *session) newestTime() (int64, error) {
	it, err := s.db.NewIter(ofKind(keyEvent))
	if err != nil {
		return 0, err
	}
	defer it.Close()
	if it.Last() {
		return eventMs(it.Value())
	}
	if n := len(s.catalog.runs.earlier); n > 0 {
		return int64(s.catalog.runs.earlier[n-1].first / perMillisecond), it.Error()
	}
	return math.MaxInt64, it.Error()
}

// saveClock adds the clock to a group's batch, which makes it durable with the events of that time.
func saveClock(b *pebble.Batch, m moment, phasesToo bool) error {
	value := binary.AppendUvarint(binary.AppendVarint(nil, m.log), uint64(m.due))
	if err := b.Set([]byte{keyClock}, value, nil); err != nil || !phasesToo {
		return err
	}
	return b.Set([]byte{keyPhases}, appendPhases(nil, m.guarded-m.log, m.phases), nil)
}

// closeClock stores log time up to now. The committer has stopped.
func (s *session) closeClock() error {
	b := s.db.NewBatch()
	defer b.Close()
	m, _ := s.log.clock.group(s.committer.applier.next)
	if err := saveClock(b, m, true); err != nil {
		return err
	}
	if err := s.db.Apply(b, pebble.Sync); err != nil {
		return fmt.Errorf("store the time: %w", err)
	}
	return nil
}

// storeTime has the time of its group stored, even if the group has no other change.
type storeTime struct{}

func (storeTime) apply(w *groupWriter) error { return saveClock(w.b, w.at, false) }
