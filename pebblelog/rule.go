package pebblelog

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// liveRule is a rule that is in force in one session.
type liveRule struct {
	fanfare.Rule
	// The highest trim mark of the rule's channels that are empty and forgotten; stored under
	// keyFloor.
	floor atomic.Uint64
	// An upper limit of the trim marks of the rule's channels, without the marks that an age has
	// moved; see markBound.
	high atomic.Uint64
}

// raise sets v to p, unless v is higher.
func raise(v *atomic.Uint64, p fanfare.Position) {
	for {
		old := v.Load()
		if old >= uint64(p) || v.CompareAndSwap(old, uint64(p)) {
			return
		}
	}
}

// ruleSet is the set of rules that are in force. Other rules make a new set; only the atomic fields
// change.
type ruleSet struct {
	rules  []*liveRule
	all    time.Duration // events of every channel older than this are removed; 0: no such age
	forget *liveRule     // for channels that no rule matches; their events are kept for ever

	covered  bool        // a rule matches every channel
	limited  bool        // a rule has a limit of count or of bytes
	surveyed atomic.Bool // the survey has ended, so liveRule.high can be relied on
	swept    atomic.Bool // all channels were swept since the rules came into force
}

// each calls f for all rules.
func (set *ruleSet) each(f func(*liveRule)) {
	f(set.forget)
	for _, r := range set.rules {
		f(r)
	}
}

// lowestHigh returns the lowest bound of a rule that can have channels.
func (set *ruleSet) lowestHigh() fanfare.Position {
	lowest := ^uint64(0)
	set.each(func(r *liveRule) {
		if r != set.forget || !set.covered {
			lowest = min(lowest, r.high.Load())
		}
	})
	return fanfare.Position(lowest)
}

// inherit raises the bounds to those of the former rules. It is called when the new rules are in
// force. A goroutine that moves a mark by a former rule meanwhile either sees the new rules, or has
// raised the former bound before inherit reads it.
func (set *ruleSet) inherit(before *ruleSet) {
	var highest uint64
	byPattern := map[fanfare.Pattern]uint64{}
	before.each(func(r *liveRule) {
		byPattern[r.Pattern] = r.high.Load()
		highest = max(highest, r.high.Load())
	})
	set.each(func(r *liveRule) {
		high := highest // a channel may fall under another rule now
		if set.samePatterns(before) {
			high = byPattern[r.Pattern]
		}
		raise(&r.high, fanfare.Position(high))
	})
}

func (set *ruleSet) samePatterns(other *ruleSet) bool {
	patterns := map[fanfare.Pattern]int{}
	set.each(func(r *liveRule) { patterns[r.Pattern]++ })
	other.each(func(r *liveRule) { patterns[r.Pattern]-- })
	for _, n := range patterns {
		if n != 0 {
			return false
		}
	}
	return true
}

// newRuleSet makes a set of rules, with the floors of former rules by pattern. A channel may come
// under another rule than the one under which it was emptied. So if the patterns differ, every rule
// gets the highest floor of all; a client may get a gap too many, but none too few.
func newRuleSet(rules []fanfare.Rule, floors map[string]fanfare.Position) *ruleSet {
	set := &ruleSet{forget: &liveRule{}}
	same := len(rules)+1 == len(floors)
	var highest fanfare.Position
	for _, p := range floors {
		highest = max(highest, p)
	}
	for _, r := range rules {
		_, known := floors[r.Pattern.String()]
		same = same && known
	}
	ages := len(rules) > 0
	for _, r := range append(rules[:len(rules):len(rules)], fanfare.Rule{}) {
		live := &liveRule{Rule: r}
		floor := highest
		if same {
			floor = floors[r.Pattern.String()]
		}
		live.floor.Store(uint64(floor))
		live.high.Store(uint64(floor))
		if r.Pattern == (fanfare.Pattern{}) {
			set.forget = live
			continue
		}
		set.rules = append(set.rules, live)
		ages = ages && r.Age > 0 && !r.Latest
		set.covered = set.covered || r.Pattern.String() == "**"
		set.limited = set.limited || r.Count > 0 || r.Bytes > 0
		set.all = max(set.all, r.Age)
	}
	if !ages || !set.covered {
		set.all = 0
	}
	return set
}

// of returns the rule of a channel.
func (set *ruleSet) of(c fanfare.Channel) *liveRule {
	best := set.forget
	for _, r := range set.rules {
		if r.Pattern.MatchAll(c) && (best == set.forget || r.Pattern.MoreSpecific(best.Pattern)) {
			best = r
		}
	}
	return best
}

// overlapping calls f for the rules of channels that a pattern may match.
func (set *ruleSet) overlapping(p fanfare.Pattern, f func(*liveRule)) {
	if c, ok := p.Channel(); ok {
		f(set.of(c))
		return
	}
	f(set.forget)
	for _, r := range set.rules {
		if r.Pattern.Overlaps(p) {
			f(r)
		}
	}
}

// nextRules returns the rules for the next session.
func (l *Log) nextRules() []fanfare.Rule {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rules
}

// MaxAge implements fanfare.Operable.
func (l *Log) MaxAge(c fanfare.Channel) time.Duration {
	return l.current().catalog.rules.Load().of(c).Age
}

// SetRetention replaces the rules while the log runs, and stores their floors. Readers clip by the
// new rules at once. It blocks until the floors are on disk, and may be called from any goroutine.
func (l *Log) SetRetention(rules []fanfare.Rule) error {
	rules = append([]fanfare.Rule(nil), rules...)
	err := l.command(changeRules(rules))
	if err != nil {
		return fmt.Errorf("change retention: %w", err)
	}
	l.mu.Lock()
	l.rules = rules
	l.mu.Unlock()
	return nil
}

// changeRules brings other rules into force, and stores their floors.
type changeRules []fanfare.Rule

func (rules changeRules) apply(w *groupWriter) error {
	floors := map[string]fanfare.Position{}
	w.rules.Load().each(func(r *liveRule) { floors[r.Pattern.String()] = fanfare.Position(r.floor.Load()) })
	w.floors = nil // putRules stores all floors
	return w.putRules(w.b, rules, floors, false)
}

// SetMaxBytes replaces Options.MaxBytes while the log runs. It does not block, and may be called
// from any goroutine.
func (l *Log) SetMaxBytes(n int64) { l.upkeep.maxBytes.Store(n) }

// loadFloors reads the floors of the rules that were in force, by pattern, and the floor of all
// channels.
func (c *catalog) loadFloors() (map[string]fanfare.Position, error) {
	value, closer, err := c.db.Get([]byte{keyGone})
	switch {
	case err == nil:
		floor, err := readPosition(value)
		_ = closer.Close()
		if err != nil {
			return nil, err
		}
		c.floor.Store(uint64(floor))
	case !isNotFound(err):
		return nil, err
	}
	floors := map[string]fanfare.Position{}
	it, err := c.db.NewIter(ofKind(keyFloor))
	if err != nil {
		return nil, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		floor, err := readPosition(it.Value())
		if err != nil {
			return nil, err
		}
		floors[string(it.Key()[1:])] = floor
	}
	return floors, it.Error()
}

// putRules brings rules into force, and has the batch store their floors in place of the former
// ones. empty says that no channel was ever numbered, so that there is nothing to survey.
func (c *catalog) putRules(
	b *pebble.Batch, rules []fanfare.Rule, floors map[string]fanfare.Position, empty bool,
) error {
	set := newRuleSet(rules, floors)
	if err := b.DeleteRange([]byte{keyFloor}, []byte{keyFloor + 1}, nil); err != nil {
		return err
	}
	for _, r := range append([]*liveRule{set.forget}, set.rules...) {
		if err := b.Set(textKey(keyFloor, r.Pattern.String()), binary.AppendUvarint(nil, r.floor.Load()),
			nil); err != nil {
			return err
		}
	}
	before := c.rules.Swap(set)
	if before == nil {
		set.surveyed.Store(empty)
		return nil
	}
	set.inherit(before)
	select {
	case c.ruled <- struct{}{}:
	default: // the survey has not taken the token of the former rules yet, and will see these
	}
	return nil
}
