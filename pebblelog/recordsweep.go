package pebblelog

import (
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

const (
	sweepKeysEvery = 5 * time.Second
	sweepKeysMost  = 2000
)

// recordSweep deletes idempotency keys and kept positions that have expired. Apply and readers
// compare the times themselves and do not see expired records, so the progress of the sweep makes
// no difference, and a crash may undo it. The committer owns it, so that it does not delete a
// record that is being written again.
type recordSweep struct {
	db    *pebble.DB // fixed after openSession
	swept time.Time  // when it last ran
	from  []byte     // the key of a kept position at which the next piece starts; nil: at the first
}

// sweep deletes some of the records that have expired at the time of a group. It does so every
// sweepKeysEvery at most.
func (s *recordSweep) sweep(t terms) error {
	now := time.Now()
	if now.Sub(s.swept) < sweepKeysEvery {
		return nil
	}
	s.swept = now
	b := s.db.NewBatch()
	defer b.Close()
	if err := errors.Join(s.sweepUsed(b, t), s.sweepKept(b, t.at.guarded)); err != nil || b.Empty() {
		return err
	}
	return s.db.Apply(b, pebble.NoSync)
}

// sweepUsed deletes expired idempotency keys, sweepKeysMost at most.
func (s *recordSweep) sweepUsed(b *pebble.Batch, t terms) error {
	expired := uint64(max(t.at.log-t.keyMemory.Milliseconds(), 0))
	it, err := s.db.NewIter(between([]byte{keyUsedAt}, keyOf(keyUsedAt, expired)))
	if err != nil {
		return err
	}
	defer it.Close()
	n := 0
	for ok := it.First(); ok && n < sweepKeysMost; ok = it.Next() {
		key := append([]byte(nil), it.Key()...)
		if len(key) != 1+8+16 {
			return errCorrupt
		}
		hash := [16]byte(key[9:])
		value, closer, err := s.db.Get(usedKey(hash))
		if err == nil {
			u, _ := readUsed(value)
			_ = closer.Close()
			if uint64(u.ms) <= expired { // if not, the key was used again later
				if err := b.Delete(usedKey(hash), nil); err != nil {
					return err
				}
			}
		} else if !isNotFound(err) {
			return err
		}
		if err := b.Delete(key, nil); err != nil {
			return err
		}
		n++
	}
	return it.Error()
}

// sweepKept deletes expired kept positions. It looks at the next sweepKeysMost of them, and starts
// again after the last one.
func (s *recordSweep) sweepKept(b *pebble.Batch, now int64) error {
	lower := s.from
	if lower == nil {
		lower = []byte{keyKept}
	}
	s.from = nil
	it, err := s.db.NewIter(between(lower, []byte{keyKept + 1}))
	if err != nil {
		return err
	}
	defer it.Close()
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if n++; n > sweepKeysMost {
			s.from = append([]byte(nil), it.Key()...)
			break
		}
		k, err := readKept("", it.Value(), time.Time{})
		if err != nil {
			return err
		}
		if k.Expires.UnixMilli() <= now {
			if err := b.Delete(append([]byte(nil), it.Key()...), nil); err != nil {
				return err
			}
		}
	}
	return it.Error()
}
