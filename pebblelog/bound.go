package pebblelog

import (
	"github.com/fanfare-hub/fanfare"
)

// A bound is an upper limit of the trim marks of some channels. It is found without a look at the
// channels, of which there may be very many. Trim marks move in three ways:
//
//   - A reader or the sweep looks at a channel (trimMark), or a channel is forgotten (fold). Then
//     the mark is known, and the rule's bound (liveRule.high) is raised to it.
//   - A channel outgrows a limit of count or of bytes. Then the mark has moved before any goroutine
//     looks at it. For each event that comes to a channel at its limit, the committer raises the
//     rule's bound to the position just below the event (outgrown).
//   - Time passes. The second→position table says which events an age has removed (ageBound); the
//     rule's bound does not cover them.
//
// A survey runs when rules come into force. It finds the marks that an earlier session stored, and
// those that a limit moved before this session or before the rules changed. Until it has ended, the
// bound is the durable position, and so rules out no gap.

// markBound returns an upper limit of the trim marks of the patterns' channels; 0 when nothing was
// ever removed.
func (rd *readers) markBound(patterns []fanfare.Pattern) (fanfare.Position, error) {
	set := rd.rules.Load()
	if !set.surveyed.Load() {
		return fanfare.Position(rd.log.durable.Load()), nil
	}
	bound, err := rd.ageBound(set, patterns)
	for _, p := range patterns {
		set.overlapping(p, func(r *liveRule) { bound = max(bound, fanfare.Position(r.high.Load())) })
	}
	if bound < rd.runs.firstEver() {
		return 0, err // the log had no events there
	}
	return bound, err
}

// ageBound returns a bound for events that have become too old, and for events up to the floor of
// all channels.
func (rd *readers) ageBound(set *ruleSet, patterns []fanfare.Pattern) (bound fanfare.Position, err error) {
	b := rd.bounds()
	bound = b.floor
	for _, p := range patterns {
		set.overlapping(p, func(r *liveRule) {
			if r.Age > 0 && err == nil {
				var old fanfare.Position
				old, err = rd.seconds.notBefore(b.at.ageLimit(r.Age.Milliseconds()))
				bound = max(bound, old)
			}
		})
	}
	return bound, err
}

// floors returns the highest floor of the rules that apply to the patterns with wildcards. A floor
// is all that is known of a forgotten channel.
func (rd *readers) floors(patterns []fanfare.Pattern) (floor fanfare.Position) {
	for _, p := range patterns {
		if _, exact := p.Channel(); !exact {
			rd.rules.Load().overlapping(p, func(r *liveRule) { floor = max(floor, fanfare.Position(r.floor.Load())) })
		}
	}
	return floor
}

// certainMarks returns the highest trim mark that is known of the patterns' channels without a
// search: the highest of floors and of the exact channels' marks.
func (rd *readers) certainMarks(patterns []fanfare.Pattern) (fanfare.Position, error) {
	highest := rd.floors(patterns)
	for _, p := range patterns {
		if c, exact := p.Channel(); exact {
			mark, err := rd.markOf(c)
			if err != nil {
				return 0, err
			}
			highest = max(highest, mark)
		}
	}
	return highest, nil
}

// outgrown raises the bound of a channel's rule when the event at pos, which is about to be stored,
// may move the channel's mark. The channel's sums run from its first event, so a channel that has
// lost events to its age alone may raise the bound too; that makes the bound less exact, not wrong.
func (w *groupWriter) outgrown(st *channelState, pos fanfare.Position) {
	if !w.rules.Load().limited {
		return
	}
	if r := w.ruleOf(st); r.outgrownBy(extent{st.nextSeq - 1, st.nextBytes}) {
		raise(&r.high, pos-1)
	}
}

// ruleOf returns the rule of a channel that the committer holds.
func (w *groupWriter) ruleOf(st *channelState) *liveRule {
	if set := w.rules.Load(); st.limits != set {
		st.limits, st.limit = set, set.of(st.name)
	}
	return st.limit
}

// outgrownBy tells whether a channel with this newest event may be beyond the rule's limits.
func (r *liveRule) outgrownBy(last extent) bool {
	return (r.Count > 0 && last.seq > uint64(r.Count)) || (r.Bytes > 0 && last.bytes > uint64(r.Bytes))
}
