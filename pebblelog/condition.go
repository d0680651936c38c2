package pebblelog

import (
	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// Apply decides conditions, so that one of ten publishers that race wins, on every log that is fed
// with the same groups. A condition asks for a channel's newest visible event. That follows from
// the groups alone: from the events before, also from those of the same group, from the rules, and
// from the group's time. The progress of sweeps makes no difference, because the state of a channel
// knows its newest event without the index.

// conditions decides the conditions of a batch, and whether its ids are new, before any of its
// events is stored. again tells which events will not be stored, because their keys are known; nil
// tells of none. If a condition is not met, the request gets the error.
func (w *groupWriter) conditions(r *request, again func(int) bool) (met bool, err error) {
	if r.err = w.roomForLater(r.batch, again); r.err != nil {
		return false, nil
	}
	if taken, err := w.taken(r.batch, again); err != nil || taken {
		r.err = errTaken
		return false, err
	}
	for i := range r.batch.If {
		want, given := r.batch.If[i].Latest()
		if !given || (again != nil && again(i)) {
			continue
		}
		channel := r.batch.Events[i].Channel
		latest, err := w.latest(channel)
		if err != nil {
			return false, err
		}
		if latest != want {
			w.log.stats.notMet.Add(1)
			r.err = fanfare.NotMet(channel, latest)
			return false, nil
		}
	}
	return true, nil
}

// latest returns the position of a channel's newest visible event; 0 when there is none.
func (w *groupWriter) latest(c fanfare.Channel) (fanfare.Position, error) {
	st, err := w.channelForCommit(c)
	if err != nil {
		return 0, err
	}
	defer w.unhold(st)
	st.mu.Lock()
	mark := st.mark
	st.mu.Unlock()
	b := bounds{floor: fanfare.Position(w.floor.Load()), at: w.at}
	if st.newest <= max(mark.pos, b.floor) {
		return 0, nil
	}
	if st.newestExpires > 0 && st.newestExpires <= w.at.due {
		return w.latestBefore(st, mark, b)
	}
	// Limits of count and of bytes leave the newest event.
	if r := w.ruleOf(st); !r.Latest && b.old(entry{pos: st.newest, ms: st.newestMs}, r.Rule) {
		return 0, nil
	}
	return st.newest, nil
}

// latestBefore returns the position of a channel's newest event above a trim mark that has not
// expired, when the newest event of all has. The index has that event: the index lacks the events
// of this group, but these have not expired, and the deleted ones have.
func (w *groupWriter) latestBefore(st *channelState, mark entry, b bounds) (fanfare.Position, error) {
	lower, upper := indexBounds(st.num.Load(), mark.pos, st.newest-1)
	it, err := w.db.NewIter(between(lower, upper))
	if err != nil {
		return 0, err
	}
	defer it.Close()
	e, ok, err := w.lastLiving(st, it)
	if err != nil || !ok {
		return 0, err
	}
	r := w.ruleOf(st).Rule
	if e.pos <= b.floor || b.old(e, r) {
		return 0, nil
	}
	gone, err := beyond(it, e, mark, extent{st.nextSeq - 1, st.nextBytes}, r)
	if err != nil || gone {
		return 0, err
	}
	return e.pos, nil
}

// lastLiving moves an iterator over a channel's entries to the last one that has not expired. It
// does not look again at entries that it has passed over: due time never falls, and a million
// events may have expired since the sweep.
func (w *groupWriter) lastLiving(st *channelState, it *pebble.Iterator) (e entry, found bool, err error) {
	above := fanfare.Position(0)
	for ok := it.Last(); ok; {
		if e, err = readEntry(it.Key(), it.Value()); err != nil {
			return e, false, err
		}
		w.log.stats.indexRead.Add(1)
		switch {
		case e.expires == 0 || e.expires > w.at.due:
			above, found = e.pos, true
			ok = false
		case e.pos > st.over.above && e.pos <= st.over.through:
			ok = it.SeekLT(keyOf(keyIndex, st.num.Load(), uint64(st.over.above)+1))
		default:
			ok = it.Prev()
		}
	}
	if err := it.Error(); err != nil {
		return e, false, err
	}
	st.over = span{above, st.newest}
	return e, found, nil
}

// beyond tells whether an event that is not its channel's newest exceeds a rule's limit of count or
// of bytes. The iterator stands at the event's entry, and ends at the trim mark; beyond may move
// it.
func beyond(it *pebble.Iterator, e, mark entry, last extent, r fanfare.Rule) (bool, error) {
	if r.Count > 0 && last.seq-e.seq >= uint64(r.Count) {
		return true, nil
	}
	if r.Bytes == 0 {
		return false, nil
	}
	if it.Prev() {
		var err error
		if mark, err = readEntry(it.Key(), it.Value()); err != nil {
			return false, err
		}
	}
	return sizeBetween(e.before(mark.bytes), last.bytes) > uint64(r.Bytes), it.Error()
}

// unhold ends the use of a channel's state by a request that has added no event.
func (w *groupWriter) unhold(st *channelState) {
	st.inFlight.Add(-1)
	if st.num.Load() == 0 {
		w.channels.drop(st)
	}
}
