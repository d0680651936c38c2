package pebblelog

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
)

// testClock is a clock that a test sets.
type testClock struct{ wall, elapsed atomic.Int64 }

func newTestClock() *testClock {
	c := &testClock{}
	c.wall.Store(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC).UnixMilli())
	return c
}

func (c *testClock) now() time.Time        { return time.UnixMilli(c.wall.Load()).UTC() }
func (c *testClock) passed() time.Duration { return time.Duration(c.elapsed.Load()) }
func (c *testClock) jump(d time.Duration)  { c.wall.Add(d.Milliseconds()) }
func (c *testClock) pass(d time.Duration)  { c.wall.Add(d.Milliseconds()); c.elapsed.Add(int64(d)) }
func (c *testClock) options(rules ...string) (o Options) {
	for _, text := range rules {
		r, err := fanfare.ParseRule(text)
		if err != nil {
			panic(err)
		}
		o.Retention = append(o.Retention, r)
	}
	o.Durability, o.FS, o.TrimInterval = DurabilityMemory, vfs.NewMem(), time.Hour
	o.Now, o.Elapsed = c.now, c.passed
	return o
}

func openTest(t *testing.T, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func put(t *testing.T, l *Log, channel string, data ...string) []fanfare.Position {
	t.Helper()
	c, err := fanfare.ParseChannel(channel)
	if err != nil {
		t.Fatal(err)
	}
	b := &fanfare.Batch{}
	for _, d := range data {
		b.Events = append(b.Events, fanfare.Event{Channel: c, Data: d})
	}
	receipt, err := logtest.Append(l, b)
	if err != nil {
		t.Fatal(err)
	}
	return receipt.Positions
}

func sweepNow(t *testing.T, l *Log) {
	t.Helper()
	if err := l.read(t.Context(), func(s *session) error { _, err := s.retention.sweep(); return err }); err != nil {
		t.Fatal(err)
	}
}

func patternsOf(t *testing.T, texts ...string) (list []fanfare.Pattern) {
	t.Helper()
	for _, text := range texts {
		list = append(list, mustPattern(t, text))
	}
	return list
}

func reasonAfter(t *testing.T, l *Log, pattern string, after fanfare.Position) fanfare.GapReason {
	t.Helper()
	loss, err := logtest.Missed(l, after, pattern)
	if err != nil {
		t.Fatal(err)
	}
	return loss.Reason
}

func dataOf(t *testing.T, l *Log, q fanfare.Query) (data []string) {
	t.Helper()
	for {
		page, err := l.Read(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Events {
			data = append(data, e.Data)
		}
		if q.After = page.Through; q.After >= fanfare.Position(l.durable.Load()) {
			return data
		}
	}
}

// keysOf counts what the store holds, by kind of key.
func keysOf(t *testing.T, l *Log) map[string]int {
	t.Helper()
	kinds := map[string]int{}
	err := l.read(t.Context(), func(s *session) error {
		it, err := s.db.NewIter(nil)
		if err != nil {
			return err
		}
		defer it.Close()
		for ok := it.First(); ok; ok = it.Next() {
			kinds[string(it.Key()[:1])]++
		}
		return it.Error()
	})
	if err != nil {
		t.Fatal(err)
	}
	return kinds
}

// TestChannelsThatComeAndGo leave nothing behind but the floor of their rule, which only that
// rule's channels read.
func TestChannelsThatComeAndGo(t *testing.T) {
	t.Parallel()
	channels := manyChannels
	clock := newTestClock()
	o := clock.options("**=age:7d", "short/**=age:1m")
	o.SlowCommit = 2 * time.Minute
	l := openTest(t, o)
	stay := put(t, l, "stay", "kept")[0]
	before := put(t, l, "short/0", "x")[0] // and this one
	for i := 1; i < channels; i += 1000 {
		b := &fanfare.Batch{}
		for j := i; j < min(i+1000, channels); j++ {
			c, _ := fanfare.ParseChannel(fmt.Sprint("short/", j))
			b.Events = append(b.Events, fanfare.Event{Channel: c, Data: "x"})
		}
		if _, err := logtest.Append(l, b); err != nil {
			t.Fatal(err)
		}
	}
	if n := l.Stats().CachedChannels; n > maxCachedChannels {
		t.Errorf("%d channels are cached, at most %d should be", n, maxCachedChannels)
	}
	clock.pass(2 * time.Minute)
	sweepNow(t, l)
	check := func(when string) {
		t.Helper()
		kinds := keysOf(t, l)
		for kind, want := range map[string]int{"c": 1, "n": 1, "m": 0, "e": 1, "i": 1, "g": 3} {
			if kinds[kind] != want {
				t.Errorf("%s: %d keys of kind %s, want %d", when, kinds[kind], kind, want)
			}
		}
		for _, pattern := range []string{"short/7", "short/never", "short/**", "*/7", "**"} {
			if reason := reasonAfter(t, l, pattern, before); reason != fanfare.GapTrimmed {
				t.Errorf("%s: %s after what has gone: %q", when, pattern, reason)
			}
		}
		for _, pattern := range []string{"stay", "other", "stay/*"} {
			if reason := reasonAfter(t, l, pattern, stay); reason != "" {
				t.Errorf("%s: %s, a channel of another rule: %q", when, pattern, reason)
			}
		}
		if reason := reasonAfter(t, l, "short/**", fanfare.Position(l.durable.Load())); reason != "" {
			t.Errorf("%s: at the newest: %q", when, reason)
		}
	}
	check("swept")
	if n := l.Stats().CachedChannels; n > 2 {
		t.Errorf("%d channels are still in memory", n)
	}
	// One comes back: it goes on with a new number, and still tells what has gone.
	again := put(t, l, "short/7", "back")[0]
	if got := dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "short/7")}); len(got) != 1 || got[0] != "back" {
		t.Errorf("a channel that came back holds %q", got)
	}
	if reason := reasonAfter(t, l, "short/7", before); reason != fanfare.GapTrimmed {
		t.Errorf("a channel that came back: %q", reason)
	}
	if reason := reasonAfter(t, l, "short/7", again-1); reason != "" {
		t.Errorf("just before its new event: %q", reason)
	}
	clock.pass(2 * time.Minute)
	sweepNow(t, l)
	before = again - 1
	check("gone again")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openTest(t, o)
	check("reopened")
	// Other rules: a channel may have been emptied under another one, so all begin with the highest
	// floor.
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	o.Retention = o.Retention[:1]
	l = openTest(t, o)
	if reason := reasonAfter(t, l, "short/7", before); reason != fanfare.GapTrimmed {
		t.Errorf("under another rule: %q", reason)
	}
}

// TestForgettingWhilePublishing has channels fill, empty, be forgotten and come back, all at once;
// what is read is always what was published last.
func TestForgettingWhilePublishing(t *testing.T) {
	clock := newTestClock()
	o := clock.options("**=age:1s")
	o.TrimInterval = time.Millisecond
	l := openTest(t, o)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				clock.pass(300 * time.Millisecond)
				time.Sleep(time.Millisecond) // the sweep runs on real time
			}
		}
	}()
	began := time.Now()
	forgotten := func() bool { return l.Stats().Forgotten > 0 || time.Since(began) > time.Minute }
	for i := 0; i < 3000 || !forgotten(); i++ {
		channel := fmt.Sprint("c", i/300%3, "/", i%7) // long enough unused to be forgotten
		data := fmt.Sprint(i)
		at := put(t, l, channel, data)[0]
		page, err := l.Read(t.Context(), fanfare.Query{Patterns: patternsOf(t, channel), After: at - 1})
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Events) == 0 && page.Trimmed < at { // old already: then that is said
			t.Fatalf("event %d is not there, and nothing says that it was trimmed", i)
		}
		if len(page.Events) > 0 && page.Events[0].Data != data {
			t.Fatalf("event %d: read %q", i, page.Events[0].Data)
		}
	}
	close(stop)
	<-done
	if l.Stats().Forgotten == 0 {
		t.Error("no channel was forgotten: the test tests nothing")
	}
	if err := l.Status().Err; err != nil || l.Stats().Reopened > 0 {
		t.Fatalf("the log failed: %v", err)
	}
}

// TestMaxBytes: the oldest events go when the files grow beyond the limit, clients are told, and
// the newest stay.
func TestMaxBytes(t *testing.T) {
	const most = 12 << 20
	o := Options{Dir: t.TempDir(), Durability: DurabilityAsync, MaxBytes: most, TrimInterval: 20 * time.Millisecond}
	l := openTest(t, o)
	payload := make([]byte, 900)
	r := rand.New(rand.NewPCG(1, 2))
	var first, last fanfare.Position
	for i := range 300 {
		var batch []string
		for range 100 {
			for k := range payload {
				payload[k] = byte('a' + r.IntN(26))
			}
			batch = append(batch, string(payload))
		}
		at := put(t, l, fmt.Sprint("c/", i%20), batch...)
		if first == 0 {
			first = at[0]
		}
		last = at[len(at)-1]
	}
	deadline := time.Now().Add(3 * time.Minute)
	for l.Stats().DiskBytes > most {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes on disk, the limit is %d", l.Stats().DiskBytes, most)
		}
		time.Sleep(20 * time.Millisecond) // compactions run on real time
	}
	for range 2 {
		if l.Stats().Limited == 0 && l.Stats().Events > 0 {
			t.Error("nothing was counted")
		}
		for _, pattern := range []string{"c/0", "**"} {
			if reason := reasonAfter(t, l, pattern, first); reason != fanfare.GapTrimmed {
				t.Errorf("%s: %q", pattern, reason)
			}
		}
		page, err := l.Read(t.Context(), fanfare.Query{Patterns: patternsOf(t, "**"), After: last - 1})
		if err != nil || len(page.Events) != 1 {
			t.Fatalf("the newest event: %d, %v", len(page.Events), err)
		}
		if n := len(dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "c/*"), After: last - 2000})); n < 1000 {
			t.Errorf("only %d of the newest 2000 are left", n)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = openTest(t, o)
	}
}

// TestMaxBytesSparesWhatFits: what retention has deleted, and the store has not tidied up yet, is
// no reason to remove more.
func TestMaxBytesSparesWhatFits(t *testing.T) {
	rule, err := fanfare.ParseRule("**=count:10")
	if err != nil {
		t.Fatal(err)
	}
	l := openTest(t, Options{Dir: t.TempDir(), Durability: DurabilityAsync, TrimInterval: time.Hour,
		Retention: []fanfare.Rule{rule}})
	status := put(t, l, "status", "the only one of its channel, and the oldest of all")[0]
	r := rand.New(rand.NewPCG(1, 2))
	payload := make([]byte, 900)
	for i := range 300 {
		var batch []string
		for range 100 {
			for k := range payload {
				payload[k] = byte('a' + r.IntN(26))
			}
			batch = append(batch, string(payload))
		}
		put(t, l, fmt.Sprint("c/", i%20), batch...)
	}
	// All of it as tables, which hold what retention has deleted as well.
	if err := l.read(t.Context(), func(s *session) error { return s.db.Flush() }); err != nil {
		t.Fatal(err)
	}
	sweepNow(t, l)
	used := func() int64 { return int64(l.session.db.Metrics().DiskSpaceUsage()) }
	most := used() * 2 / 3
	if most < 4<<20 {
		t.Fatalf("only %d bytes are on disk: the test tests nothing", used())
	}
	l.SetMaxBytes(most)
	// Compactions run on real time.
	for deadline := time.Now().Add(3 * time.Minute); used() > most; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes on disk, the limit is %d", used(), most)
		}
	}
	if got := dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "status"), After: status - 1}); len(got) != 1 {
		t.Errorf("the oldest event was removed, though all that is retained fits many times; %d cuts",
			l.Stats().Limited)
	}
}

// TestSince finds a time by the table, in one channel and in many, after a reopen, and when the
// clock went back.
func TestSince(t *testing.T) {
	t.Parallel()
	clock := newTestClock()
	o := clock.options("**=count:1000000")
	l := openTest(t, o)
	type published struct {
		at int64
		n  string
	}
	var all []published
	put1 := func(channel string) {
		n := fmt.Sprint(len(all))
		all = append(all, published{clock.now().UnixMilli(), n})
		put(t, l, channel, n)
	}
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 1500 {
		put1(fmt.Sprint("c/", i%3))
		switch {
		case i == 500:
			clock.jump(-10 * time.Minute)
		case i == 900:
			clock.jump(-30 * time.Second)
		case i%3 == 0:
			clock.pass(time.Duration(r.IntN(3000)) * time.Millisecond)
		}
		if i == 700 {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = openTest(t, o)
		}
	}
	for range 200 {
		since := time.UnixMilli(all[r.IntN(len(all))].at + int64(r.IntN(3)) - 1)
		var want []string
		for _, p := range all {
			if p.at >= since.UnixMilli() {
				want = append(want, p.n)
			}
		}
		got := dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "**"), Since: since})
		merged := dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "c/0", "c/1", "c/2"), Since: since})
		if strings.Join(got, " ") != strings.Join(want, " ") || strings.Join(merged, " ") != strings.Join(want, " ") {
			t.Fatalf("since %v: %d by scan, %d by index, want %d", since, len(got), len(merged), len(want))
		}
	}
	clock.pass(time.Hour)
	put(t, l, "c/0", "later")
	clock.pass(time.Hour)
	put(t, l, "c/0", "later still")
	before := l.Stats().EventsRead
	dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "**"), Since: clock.now().Add(-time.Second)})
	if read := l.Stats().EventsRead - before; read > 2*secondEvents {
		t.Errorf("%d events were read to find the last second", read)
	}
}

// TestSecondsStayFew: the table is thinned when it is old, and cut with the log.
func TestSecondsStayFew(t *testing.T) {
	t.Parallel()
	clock := newTestClock()
	l := openTest(t, clock.options("**=age:48h"))
	many := make([]string, secondEvents)
	for range 600 {
		put(t, l, "a", many...)
		clock.pass(time.Second)
	}
	if n := keysOf(t, l)["t"]; n < 500 {
		t.Fatalf("%d seconds are noted", n)
	}
	clock.pass(25 * time.Hour)
	sweepNow(t, l)
	if n := keysOf(t, l)["t"]; n < 9 || n > 12 {
		t.Errorf("%d entries for ten old minutes", n)
	}
	clock.pass(24 * time.Hour)
	sweepNow(t, l)
	if n := keysOf(t, l)["t"]; n > 2 {
		t.Errorf("%d entries for an empty log", n)
	}
}

// TestBoundAgreesWithMarks: a resume on a pattern must answer the same whether it looks at each
// channel or only at what the rules can say.
func TestBoundAgreesWithMarks(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		clock := newTestClock()
		l := openTest(t, clock.options("**=age:10m", "b/**=age:2m"))
		var positions []fanfare.Position
		for range 150 {
			positions = append(positions, put(t, l, fmt.Sprintf("%c/%d", 'a'+rune(r.IntN(2)), r.IntN(6)), "x")...)
			switch r.IntN(8) {
			case 0, 1, 2:
				clock.pass(time.Duration(r.IntN(60)) * time.Second)
			case 3:
				clock.jump(-time.Duration(r.IntN(50)) * time.Second)
			case 4:
				if r.IntN(5) == 0 {
					clock.jump(-20 * time.Minute)
				}
			case 5:
				sweepNow(t, l)
			case 6:
				clock.jump(time.Duration(r.IntN(3)-1) * 40 * time.Hour)
			}
			at := positions[r.IntN(len(positions))]
			for _, pattern := range []string{"**", "a/*", "b/**", "*/3"} {
				got := reasonAfter(t, l, pattern, at)
				err := l.read(t.Context(), func(s *session) error {
					var highest fanfare.Position
					steps := 1 << 30
					p := mustPattern(t, pattern)
					_, err := s.readers.eachName(t.Context(), p, textKey(keyChannel, p.LiteralPrefix()), &steps,
						func(c fanfare.Channel) bool {
							mark, err := s.catalog.markOf(c)
							if err != nil {
								t.Error(err)
							}
							highest = max(highest, mark)
							return true
						})
					if highest > at && got != fanfare.GapTrimmed {
						t.Errorf("seed %d: %s after %v: %q, but a channel is trimmed up to %v", seed, pattern, at, got,
							highest)
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// TestClockThatJumpsAnHour deletes nothing, whichever way it goes; when it stays ahead for an hour
// it is believed.
func TestClockThatJumpsAnHour(t *testing.T) {
	var text strings.Builder
	clock := newTestClock()
	o := clock.options("**=age:30m")
	o.Logger = slog.New(slog.NewTextHandler(&text, nil))
	l := openTest(t, o)
	key := fanfare.Key{Scope: "s", Text: "k", Fingerprint: [16]byte{1}}
	c, _ := fanfare.ParseChannel("a")
	keyed := func() fanfare.Receipt {
		r, err := logtest.Append(l, &fanfare.Batch{Events: []fanfare.Event{{Channel: c, Data: "keyed"}}, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	keyed()
	holds := func(when string, want int) {
		t.Helper()
		sweepNow(t, l)
		if n := len(dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "a")})); n != want {
			t.Errorf("%s: %d events, want %d", when, n, want)
		}
	}
	clock.jump(time.Hour)
	holds("an hour ahead", 1)
	if !keyed().Replayed {
		t.Error("the jump made the log forget an idempotency key")
	}
	put(t, l, "a", "stamped ahead")
	clock.jump(-time.Hour)
	holds("and back", 2)
	clock.jump(-time.Hour)
	put(t, l, "a", "stamped behind")
	holds("an hour behind", 3)
	clock.pass(20 * time.Minute)
	holds("20 minutes later", 3)
	clock.jump(time.Hour)
	holds("right again", 3)
	if l.Stats().ClockJumps < 2 || !strings.Contains(text.String(), "the clock has jumped ahead") ||
		!strings.Contains(text.String(), "the clock has jumped back") {
		t.Errorf("%d jumps counted; log:\n%s", l.Stats().ClockJumps, &text)
	}
	clock.pass(11 * time.Minute) // all three are 31 minutes old, whatever they are stamped with
	holds("31 minutes after the first", 0)
	put(t, l, "a", "another")
	clock.jump(24 * time.Hour)
	put(t, l, "a", "stamped a day ahead")
	holds("a day ahead", 2)
	clock.pass(29 * time.Minute)
	holds("for half an hour", 2)
	clock.pass(32 * time.Minute)
	put(t, l, "a", "young")
	holds("for an hour", 1)
}

// TestSetRetention changes the rules of a running log; what Retention says it would remove is what
// goes.
func TestSetRetention(t *testing.T) {
	clock := newTestClock()
	o := clock.options("**=age:7d")
	l := openTest(t, o)
	for i := range 10 {
		put(t, l, "a/1", fmt.Sprint(i, "aaaaaaaaa"))
		put(t, l, "b", fmt.Sprint(i))
	}
	rules := []fanfare.Rule{{Pattern: mustPattern(t, "a/*"), Count: 3}, o.Retention[0]}
	reports, err := l.Retention(t.Context(), rules)
	if err != nil || len(reports) != 2 {
		t.Fatalf("%+v, %v", reports, err)
	}
	if r := reports[0]; r.Channels != 1 || r.Events != 10 || r.Bytes != 100 || r.RemovesEvents != 7 ||
		r.RemovesBytes != 70 || r.Oldest.IsZero() {
		t.Errorf("a/*: %+v", r)
	}
	if r := reports[1]; r.Channels != 1 || r.Events != 10 || r.RemovesEvents != 0 {
		t.Errorf("**: %+v", r)
	}
	if n := len(dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "a/1")})); n != 10 {
		t.Errorf("asking has removed something: %d left", n)
	}
	if err := l.SetRetention(rules); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "a/1")}); len(got) != 3 || got[0] != "7aaaaaaaaa" {
			t.Errorf("a/1 holds %q", got)
		}
		if got := dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "b")}); len(got) != 10 {
			t.Errorf("b holds %q", got)
		}
		sweepNow(t, l)
	}
	reports, err = l.Retention(t.Context(), nil)
	if err != nil || reports[0].Events != 3 || reports[0].RemovesEvents != 0 {
		t.Errorf("now: %+v, %v", reports, err)
	}
}

func TestOverlaps(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a/**", "a", false}, {"a/**", "a/b/c", true}, {"*/b", "a/*", true},
		{"*/b", "a/c", false}, {"**", "a/b", true}, {"a/*", "a/*/c", false}, {"*/x/**", "a/**", true}, {"*/x/**",
			"a/y/**", false},
	} {
		a, b := mustPattern(t, c.a), mustPattern(t, c.b)
		if a.Overlaps(b) != c.want || b.Overlaps(a) != c.want {
			t.Errorf("%s and %s: want %v", c.a, c.b, c.want)
		}
	}
}

// TestFits: what is retained is known by the sums of the index, not by what the store has tidied
// up; where there are no sums, nobody says that it fits.
func TestFits(t *testing.T) {
	l := openTest(t, newTestClock().options("**=count:10"))
	for range 100 {
		put(t, l, "a", strings.Repeat("x", 100)) // ten of these take 1,800 bytes at least
	}
	for _, c := range []struct {
		target  int64
		unsized fanfare.Position
		want    bool
	}{{2500, 0, true}, {2300, 0, false}, {2500, fanfare.Position(l.durable.Load()), false}} {
		l.session.catalog.unsized = c.unsized
		err := l.read(t.Context(), func(s *session) error {
			got, err := s.limiter.fits(c.target)
			if got != c.want {
				t.Errorf("fits %d, no sums up to %v: %v", c.target, c.unsized, got)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
