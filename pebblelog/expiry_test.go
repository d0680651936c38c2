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

// expiryModel is what a log with events that expire is to show: it knows all that was stored, and
// forgets nothing.
type expiryModel struct {
	*clockTest
	rng    *rand.Rand
	events []fanfare.Event
	n      int
}

var expiryChannels = []string{"x", "b/1", "b/2", "b/3", "only"}

// put stores an event, mostly one with an expiry.
func (m *expiryModel) put() {
	m.Helper()
	channel := expiryChannels[m.rng.IntN(len(expiryChannels))]
	ttl := time.Duration(m.rng.IntN(120)) * time.Second
	if channel == "only" {
		ttl += time.Millisecond // never without
	} else if m.rng.IntN(4) == 0 {
		ttl = 0
	}
	m.n++
	e := fanfare.Event{Channel: logtest.Channel(channel), Data: strings.Repeat("x", m.rng.IntN(9)) + fmt.Sprint(m.n)}
	r, err := logtest.Append(m.log, &fanfare.Batch{Events: []fanfare.Event{e}, TTL: []time.Duration{ttl}})
	if err != nil {
		m.Fatal(err)
	}
	if e.Position = r.Positions[0]; ttl > 0 {
		e.Expires = m.log.Now().Add(max(ttl, time.Millisecond))
	}
	m.events = append(m.events, e)
}

// living returns the events of a pattern that are not over.
func (m *expiryModel) living(pattern string) (list []fanfare.Event) {
	p := mustPattern(m.T, pattern)
	now := m.log.Now()
	for _, e := range m.events {
		if p.Match(e.Channel) && (e.Expires.IsZero() || e.Expires.After(now)) {
			list = append(list, e)
		}
	}
	return list
}

func newestOfEach(list []fanfare.Event) (newest []fanfare.Event) {
	for i, e := range list {
		if !slices.ContainsFunc(list[i+1:], func(o fanfare.Event) bool { return o.Channel == e.Channel }) {
			newest = append(newest, e)
		}
	}
	return newest
}

func dataIn(list []fanfare.Event) (data []string) {
	for _, e := range list {
		data = append(data, e.Data)
	}
	return data
}

// check compares all that readers see with the model.
func (m *expiryModel) check() {
	m.Helper()
	for _, pattern := range []string{"x", "b/*", "**", "only"} {
		want := m.living(pattern)
		q := fanfare.Query{Patterns: patternsOf(m.T, pattern)}
		m.same(pattern+": events", dataOf(m.T, m.log, q), dataIn(want))
		q.Newest = true
		m.same(pattern+": newest", dataOf(m.T, m.log, q), dataIn(newestOfEach(want)))
		if len(want) > 2 {
			at := want[len(want)-3].Position
			past, err := m.log.Last(m.Context(), fanfare.Recent{Patterns: q.Patterns, Count: 3})
			if err != nil || past.First != at {
				m.Errorf("%s: the last three begin at %v, want %v (%v)", pattern, past.First, at, err)
			}
		}
		if len(m.events) > 0 {
			if reason := reasonAfter(m.T, m.log, pattern, m.events[0].Position-1); reason != "" {
				m.Errorf("%s: a gap: %s", pattern, reason)
			}
		}
	}
	m.checkChannels()
	m.checkConditions()
}

func (m *expiryModel) checkChannels() {
	m.Helper()
	want, got := map[string][3]uint64{}, map[string][3]uint64{}
	for _, e := range m.living("**") {
		c := want[e.Channel.String()]
		want[e.Channel.String()] = [3]uint64{c[0] + 1, c[1] + uint64(len(e.Data)), uint64(e.Position)}
	}
	page, err := m.log.Channels(m.Context(), fanfare.ChannelQuery{Patterns: patternsOf(m.T, "**"), Counts: true})
	if err != nil {
		m.Fatal(err)
	}
	for _, c := range page.Channels {
		got[c.Latest.Channel.String()] = [3]uint64{c.Count, c.Bytes, uint64(c.Latest.Position)}
	}
	m.same("channels", got, want)
	page, err = m.log.Channels(m.Context(), fanfare.ChannelQuery{Patterns: patternsOf(m.T, "**"), Events: true})
	if err != nil {
		m.Fatal(err)
	}
	for _, c := range page.Channels {
		if i := slices.IndexFunc(m.events,
			func(e fanfare.Event) bool { return e.Position == c.Latest.Position }); i < 0 ||
			m.events[i].Data != c.Latest.Data || !m.events[i].Expires.Equal(c.Latest.Expires) {
			m.Errorf("the newest event of %s is %+v", c.Latest.Channel, c.Latest)
		}
		delete(want, c.Latest.Channel.String())
	}
	if len(want) > 0 {
		m.Errorf("channels that are missing: %v", want)
	}
}

// checkConditions asks for each channel's newest event by a condition that is not met.
func (m *expiryModel) checkConditions() {
	m.Helper()
	for _, channel := range expiryChannels {
		want := fanfare.Position(0)
		if list := m.living(channel); len(list) > 0 {
			want = list[len(list)-1].Position
		}
		if latest, stored := try(m.T, m.log, channel, fanfare.IfLatest(1)); stored || latest != want {
			m.Errorf("a condition sees %v as the newest event of %s, want %v", latest, channel, want)
		}
	}
}

func (m *expiryModel) same(what string, got, want any) {
	m.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		m.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// TestExpiry: whatever happens to a log, no reader and no condition sees an event that is over,
// each sees all others, and nobody hears of a gap: across sweeps, clean stops, crashes, and clocks
// that are set.
func TestExpiry(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := &expiryModel{clockTest: newClockTest(t, DurabilitySync, "**=count:1000000"),
				rng: rand.New(rand.NewPCG(seed, 1))}
			for step := range 250 {
				switch m.rng.IntN(12) {
				default:
					m.put()
				case 0, 1:
					m.clock.pass(time.Duration(m.rng.IntN(60)) * time.Second)
				case 2, 3:
					sweepNow(t, m.log)
				case 4:
					how := []across{running, stopped, killed}[m.rng.IntN(3)]
					m.jump(time.Duration(m.rng.IntN(7200)-3600)*time.Second, how)
				}
				if m.check(); t.Failed() {
					t.Fatalf("after step %d", step)
				}
			}
			m.wholeAndEmpty()
		})
	}
}

// wholeAndEmpty checks that the log is whole, and that what is over goes.
func (m *expiryModel) wholeAndEmpty() {
	m.Helper()
	m.clock.pass(24 * time.Hour)
	sweepNow(m.T, m.log)
	m.clock.pass(expireAgain + time.Second)
	sweepNow(m.T, m.log)
	left := map[string]bool{}
	for _, e := range m.living("**") {
		left[e.Channel.String()] = true
	}
	kinds := keysOf(m.T, m.log)
	if n := len(m.living("**")); kinds["e"] != n || kinds["i"] > n+len(left) || kinds["c"] != len(left) {
		m.Errorf("%d events of %d channels are not over, and the store holds %v", n, len(left), kinds)
	}
	if err := m.log.Close(); err != nil {
		m.Fatal(err)
	}
	report, err := verify(m.Context(), m.fs, "/data")
	if err != nil || report.Faults > 0 {
		m.Errorf("%v %v", report.First, err)
	}
	m.open()
	m.check()
}

// TestExpiryCountsInLimits: limits of count and of bytes go by what was stored, over or not, and a
// sweep that has deleted what is over changes nothing for conditions.
func TestExpiryCountsInLimits(t *testing.T) {
	for _, rule := range []string{"**=count:3", "**=bytes:3"} {
		for _, swept := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s swept %v", rule, swept), func(t *testing.T) {
				c := newClockTest(t, DurabilitySync, rule)
				minute := []time.Duration{time.Minute}
				first := c.store("0", nil)
				kept := c.store("1", nil)
				c.store("2", minute)
				c.store("3", minute)
				c.clock.pass(2 * time.Minute)
				if swept {
					sweepNow(t, c.log)
				}
				if latest, stored := try(t, c.log, "a", fanfare.IfNone()); stored || latest != kept {
					t.Errorf("the newest event is %v, want %v", latest, kept)
				}
				if got := dataOf(t, c.log, fanfare.Query{Patterns: patternsOf(t, "a")}); !slices.Equal(got,
					[]string{"1"}) {
					t.Errorf("a reader sees %v", got)
				}
				if reason := reasonAfter(t, c.log, "a", first-1); reason != fanfare.GapTrimmed {
					t.Errorf("the first event was trimmed, and that is %q", reason)
				}
				c.store("4", minute)
				c.clock.pass(2 * time.Minute)
				if latest, stored := try(t, c.log, "a", fanfare.IfLatest(kept)); stored || latest != 0 {
					t.Errorf("the newest event is %v, and it is beyond the limit", latest)
				}
				page, err := c.log.Channels(t.Context(), fanfare.ChannelQuery{Patterns: patternsOf(t, "a")})
				if err != nil || len(page.Channels) > 0 {
					t.Errorf("the state is %+v, %v", page.Channels, err)
				}
				if swept {
					sweepNow(t, c.log)
				}
				c.store("5", nil)
				c.store("6", nil)
				if got := dataOf(t, c.log, fanfare.Query{Patterns: patternsOf(t, "a")}); !slices.Equal(got,
					[]string{"5", "6"}) {
					t.Errorf("of the last three, one is over, and a reader sees %v", got)
				}
			})
		}
	}
}

// TestExpiryLeavesSums: a limit of bytes goes by the sizes of the events that were stored, though
// the entries before an event are missing.
func TestExpiryLeavesSums(t *testing.T) {
	c := newClockTest(t, DurabilitySync, "**=bytes:4")
	c.store("0", nil)
	c.store("1", []time.Duration{time.Minute})
	c.store("2", []time.Duration{time.Minute})
	c.clock.pass(2 * time.Minute)
	c.store("3", nil)
	sweepNow(t, c.log)
	if n := keysOf(t, c.log)["i"]; n != 2 {
		t.Fatalf("%d entries are left: this tests less than it should", n)
	}
	c.store("44", nil)
	c.has("3", "44")
}

func (c *clockTest) store(data string, ttl []time.Duration) fanfare.Position {
	c.Helper()
	r, err := logtest.Append(c.log, &fanfare.Batch{
		Events: []fanfare.Event{{Channel: logtest.Channel("a"), Data: data}}, TTL: ttl,
	})
	if err != nil {
		c.Fatal(err)
	}
	return r.Positions[0]
}

// TestExpiryDeletesByGuardedTime: a clock that has been ahead for some minutes hides what is over
// by it; only one that has been ahead for an hour deletes it.
func TestExpiryDeletesByGuardedTime(t *testing.T) {
	c := newClockTest(t, DurabilitySync, "**=count:1000")
	c.store("0", []time.Duration{time.Hour})
	c.store("1", nil)
	c.jump(2*time.Hour, running)
	c.clock.pass(10 * time.Minute)
	c.has("1")
	sweepNow(t, c.log)
	if n := keysOf(t, c.log)["e"]; n != 2 {
		t.Errorf("%d events are left", n)
	}
	c.clock.pass(time.Hour)
	c.log.clock.look()
	c.clock.pass(time.Minute)
	sweepNow(t, c.log)
	if n := keysOf(t, c.log)["e"]; n != 1 || c.log.Stats().Expired != 1 {
		t.Errorf("%d events are left", n)
	}
}

// TestDueTime: due time is the wall clock, and never falls; a jump ahead while the log runs counts
// when it has stood for five minutes, one while it was closed at once.
func TestDueTime(t *testing.T) {
	c := newClockTest(t, DurabilitySync, "**=age:1h")
	truth := c.clock.now()
	is := func(what string, want time.Time) {
		t.Helper()
		if got := c.log.Now(); !got.Equal(want) {
			t.Errorf("%s: due time is %v, want %v (the wall clock says %v)", what, got, want, c.clock.now())
		}
	}
	pass := func(d time.Duration) { c.clock.pass(d); truth = truth.Add(d); c.log.clock.look() }
	pass(time.Hour)
	is("as time passes", truth)
	c.jump(2*time.Hour, running)
	pass(4 * time.Minute)
	is("a jump that has stood for four minutes", truth)
	c.jump(-2*time.Hour, running)
	pass(10 * time.Minute)
	is("a jump that did not stand", truth)
	c.jump(2*time.Hour, running)
	pass(5*time.Minute + time.Second)
	is("a jump that has stood", c.clock.now())
	high := c.clock.now()
	c.jump(-2*time.Hour, running)
	pass(time.Hour)
	is("a clock that was set back", high)
	pass(time.Hour + time.Minute)
	is("a clock that has caught up", c.clock.now())
	c.jump(48*time.Hour, stopped)
	is("a jump while the log was closed", c.clock.now())
	high = c.clock.now()
	c.jump(-time.Hour, killed)
	is("a clock that is behind at an opening", high)
	c.jump(time.Hour+10*time.Minute, running)
	c.jump(0, stopped)
	is("a jump before a stop", c.clock.now())
}

// TestExpiredOnce: apply looks at events that have expired once, and not for each condition: a
// million of them may wait for the sweep, and apply keeps all publishers waiting.
func TestExpiredOnce(t *testing.T) {
	c := newClockTest(t, DurabilitySync)
	stays := c.store("stays", nil)
	for range 500 {
		c.store("x", []time.Duration{time.Second})
	}
	c.clock.pass(2 * time.Second)
	looks := func() uint64 {
		before := c.log.Stats().IndexRead
		if latest, stored := try(t, c.log, "a", fanfare.IfLatest(1)); stored || latest != stays {
			t.Fatalf("the newest is %v, want %v", latest, stays)
		}
		return c.log.Stats().IndexRead - before
	}
	if first, second := looks(), looks(); first < 500 || second > 2 {
		t.Errorf("a condition looked at %d entries, the next at %d", first, second)
	}
	for range 5 {
		c.store("y", []time.Duration{time.Second})
	}
	c.clock.pass(2 * time.Second)
	if again := looks(); again > 10 {
		t.Errorf("after five more, a condition looked at %d entries", again)
	}
	stays = c.store("stays", nil)
	c.store("y", []time.Duration{time.Second})
	c.clock.pass(2 * time.Second)
	looks()
}
