package pebblelog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
)

// later schedules an event of channel a.
func (c *clockTest) later(data string, at time.Time, ttl time.Duration, key string) fanfare.Receipt {
	c.Helper()
	b := &fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("a"), Data: data}}, DeliverAt: at}
	if ttl > 0 {
		b.TTL = []time.Duration{ttl}
	}
	if key != "" {
		b.Keys = []fanfare.Key{{Scope: "s", Text: key}}
	}
	r, err := logtest.Append(c.log, b)
	if err != nil {
		c.Fatal(err)
	}
	return r
}

// due has a group come.
func (c *clockTest) due() {
	c.Helper()
	if err := c.log.command(fallDue{}); err != nil {
		c.Fatal(err)
	}
}

func (c *clockTest) has(want ...string) {
	c.Helper()
	if got := dataOf(c.T, c.log, fanfare.Query{Patterns: patternsOf(c.T, "a")}); !slices.Equal(got, want) {
		c.Fatalf("the channel has %v, want %v", got, want)
	}
}

// waits checks which scheduled events there are, in which order.
func (c *clockTest) waits(want ...string) {
	c.Helper()
	got := []string{}
	for q := (fanfare.ScheduledQuery{Patterns: patternsOf(c.T, "**"), Limit: 3}); ; {
		page, err := c.log.Scheduled(c.Context(), q)
		if err != nil {
			c.Fatal(err)
		}
		for _, e := range page.Events {
			got = append(got, e.Event.Data)
		}
		if q.After = page.Next; !page.More {
			break
		}
	}
	if !slices.Equal(got, want) && len(got)+len(want) > 0 {
		c.Fatalf("what waits is %v, want %v", got, want)
	}
	if n := c.log.Stats().Scheduled; n != uint64(len(want)) {
		c.Fatalf("%d events are counted that wait, there are %d", n, len(want))
	}
}

// TestSchedule: a scheduled event is published when it is due and not before, in the order of the
// times, across stops, crashes and a day off, and is nothing to a reader until then.
func TestSchedule(t *testing.T) {
	for _, how := range []across{running, stopped, killed} {
		t.Run(string(how), func(t *testing.T) {
			c := newClockTest(t, DurabilitySync, "**=age:1h")
			now := c.clock.now()
			ids := []fanfare.ScheduledID{}
			for i, minute := range []int{30, 10, 20, 40, 10} {
				r := c.later(fmt.Sprint(i), now.Add(time.Duration(minute)*time.Minute), 0, "")
				if len(r.Positions) > 0 || r.Scheduled == 0 ||
					!r.DeliverAt.Equal(now.Add(time.Duration(minute)*time.Minute)) {
					t.Fatalf("%+v", r)
				}
				ids = append(ids, r.Scheduled)
			}
			c.jump(0, how)
			c.waits("1", "4", "2", "0", "3")
			c.has()
			if _, stored := try(t, c.log, "a", fanfare.IfNone()); !stored {
				t.Error("a scheduled event is in the way")
			}
			c.clock.pass(10*time.Minute - time.Millisecond)
			c.due()
			c.has("x")
			c.clock.pass(time.Millisecond)
			c.jump(0, how)
			c.due()
			c.has("x", "1", "4")
			c.waits("2", "0", "3")
			if e, ok, err := c.log.ScheduledAt(t.Context(), ids[2]); err != nil || !ok || e.Event.Data != "2" ||
				e.ID != ids[2] {
				t.Errorf("%+v %v %v", e, ok, err)
			}
			if _, ok, err := c.log.ScheduledAt(t.Context(), ids[1]); err != nil || ok {
				t.Error("an event that was published waits", err)
			}
			c.jump(24*time.Hour, stopped) // a day off
			c.due()
			if got := dataOf(t, c.log, fanfare.Query{Patterns: patternsOf(t, "a"),
				After: c.log.session.catalog.runs.first - 1}); !slices.Equal(got, []string{"2", "0", "3"}) {
				t.Errorf("after a day off came %v", got)
			}
			c.waits()
			if st := c.log.Stats(); st.FellDue != 3 || st.Late != 3 {
				t.Errorf("%d fell due, %d late", st.FellDue, st.Late)
			}
		})
	}
}

// TestScheduleByItself: what falls due is published though nothing else happens.
func TestScheduleByItself(t *testing.T) {
	c := newClockTest(t, DurabilitySync, "**=age:1h")
	heard := &hearer{came: make(chan fanfare.Event, 10)}
	_, stop := c.log.Watch(heard)
	defer stop()
	at := c.clock.now().Add(time.Minute)
	c.later("1", at, 0, "")
	c.later("2", at.Add(time.Hour), 0, "")
	c.clock.pass(time.Minute)
	if e := <-heard.came; e.Data != "1" || !e.Time.Equal(at) {
		t.Errorf("%+v", e)
	}
	c.waits("2")
}

type hearer struct{ came chan fanfare.Event }

func (h *hearer) Committed(events []fanfare.Event, _ fanfare.Position) {
	for _, e := range events {
		h.came <- e
	}
}
func (*hearer) Reopened(fanfare.Position) {}

// TestScheduleTTL: the life of a scheduled event begins when it is due, also when it is published
// late; one that is over by then is not published.
func TestScheduleTTL(t *testing.T) {
	c := newClockTest(t, DurabilitySync, "**=age:1h")
	at := c.clock.now().Add(10 * time.Minute)
	c.later("short", at, time.Minute, "")
	c.later("long", at, 20*time.Minute, "")
	c.jump(15*time.Minute, stopped)
	c.due()
	c.has("long")
	if st := c.log.Stats(); st.Expired != 1 || st.FellDue != 1 {
		t.Errorf("%+v", st)
	}
	c.clock.pass(15*time.Minute - time.Millisecond)
	c.has("long")
	c.clock.pass(time.Millisecond)
	c.has()
}

// TestScheduleClock: a jump of the clock ahead publishes nothing before it has stood for five
// minutes.
func TestScheduleClock(t *testing.T) {
	c := newClockTest(t, DurabilitySync, "**=age:1h")
	c.later("1", c.clock.now().Add(10*time.Minute), 0, "")
	c.jump(time.Hour, running)
	c.due()
	c.has()
	c.clock.pass(4 * time.Minute)
	c.due()
	c.has()
	c.clock.pass(time.Minute + time.Second)
	c.due()
	c.has("1")
}

// TestScheduleKeys: the idempotency key of a scheduled event lives until ten minutes after it was
// published or canceled, and is that of nothing else.
func TestScheduleKeys(t *testing.T) {
	for _, end := range []string{"published", "canceled"} {
		t.Run(end, func(t *testing.T) {
			c := newClockTest(t, DurabilitySync, "**=age:10h")
			at := c.clock.now().Add(time.Hour)
			first := c.later("1", at, 0, "k")
			again := func() fanfare.Receipt { t.Helper(); return c.later("1", at, 0, "k") }
			c.put("plain")
			_, err := logtest.Append(c.log, &fanfare.Batch{DeliverAt: at, Key: fanfare.Key{Scope: "s", Text: "plain",
				Fingerprint: [16]byte{1}}, Events: []fanfare.Event{{Channel: logtest.Channel("a")}}})
			if fanfare.CodeOf(err) != fanfare.CodeConflict {
				t.Errorf("scheduled under another publish's key: %v", err)
			}
			c.clock.pass(50 * time.Minute)
			c.jump(0, killed)
			if r := again(); !r.Replayed || r.Scheduled != first.Scheduled || !r.DeliverAt.Equal(at) {
				t.Fatalf("a repeat: %+v", r)
			}
			_, err = logtest.Append(c.log, &fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("a")}},
				Keys: []fanfare.Key{{Scope: "s", Text: "k"}}})
			if fanfare.CodeOf(err) != fanfare.CodeConflict {
				t.Errorf("another publish under the key: %v", err)
			}
			if end == "canceled" {
				if ok, err := c.log.Cancel(t.Context(), first.Scheduled); err != nil || !ok {
					t.Fatal(ok, err)
				}
			} else {
				c.clock.pass(10 * time.Minute)
				c.due()
				c.has("plain", "1")
			}
			c.waits()
			c.clock.pass(9 * time.Minute)
			if r := again(); !r.Replayed || r.Scheduled != first.Scheduled {
				t.Fatalf("a repeat after it was %s: %+v", end, r)
			}
			c.clock.pass(2 * time.Minute)
			if r := again(); r.Replayed || r.Scheduled <= first.Scheduled {
				t.Errorf("the key is never forgotten: %+v", r)
			}
		})
	}
}

// TestScheduleCancelRace: of a cancel that races with the event's falling due, exactly one happens.
func TestScheduleCancelRace(t *testing.T) {
	c := newClockTest(t, DurabilitySync, "**=age:1h")
	rng := rand.New(rand.NewPCG(1, 1))
	canceled, at := 0, c.clock.now()
	const rounds = 200
	for i := range rounds {
		at = at.Add(time.Minute)
		r := c.later(fmt.Sprint(i), at, 0, "")
		c.clock.pass(time.Minute - time.Millisecond)
		var wg sync.WaitGroup
		ok := false
		cancel := func() {
			var err error
			if ok, err = c.log.Cancel(t.Context(), r.Scheduled); err != nil {
				t.Error(err)
			}
		}
		if rng.IntN(2) == 0 {
			wg.Go(cancel)
			c.clock.pass(time.Millisecond)
		} else {
			c.clock.pass(time.Millisecond)
			wg.Go(cancel)
		}
		wg.Wait()
		c.due()
		published := slices.Contains(dataOf(t, c.log, fanfare.Query{Patterns: patternsOf(t, "a")}), fmt.Sprint(i))
		if published == ok {
			t.Fatalf("round %d: canceled %v, published %v", i, ok, published)
		}
		if again, err := c.log.Cancel(t.Context(), r.Scheduled); again || err != nil {
			t.Fatal("canceled twice", err)
		}
		if ok {
			canceled++
		}
	}
	t.Logf("%d of %d were canceled in time", canceled, rounds)
}

// TestScheduleLimits: what is scheduled is bounded by its bytes, and a batch that cannot be
// scheduled is refused.
func TestScheduleLimits(t *testing.T) {
	c := &clockTest{T: t, clock: newTestClock(), keys: map[string]fanfare.Position{}}
	c.o = c.clock.options("**=age:1h")
	c.o.MaxScheduledBytes = 500
	c.log = openTest(t, c.o)
	at := c.clock.now().Add(time.Hour)
	var id fanfare.ScheduledID
	for range 7 {
		id = c.later("12345", at, 0, "").Scheduled
	}
	b := &fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("a"), Data: "12345"}}, DeliverAt: at}
	_, err := logtest.Append(c.log, b)
	if e, ok := errors.AsType[*fanfare.Error](err); !ok || e.Code != fanfare.CodeOverloaded ||
		e.Setting != fanfare.SettingMaxScheduledBytes {
		t.Errorf("over the limit: %v", err)
	}
	if ok, err := c.log.Cancel(t.Context(), id); !ok || err != nil {
		t.Fatal(ok, err)
	}
	c.later("12345", at, 0, "")
	full := func() *fanfare.Batch {
		return &fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("a"), Data: "command"}},
			Keys: []fanfare.Key{{Scope: "s", Text: "k"}}, Later: []fanfare.Later{{ID: 7, At: at,
				Event: fanfare.Event{Channel: logtest.Channel("b"), Data: "expiry"}}}}
	}
	if _, err := logtest.Append(c.log, full()); fanfare.CodeOf(err) != fanfare.CodeOverloaded {
		t.Errorf("a batch that brings more along: %v", err)
	}
	c.has()
	if ok, err := c.log.Cancel(t.Context(), c.waiting()); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for i := range 2 { // there is no room for the repeat, which needs none
		if r, err := logtest.Append(c.log, full()); err != nil || r.Replayed != (i == 1) {
			t.Errorf("%d: %+v %v", i, r, err)
		}
	}
	for _, b := range []*fanfare.Batch{
		{Later: full().Later},
		{Cancel: []fanfare.ScheduledID{7}},
		{DeliverAt: at},
		{DeliverAt: at, Events: make([]fanfare.Event, 2)},
		{DeliverIn: time.Hour, Events: make([]fanfare.Event, 1), If: []fanfare.Condition{fanfare.IfNone()}},
	} {
		if _, err := logtest.Append(c.log, b); fanfare.CodeOf(err) != fanfare.CodeInvalid {
			t.Errorf("%+v: %v", b, err)
		}
	}
}

// waiting is the id of a scheduled event.
func (c *clockTest) waiting() fanfare.ScheduledID {
	c.Helper()
	page, err := c.log.Scheduled(c.Context(), fanfare.ScheduledQuery{Patterns: patternsOf(c.T, "**"), Limit: 1})
	if err != nil || len(page.Events) != 1 {
		c.Fatal(page, err)
	}
	return page.Events[0].ID
}

// TestScheduleMany: what falls due at once is published in order, in groups that are bounded.
func TestScheduleMany(t *testing.T) {
	c := newClockTest(t, DurabilityMemory, "**=age:1h")
	at := c.clock.now().Add(time.Hour)
	const n = 2*dueMost + 500
	var want []string
	var wg sync.WaitGroup
	for i := range n {
		want = append(want, fmt.Sprint(i))
		b := &fanfare.Batch{DeliverAt: at,
			Events: []fanfare.Event{{Channel: logtest.Channel("a"), Data: fmt.Sprint(i)}}}
		wg.Add(1)
		c.log.Append(b, func(_ fanfare.Receipt, err error) {
			if err != nil {
				t.Error(err)
			}
			wg.Done()
		})
	}
	wg.Wait()
	groups := c.log.Stats().Groups
	c.clock.pass(time.Hour)
	for range 3 {
		c.due()
	}
	c.has(want...)
	if more := c.log.Stats().Groups - groups; more < 3 {
		t.Errorf("%d events fell due in %d groups", n, more)
	}
}

// TestScheduledReadsLittle: a page ends at its bytes, whether the patterns match what was read or
// not; all pages together have all that match.
func TestScheduledReadsLittle(t *testing.T) {
	c := newClockTest(t, DurabilityAsync)
	at := c.clock.now().Add(time.Hour)
	const count, size = 20, 10 << 10
	for i := range count {
		b := &fanfare.Batch{DeliverAt: at, Events: []fanfare.Event{{Channel: logtest.Channel([]string{"a", "b"}[i%2]),
			Data: strings.Repeat("x", size)}}}
		if _, err := logtest.Append(c.log, b); err != nil {
			t.Fatal(err)
		}
	}
	for pattern, want := range map[string]int{"a": count / 2, "none": 0, "**": count} {
		found, pages := 0, 0
		for q := (fanfare.ScheduledQuery{Patterns: patternsOf(t, pattern), Bytes: 2 * size}); ; {
			page, err := c.log.Scheduled(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			found, pages = found+len(page.Events), pages+1
			if q.After = page.Next; !page.More {
				break
			}
		}
		if found != want || pages < count/2 {
			t.Errorf("%s: %d events on %d pages, want %d on %d or more", pattern, found, pages, want, count/2)
		}
	}
	q := fanfare.ScheduledQuery{Patterns: patternsOf(t, "a"), Bytes: 2 * size, ByChannel: true}
	for found := 0; ; {
		page, err := c.log.Scheduled(t.Context(), q)
		if found += len(page.Events); err != nil || len(page.Events) > 2 {
			t.Fatalf("%d events, %v", len(page.Events), err)
		}
		if q.After = page.Next; !page.More {
			if found != count/2 {
				t.Errorf("by channel: %d events", found)
			}
			break
		}
	}
}
