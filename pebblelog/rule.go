package pebblelog

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// Rule says what is retained of each channel that Pattern matches; a leading wildcard matches reserved channels too.
// Of the rules that match a channel the one with the most specific pattern wins, whole.
type Rule struct {
	Pattern fanfare.Pattern
	Count   int           // the newest so many events of each channel; 0: any number
	Age     time.Duration // events younger than this; 0: of any age
	Bytes   int64         // the newest events of each channel whose data are at most so many bytes together, and always the last one; 0: any number
}

// DefaultRetention keeps everything for seven days.
func DefaultRetention() []Rule {
	all, _ := fanfare.ParsePattern("**")
	return []Rule{{Pattern: all, Age: 7 * 24 * time.Hour}}
}

// String is the text that ParseRule reads.
func (r Rule) String() string {
	var limits []string
	if r.Count > 0 {
		limits = append(limits, "count:"+strconv.Itoa(r.Count))
	}
	if r.Age > 0 {
		limits = append(limits, "age:"+formatDuration(r.Age))
	}
	if r.Bytes > 0 {
		limits = append(limits, "bytes:"+strconv.FormatInt(r.Bytes, 10))
	}
	return r.Pattern.String() + "=" + strings.Join(limits, ",")
}

// ParseRule reads `PATTERN=count:N,age:D,bytes:B`, with at least one of the three. D is a Go duration, in which `d` stands
// for 24 hours; B is a number of bytes, or one with a unit such as 64KiB or 10MB.
func ParseRule(text string) (Rule, error) {
	at := strings.LastIndexByte(text, '=')
	if at < 0 {
		return Rule{}, fanfare.Invalid("retention rule %q: want PATTERN=count:N,age:D,bytes:B", text)
	}
	pattern, err := fanfare.ParsePattern(text[:at])
	if err != nil {
		return Rule{}, fmt.Errorf("retention rule %q: %w", text, err)
	}
	r := Rule{Pattern: pattern}
	for _, limit := range strings.Split(text[at+1:], ",") {
		name, value, _ := strings.Cut(limit, ":")
		switch strings.TrimSpace(name) {
		case "count":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || r.Count != 0 {
				return Rule{}, fanfare.Invalid("retention rule %q: count must be a whole number from 1, once", text)
			}
			r.Count = n
		case "age":
			d, err := ParseDuration(value)
			if err != nil || d < time.Millisecond || r.Age != 0 {
				return Rule{}, fanfare.Invalid("retention rule %q: age must be a time such as 90m or 7d, once", text)
			}
			r.Age = d
		case "bytes":
			n, err := ParseBytes(value)
			if err != nil || n < 1 || r.Bytes != 0 {
				return Rule{}, fanfare.Invalid("retention rule %q: bytes must be a size such as 64KiB or 10MB, once", text)
			}
			r.Bytes = n
		default:
			return Rule{}, fanfare.Invalid("retention rule %q: %q is none of count, age and bytes", text, limit)
		}
	}
	return r, nil
}

// ParseDuration is time.ParseDuration with `d` for 24 hours, as the first or only unit.
func ParseDuration(text string) (time.Duration, error) {
	days, rest, ok := strings.Cut(text, "d")
	if !ok {
		return time.ParseDuration(text)
	}
	n, err := strconv.ParseFloat(days, 64)
	if err != nil || n < 0 || n > 100_000 {
		return 0, fmt.Errorf("time %q: want a number of days before the d", text)
	}
	d := time.Duration(n * 24 * float64(time.Hour))
	if rest == "" {
		return d, nil
	}
	more, err := time.ParseDuration(rest)
	return d + more, err
}

// formatDuration writes whole days as such.
func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	text := d.String()
	text = strings.TrimSuffix(text, "0s")
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	if text == "" || !strings.ContainsAny(text[len(text)-1:], "hms") {
		return d.String()
	}
	return text
}

var byteUnits = []struct {
	name  string
	bytes int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// ParseBytes reads a number of bytes, such as 65536, 64KiB, 10MB or 1GiB.
func ParseBytes(text string) (int64, error) {
	number, unit := strings.TrimSpace(text), int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return 0, fmt.Errorf("%q is not a size such as 65536, 64KiB or 1GiB", text)
	}
	return n * unit, nil
}

// liveRule is a rule at work in one session.
type liveRule struct {
	Rule
	floor atomic.Uint64 // the highest trim mark of the rule's channels that are empty and forgotten; stored under keyFloor
	high  atomic.Uint64 // no trim mark of the rule's channels that was moved in this session, or stored, is above this
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
}

// newRuleSet takes over what is known below earlier rules. A channel may now fall under another rule than the one it was
// emptied under, so when the patterns differ every rule begins with the highest floor of all: what may be missing is told.
func newRuleSet(rules []Rule, floors map[string]fanfare.Position) *ruleSet {
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
	covered := false
	for _, r := range append(rules[:len(rules):len(rules)], Rule{}) {
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
		ages = ages && r.Age > 0
		covered = covered || r.Pattern.String() == "**"
		set.all = max(set.all, r.Age)
	}
	if !ages || !covered {
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

func (l *Log) retention() []Rule {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rules
}

// SetRetention replaces the rules while the log runs, and stores what that needs. Readers clip by the new rules at once. It
// waits for the disk.
func (l *Log) SetRetention(rules []Rule) error {
	rules = append([]Rule(nil), rules...)
	err := l.inCommit(func(w *groupWriter) error {
		floors := map[string]fanfare.Position{}
		old := w.rules.Load()
		for _, r := range append([]*liveRule{old.forget}, old.rules...) {
			floors[r.Pattern.String()] = fanfare.Position(r.floor.Load())
		}
		return w.putRules(w.b, rules, floors)
	})
	if err != nil {
		return fmt.Errorf("change retention: %w", err)
	}
	l.mu.Lock()
	l.rules = rules
	l.mu.Unlock()
	return nil
}

// SetMaxBytes replaces Options.MaxBytes while the log runs.
func (l *Log) SetMaxBytes(n int64) { l.maxBytes.Store(n) }
