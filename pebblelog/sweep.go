package pebblelog

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// sweeper goes through all channels once.
type sweeper struct {
	*retention
	bounds  bounds
	names   *pebble.Iterator
	index   *pebble.Iterator
	empties []emptied
	looked  int
}

func (w *sweeper) channels() error {
	var err error
	if w.names, err = w.db.NewIter(ofKind(keyName)); err != nil {
		return err
	}
	defer w.names.Close()
	if w.index, err = w.db.NewIter(ofKind(keyIndex)); err != nil {
		return err
	}
	defer w.index.Close()
	for ok := w.names.First(); ok; ok = w.names.Next() {
		if err := w.stopped(); err != nil {
			return err
		}
		w.looked++
		name, err := fanfare.ParseChannel(string(w.names.Value()))
		if err != nil {
			return errCorrupt
		}
		if err := w.channel(lastNumber(w.names.Key()), name); err != nil {
			return fmt.Errorf("channel %s: %w", name, err)
		}
	}
	return w.names.Error()
}

// channel deletes the hidden events of one channel. Most channels have none most of the time; then
// it does not load the channel's state.
func (w *sweeper) channel(num uint64, name fanfare.Channel) error {
	rule := w.rules.Load().of(name)
	if w.index.SeekGE(keyOf(keyIndex, num)) && channelOfIndex(w.index.Key()) == num {
		first, err := readEntry(w.index.Key(), w.index.Value())
		if err != nil {
			return err
		}
		clean := first.pos > w.bounds.floor
		if clean && w.bounds.old(first, rule.Rule) {
			if clean, err = w.alone(num, rule.Rule, first); err != nil {
				return err
			}
		}
		if clean && (rule.Count > 0 || rule.Bytes > 0) {
			if clean, err = w.withinLimits(num, rule.Rule, first); err != nil {
				return err
			}
		}
		if clean {
			return nil
		}
	} else if err := w.index.Error(); err != nil {
		return err
	}
	st, err := w.catalog.channel(name)
	if err != nil || st == nil || st.num.Load() != num {
		return err // the channel has a number, but its events are not durable yet
	}
	return w.deleteTrimmed(st)
}

// alone tells whether a channel's first event is its newest, and a rule keeps that event at any
// age.
func (w *sweeper) alone(num uint64, r fanfare.Rule, first entry) (bool, error) {
	if !r.Latest || !w.index.SeekLT(keyOf(keyIndex, num+1)) {
		return false, w.index.Error()
	}
	return fanfare.Position(lastNumber(w.index.Key())) == first.pos, nil
}

// withinLimits tells whether a channel is certainly within its limits of count and of bytes.
func (w *sweeper) withinLimits(num uint64, r fanfare.Rule, first entry) (bool, error) {
	if !w.index.SeekLT(keyOf(keyIndex, num+1)) {
		return true, w.index.Error()
	}
	last, err := readEntry(w.index.Key(), w.index.Value())
	if err != nil {
		return false, err
	}
	return (r.Count == 0 || last.seq-first.seq < uint64(r.Count)) &&
		// The size of the first event itself is not known here.
		(r.Bytes == 0 || sizeBetween(first.bytes, last.bytes) <= uint64(r.Bytes/2)), nil
}

const (
	deleteMost = 500 // events in one batch
	foldMost   = 500 // channels in one batch
)

// deleteTrimmed deletes a channel's events up to its trim mark. The mark is stored with the first
// batch, so that it is known also when the channel has become empty.
func (w *sweeper) deleteTrimmed(st *channelState) error {
	if _, err := w.trimMark(st); err != nil {
		return err
	}
	if err := w.deleteClipped(st); err != nil || len(w.empties) < foldMost {
		return err
	}
	return w.fold()
}

func (w *sweeper) deleteClipped(st *channelState) error {
	w.deleting.Lock()
	defer w.deleting.Unlock()
	st.mu.Lock()
	num, mark, stored, left := st.num.Load(), st.mark, st.stored, st.known
	st.mu.Unlock()
	if num == 0 {
		return nil // forgotten meanwhile
	}
	for stored < mark.pos {
		next, err := w.deleteSome(num, stored, mark)
		if err != nil {
			return err
		}
		stored = next
	}
	st.mu.Lock()
	st.stored = max(stored, st.stored)
	st.mu.Unlock()
	if !left && mark.seq > 0 && mark.seq == st.lastSeq.Load() && st.inFlight.Load() == 0 {
		w.empties = append(w.empties, emptied{st.name, mark.seq, mark.pos, mark.pos})
	}
	return nil
}

// fold has the channels forgotten that were found empty, and waits until they are.
func (w *sweeper) fold() error {
	empties := w.empties
	w.empties = nil
	if len(empties) == 0 {
		return nil
	}
	err := w.log.command(forgetChannels(empties))
	w.members.forget()
	return err
}
