package pebblelog

import (
	"errors"
	"runtime"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// A bound is a position that no trim mark of some channels is above, found without a look at the channels, which may be very
// many. Each rule has one, liveRule.high, that covers three ways in which marks move:
//
//   - Somebody looks at a channel (trimMark), or a channel is forgotten (fold): the mark is known, and raises it.
//   - A channel outgrows a limit of count or of bytes: the mark has moved though nobody has looked. The committer raises the
//     bound to below each event that comes to a channel which is at its limit (outgrown).
//   - Time passes: what an age removes is known from the second→position table (ageBound), and is no part of high.
//
// Marks that an earlier session stored, or that a limit moved before this session or before a change of rules, are found by a
// survey that runs when rules come into force. Until it has ended, the bound is the durable position: it decides nothing.

// markBound returns a position that no trim mark of the patterns' channels is above; 0 when nothing was ever removed.
func (s *session) markBound(patterns []fanfare.Pattern) (fanfare.Position, error) {
	set := s.rules.Load()
	if !set.surveyed.Load() {
		return fanfare.Position(s.log.durable.Load()), nil
	}
	bound, err := s.ageBound(set, patterns)
	for _, p := range patterns {
		set.overlapping(p, func(r *liveRule) { bound = max(bound, fanfare.Position(r.high.Load())) })
	}
	if bound < s.firstEver() {
		return 0, err // nothing stood there
	}
	return bound, err
}

// ageBound is a bound for what has become too old, and for what is gone whatever its channel.
func (s *session) ageBound(set *ruleSet, patterns []fanfare.Pattern) (bound fanfare.Position, err error) {
	b := s.bounds()
	bound = b.floor
	for _, p := range patterns {
		set.overlapping(p, func(r *liveRule) {
			if r.Age > 0 && err == nil {
				var old fanfare.Position
				old, err = s.notBefore(b.at.cut(r.Age.Milliseconds()))
				bound = max(bound, old)
			}
		})
	}
	return bound, err
}

// firstEver is the first position that this log has given.
func (s *session) firstEver() fanfare.Position {
	if len(s.runs) > 0 {
		return s.runs[0].first
	}
	return s.first
}

// begins is the position before the first event that may still be there.
func (s *session) begins() fanfare.Position {
	return max(fanfare.Position(s.floor.Load()), s.firstEver()-1)
}

// floors is the highest floor of the rules that channels of the patterns with wildcards may fall under: nothing else is known of
// those that were forgotten.
func (s *session) floors(patterns []fanfare.Pattern) (floor fanfare.Position) {
	for _, p := range patterns {
		if _, exact := p.Channel(); !exact {
			s.rules.Load().overlapping(p, func(r *liveRule) { floor = max(floor, fanfare.Position(r.floor.Load())) })
		}
	}
	return floor
}

// certainMarks is the highest trim mark that is known of the patterns' channels without a search: floors, and the marks of the exact
// channels.
func (s *session) certainMarks(patterns []fanfare.Pattern) (fanfare.Position, error) {
	highest := s.floors(patterns)
	for _, p := range patterns {
		if c, exact := p.Channel(); exact {
			mark, err := s.markOf(c)
			if err != nil {
				return 0, err
			}
			highest = max(highest, mark)
		}
	}
	return highest, nil
}

// outgrown raises the bound of a channel's rule when an event that is about to be stored may move the channel's mark. The
// channel's counts go on from its first event, so this is so, too, of a channel that has lost events to its age alone.
func (w *groupWriter) outgrown(st *channelState, pos fanfare.Position) {
	set := w.rules.Load()
	if !set.limited {
		return
	}
	if st.limits != set {
		st.limits, st.limit = set, set.of(st.name)
	}
	if st.limit.outgrownBy(extent{st.nextSeq - 1, st.nextBytes}) {
		raise(&st.limit.high, pos-1)
	}
}

func (r *liveRule) outgrownBy(last extent) bool {
	return (r.Count > 0 && last.seq > uint64(r.Count)) || (r.Bytes > 0 && last.bytes > uint64(r.Bytes))
}

// raiseHigh raises the bound of a channel's rule, also when the rules change meanwhile.
func (s *session) raiseHigh(c fanfare.Channel, mark fanfare.Position) {
	for set := s.rules.Load(); ; {
		raise(&set.of(c).high, mark)
		now := s.rules.Load()
		if now == set {
			return
		}
		set = now
	}
}

// surveyLoop has the channels surveyed whenever rules have come into force.
func (s *session) surveyLoop() {
	for {
		if set := s.rules.Load(); !set.surveyed.Load() {
			if err := s.guard(func() error { return s.survey(set) }); err != nil {
				return // the session has failed, or the log closes, or the store is damaged, which others will find too
			}
		}
		select {
		case <-s.ruled:
			// What was committed before the rules changed is in the store when a later group is.
			if s.log.command(barrier{}) != nil {
				return
			}
		case <-s.dead:
			return
		case <-s.log.stop:
			return
		}
	}
}

// survey raises the bounds of rules to the marks that are stored, and to those that limits of count or of bytes have moved.
func (s *session) survey(set *ruleSet) error {
	if err := s.surveyMarks(set); err != nil {
		return err
	}
	if set.limited {
		if err := s.surveyLimits(set); err != nil {
			return err
		}
	}
	set.surveyed.Store(true)
	return nil
}

func (s *session) surveyMarks(set *ruleSet) error {
	marks, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyMark}, UpperBound: []byte{keyMark + 1}})
	if err != nil {
		return err
	}
	defer marks.Close()
	for n, ok := 0, marks.First(); ok; n, ok = n+1, marks.Next() {
		if err := s.pause(n); err != nil {
			return err
		}
		mark, err := readMark(marks.Value())
		if err != nil {
			return err
		}
		if mark.pos <= set.lowestHigh() {
			continue
		}
		name, err := s.nameOf(lastNumber(marks.Key()))
		if isNotFound(err) {
			continue // forgotten meanwhile
		}
		if err != nil {
			return err
		}
		raise(&set.of(name).high, mark.pos)
	}
	return marks.Error()
}

func (s *session) surveyLimits(set *ruleSet) error {
	names, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyName}, UpperBound: []byte{keyName + 1}})
	if err != nil {
		return err
	}
	defer names.Close()
	index, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyIndex}, UpperBound: []byte{keyIndex + 1}})
	if err != nil {
		return err
	}
	defer index.Close()
	for n, ok := 0, names.First(); ok; n, ok = n+1, names.Next() {
		if err := s.pause(n); err != nil {
			return err
		}
		name, err := fanfare.ParseChannel(string(names.Value()))
		if err != nil {
			return errCorrupt
		}
		num, rule := lastNumber(names.Key()), set.of(name)
		if rule.Count == 0 && rule.Bytes == 0 {
			continue
		}
		if !index.SeekLT(keyOf(keyIndex, num+1)) || channelOfIndex(index.Key()) != num {
			continue
		}
		last, err := readEntry(index.Key(), index.Value())
		if err != nil {
			return err
		}
		if rule.outgrownBy(extent{last.seq, last.bytes}) {
			raise(&rule.high, last.pos)
		}
	}
	return errors.Join(names.Error(), index.Error())
}

// pause lets others run in between, and is an error when the survey must stop.
func (s *session) pause(n int) error {
	if n%64 > 0 {
		return nil
	}
	runtime.Gosched()
	select {
	case <-s.dead:
		return errStopped
	case <-s.log.stop:
		return errStopped
	default:
		return nil
	}
}
