package pebblelog

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
)

// The tests of this file set the clock while the log is open, while it is closed, and across a
// crash. Events and records are forgotten and deleted by the time that has truly passed, as far as
// the log can know it.

// across says what happens to the log between one setting of the clock and the next.
type across string

const (
	running across = "while running"
	stopped across = "across a clean stop"
	killed  across = "across a crash"
)

// clockTest is a log in which time is set.
type clockTest struct {
	*testing.T
	clock *testClock
	o     Options
	fs    *vfs.MemFS
	log   *Log
	last  fanfare.Position
	keys  map[string]fanfare.Position
}

func newClockTest(t *testing.T, d Durability, rules ...string) *clockTest {
	c := &clockTest{T: t, clock: newTestClock(), fs: vfs.NewCrashableMem(), keys: map[string]fanfare.Position{}}
	c.o = c.clock.options(rules...)
	c.o.Durability, c.o.Dir = d, "/data"
	c.open()
	return c
}

// open gives the log a kernel's clock that begins anew, as one does in another process on another
// day.
func (c *clockTest) open() {
	began := c.clock.passed()
	c.o.FS = c.fs
	c.o.Elapsed = func() time.Duration { return c.clock.passed() - began }
	c.log = openTest(c.T, c.o)
}

// jump sets the clock, and reopens the log unless it goes on running.
func (c *clockTest) jump(by time.Duration, how across) {
	switch how {
	case stopped:
		if err := c.log.Close(); err != nil {
			c.Fatal(err)
		}
	case killed:
		keep := 0
		if c.o.Durability == DurabilityAsync {
			keep = 100 // the kernel goes on
		}
		c.fs = c.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: keep, RNG: rand.New(rand.NewPCG(1, 2))})
		_ = c.log.Close()
	}
	c.clock.jump(by)
	if how == running {
		c.log.clock.look()
	} else {
		c.open()
	}
}

// put publishes, under an idempotency key of the same name when it is not stored yet, and holds the
// position against those before.
func (c *clockTest) put(name string) fanfare.Position {
	c.Helper()
	receipt, err := c.send(name, 1)
	if err != nil || receipt.Replayed {
		c.Fatalf("publish %s: %+v, %v", name, receipt, err)
	}
	at := receipt.Positions[0]
	if at <= c.last || at >= 1<<63 {
		c.Errorf("%s has position %d after %d", name, at, c.last)
	}
	c.last, c.keys[name] = at, at
	return at
}

func (c *clockTest) send(name string, print byte) (receipt fanfare.Receipt, err error) {
	b := &fanfare.Batch{Key: fanfare.Key{Scope: "s", Text: name, Fingerprint: [16]byte{print}}}
	if _, repeat := c.keys[name]; !repeat {
		b.Keep = []fanfare.Kept{{Name: "pc/" + name, Position: c.last, Time: c.clock.now(),
			Expires: c.clock.now().Add(24 * time.Hour)}}
	}
	return c.append(b, name)
}

func (c *clockTest) append(b *fanfare.Batch, data string) (receipt fanfare.Receipt, err error) {
	channel, _ := fanfare.ParseChannel("a")
	b.Events = []fanfare.Event{{Channel: channel, Data: data}}
	return logtest.Append(c.log, b)
}

// remembers holds that all keys so far are known, and that their requests are not stored twice.
func (c *clockTest) remembers(when string) {
	c.Helper()
	for name, at := range c.keys {
		if r, err := c.send(name, 1); err != nil || !r.Replayed || r.Positions[0] != at {
			c.Errorf("%s: a repeat of %s is stored again: %+v, %v", when, name, r, err)
		}
		if _, err := c.send(name, 2); fanfare.CodeOf(err) != fanfare.CodeConflict {
			c.Errorf("%s: another request under the key %s: %v", when, name, err)
		}
	}
}

func (c *clockTest) holds(when string, want ...string) {
	c.Helper()
	sweepNow(c.T, c.log)
	c.log.upkeep.storeClock()
	for _, pattern := range []string{"a", "**"} {
		if got := dataOf(c.T, c.log, fanfare.Query{Patterns: patternsOf(c.T, pattern)}); !slices.Equal(got, want) {
			c.Errorf("%s: %s holds %q, want %q", when, pattern, got, want)
		}
	}
}

func (c *clockTest) kept(when string, want bool, names ...string) {
	c.Helper()
	for _, name := range names {
		if _, ok, err := c.log.Kept(c.Context(), "pc/"+name); ok != want || err != nil {
			c.Errorf("%s: the position kept with %s: %v, %v; want %v", when, name, ok, err, want)
		}
	}
}

// younger is what is replayed after a gap, or since so long ago.
func (c *clockTest) younger(than time.Duration) (names []string) {
	c.Helper()
	for _, pattern := range []string{"a", "**"} {
		got := dataOf(c.T, c.log, fanfare.Query{Patterns: patternsOf(c.T, pattern), Age: than})
		if pattern == "a" {
			names = got
		} else if !slices.Equal(got, names) {
			c.Errorf("younger than %v: %q by index, %q by scan", than, names, got)
		}
	}
	return names
}

// stamped is what is found by time.
func (c *clockTest) stamped(since time.Time) (names []string) {
	c.Helper()
	names = dataOf(c.T, c.log, fanfare.Query{Patterns: patternsOf(c.T, "a"), Since: since})
	if got := dataOf(c.T, c.log, fanfare.Query{Patterns: patternsOf(c.T, "a", "a/*"), Since: since}); !slices.Equal(got,
		names) {
		c.Errorf("since %v: %q by index, %q by scan", since, names, got)
	}
	return names
}

// forgets holds that no key is known any more, and that nothing is left of them.
func (c *clockTest) forgets(when string) {
	c.Helper()
	c.jump(0, stopped) // the first group sweeps
	put(c.T, c.log, "$other", "x")
	if kinds := keysOf(c.T, c.log); kinds["k"] != 0 || kinds["x"] != 0 {
		c.Errorf("%s: %d idempotency keys are left, %d of their times", when, kinds["k"], kinds["x"])
	}
	for _, name := range slices.Sorted(maps.Keys(c.keys)) {
		if r, err := c.send(name, 2); err != nil || r.Replayed {
			c.Errorf("%s: the key %s is still remembered: %v", when, name, err)
		}
	}
}

var clockJumps = []time.Duration{-time.Hour, time.Hour, 48 * time.Hour, 30 * 24 * time.Hour}

// eachClock runs a test for each jump, each way for it to happen, and each durability.
func eachClock(t *testing.T, test func(t *testing.T, by time.Duration, how across, d Durability)) {
	for name, d := range map[string]Durability{"sync": DurabilitySync, "async": DurabilityAsync,
		"memory": DurabilityMemory} {
		for _, how := range []across{running, stopped, killed} {
			if d == DurabilityMemory && how == killed {
				continue // nothing is there afterwards
			}
			for _, by := range clockJumps {
				t.Run(fmt.Sprintf("%s/%s/%v", name, how, by), func(t *testing.T) { test(t, by, how, d) })
			}
		}
	}
}

// TestTwoSecondsOfAWrongClock lose nothing, forget nothing, and leave nothing behind.
func TestTwoSecondsOfAWrongClock(t *testing.T) {
	t.Parallel()
	eachClock(t, func(t *testing.T, by time.Duration, how across, d Durability) {
		c := newClockTest(t, d, "a=age:2h", "**=age:1h")
		zero := c.clock.now()
		c.put("before")
		c.clock.pass(time.Second)
		c.jump(by, how)
		c.put("during")
		wrong := c.clock.now()
		check := func(when string) {
			t.Helper()
			c.remembers(when)
			for name := range c.keys {
				c.kept(when, true, name)
			}
		}
		check("while it is wrong")
		c.holds("while it is wrong", "before", "during")
		if how == running || by < 0 {
			if got := c.younger(time.Hour); !slices.Equal(got, []string{"before", "during"}) {
				t.Errorf("while it is wrong, %q are replayed after a gap", got)
			}
		}
		c.clock.pass(2 * time.Second)
		c.jump(-by, how)
		right := c.clock.now()
		c.put("after")
		check("when it is right again")
		c.holds("when it is right again", "before", "during", "after")
		if got := c.younger(time.Hour); !slices.Equal(got, []string{"before", "during", "after"}) {
			t.Errorf("%q are replayed after a gap", got)
		}

		// By their times, events are found as they are stamped.
		for _, since := range []struct {
			at   time.Time
			want []string
		}{
			{zero.Add(by), map[bool][]string{true: {"before", "during", "after"}, false: {"during"}}[by < 0]},
			{zero, map[bool][]string{true: {"before", "after"}, false: {"before", "during", "after"}}[by < 0]},
			{right, map[bool][]string{true: {"after"}, false: {"during", "after"}}[by < 0]},
			{wrong, map[bool][]string{true: {"before", "during", "after"}, false: {"during"}}[by < 0]},
		} {
			if got := c.stamped(since.at); !slices.Equal(got, since.want) {
				t.Errorf("since %v: %q, want %q", since.at, got, since.want)
			}
		}

		// From here on all of it grows old together.
		c.clock.pass(9 * time.Minute)
		check("nine minutes later")
		c.clock.pass(2 * time.Minute)
		c.forgets("eleven minutes later")
		c.holds("eleven minutes later", "before", "during", "after", "after", "before", "during")
		if n := len(c.younger(10 * time.Minute)); n != 3 {
			t.Errorf("%d events are younger than ten minutes, want the 3 of just now", n)
		}
		c.clock.pass(110 * time.Minute)
		sweepNow(t, c.log)
		if got := dataOf(t, c.log, fanfare.Query{Patterns: patternsOf(t, "a")}); len(got) != 3 {
			t.Errorf("two hours later: %q, want the three of eleven minutes later", got)
		}
		c.clock.pass(21*time.Hour + 25*time.Minute)
		c.kept("23 and a half hours later", true, "before", "during", "after")
		c.clock.pass(time.Hour)
		c.kept("a day later", false, "before", "after")
		if by < 0 {
			c.kept("a day later", false, "during")
		}
	})
}

// TestAClockThatStays is believed when it has been ahead for an hour, and not before: then a
// machine that was off for a week has aged by a week. Events that were stored meanwhile have not.
func TestAClockThatStays(t *testing.T) {
	eachClock(t, func(t *testing.T, by time.Duration, how across, d Durability) {
		c := newClockTest(t, d, "**=age:75m")
		c.put("before")
		c.clock.pass(time.Second)
		c.jump(by, how)
		c.put("during")
		c.clock.pass(9 * time.Minute)
		c.remembers("for nine minutes")
		c.holds("for nine minutes", "before", "during")
		c.clock.pass(49 * time.Minute)
		c.holds("for 58 minutes", "before", "during")
		if how != running {
			c.jump(0, how) // the hour may be spread over several openings
		}
		c.clock.pass(3 * time.Minute)
		if by > 0 {
			c.holds("for 61 minutes", "during")
		} else {
			c.holds("for 61 minutes", "before", "during")
		}
		c.put("after")
		c.remembersOnly("after")
		c.clock.pass(15 * time.Minute)
		c.holds("for 76 minutes", "after")
		c.clock.pass(61 * time.Minute)
		sweepNow(t, c.log)
		if kinds := keysOf(t, c.log); kinds["e"] != 0 || kinds["i"] != 0 || kinds["n"] != 0 {
			t.Errorf("left behind: %v", kinds)
		}
	})
}

func (c *clockTest) remembersOnly(name string) {
	c.Helper()
	c.keys = map[string]fanfare.Position{name: c.keys[name]}
	c.remembers("when the clock is believed")
}

// TestAWrongStartRemovesNothing is what was seen on the binary: it began with a clock two days
// ahead and had swept all of the log within twelve seconds. Each further start with that clock is
// judged by what was known before, not by what the wrong starts have stored.
func TestAWrongStartRemovesNothing(t *testing.T) {
	for _, by := range clockJumps {
		c := newClockTest(t, DurabilitySync, "**=age:1h")
		want := []string{"0"}
		c.put("0")
		c.jump(by, stopped)
		for i := range 6 {
			c.clock.pass(time.Minute)
			name := fmt.Sprint(i + 1)
			c.put(name)
			want = append(want, name)
			c.jump(time.Second, []across{stopped, killed}[i%2])
			c.holds(fmt.Sprintf("%v, opening %d", by, i+2), want...)
			c.remembers(fmt.Sprintf("%v, opening %d", by, i+2))
		}
	}
}

// TestTimeOffIsOld: what should not happen too late does not wait for the hour: after a weekend,
// Friday's commands are not replayed after a gap, though they were stored minutes before the
// machine went off.
func TestTimeOffIsOld(t *testing.T) {
	for _, how := range []across{stopped, killed} {
		c := newClockTest(t, DurabilitySync, "**=age:7d")
		c.put("friday")
		c.clock.pass(time.Minute)
		c.jump(60*time.Hour, how)
		if got := c.younger(time.Hour); len(got) > 0 {
			t.Errorf("%s: %q are replayed after a weekend", how, got)
		}
		c.put("monday")
		c.clock.pass(10 * time.Minute)
		c.jump(24*time.Hour, how)
		c.put("tuesday")
		if got := c.younger(time.Hour); !slices.Equal(got, []string{"tuesday"}) {
			t.Errorf("%s: %q are replayed on Tuesday", how, got)
		}
		if got := c.younger(25 * time.Hour); !slices.Equal(got, []string{"monday", "tuesday"}) {
			t.Errorf("%s: %q are of the last day", how, got)
		}
		c.clock.pass(2 * time.Hour)
		if got := c.younger(28 * time.Hour); !slices.Equal(got, []string{"monday", "tuesday"}) {
			t.Errorf("%s: %q are of the last day, now that the clock is believed", how, got)
		}
		c.holds("after 86 hours", "friday", "monday", "tuesday")
	}
}

// TestLookUpsStaySmall: neither a clock that was a month ahead for a moment, nor one that was an
// hour behind, makes a look-up by time read what lies between, and resumes on patterns still find a
// bound without looking at each channel.
func TestLookUpsStaySmall(t *testing.T) {
	for _, by := range clockJumps {
		c := newClockTest(t, DurabilityMemory, "**=age:2h")
		many := make([]string, secondEvents)
		put(t, c.log, "many", many...)
		c.clock.pass(time.Minute)
		c.jump(by, running)
		c.put("during")
		wrong := c.clock.now()
		c.clock.pass(2 * time.Second)
		c.jump(-by, running)
		for range 60 {
			put(t, c.log, "many", many...)
			c.clock.pass(time.Minute)
		}
		since := c.clock.now().Add(-30 * time.Second)
		last := put(t, c.log, "many", "last")[0]
		for name, look := range map[string]func(){
			"by time": func() {
				if got := dataOf(t, c.log, fanfare.Query{Patterns: patternsOf(t, "**"),
					Since: since}); got[len(got)-1] != "last" || len(got) > 2 {
					t.Errorf("%v: %q", by, got)
				}
			},
			"by age": func() {
				if got := dataOf(t, c.log, fanfare.Query{Patterns: patternsOf(t, "**"),
					Age: 30 * time.Second}); !slices.Equal(got, []string{"last"}) {
					t.Errorf("%v: %q", by, got)
				}
			},
		} {
			before := c.log.Stats().EventsRead
			look()
			if read := c.log.Stats().EventsRead - before; read > 3*secondEvents {
				t.Errorf("%v: %d events were read to find half a minute %s", by, read, name)
			}
		}
		if got := c.stamped(wrong); by > 0 && (len(got) == 0 || got[0] != "during") {
			t.Errorf("%v: %q since what the wrong clock said", by, got)
		}
		err := c.log.read(t.Context(), func(s *session) error {
			if err := (surveyor{s.catalog}).survey(s.catalog.rules.Load()); err != nil {
				return err
			}
			bound, err := s.readers.markBound(patternsOf(t, "**"))
			if bound >= last {
				t.Errorf("%v: the bound is %v", by, bound)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestStampsOfAWrongClockAreLeftAsTheyAre: people see what the clock said.
func TestStampsOfAWrongClockAreLeftAsTheyAre(t *testing.T) {
	c := newClockTest(t, DurabilityMemory, "**=age:1h")
	c.jump(48*time.Hour, running)
	want := c.clock.now()
	c.put("ahead")
	page, err := c.log.Read(t.Context(), fanfare.Query{Patterns: patternsOf(t, "a")})
	if err != nil || len(page.Events) != 1 || !page.Events[0].Time.Equal(want) {
		t.Fatalf("%+v, %v; want the time %v", page.Events, err, want)
	}
}

// TestThePositionsOfAWrongStart rise, and stay below 2⁶³ whatever the clock says.
func TestThePositionsOfAWrongStart(t *testing.T) {
	for _, year := range []int{1, 1969, 2109, 2150, 2300, 9999} {
		c := newClockTest(t, DurabilitySync, "**=age:1h")
		c.put("before")
		home := c.clock.now()
		there := time.Date(year, 7, 1, 0, 0, 0, 0, time.UTC)
		for i := range 3 {
			c.jump(time.Duration(0), stopped)
			c.clock.wall.Store(there.UnixMilli())
			c.jump(0, killed)
			c.put(fmt.Sprint("there ", i))
			c.clock.wall.Store(home.UnixMilli())
			c.jump(0, stopped)
			c.put(fmt.Sprint("home ", i))
			if reason := reasonAfter(t, c.log, "a", c.last-1); reason != "" {
				t.Errorf("year %d: a gap before the newest: %q", year, reason)
			}
		}
		c.remembers("at home")
		if n := len(dataOf(t, c.log, fanfare.Query{Patterns: patternsOf(t, "a")})); n != 7 {
			t.Errorf("year %d: %d events, want 7", year, n)
		}
	}
}

// TestTheClockIsSaid: the operator hears of a clock that is not believed, once, and of one that is
// right again or believed.
func TestTheClockIsSaid(t *testing.T) {
	var text strings.Builder
	clock := newTestClock()
	o := clock.options("**=age:1h")
	o.Logger = slog.New(slog.NewTextHandler(&text, nil))
	l := openTest(t, o)
	says := func(when string, jumps uint64, ahead time.Duration, want string) {
		t.Helper()
		for range 3 {
			if st := l.Stats(); st.ClockJumps != jumps || st.ClockAhead.Round(time.Second) != ahead {
				t.Errorf("%s: %d jumps, %v ahead; want %d, %v", when, st.ClockJumps, st.ClockAhead, jumps, ahead)
			}
		}
		if n := strings.Count(text.String(), "\n"); (n > 0) != (want != "") || n > 1 ||
			!strings.Contains(text.String(), want) {
			t.Errorf("%s: it says %q, want %q", when, &text, want)
		}
		text.Reset()
	}
	says("at first", 0, 0, "")
	clock.jump(30 * time.Second)
	says("a small step", 0, 0, "")
	clock.jump(-30 * time.Second)
	says("and back", 0, -30*time.Second, "")
	clock.pass(30 * time.Second)
	clock.jump(30 * time.Second)
	says("and right", 0, 0, "")
	clock.jump(48 * time.Hour)
	says("ahead", 1, 48*time.Hour, "the clock has jumped ahead")
	clock.jump(-48 * time.Hour)
	says("right", 1, 0, "the clock agrees")
	clock.jump(-time.Hour)
	says("behind", 2, -time.Hour, "the clock has jumped back")
	clock.jump(time.Hour)
	says("right again", 2, 0, "the clock agrees")
	clock.jump(48 * time.Hour)
	says("ahead for long", 3, 48*time.Hour, "the clock has jumped ahead")
	clock.pass(time.Hour)
	text.Reset()
	if st := l.Stats(); st.ClockAhead != 0 || !strings.Contains(text.String(), "is believed") {
		t.Errorf("after an hour: %v ahead; it says %q", st.ClockAhead, &text)
	}
	text.Reset()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	clock.jump(time.Hour)
	l = openTest(t, o)
	says("opened an hour later", 1, time.Hour, "is ahead of the time when the log was closed")
}

// TestAgesAreExact sets the clock at random, never for an hour, and reopens the log at random; at
// any time it holds just what has been stored within the rule's age while the log was open, however
// that is looked at.
func TestAgesAreExact(t *testing.T) {
	t.Parallel()
	const age = 20 * time.Minute
	for seed := range ageSeeds {
		r := rand.New(rand.NewPCG(seed, 7))
		c := newClockTest(t, []Durability{DurabilitySync, DurabilityAsync}[seed%2], "**=age:20m")
		var ran time.Duration
		var all []time.Duration // when each was stored
		wrong, since := time.Duration(0), time.Duration(0)
		for range 120 {
			switch r.IntN(6) {
			case 0, 1:
				d := time.Duration(r.Int64N(int64(8 * time.Minute))).Truncate(time.Millisecond)
				c.clock.pass(d)
				ran += d
			case 2:
				to := time.Duration(r.Int64N(int64(60*24*time.Hour))) - 30*24*time.Hour
				if wrong != 0 {
					to = 0
				}
				how := []across{running, running, stopped, killed}[r.IntN(4)]
				if how == killed { // else the time since the last group is lost
					_ = c.log.command(storeTime{})
				}
				c.jump((to - wrong).Truncate(time.Millisecond), how)
				wrong, since = to.Truncate(time.Millisecond), ran
			default:
				put(t, c.log, fmt.Sprint("c/", r.IntN(3)), fmt.Sprint(len(all)))
				all = append(all, ran)
				c.clock.pass(10 * time.Millisecond)
				ran += 10 * time.Millisecond
			}
			if wrong != 0 && ran-since > 50*time.Minute {
				c.jump(-wrong, running)
				wrong = 0
			}
			if r.IntN(3) == 0 {
				sweepNow(t, c.log)
			}
			var want []string
			for i, at := range all {
				if ran-at <= age {
					want = append(want, fmt.Sprint(i))
				}
			}
			query := fanfare.Query{Patterns: patternsOf(t, "c/*")}
			if got := dataOf(t, c.log, query); !slices.Equal(got, want) {
				t.Fatalf("seed %d: a scan reads %q, want %q", seed, got, want)
			}
			query.Patterns = patternsOf(t, "c/0", "c/1", "c/2")
			if got := dataOf(t, c.log, query); !slices.Equal(got, want) {
				t.Fatalf("seed %d: the index reads %q, want %q", seed, got, want)
			}
		}
	}
}

// TestManyJumps: a clock that never stands still costs a bounded list, which ends with what is
// retained.
func TestManyJumps(t *testing.T) {
	c := newClockTest(t, DurabilitySync, "**=age:1h")
	want := []string{}
	for i := range 2 * phasesMost {
		c.jump([]time.Duration{time.Hour, -time.Hour}[i%2], running)
		if i%8 == 0 {
			c.put(fmt.Sprint(i))
			want = append(want, fmt.Sprint(i))
		}
		c.clock.pass(time.Second)
	}
	if n := len(c.log.clock.look().phases); n > phasesMost {
		t.Errorf("%d phases are kept, at most %d should be", n, phasesMost)
	}
	c.holds("after many jumps", want...)
	c.jump(0, stopped)
	c.holds("reopened", want...)
	c.clock.pass(61 * time.Minute)
	c.put("last")
	c.holds("an hour later", "last")
	c.clock.pass(61 * time.Minute)
	c.jump(0, stopped)
	c.holds("two hours later")
	if n := len(c.log.clock.look().phases); n > 3 {
		t.Errorf("%d phases are left, and no event", n)
	}
}

// TestExportKeepsAges: an export and its import make nothing older or younger, and a damaged list
// of phases is told.
func TestExportKeepsAges(t *testing.T) {
	clock := newTestClock()
	o := clock.options("**=age:90m")
	o.Durability, o.FS, o.Dir = DurabilitySync, vfs.Default, t.TempDir()
	c := &clockTest{T: t, clock: clock, o: o, keys: map[string]fanfare.Position{}}
	c.log = openTest(t, o)
	c.put("before")
	clock.pass(10 * time.Minute)
	c.jump(-time.Hour, running)
	c.put("behind")
	clock.pass(10 * time.Minute)
	c.jump(49*time.Hour, running)
	c.put("ahead")
	clock.pass(10 * time.Minute)
	c.jump(-48*time.Hour, running)
	c.put("right")
	if err := c.log.Close(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if _, err := Export(t.Context(), o.Dir, nil, &text, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	c.o.Dir = t.TempDir()
	if _, err := Import(t.Context(), c.o.Dir, strings.NewReader(text.String())); err != nil {
		t.Fatal(err)
	}
	if report, err := Verify(t.Context(), c.o.Dir); err != nil || report.Faults > 0 {
		t.Errorf("%+v, %v", report, err)
	}
	c.log = openTest(t, c.o)
	c.holds("imported", "before", "behind", "ahead", "right")
	clock.pass(61 * time.Minute)
	c.holds("91 minutes after the first", "behind", "ahead", "right")
	clock.pass(10 * time.Minute)
	c.holds("101 minutes", "ahead", "right")
	clock.pass(10 * time.Minute)
	c.holds("111 minutes", "right")
	if err := c.log.Close(); err != nil {
		t.Fatal(err)
	}

	for _, bad := range []string{
		`{"log":5,"believed":0,"phases":[]}`,
		`{"log":5,"believed":-1,"phases":[{"from":"0000000000000","start":0,"low":0,"high":0}]}`,
		`{"log":5,"believed":0,"phases":[{"from":"0000000000000","start":6,"low":0,"high":0}]}`,
		`{"log":5,"believed":0,"phases":[{"from":"0000000000000","start":0,"low":1,"high":0}]}`,
		`{"log":9223372036854775807,"believed":0,"phases":[{"from":"0000000000000","start":0,"low":0,"high":0}]}`,
	} {
		head := `{"fanfare":"export 1","gone":"0000000000000","clock":` + bad + "}\n"
		_, err := Import(t.Context(), t.TempDir(), strings.NewReader(head))
		if fanfare.CodeOf(err) != fanfare.CodeInvalid || !strings.Contains(err.Error(), "clock") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestVerifyReadsTheClock: phases out of order are a fault.
func TestVerifyReadsTheClock(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, Options{Dir: dir})
	put(t, l, "a", "x")
	err := l.read(t.Context(), func(s *session) error {
		return s.db.Set([]byte{keyPhases}, appendPhases(nil, 0, []phase{{from: 9, start: 1}, {from: 8, start: 2}}), nil)
	})
	l.session.committer.applier.next = 0 // the close does not mend it
	if err = errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	report, err := Verify(t.Context(), dir)
	if err != nil || report.Faults != 1 || !strings.Contains(report.First[0], "phases") {
		t.Errorf("%+v, %v", report, err)
	}
	if _, err := Open(Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("such a log is opened: %v", err)
	}
}

// TestStored: the log time of an event stays within its phase, whatever the event is stamped with:
// phases that were merged, and logs of earlier formats, have stamps that fit no single difference.
func TestStored(t *testing.T) {
	m := moment{log: 5000, phases: []phase{{start: 100, high: 50}, {from: 10, start: 1000, low: 900, high: 900},
		{from: 20, start: 2000, low: -500, high: -400}}}
	for _, c := range []struct {
		pos      fanfare.Position
		ms, want int64
	}{
		{5, 500, 500}, {5, 50, 100}, {9, 99_999, 999}, {10, 2000, 1100}, {10, 99_999, 1999}, {19, 0, 1000}, {20, 1600,
			2100}, {30, 1000, 2000},
	} {
		if got := m.stored(c.pos, c.ms); got != c.want {
			t.Errorf("the event %d of %d was stored at %d, want %d", c.pos, c.ms, got, c.want)
		}
	}
}

// TestAgeIsCut: an age and the cut of an age say the same.
func TestAgeIsCut(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		m := moment{phases: []phase{{}}}
		for range r.IntN(6) {
			m.phases = append(m.phases,
				phase{start: m.phases[len(m.phases)-1].start + 1 + r.Int64N(30), believed: r.Int64N(2) * r.Int64N(50)})
		}
		m.log = m.phases[len(m.phases)-1].start + r.Int64N(30)
		for at := int64(0); at <= m.log; at++ {
			for age := int64(0); age < 400; age += 7 {
				if (m.age(at) > age) != (at < m.ageLimit(age)) {
					t.Fatalf("%+v: the age of %d is %d, the limit of %d is %d", m, at, m.age(at), age, m.ageLimit(age))
				}
			}
		}
	}
}
