package pebblelog

import (
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// forgetChannels forgets channels that a sweep has found empty: the trim mark of each becomes the
// floor of its rule. The command has all that the sweep has found, so that apply does not depend on
// the progress of this log's own sweep. It has to be a command, because only groups number channels
// and add events to them.
type forgetChannels []emptied

// emptied is a channel all of whose events are trimmed.
type emptied struct {
	name    fanfare.Channel
	seq     uint64           // of its last event
	through fanfare.Position // its last event
	mark    fanfare.Position // its trim mark: the last event that was trimmed before it expired
}

func (f forgetChannels) apply(w *groupWriter) error {
	index, err := w.db.NewIter(ofKind(keyIndex))
	if err != nil {
		return err
	}
	defer index.Close()
	for _, e := range f {
		if err := w.forget(e, index); err != nil {
			return err
		}
	}
	return nil
}

// forget forgets one channel, unless it has had an event since, or has been forgotten already.
func (w *groupWriter) forget(e emptied, index *pebble.Iterator) error {
	st, err := w.channelForCommit(e.name)
	if err != nil {
		return err
	}
	num, last := st.num.Load(), fanfare.Position(0)
	left := false
	if num > 0 && st.nextSeq == e.seq+1 {
		if last, left, err = w.lastOf(num, index); err != nil {
			return err
		}
	}
	if last == 0 || last != e.through {
		w.unhold(st)
		return nil
	}
	w.folded = append(w.folded, st)
	if err := w.awaitVisible(st); err != nil {
		return err
	}
	rule := w.rules.Load().of(e.name)
	raise(&rule.floor, e.mark)
	raise(&rule.high, e.mark)
	w.floors = append(w.floors, rule)
	if err := w.retention.empty(st, num, e, left); err != nil {
		return err
	}
	for _, key := range [][]byte{textKey(keyChannel, e.name.String()), keyOf(keyName, num), keyOf(keyMark, num)} {
		if err := w.b.Delete(key, nil); err != nil {
			return err
		}
	}
	w.log.stats.forgotten.Add(1)
	return nil
}

// lastOf returns the position of a channel's last event, deleted or not, and whether index entries
// are left. index is older than this group; the caller knows that the group has no event of the
// channel.
func (w *groupWriter) lastOf(num uint64, index *pebble.Iterator) (last fanfare.Position, left bool, err error) {
	mark, err := w.loadMark(num)
	if err != nil {
		return 0, false, err
	}
	// Without bounds the search would go on through the entries of the channels before this one,
	// which a sweep has just deleted.
	index.SetBounds(keyOf(keyIndex, num), keyOf(keyIndex, num+1))
	if index.Last() {
		return max(mark.pos, fanfare.Position(lastNumber(index.Key()))), true, nil
	}
	return mark.pos, false, index.Error()
}

// awaitVisible waits until all events of a channel in earlier groups are visible. Otherwise they
// would count for the channel that comes after this one under the same name. A log that stands
// alone never waits here, because its sweep sees only visible events.
func (w *groupWriter) awaitVisible(st *channelState) error {
	for st.inFlight.Load() > 1 { // this group holds it once
		select {
		case <-w.turned:
		case <-w.dead:
			return errStopped
		}
	}
	return nil
}

// empty deletes the events of a forgotten channel that this log's own sweep has not deleted yet,
// and gives the channel the state of a new one. The state stays in the cache until the batch is in
// the store, so that no reader loads the channel's number meanwhile.
func (r *retention) empty(st *channelState, num uint64, e emptied, left bool) error {
	r.deleting.Lock()
	defer r.deleting.Unlock()
	mark := entry{pos: e.through, seq: e.seq, bytes: st.nextBytes}
	for after := fanfare.Position(0); left && after < e.through; {
		var err error
		if after, err = r.deleteSome(num, after, mark); err != nil {
			return err
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.num.Store(0)
	st.nextSeq = 1
	st.nextBytes = 0
	st.newest, st.newestMs, st.newestExpires, st.holed = 0, 0, 0, false
	st.lastSeq.Store(0)
	st.lastBytes.Store(0)
	st.mark, st.stored, st.known = entry{}, 0, false
	return nil
}

// writeFloors stores the floors that the group has raised.
func (w *groupWriter) writeFloors() error {
	for _, r := range w.floors {
		if err := w.b.Set(textKey(keyFloor, r.Pattern.String()), binary.AppendUvarint(nil, r.floor.Load()),
			nil); err != nil {
			return err
		}
	}
	return nil
}
