package pebblelog

import (
	"github.com/fanfare-hub/fanfare"
)

// Conditions are decided by apply, so that of ten publishers that race one wins, on every log that
// is fed with the same groups. They ask for a channel's newest visible event. What is visible
// follows from the groups: from the events before, those earlier in the same group among them, from
// the rules, and from the group's time. It does not follow from what a sweep has deleted: the state
// of a channel knows its newest event without the index.

// conditions decides the conditions of a batch, all before any of its events is stored. again says
// of which events nothing will be stored, since their keys are known; nil is none. When a condition
// is not met, the request has the error.
func (w *groupWriter) conditions(r *request, again func(int) bool) (met bool, err error) {
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
	defer w.letGo(st)
	st.mu.Lock()
	mark := st.mark.pos
	st.mu.Unlock()
	b := bounds{floor: fanfare.Position(w.floor.Load()), at: w.at}
	if st.newest <= max(mark, b.floor) {
		return 0, nil
	}
	// Limits of count and of bytes leave the newest event.
	if r := w.ruleOf(st); !r.Latest && b.old(entry{pos: st.newest, ms: st.newestMs}, r.Rule) {
		return 0, nil
	}
	return st.newest, nil
}

// letGo ends a use of a channel's state that added no event.
func (w *groupWriter) letGo(st *channelState) {
	st.inFlight.Add(-1)
	if st.num.Load() == 0 {
		w.channels.drop(st)
	}
}
