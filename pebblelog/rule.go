package pebblelog

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// liveRule is a rule at work in one session.
type liveRule struct {
	fanfare.Rule
	// The highest trim mark of the rule's channels that are empty and forgotten; stored under
	// keyFloor.
	floor atomic.Uint64
	// No trim mark of the rule's channels is above this, but for what their age moves; see
	// markBound.
	high atomic.Uint64
}

func raise(v *atomic.Uint64, p fanfare.Position) {
	for {
		old := v.Load()
		if old >= uint64(p) || v.CompareAndSwap(old, uint64(p)) {
			return
		}
	}
}

// ruleSet is what is in force. It is replaced, not changed.
type ruleSet struct {
	rules  []*liveRule
	all    time.Duration // events older than this are gone whatever their channel; 0: no such age
	forget *liveRule     // of channels that no rule matches: they are kept for ever

	covered  bool        // a rule matches every channel
	limited  bool        // a rule has a limit of count or of bytes
	surveyed atomic.Bool // the rules' high is what it says
	swept    atomic.Bool // since they came into force all channels were swept
}

// each calls f for all rules.
func (set *ruleSet) each(f func(*liveRule)) {
	f(set.forget)
	for _, r := range set.rules {
		f(r)
	}
}

// lowestHigh is the lowest bound of a rule that has channels.
func (set *ruleSet) lowestHigh() fanfare.Position {
	lowest := ^uint64(0)
	set.each(func(r *liveRule) {
		if r != set.forget || !set.covered {
			lowest = min(lowest, r.high.Load())
		}
	})
	return fanfare.Position(lowest)
}

// takeOver raises the bounds to those of the rules before. It is called when these are in force:
// whoever moves a mark by a former rule meanwhile either sees these, or has raised the former bound
// before it is read here.
func (set *ruleSet) takeOver(before *ruleSet) {
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

// newRuleSet takes over what is known below earlier rules. A channel may now fall under another
// rule than the one it was emptied under, so when the patterns differ every rule begins with the
// highest floor of all: what may be missing is told.
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

// nextRules are the rules that the next session begins with.
func (l *Log) nextRules() []fanfare.Rule {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rules
}

// MaxAge implements fanfare.Operable.
func (l *Log) MaxAge(c fanfare.Channel) time.Duration {
	return l.current().catalog.rules.Load().of(c).Age
}

// SetRetention replaces the rules while the log runs, and stores what that needs. Readers clip by
// the new rules at once. It waits for the disk.
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
	w.floors = nil // putRules stores them all
	return w.putRules(w.b, rules, floors, false)
}

// SetMaxBytes replaces Options.MaxBytes while the log runs.
func (l *Log) SetMaxBytes(n int64) { l.upkeep.maxBytes.Store(n) }

// loadFloors reads the floors of the rules that were in force, and the floor of all.
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

// putRules brings rules into force, and stores their floors instead of those that were. In an empty
// log, where no channel was ever numbered, there is nothing to survey.
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
	set.takeOver(before)
	select {
	case c.ruled <- struct{}{}:
	default: // the survey has not come to the rules before, and takes these
	}
	return nil
}
