package pebblelog

import (
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// An event with a TTL expires when due time (clock.go) reaches its expiry. From then on it is
// hidden from readers and conditions: the newest event that has not expired takes its place. That
// is no gap, so no trim mark moves. Each such event has a key in the order of the expiries, by
// which a sweep deletes the events that have expired both by due time and by guarded time. So a
// wrong wall clock that was believed for five minutes hides events, and deletes none.
//
// A channel's newest index entry stays, because it has the channel's sums, but its event is
// deleted. When the channel has no other entry, the channel is forgotten. Its mark then folds into
// the floor of its rule; the events that have expired do not raise the mark.

// expiry returns the due time at which an event of a batch expires; 0 means never.
func (w *groupWriter) expiry(b *fanfare.Batch, i int) int64 {
	if b.TTL == nil || b.TTL[i] == 0 {
		return 0
	}
	return w.at.due + max(b.TTL[i].Milliseconds(), 1)
}

// lifetimes tells which events have expired at the time of the first question. It is for one
// goroutine.
type lifetimes struct {
	catalog *catalog
	due     int64 // 0 before the first question
}

// expired tells whether an event with an expiry has expired.
func (l *lifetimes) expired(expires int64) bool {
	if expires == 0 {
		return false
	}
	if l.due == 0 {
		l.due = l.catalog.now().due
	}
	return expires <= l.due
}

// expiredValue is expired for the stored value of an event.
func (l *lifetimes) expiredValue(value []byte) (bool, error) {
	expires, err := eventExpiry(value)
	return l.expired(expires), err
}

const (
	expireMost  = 500       // events in one batch
	expireAgain = time.Hour // the time after which an expired entry that stays is looked at again
)

// expire deletes the events that have expired.
func (w *sweeper) expire() error {
	m := w.now()
	through := min(m.due, m.guarded)
	from, more := keyOf(keyExpiry, uint64(w.expired)), true
	for more {
		if err := w.stopped(); err != nil {
			return err
		}
		var err error
		if from, more, err = w.expireSome(from, through); err != nil {
			return err
		}
		if len(w.empties) >= foldMost {
			if err := w.fold(); err != nil {
				return err
			}
		}
	}
	w.expired = max(w.expired, through+1)
	return w.fold()
}

// expireSome deletes a batch of the events that had expired at a time, from a key on. It returns
// the key from which the next call goes on. No key that it has looked at stays where it is.
func (w *sweeper) expireSome(from []byte, through int64) (next []byte, more bool, err error) {
	w.deleting.Lock()
	defer w.deleting.Unlock()
	it, err := w.db.NewIter(between(from, keyOf(keyExpiry, uint64(through)+1)))
	if err != nil {
		return nil, false, err
	}
	defer it.Close()
	x := expirer{sweeper: w, b: w.db.NewBatch(), through: through}
	defer x.b.Close()
	if x.index, err = w.db.NewIter(ofKind(keyIndex)); err != nil {
		return nil, false, err
	}
	defer x.index.Close()
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if n++; n > expireMost {
			next, more = append([]byte(nil), it.Key()...), true
			break
		}
		if err := x.event(it.Key()); err != nil {
			return nil, false, err
		}
	}
	if err := it.Error(); err != nil {
		return nil, false, err
	}
	if err := w.db.Apply(x.b, pebble.NoSync); err != nil {
		return nil, false, err
	}
	w.retention.deleted.Add(x.gone)
	w.log.stats.expired.Add(x.events)
	return next, more, nil
}

// expirer deletes events that have expired, in one batch.
type expirer struct {
	*sweeper
	index   *pebble.Iterator
	b       *pebble.Batch
	through int64
	events  uint64
	gone    int64 // bytes
}

// event deletes the event that a key of the expiries names.
func (x *expirer) event(key []byte) error {
	if len(key) != 25 {
		return errCorrupt
	}
	num, pos := uint64(lastNumber(key[:17])), fanfare.Position(lastNumber(key))
	index := keyOf(keyIndex, num, uint64(pos))
	if !x.index.SeekGE(index) || string(x.index.Key()) != string(index) {
		// It was trimmed, or its channel forgotten.
		return errors.Join(x.index.Error(), x.b.SingleDelete(append([]byte(nil), key...), nil))
	}
	e, err := readEntry(x.index.Key(), x.index.Value())
	if err != nil {
		return err
	}
	if !x.index.Next() || channelOfIndex(x.index.Key()) != num {
		if err := x.index.Error(); err != nil {
			return err
		}
		return errors.Join(x.newest(num, e), x.again(key, num, pos))
	}
	if err := x.data(pos); err != nil {
		return err
	}
	x.gone += indexBytes
	return errors.Join(x.b.SingleDelete(index, nil), x.b.SingleDelete(append([]byte(nil), key...), nil))
}

// again has an event looked at again in an hour.
func (x *expirer) again(key []byte, num uint64, pos fanfare.Position) error {
	later := keyOf(keyExpiry, uint64(x.through+expireAgain.Milliseconds()), num, uint64(pos))
	return errors.Join(x.b.SingleDelete(append([]byte(nil), key...), nil), x.b.Set(later, nil, nil))
}

// newest deletes a channel's newest event. If the channel has no other entry, it has the channel
// forgotten; otherwise the index entry stays.
func (x *expirer) newest(num uint64, e entry) error {
	if !x.index.SeekGE(keyOf(keyIndex, num)) {
		return errors.Join(errCorrupt, x.index.Error())
	}
	if fanfare.Position(lastNumber(x.index.Key())) == e.pos {
		name, err := x.nameOf(num)
		if isNotFound(err) {
			return nil // it is being forgotten
		}
		if err != nil {
			return err
		}
		mark, err := x.markOf(name)
		if err == nil && mark < e.pos {
			x.empties = append(x.empties, emptied{name, e.seq, e.pos, mark})
		}
		return err
	}
	return x.data(e.pos)
}

// data deletes an event, if it is still there.
func (x *expirer) data(pos fanfare.Position) error {
	key := keyOf(keyEvent, uint64(pos))
	value, closer, err := x.db.Get(key)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	x.gone += int64(len(value)) + eventOverhead - indexBytes
	x.events++
	x.singly.Store(true)
	return errors.Join(closer.Close(), x.b.SingleDelete(key, nil))
}
