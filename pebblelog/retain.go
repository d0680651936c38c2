package pebblelog

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// Retention has three steps. A channel's trim mark moves as soon as a reader or the sweep looks at
// the channel, and hides the events up to it. The sweep deletes hidden events, a batch at a time. A
// channel that has become empty is forgotten: its mark folds into the floor of its rule.

// retention deletes the hidden events from one session's store. Readers and apply see no difference
// between a sweep that is behind and one that is not.
type retention struct {
	// Fixed after openSession.
	*catalog
	fs *sessionFS

	records recordSweep // owned by the committer

	deleting   sync.Mutex    // held while events of a channel are deleted
	prefix     sync.Mutex    // held while the floor moves and the events below it are deleted
	sweptFloor atomic.Uint64 // the floor up to which events are deleted

	deleted atomic.Int64 // bytes that were deleted one by one
	singly  atomic.Bool  // events were among them, not only index entries, since the last tidying
	unswept atomic.Int64 // bytes of index entries below the floor that the sweep has not reached

	// The sweep has looked at all events that expire before this due time; owned by the sweep.
	expired int64
}

func newRetention(c *catalog) *retention {
	r := &retention{catalog: c}
	r.singly.Store(true) // an earlier session may have deleted some
	return r
}

// sweep deletes the hidden events: first those up to the floor of all channels, then channel by
// channel. It returns the number of channels that it has looked at.
func (r *retention) sweep() (looked int, err error) {
	unswept := r.unswept.Load()
	b := r.bounds()
	if all := r.rules.Load().all; all > 0 {
		before, err := r.seconds.before(b.at.ageLimit(all.Milliseconds()))
		if err != nil {
			return 0, err
		}
		b.floor = max(b.floor, before)
	}
	if err := r.deletePrefix(b.floor); err != nil {
		return 0, err
	}
	if err := r.seconds.thin(b.at); err != nil {
		return 0, err
	}
	r.log.clock.prune(fanfare.Position(r.sweptFloor.Load()))
	w, set := sweeper{retention: r, bounds: r.bounds()}, r.rules.Load()
	if err := w.channels(); err != nil {
		return w.looked, err
	}
	if err := errors.Join(w.fold(), w.expire()); err != nil {
		return w.looked, err
	}
	r.unswept.Add(-unswept)
	set.swept.Store(true)
	return w.looked, nil
}

// deletePrefix deletes all events up to a position. Their index entries are deleted later, channel
// by channel. An event that the index names and the log lacks counts as trimmed, also after a
// crash, because the floor is stored with the deletion.
func (r *retention) deletePrefix(floor fanfare.Position) error {
	r.prefix.Lock()
	defer r.prefix.Unlock()
	swept := fanfare.Position(r.sweptFloor.Load())
	if floor <= swept {
		return nil
	}
	it, err := r.db.NewIter(between(keyOf(keyEvent, uint64(swept)), keyOf(keyEvent, uint64(floor)+1)))
	if err != nil {
		return err
	}
	some := it.First()
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return err
	}
	b := r.db.NewBatch()
	defer b.Close()
	if some {
		// The range starts before the first event, because Pebble removes a table without reading
		// it only when one deletion covers all of it.
		if err := b.DeleteRange(keyOf(keyEvent), keyOf(keyEvent, uint64(floor)+1), nil); err != nil {
			return err
		}
	}
	if err := b.Set([]byte{keyGone}, binary.AppendUvarint(nil, uint64(floor)), nil); err != nil {
		return err
	}
	if err := r.seconds.forget(b, floor); err != nil {
		return err
	}
	raise(&r.floor, floor)
	if err := r.db.Apply(b, pebble.NoSync); err != nil {
		return err
	}
	r.fs.dropped()
	r.sweptFloor.Store(uint64(floor))
	return nil
}

// deleteSome deletes the next batch of a channel's events, and returns the position up to which it
// has deleted. Each event and index entry is written only once, so that SingleDelete can be used:
// that deletion vanishes when it meets its key, and an ordinary one would be carried to the lowest
// level. The channel's trim mark is stored with each batch.
func (r *retention) deleteSome(num uint64, after fanfare.Position, mark entry) (fanfare.Position, error) {
	lower, upper := indexBounds(num, after, mark.pos)
	it, err := r.db.NewIter(between(lower, upper))
	if err != nil {
		return 0, err
	}
	defer it.Close()
	b := r.db.NewBatch()
	defer b.Close()
	if err := b.Set(keyOf(keyMark, num), appendMark(nil, mark), nil); err != nil {
		return 0, err
	}
	n, through, gone := 0, mark.pos, int64(0)
	average := int64(mark.bytes / max(mark.seq, 1))
	floor := fanfare.Position(r.sweptFloor.Load())
	for ok := it.First(); ok; ok = it.Next() {
		if n == deleteMost {
			break
		}
		pos := fanfare.Position(lastNumber(it.Key()))
		if pos > floor { // deletePrefix has deleted the events below
			if err := deleteEvent(b, pos, it.Value()); err != nil {
				return 0, err
			}
			gone += average + eventOverhead - indexBytes
			r.singly.Store(true)
		}
		if err := b.SingleDelete(append([]byte(nil), it.Key()...), nil); err != nil {
			return 0, err
		}
		gone += indexBytes
		through = pos
		n++
	}
	if n < deleteMost {
		through = mark.pos
	}
	if err := it.Error(); err != nil {
		return 0, err
	}
	if err := r.db.Apply(b, pebble.NoSync); err != nil {
		return 0, err
	}
	r.deleted.Add(gone)
	r.log.stats.trimmed.Add(uint64(n))
	return through, nil
}

// deleteEvent deletes an event. An event with an expiry may have been deleted already, so
// SingleDelete must not be used for it.
func deleteEvent(b *pebble.Batch, pos fanfare.Position, indexValue []byte) error {
	e, err := readEntry(keyOf(keyIndex, 0, uint64(pos)), indexValue)
	switch {
	case err != nil:
		return err
	case e.expires > 0:
		return b.Delete(keyOf(keyEvent, uint64(pos)), nil)
	default:
		return b.SingleDelete(keyOf(keyEvent, uint64(pos)), nil)
	}
}

// unflushed is how many bytes the deletions that are still in memory will remove from tables.
func (r *retention) unflushed() int64 {
	w := &r.fs.wals
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.marks) == 0 {
		return 0
	}
	return r.deleted.Load() - w.marks[0].deleted
}

// goneSoFar changes when something has been deleted.
func (r *retention) goneSoFar() uint64 {
	return r.floor.Load() + uint64(r.deleted.Load()) + r.log.stats.written.Load()
}
