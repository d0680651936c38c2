package pebblelog

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
)

// randomName makes names whose segments sort on both sides of '/', some of them empty, some
// reserved.
func randomName(r *rand.Rand) string {
	segments := []string{"a", "b", "a-", "a!b", "a0", "", "z", "$s"}
	for {
		n := 1 + r.IntN(4)
		parts := make([]string, n)
		for i := range parts {
			parts[i] = segments[r.IntN(len(segments))]
		}
		if name := strings.Join(parts, "/"); name != "" {
			return name
		}
	}
}

func randomPattern(r *rand.Rand) string {
	parts := strings.Split(randomName(r), "/")
	for i := range parts {
		if r.IntN(2) == 0 {
			parts[i] = "*"
		}
	}
	if r.IntN(3) == 0 {
		parts = append(parts, "**")
	}
	return strings.Join(parts, "/")
}

// TestLeap: a leap goes up, and over nothing that the pattern matches.
func TestLeap(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 1))
	var names []string
	for range 400 {
		names = append(names, randomName(r))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	far := 0
	for range 2000 {
		p := mustPattern(t, randomPattern(r))
		for i, name := range names {
			to := leap(p.String(), name)
			if to != "" && to <= name {
				t.Fatalf("pattern %q: from %q to %q", p, name, to)
			}
			for _, over := range names[i+1:] {
				if to != "" && over >= to {
					break
				}
				far++
				if p.Match(logtest.Channel(over)) {
					t.Fatalf("pattern %q: from %q to %q, over %q", p, name, to, over)
				}
			}
		}
	}
	if far < 100_000 {
		t.Errorf("only %d names were leapt over", far)
	}
}

// modelled is a log beside what it should hold.
type modelled struct {
	*testing.T
	r      *rand.Rand
	clock  *testClock
	o      Options
	log    *Log
	events []fanfare.Event
	names  map[string]bool // that were published to
	often  []string        // names and patterns that come again and again; others come once
	asked  []string
}

func newModelled(t *testing.T, seed uint64) *modelled {
	m := &modelled{T: t, r: rand.New(rand.NewPCG(seed, 2)), clock: newTestClock(), names: map[string]bool{}}
	m.o = m.clock.options(m.rules()...)
	m.log = openTest(t, m.o)
	m.tune()
	for range 12 {
		m.often = append(m.often, randomName(m.r))
		m.asked = append(m.asked, []func(*rand.Rand) string{randomName, randomPattern, randomPattern}[m.r.IntN(3)](m.r))
	}
	return m
}

func (m *modelled) name() string {
	if m.r.IntN(4) == 0 {
		return randomName(m.r)
	}
	return m.often[m.r.IntN(len(m.often))]
}

func (m *modelled) pattern() string {
	if m.r.IntN(4) == 0 {
		return randomPattern(m.r)
	}
	return m.asked[m.r.IntN(len(m.asked))]
}

func (m *modelled) rules() []string {
	return [][]string{
		{"**=age:10m"}, {"**=count:3"}, {"**=bytes:9"}, {"**=age:10m", "a/**=count:2"}, {"a/*=age:1m,count:4",
			"b/**=bytes:5"}, {"**=age:365d", "z/**=age:1m"},
	}[m.r.IntN(6)]
}

// tune makes every piece of work small, so that all ways of reading are taken in a log of a few
// hundred events.
func (m *modelled) tune() {
	r := m.r
	m.log.session.readers.pieces = pieces{
		events: 1 + r.IntN(20), bytes: 1 + r.IntN(200), names: 1 + r.IntN(10), marks: 1 +
			r.IntN(3), few: r.IntN(8), short: uint64(r.IntN(10)),
		denser: []uint64{0, 4, 1 << 40}[r.IntN(3)],
	}
}

// live changes the log in some way.
func (m *modelled) live() {
	switch m.r.IntN(12) {
	case 0, 1:
		m.clock.pass(time.Duration(m.r.IntN(90)) * time.Second)
	case 2:
		sweepNow(m.T, m.log)
	case 3:
		if m.r.IntN(4) == 0 {
			if err := m.log.Close(); err != nil {
				m.Fatal(err)
			}
			m.log = openTest(m.T, m.o)
			m.tune()
		}
	case 4:
		if m.r.IntN(4) == 0 {
			m.o.Retention = m.clock.options(m.rules()...).Retention
			if err := m.log.SetRetention(m.o.Retention); err != nil {
				m.Fatal(err)
			}
		}
	case 5:
		if err := m.log.read(m.Context(),
			func(s *session) error { return surveyor{s.catalog}.survey(s.catalog.rules.Load()) }); err != nil {
			m.Fatal(err)
		}
	default:
		for range 1 + m.r.IntN(8) {
			name, data := m.name(), "xyz"[:m.r.IntN(4)]
			pos := put(m.T, m.log, name, data)[0]
			m.names[name] = true
			m.events = append(m.events, fanfare.Event{Position: pos, Channel: logtest.Channel(name), Data: data})
		}
	}
}

// marks are the trim marks of the channels that the patterns match, and the highest mark that
// matters to them.
func (m *modelled) marks(patterns []fanfare.Pattern) (marks map[string]fanfare.Position, highest fanfare.Position) {
	marks = map[string]fanfare.Position{}
	err := m.log.read(m.Context(), func(s *session) error {
		highest = s.readers.floors(patterns)
		for name := range m.names {
			c := logtest.Channel(name)
			if !slices.ContainsFunc(patterns, func(p fanfare.Pattern) bool { return p.Match(c) }) {
				continue
			}
			mark, err := s.catalog.markOf(c)
			if err != nil {
				return err
			}
			marks[name] = mark
			highest = max(highest, mark)
		}
		for _, p := range patterns {
			if c, exact := p.Channel(); exact {
				mark, err := s.catalog.markOf(c)
				if err != nil {
					return err
				}
				highest = max(highest, mark)
			}
		}
		return nil
	})
	if err != nil {
		m.Fatal(err)
	}
	return marks, highest
}

func (m *modelled) compare() {
	m.Helper()
	var texts []string
	for range 1 + m.r.IntN(3) {
		texts = append(texts, m.pattern())
	}
	patterns := logtest.Patterns(texts...)
	after := m.log.Status().Durable
	if len(m.events) > 0 && m.r.IntN(8) > 0 {
		after = m.events[m.r.IntN(len(m.events))].Position - fanfare.Position(m.r.IntN(2))
	}
	// Before the marks are looked at, which moves them.
	loss, err := logtest.Missed(m.log, after, texts...)
	if err != nil {
		m.Fatal(err)
	}
	marks, highest := m.marks(patterns)
	var want fanfare.GapReason
	_ = m.log.read(m.Context(),
		func(s *session) error { want = s.catalog.runs.gapReason(after, loss.Durable, highest); return nil })
	if loss.Reason != want {
		m.Fatalf("%v after %v: reason %q, want %q, since the highest mark is %v", texts, after, loss.Reason, want,
			highest)
	}
	if highest > after && loss.Trimmed < highest {
		m.Fatalf("%v after %v: no mark is above %v, but %v is", texts, after, loss.Trimmed, highest)
	}
	var all []fanfare.Event
	for _, e := range m.events {
		if mark, match := marks[e.Channel.String()]; match && e.Position > mark {
			all = append(all, e)
		}
	}
	m.compareRead(patterns, after, all, highest)
	m.compareLast(texts, all)
}

func (m *modelled) compareRead(
	patterns []fanfare.Pattern, after fanfare.Position, all []fanfare.Event, highest fanfare.Position,
) {
	m.Helper()
	var want []string
	for _, e := range all {
		if e.Position > after {
			want = append(want, fmt.Sprint(e.Position, e.Channel, e.Data))
		}
	}
	q := fanfare.Query{Patterns: patterns, After: after, Limit: 1 + m.r.IntN(10), Bytes: 1 + m.r.IntN(10)}
	events, trimmed, err := logtest.ReadAll(m.log, q)
	if err != nil {
		m.Fatal(err)
	}
	var got []string
	for _, e := range events {
		got = append(got, fmt.Sprint(e.Position, e.Channel, e.Data))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		m.Fatalf("%v after %v (-want +got):\n%s", patterns, after, diff)
	}
	if trimmed > max(highest, after) {
		m.Fatalf("%v after %v: trimmed up to %v, but the highest mark is %v", patterns, after, trimmed, highest)
	}
}

func (m *modelled) compareLast(texts []string, all []fanfare.Event) {
	m.Helper()
	count := 1 + m.r.IntN(20)
	var want fanfare.Position
	if len(all) > 0 {
		want = all[max(len(all)-count, 0)].Position
	}
	if got, err := logtest.Last(m.log, count, texts...); err != nil || got != want {
		m.Fatalf("last %d of %v: %v, %v; want %v", count, texts, got, err, want)
	}
}

// TestAllWaysOfReadingAgree: whether what patterns want is read by the indexes of their channels or
// by position, in large pieces or in small ones, with trim marks that were looked at or a bound
// that says they do not matter: the answer is the same (P3, P4).
func TestAllWaysOfReadingAgree(t *testing.T) {
	for seed := range readSeeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			m := newModelled(t, seed)
			for range readSteps {
				m.live()
				m.compare()
			}
		})
	}
}

// many is a log in which every pattern's channels are too many to be read by their indexes.
func many(t *testing.T, clock *testClock, rules ...string) *Log {
	l := openTest(t, clock.options(rules...))
	l.session.readers.pieces.few, l.session.readers.pieces.events = 0, 3
	for i := range 40 {
		put(t, l, fmt.Sprint("quiet/", i), "x")
	}
	return l
}

func missed(t *testing.T, l *Log, after fanfare.Position, pattern string) fanfare.GapReason {
	t.Helper()
	loss, err := logtest.Missed(l, after, pattern)
	if err != nil {
		t.Fatal(err)
	}
	return loss.Reason
}

// TestTrimmedSince (P4): of very many channels one that has outgrown its limit since the position
// is found, wherever its events stand, by a look at the events since and at no other channel.
func TestTrimmedSince(t *testing.T) {
	for others := range 9 {
		l := many(t, newTestClock(), "**=count:2")
		after := put(t, l, "quiet/1", "x")[0]
		sweepNow(t, l)
		next := 0
		for range 3 {
			for range others {
				put(t, l, fmt.Sprint("quiet/", 2+next), "x")
				next++
			}
			if reason := missed(t, l, after, "**"); reason != "" {
				t.Errorf("%d others: %q before anything was trimmed", others, reason)
			}
			put(t, l, "zeal", "x")
		}
		l.session.catalog.channels.init()
		if reason := missed(t, l, after, "**"); reason != fanfare.GapTrimmed {
			t.Errorf("%d others: %q, but the first of three events is gone", others, reason)
		}
		if n := l.Stats().CachedChannels; n > next+1 {
			t.Errorf("%d others: the marks of %d channels were read", others, n)
		}
		if reason := missed(t, l, after, "quiet/*"); reason != "" {
			t.Errorf("%d others: %q because of a channel that is not listened to", others, reason)
		}
	}
}

// TestTrimmedAndEmptied (P4): a channel of which no event is left, and that was not forgotten yet,
// is found by its name.
func TestTrimmedAndEmptied(t *testing.T) {
	within := func(l *Log, f func(*session) error) {
		t.Helper()
		if err := l.read(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	l := many(t, newTestClock(), "**=age:1h,count:2")
	after := put(t, l, "quiet/1", "x")[0]
	at := put(t, l, "gone", "x")[0]
	sweepNow(t, l)
	within(l, func(s *session) error { return s.retention.deletePrefix(at) }) // the log is too large
	put(t, l, "zeal", "x")
	if reason := missed(t, l, after, "**"); reason != fanfare.GapTrimmed {
		t.Errorf("%q, but the events of a channel were removed whatever their channel", reason)
	}

	clock := newTestClock()
	l = many(t, clock, "**=age:1m")
	clock.pass(2 * time.Minute)
	after = put(t, l, "quiet/1", "x")[0]
	put(t, l, "gone", "x")
	clock.pass(2 * time.Minute)
	put(t, l, "quiet/2", "x")
	within(l, func(s *session) error {
		w := sweeper{retention: s.retention, bounds: s.catalog.bounds()}
		st, err := s.catalog.channel(logtest.Channel("gone"))
		if err != nil {
			return err
		}
		return w.deleteTrimmed(st)
	})
	if err := l.SetRetention(clock.options("**=age:365d,count:100").Retention); err != nil {
		t.Fatal(err)
	}
	within(l, func(s *session) error { return surveyor{s.catalog}.survey(s.catalog.rules.Load()) })
	if reason := missed(t, l, after, "**"); reason != fanfare.GapTrimmed {
		t.Errorf("%q, but a channel was emptied by the rules of before", reason)
	}
}

// TestNothingMatchesCostsNothing: a pattern that no channel matches is answered without a look at
// any event, and one whose channels are few with a look at theirs alone; channels that come later
// are found.
func TestNothingMatchesCostsNothing(t *testing.T) {
	l := openTest(t, newTestClock().options("**=age:7d"))
	after := l.Status().Durable
	batch := make([]string, 100)
	for i := range 200 {
		put(t, l, fmt.Sprint("c/", i, "/x"), batch...)
	}
	put(t, l, "rare/1", "r")
	for _, c := range []struct {
		pattern string
		want    []string
		most    uint64
	}{
		{"none/*", nil, 0}, {"c/*/y", nil, 0}, {"*/none", nil, 0}, {"c/*/x/**", nil, 0}, {"rare/*", []string{"r"},
			1}, {"*/1", []string{"r"}, 1},
	} {
		before := l.Stats().EventsRead
		got := dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, c.pattern), After: after})
		last, err := logtest.Last(l, 5, c.pattern)
		if err != nil || !slices.Equal(got, c.want) || (last > 0) != (len(c.want) > 0) {
			t.Errorf("%s: %v, last %v, %v", c.pattern, got, last, err)
		}
		if read := l.Stats().EventsRead - before; read > c.most {
			t.Errorf("%s: %d events were read", c.pattern, read)
		}
	}
	put(t, l, "none/1", "n") // a new channel, which the walk did not see
	for i := range 20 {
		put(t, l, fmt.Sprint("c/", i, "/x"), batch...)
	}
	before := l.Stats().EventsRead
	if got := dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "none/*"), After: after}); !slices.Equal(got,
		[]string{"n"}) {
		t.Errorf("a channel that came later: %v", got)
	}
	if read := l.Stats().EventsRead - before; read > 1 {
		t.Errorf("%d events were read for it", read)
	}
}

// TestNoMarkIsRead: where nothing was ever trimmed, a replay over very many channels looks at no
// channel's mark, and neither does the question what was missed.
func TestNoMarkIsRead(t *testing.T) {
	t.Parallel()
	for _, rule := range []string{"**=age:7d", "**=count:10", "**=bytes:1000"} {
		l := openTest(t, newTestClock().options(rule))
		after := put(t, l, "c/0", "x")[0]
		for i := range 3000 {
			put(t, l, fmt.Sprint("c/", i), "x")
		}
		l.session.catalog.channels.init() // a state that is cached again was loaded for its mark
		if reason := missed(t, l, after, "**"); reason != "" {
			t.Errorf("%s: %q", rule, reason)
		}
		if first, err := logtest.Last(l, 10, "**"); err != nil || first != after+3000-9 {
			t.Errorf("%s: the last ten begin at %v, %v", rule, first, err)
		}
		page, err := l.Read(t.Context(), fanfare.Query{Patterns: patternsOf(t, "**")})
		if err != nil || len(page.Events) != 256 {
			t.Errorf("%s: %d events, %v", rule, len(page.Events), err)
		}
		if n := l.Stats().CachedChannels; n != 0 {
			t.Errorf("%s: the marks of %d channels were read", rule, n)
		}
	}
}
