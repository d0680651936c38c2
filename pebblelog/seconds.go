package pebblelog

import (
	"encoding/binary"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// The second→position table says of a second which position the first event of that second or a later one got. An entry is
// written when the second is higher than that of any event before, and either some events or a minute lie between it and the
// entry before: so the table is small on a slow log and on a fast one, and a look-up is at most so much too early.
const (
	secondEvents = 256
	secondGap    = 60
	steered      = 60 // so many seconds a clock may go back without being said to jump
)

// secondsState is owned by the committer.
type secondsState struct {
	highest int64            // second of any event so far
	second  int64            // of the newest entry
	pos     fanfare.Position // of the newest entry
}

func (s *session) loadSeconds() error {
	value, closer, err := s.db.Get([]byte{keyJump})
	switch {
	case err == nil:
		f := fields{b: value}
		s.jumped.Store(int64(f.number()))
		_ = closer.Close()
		if f.err != nil {
			return f.err
		}
	case !isNotFound(err):
		return err
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keySecond}, UpperBound: []byte{keySecond + 1}})
	if err != nil {
		return err
	}
	defer it.Close()
	if it.Last() {
		s.seconds.second = int64(lastNumber(it.Key()))
		s.seconds.pos, err = readPosition(it.Value())
		s.seconds.highest = s.seconds.second + secondGap // an event after the entry may have come so late
	}
	if err != nil {
		return err
	}
	return it.Error()
}

// tick notes the time of a group's first event.
func (w *groupWriter) tick(first fanfare.Position) error {
	t := &w.seconds
	second := w.ms / 1000
	if second < t.highest-steered && w.jumped.Load() < t.highest {
		w.jumped.Store(t.highest)
		return w.b.Set([]byte{keyJump}, binary.AppendUvarint(nil, uint64(t.highest)), nil)
	}
	if second <= t.highest {
		return nil
	}
	t.highest = second
	if first < t.pos+secondEvents && second < t.second+secondGap {
		return nil
	}
	t.second, t.pos = second, first
	return w.b.Set(keyOf(keySecond, uint64(max(second, 0))), binary.AppendUvarint(nil, uint64(first)), nil)
}

// before returns a position up to which all events are older than a time, in milliseconds.
func (s *session) before(ms int64) (fanfare.Position, error) {
	if ms <= 0 {
		return 0, nil
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keySecond}, UpperBound: []byte{keySecond + 1}})
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
	return min(pos-1, fanfare.Position(s.log.durable.Load())), nil
}

// notBefore returns a position that no event older than a time, in milliseconds, is above.
func (s *session) notBefore(ms int64) (fanfare.Position, error) {
	durable := fanfare.Position(s.log.durable.Load())
	if ms/1000 <= s.jumped.Load() {
		return durable, nil // the clock went back: events above may be older than events below
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keySecond}, UpperBound: []byte{keySecond + 1}})
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

// beforeTime is before of a time; zero for the zero time.
func (s *session) beforeTime(t time.Time) (fanfare.Position, error) {
	if t.IsZero() {
		return 0, nil
	}
	return s.before(t.UnixMilli())
}

// forgetSeconds deletes the entries that a floor has made useless: all but the last one below it.
func (s *session) forgetSeconds(b *pebble.Batch, floor fanfare.Position) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keySecond}, UpperBound: []byte{keySecond + 1}})
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

func readPosition(value []byte) (fanfare.Position, error) {
	f := fields{b: value}
	p := fanfare.Position(f.number())
	return p, f.err
}

// thinSeconds brings entries that are older than a day to one a minute, so that a log that is kept for years has a small
// table. It goes on where it stopped.
func (s *session) thinSeconds(now time.Time) error {
	until := now.Add(-24*time.Hour).Unix() / 60 * 60
	if until <= s.thinned {
		return nil
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: keyOf(keySecond, uint64(max(s.thinned, 0))), UpperBound: keyOf(keySecond, uint64(max(until, 0)))})
	if err != nil {
		return err
	}
	defer it.Close()
	b := s.db.NewBatch()
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
	s.thinned = until
	if b.Empty() {
		return nil
	}
	return s.db.Apply(b, pebble.NoSync)
}
