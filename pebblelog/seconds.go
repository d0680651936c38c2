package pebblelog

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

const (
	secondEvents = 256
	secondGap    = 60
	steered      = 60 // a log of format 2 did not note that its clock went back, if it was by fewer seconds than this
)

// seconds is the second→position table. Its entry for a second of log time is the position of the
// first event that was stored in that second or later. A new entry is written when secondEvents
// events or secondGap seconds have passed since the last one. So the table is small on a slow log
// and on a fast one, and a look-up finds a position that is too low by one such step at most. Log
// time never falls, so the table is in the order of positions too.
type seconds struct {
	db      *pebble.DB     // fixed after openSession
	durable *atomic.Uint64 // of the log
	// In a log of format 2, the highest second before the clock last went back; fixed after
	// openSession.
	jumped  int64
	thinned int64 // the second up to which the table was thinned; owned by the sweep
}

// secondsTail is the end of the table, where the committer adds entries. The committer owns it.
type secondsTail struct {
	highest int64            // the highest second of an event so far
	second  int64            // of the newest entry
	pos     fanfare.Position // of the newest entry
}

// load reads the end of the table. It has the batch delete entries ahead of log time, which a log
// of format 2 has when its clock was ahead once. Without them a look-up finds a lower position,
// which is no fault.
func (t *seconds) load(b *pebble.Batch, now int64, empty bool) (tail secondsTail, err error) {
	value, closer, err := t.db.Get([]byte{keyJump})
	switch {
	case err == nil:
		f := fields{b: value}
		t.jumped = min(int64(f.number()), now)
		_ = closer.Close()
		if f.err != nil {
			return tail, f.err
		}
	case !isNotFound(err):
		return tail, err
	}
	it, err := t.db.NewIter(ofKind(keySecond))
	if err != nil {
		return tail, err
	}
	defer it.Close()
	tail.highest = now // the second may have events already
	if empty {
		tail.highest--
	}
	ahead := keyOf(keySecond, uint64(now)+1)
	if it.SeekGE(ahead) {
		if err := b.DeleteRange(ahead, []byte{keySecond + 1}, nil); err != nil {
			return tail, err
		}
	}
	if it.SeekLT(ahead) {
		tail.second = int64(lastNumber(it.Key()))
		if tail.pos, err = readPosition(it.Value()); err != nil {
			return tail, err
		}
	}
	return tail, it.Error()
}

// tick adds an entry for a group's first event, when one is due.
func (w *groupWriter) tick(first fanfare.Position) error {
	t := &w.tail
	second := w.at.log / 1000
	if second <= t.highest {
		return nil
	}
	t.highest = second
	if first < t.pos+secondEvents && second < t.second+secondGap {
		return nil
	}
	t.second, t.pos = second, first
	return w.b.Set(keyOf(keySecond, uint64(second)), binary.AppendUvarint(nil, uint64(first)), nil)
}

// before returns a position such that all events up to it were stored before a log time, in
// milliseconds.
func (t *seconds) before(ms int64) (fanfare.Position, error) {
	if ms <= 0 {
		return 0, nil
	}
	it, err := t.db.NewIter(ofKind(keySecond))
	if err != nil {
		return 0, err
	}
	defer it.Close()
	if !it.SeekLT(keyOf(keySecond, uint64(ms/1000)+1)) {
		return 0, it.Error()
	}
	pos, err := readPosition(it.Value())
	if err != nil || pos == 0 {
		return 0, err
	}
	return min(pos-1, fanfare.Position(t.durable.Load())), nil
}

// notBefore returns a position such that all events above it were stored at a log time or later, in
// milliseconds.
func (t *seconds) notBefore(ms int64) (fanfare.Position, error) {
	durable := fanfare.Position(t.durable.Load())
	if ms/1000 <= t.jumped {
		return durable, nil // the clock went back: events above may be older than events below
	}
	it, err := t.db.NewIter(ofKind(keySecond))
	if err != nil {
		return 0, err
	}
	defer it.Close()
	if !it.SeekGE(keyOf(keySecond, uint64(max(ms, 0)/1000+steered)+1)) {
		return durable, it.Error()
	}
	pos, err := readPosition(it.Value())
	return min(max(pos, 1)-1, durable), err
}

// firstStoredAt returns the position of the first event that was stored at a log time or later; one
// above durable when there is none.
func (t *seconds) firstStoredAt(m moment, at int64, durable fanfare.Position) (fanfare.Position, error) {
	low, err := t.before(at)
	if err != nil {
		return 0, err
	}
	it, err := t.db.NewIter(between(keyOf(keyEvent), keyOf(keyEvent, uint64(durable)+1)))
	if err != nil {
		return 0, err
	}
	defer it.Close()
	high := durable + 1
	for low++; low < high; {
		middle := low + (high-low)/2
		if !it.SeekGE(keyOf(keyEvent, uint64(middle))) {
			if err := it.Error(); err != nil {
				return 0, err
			}
			high = middle
			continue
		}
		pos := fanfare.Position(lastNumber(it.Key()))
		ms, err := eventMs(it.Value())
		switch {
		case err != nil:
			return 0, fmt.Errorf("event %v: %w", pos, err)
		case m.stored(pos, ms) >= at:
			high = middle
		default:
			low = pos + 1
		}
	}
	return low, nil
}

// forget deletes the entries up to a floor, except the last one, which look-ups still need.
func (t *seconds) forget(b *pebble.Batch, floor fanfare.Position) error {
	it, err := t.db.NewIter(ofKind(keySecond))
	if err != nil {
		return err
	}
	defer it.Close()
	var previous []byte
	for ok := it.First(); ok; ok = it.Next() {
		pos, err := readPosition(it.Value())
		if err != nil {
			return err
		}
		if pos > floor {
			break
		}
		if previous != nil {
			if err := b.Delete(previous, nil); err != nil {
				return err
			}
		}
		previous = append(previous[:0:0], it.Key()...)
	}
	return it.Error()
}

// readPosition reads a position that is stored as a varint.
func readPosition(value []byte) (fanfare.Position, error) {
	f := fields{b: value}
	p := fanfare.Position(f.number())
	return p, f.err
}

// thin deletes entries older than a day, by log time, except one for each minute, so that a log
// that is kept for years has a small table. It goes on from where the last call stopped.
func (t *seconds) thin(m moment) error {
	until := (m.log/1000 - 24*60*60) / 60 * 60
	if until <= t.thinned {
		return nil
	}
	lower, upper := keyOf(keySecond, uint64(max(t.thinned, 0))), keyOf(keySecond, uint64(max(until, 0)))
	it, err := t.db.NewIter(between(lower, upper))
	if err != nil {
		return err
	}
	defer it.Close()
	b := t.db.NewBatch()
	defer b.Close()
	minute := int64(-1)
	for ok := it.First(); ok; ok = it.Next() {
		if m := int64(lastNumber(it.Key())) / 60; m != minute {
			minute = m
		} else if err := b.Delete(append([]byte(nil), it.Key()...), nil); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return err
	}
	t.thinned = until
	if b.Empty() {
		return nil
	}
	return t.db.Apply(b, pebble.NoSync)
}
