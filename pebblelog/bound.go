package pebblelog

import (
	"github.com/fanfare-hub/fanfare"
)

// A bound is a position that no trim mark of some channels is above, found without a look at the
// channels, which may be very many. Each rule has one, liveRule.high, that covers three ways in
// which marks move:
//
//   - Somebody looks at a channel (trimMark), or a channel is forgotten (fold): the mark is known,
//     and raises it.
//   - A channel outgrows a limit of count or of bytes: the mark has moved though nobody has looked.
//     The committer raises the bound to below each event that comes to a channel which is at its
//     limit (outgrown).
//   - Time passes: what an age removes is known from the second→position table (ageBound), and is
//     no part of high.
//
// Marks that an earlier session stored, or that a limit moved before this session or before a
// change of rules, are found by a survey that runs when rules come into force. Until it has ended,
// the bound is the durable position: it decides nothing.

// markBound returns a position that no trim mark of the patterns' channels is above; 0 when nothing
// was ever removed.
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
		return 0, err // nothing stood there
	}
	return bound, err
}

// ageBound is a bound for what has become too old, and for what is gone whatever its channel.
func (rd *readers) ageBound(set *ruleSet, patterns []fanfare.Pattern) (bound fanfare.Position, err error) {
	b := rd.bounds()
	bound = b.floor
	for _, p := range patterns {
		set.overlapping(p, func(r *liveRule) {
			if r.Age > 0 && err == nil {
				var old fanfare.Position
				old, err = rd.seconds.notBefore(b.at.cut(r.Age.Milliseconds()))
				bound = max(bound, old)
			}
		})
	}
	return bound, err
}

// floors is the highest floor of the rules that channels of the patterns with wildcards may fall
// under: nothing else is known of those that were forgotten.
func (rd *readers) floors(patterns []fanfare.Pattern) (floor fanfare.Position) {
	for _, p := range patterns {
		if _, exact := p.Channel(); !exact {
			rd.rules.Load().overlapping(p, func(r *liveRule) { floor = max(floor, fanfare.Position(r.floor.Load())) })
		}
	}
	return floor
}

// certainMarks is the highest trim mark that is known of the patterns' channels without a search:
// floors, and the marks of the exact channels.
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

// outgrown raises the bound of a channel's rule when an event that is about to be stored may move
// the channel's mark. The channel's counts go on from its first event, so this is so, too, of a
// channel that has lost events to its age alone.
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

func (r *liveRule) outgrownBy(last extent) bool {
	return (r.Count > 0 && last.seq > uint64(r.Count)) || (r.Bytes > 0 && last.bytes > uint64(r.Bytes))
}
