package pebblelog

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
)

// standsAlone is a log whose groups are recorded.
func standsAlone(t *testing.T, rules ...string) (*first, *recorder) {
	f, record := &first{T: t, clock: newTestClock(), random: rand.New(rand.NewPCG(1, 1))}, &recorder{}
	record.settled.L = &record.mu
	f.newest = map[fanfare.Channel]fanfare.Position{}
	o := f.clock.options(rules...)
	o.order = func(own order) order { record.order = own; return record }
	f.log = openTest(t, o)
	return f, record
}

// TestForgetIsConditional: a channel that had an event since a sweep found it empty is not
// forgotten, nor is one that was forgotten meanwhile and has come again with as many events.
func TestForgetIsConditional(t *testing.T) {
	f, _ := standsAlone(t, "**=age:1m")
	found := func(seq uint64, through fanfare.Position) forgetChannels {
		name, _ := fanfare.ParseChannel("a")
		return forgetChannels{{name, seq, through, through}}
	}
	old := put(t, f.log, "a", "1")[0]
	put(t, f.log, "a", "2")
	if err := f.log.command(found(1, old)); err != nil {
		t.Fatal(err)
	}
	if got := dataOf(t, f.log, fanfare.Query{Patterns: patternsOf(t, "a")}); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("after an event more a is forgotten: it has %q", got)
	}
	f.clock.pass(2 * time.Minute)
	sweepNow(t, f.log)
	put(t, f.log, "a", "3")
	if err := f.log.command(found(1, old)); err != nil {
		t.Fatal(err)
	}
	if got := dataOf(t, f.log, fanfare.Query{Patterns: patternsOf(t, "a")}); !slices.Equal(got, []string{"3"}) {
		t.Errorf("a has come again, and has %q", got)
	}
	if n := f.log.Stats().Forgotten; n != 1 {
		t.Errorf("%d channels were forgotten, want 1", n)
	}
}

// commandsOf returns the requests of a kind of command, as they came out of the order.
func commandsOf[C command](groups []*group) (list []*request) {
	for _, g := range groups {
		for _, r := range copyGroup(g).requests {
			if _, ok := r.command.(C); ok {
				list = append(list, r)
			}
		}
	}
	return list
}

// TestForgetThenRules: when one group forgets a channel and replaces the rules, only floors of the
// new rules stay.
func TestForgetThenRules(t *testing.T) {
	f, record := standsAlone(t, "**=age:1m")
	put(t, f.log, "a", "1")
	f.clock.pass(2 * time.Minute)
	sweepNow(t, f.log)
	if err := f.log.SetRetention(f.clock.options("b/**=age:1m", "c/**=age:1m").Retention); err != nil {
		t.Fatal(err)
	}
	groups, _ := record.from(0)
	both := &group{terms: groups[len(groups)-1].terms}
	both.requests = append(commandsOf[forgetChannels](groups), commandsOf[changeRules](groups)...)
	r := newReplica(t, "one group for both", []string{"**=age:1m"}, 1, 0)
	r.take(f.random, []*group{groups[0], both}, make([][]answer, 2))
	floors := func(l *Log) []string {
		return slices.DeleteFunc(holds(t, l), func(line string) bool { return !strings.HasPrefix(line, `"g`) })
	}
	if diff := cmp.Diff(floors(f.log), floors(r.log)); diff != "" || len(both.requests) != 2 {
		t.Errorf("not the same (-two groups +one group):\n%s", diff)
	}
}

// TestForgetBehindAnEvent: an event of the same group keeps its channel.
func TestForgetBehindAnEvent(t *testing.T) {
	f, record := standsAlone(t, "**=age:1m")
	put(t, f.log, "a", "1")
	f.clock.pass(2 * time.Minute)
	sweepNow(t, f.log)
	put(t, f.log, "a", "2")
	groups, _ := record.from(0)
	last := copyGroup(groups[len(groups)-1])
	last.requests = append(last.requests, commandsOf[forgetChannels](groups)...)
	r := newReplica(t, "one group for both", []string{"**=age:1m"}, 1, 0)
	r.take(f.random, []*group{groups[0], last}, make([][]answer, 2))
	got := dataOf(t, r.log, fanfare.Query{Patterns: patternsOf(t, "a")})
	if !slices.Equal(got, []string{"2"}) || r.log.Stats().Forgotten != 0 {
		t.Errorf("a has %q, and %d channels were forgotten", got, r.log.Stats().Forgotten)
	}
}

// TestForgetWaits: a channel is forgotten after its events have become visible, or they would count
// for the channel that comes after it (P2).
func TestForgetWaits(t *testing.T) {
	f, record := standsAlone(t, "**=age:1m")
	put(t, f.log, "a", "1")
	f.clock.pass(2 * time.Minute)
	sweepNow(t, f.log)
	put(t, f.log, "a", "2")
	groups, _ := record.from(0)
	r := newReplica(t, "forgets at once", []string{"**=age:1m"}, 0, 0)
	r.log.watchers.Lock() // nothing becomes visible
	go func() {
		defer r.log.watchers.Unlock()
		for m := r.order.latest.Load(); m == nil || m.log == groups[0].terms.at.log; m = r.order.latest.Load() {
			runtime.Gosched()
		}
		for range 10_000 {
			runtime.Gosched() // time for the next group to be applied, if that does not wait
		}
	}()
	r.take(f.random, groups, make([][]answer, len(groups)))
	want, err := f.log.Retention(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.log.Retention(t.Context(), nil)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(fanfare.Pattern{})); diff != "" || err != nil {
		t.Errorf("%v; not the same (-first +this):\n%s", err, diff)
	}
}

// TestLookingForTheLast: the search for the last event of a channel that the sweep has just emptied
// does not go over what the sweep has deleted of other channels.
func TestLookingForTheLast(t *testing.T) {
	const channels = foldMost - 1 // as many as are emptied before some are forgotten
	clock := newTestClock()
	l := openTest(t, clock.options("**=age:1m"))
	for i := range channels {
		put(t, l, fmt.Sprint("c/", i), "x")
	}
	clock.pass(2 * time.Minute)
	err := l.read(t.Context(), func(s *session) error {
		w := sweeper{retention: s.retention, bounds: s.catalog.bounds()}
		if err := w.channels(); err != nil {
			return err
		}
		if len(w.empties) != channels {
			t.Errorf("%d channels are empty, want %d", len(w.empties), channels)
		}
		index, err := s.db.NewIter(ofKind(keyIndex))
		if err != nil {
			return err
		}
		defer index.Close()
		g := &groupWriter{applier: &applier{catalog: s.catalog}}
		for _, e := range w.empties {
			num, _, err := readNumber(s.db, textKey(keyChannel, e.name.String()))
			if err != nil {
				return err
			}
			if last, left, err := g.lastOf(num, index); err != nil || left || last != e.through {
				t.Fatalf("channel %s: %v, %v, %v", e.name, last, left, err)
			}
		}
		if steps := index.Stats().ReverseStepCount[pebble.InternalIterCall]; steps > 10*channels {
			t.Errorf("%d steps for %d channels", steps, channels)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
