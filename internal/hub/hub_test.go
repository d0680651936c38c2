package hub_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func encode(e fanfare.Event) hub.Frame {
	b := []byte(e.Channel.String() + " " + e.Data)
	return hub.Frame{Body: b, Chunk: b}
}

func newLog(t testing.TB, rules ...string) *pebblelog.Log {
	t.Helper()
	return newLogWith(t, pebblelog.Options{}, rules...)
}

func newLogWith(t testing.TB, o pebblelog.Options, rules ...string) *pebblelog.Log {
	t.Helper()
	o.Durability = pebblelog.DurabilityMemory
	for _, text := range rules {
		r, err := fanfare.ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		o.Retention = append(o.Retention, r)
	}
	l, err := pebblelog.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func newHub(t testing.TB, o hub.Options) *hub.Hub {
	o.Encode = encode
	h := hub.New(o)
	t.Cleanup(h.Close)
	return h
}

type waker chan struct{}

func (w waker) Wake() {
	select {
	case w <- struct{}{}:
	default:
	}
}

func (waker) Owner() string { return "" }

func publish(t testing.TB, l fanfare.Log, channel, data string) fanfare.Position {
	t.Helper()
	r, err := logtest.Append(l,
		&fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel(channel), Data: data}}})
	if err != nil {
		t.Fatal(err)
	}
	return r.Positions[0]
}

// opening is the start that the first turn of a subscriber tells.
type opening struct {
	Position fanfare.Position
	Gap      *fanfare.Gap
}

// subscribe takes turns until one tells the subscriber's start; that turn is thrown away.
func subscribe(t testing.TB, h *hub.Hub, start hub.Start, patterns ...string) (*hub.Subscriber, opening, waker) {
	t.Helper()
	w := make(waker, 1)
	s, err := h.Subscribe(logtest.Patterns(patterns...), start, w)
	if err != nil {
		t.Fatal(err)
	}
	at, known := s.Begins()
	if s.Opened() {
		return s, opening{Position: at}, w
	}
	for range 1_000_000 {
		var turn hub.Turn
		take(t, s, &turn)
		if turn.Opens {
			if known && turn.Begins != at {
				t.Fatalf("it began at %v, then at %v", at, turn.Begins)
			}
			return s, opening{turn.Begins, turn.Gap}, w
		}
		s.Advance(turn.Through, turn.More)
	}
	t.Fatal("the search for a start has no end")
	return nil, opening{}, nil
}

// take fills a turn, from the log where it must.
func take(t testing.TB, s *hub.Subscriber, turn *hub.Turn) {
	t.Helper()
	if !s.Next(turn) {
		if err := s.Read(context.Background(), turn); err != nil {
			t.Fatal(err)
		}
	}
}

// drain takes turns until there is nothing more.
func drain(t testing.TB, s *hub.Subscriber) (bodies []string, gaps []*fanfare.Gap) {
	t.Helper()
	var turn hub.Turn
	for {
		take(t, s, &turn)
		if turn.Gap != nil && !turn.Opens { // if it opens, subscribe has returned its gap
			gaps = append(gaps, turn.Gap)
		}
		last := turn.After
		for _, f := range turn.Frames {
			if f.Position <= last {
				t.Fatalf("frame %v after %v", f.Position, last)
			}
			last = f.Position
			bodies = append(bodies, string(f.Body))
		}
		s.Advance(turn.Through, turn.More)
		if s.Position() < last {
			t.Fatalf("complete up to %v, but %v was sent", s.Position(), last)
		}
		if !turn.More {
			return bodies, gaps
		}
	}
}

func TestStarts(t *testing.T) {
	var passed atomic.Int64
	began, elapsed := time.Now(), func() time.Duration { return time.Duration(passed.Load()) }
	l := newLogWith(t, pebblelog.Options{Elapsed: elapsed, Now: func() time.Time { return began.Add(elapsed()) }})
	h := newHub(t, hub.Options{Log: l})
	empty := l.Status().Durable
	for _, start := range []hub.Start{{}, {From: hub.FromAll}, {From: hub.FromLast, Last: 3},
		{From: hub.FromAfter, After: empty}} {
		s, begun, _ := subscribe(t, h, start, "a")
		if begun.Position != empty || begun.Gap != nil {
			t.Errorf("%+v on an empty log: %+v", start, begun)
		}
		s.Close()
	}
	var at []fanfare.Position
	for i := range 6 {
		at = append(at, publish(t, l, []string{"a", "b"}[i%2], fmt.Sprint(i)))
	}
	passed.Add(int64(20 * time.Millisecond)) // by the log's own clock
	for _, c := range []struct {
		start hub.Start
		pos   fanfare.Position
		gap   *fanfare.Gap
		want  []string
	}{
		{hub.Start{}, at[5], nil, nil},
		{hub.Start{From: hub.FromAll}, at[0] - 1, nil, []string{"a 0", "a 2", "a 4"}},
		{hub.Start{From: hub.FromLast, Last: 2}, at[2] - 1, nil, []string{"a 2", "a 4"}},
		{hub.Start{From: hub.FromLast, Last: 99}, at[0] - 1, nil, []string{"a 0", "a 2", "a 4"}},
		{hub.Start{From: hub.FromAfter, After: at[1]}, at[1], nil, []string{"a 2", "a 4"}},
		{hub.Start{From: hub.FromAfter, After: at[5]}, at[5], nil, nil},
		{hub.Start{From: hub.FromAfter, After: at[5] + 7}, at[5] + 7, &fanfare.Gap{Requested: (at[5] + 7).String(),
			Oldest: at[0], Reason: fanfare.GapFuture}, []string{"a 0", "a 2", "a 4"}},
		{hub.Start{From: hub.FromAfter, After: 1}, 1, &fanfare.Gap{Requested: fanfare.Position(1).String(),
			Oldest: at[0], Reason: fanfare.GapTrimmed}, []string{"a 0", "a 2", "a 4"}},
		{hub.Start{From: hub.FromUnknown, Requested: "junk"}, 0,
			&fanfare.Gap{Requested: "junk", Oldest: at[0], Reason: fanfare.GapUnknown}, []string{"a 0", "a 2", "a 4"}},
		{hub.Start{From: hub.FromUnknown, Requested: "junk", GapReplay: 5 * time.Millisecond}, 0,
			&fanfare.Gap{Requested: "junk", Oldest: at[5] + 1, Reason: fanfare.GapUnknown}, nil},
		{hub.Start{From: hub.FromUnknown, Requested: "junk", GapReplay: time.Hour}, 0,
			&fanfare.Gap{Requested: "junk", Oldest: at[0], Reason: fanfare.GapUnknown}, []string{"a 0", "a 2", "a 4"}},
		{hub.Start{From: hub.FromForgotten}, at[0] - 1, &fanfare.Gap{Oldest: at[0], Reason: fanfare.GapForgotten},
			[]string{"a 0", "a 2", "a 4"}},
		{hub.Start{From: hub.FromForgotten, GapReplay: time.Hour}, at[0] - 1,
			&fanfare.Gap{Oldest: at[0], Reason: fanfare.GapForgotten}, []string{"a 0", "a 2", "a 4"}},
		{hub.Start{From: hub.FromForgotten, GapReplay: 5 * time.Millisecond}, at[5],
			&fanfare.Gap{Oldest: at[5] + 1, Reason: fanfare.GapForgotten}, nil},
	} {
		s, begun, _ := subscribe(t, h, c.start, "a")
		if diff := cmp.Diff(opening{Position: c.pos, Gap: c.gap}, begun); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", c.start, diff)
		}
		got, gaps := drain(t, s)
		if diff := cmp.Diff(c.want, got); diff != "" || gaps != nil {
			t.Errorf("%+v, gaps %v (-want +got):\n%s", c.start, gaps, diff)
		}
		s.Close()
	}
}

// TestSeam is P2 and P3: subscribers come and go at random positions while publishers run flat out;
// none may see a hole, a repeat, or another order than the log's.
func TestSeam(t *testing.T) {
	for name, patterns := range map[string][]string{
		"one channel": {"c/0"}, "three channels": {"c/0", "c/1",
			"c/2"}, "a pattern": {"c/*"}, "both, overlapping": {"c/1", "c/**", "*/0", "d"},
	} {
		for _, tail := range []int{0, 20_000} { // with little memory, subscribers read the log all the time
			t.Run(fmt.Sprintf("%s/tail %d", name, tail), func(t *testing.T) { seam(t, patterns, tail) })
		}
	}
}

func seam(t *testing.T, patterns []string, tail int) {
	l := newLog(t)
	h := newHub(t, hub.Options{Log: l, TailBytes: tail})
	want := logtest.Patterns(patterns...)
	var stop atomic.Bool
	var publishers sync.WaitGroup
	for p := range 4 {
		publishers.Go(func() {
			for i := 0; !stop.Load(); i++ {
				publish(t, l, fmt.Sprintf("c/%d", (p+i)%5), fmt.Sprint(p, ".", i))
			}
		})
	}
	start := l.Status().Durable
	var subscribers sync.WaitGroup
	for range 4 {
		subscribers.Go(func() {
			for range 30 {
				after := start + fanfare.Position(rand.Uint64N(uint64(l.Status().Durable-start)+1))
				s, opening, w := subscribe(t, h, hub.Start{From: hub.FromAfter, After: after}, patterns...)
				if opening.Position != after || opening.Gap != nil {
					t.Errorf("resume after %v: %+v", after, opening)
				}
				var got []string
				for range 1 + rand.IntN(6) {
					select {
					case <-w:
					case <-time.After(time.Millisecond):
					}
					bodies, gaps := drain(t, s)
					if gaps != nil {
						t.Errorf("a gap where nothing was trimmed: %+v", gaps[0])
					}
					got = append(got, bodies...)
				}
				newest := l.Status().Durable
				for deadline := time.Now().Add(time.Minute); s.Position() < newest; { // all stored events must come
					if time.Now().After(deadline) {
						t.Errorf("the subscriber stands at %v, the log at %v", s.Position(), newest)
						break
					}
					bodies, _ := drain(t, s)
					got = append(got, bodies...)
				}
				compare(t, l, want, after, s.Position(), got)
				s.Close()
			}
		})
	}
	subscribers.Wait()
	stop.Store(true)
	publishers.Wait()
}

func compare(t *testing.T, l fanfare.Log, patterns []fanfare.Pattern, after, through fanfare.Position, got []string) {
	t.Helper()
	var want []string
	for after < through {
		page, err := l.Read(context.Background(), fanfare.Query{Patterns: patterns, After: after, Through: through})
		if err != nil {
			t.Error(err)
			return
		}
		for _, e := range page.Events {
			want = append(want, e.Channel.String()+" "+e.Data)
		}
		after = page.Through
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after %v through %v (-want +got):\n%s", after, through, diff)
	}
}

// TestJoinInTheMiddleOfACommit: a subscriber that joins a new filter while a group is being handed
// out gets the group, without waiting for the next one to wake it.
func TestJoinInTheMiddleOfACommit(t *testing.T) {
	l := newLog(t)
	before := l.Status().Durable
	var h *hub.Hub
	var joined *hub.Subscriber
	var got []string
	h = hub.New(hub.Options{Log: l, Encode: func(e fanfare.Event) hub.Frame {
		if e.Channel.String() == "heard" && joined == nil {
			var err error
			if joined, err = h.Subscribe(logtest.Patterns("new", "heard"),
				hub.Start{From: hub.FromAfter, After: before}, make(waker, 1)); err != nil {
				t.Error(err)
			}
			got, _ = drain(t, joined)
		}
		return encode(e)
	}})
	defer h.Close()
	first, _, _ := subscribe(t, h, hub.Start{}, "heard")
	defer first.Close()
	b := &fanfare.Batch{Events: []fanfare.Event{
		{Channel: logtest.Channel("new"), Data: "1"}, {Channel: logtest.Channel("heard"), Data: "2"},
	}}
	if _, err := logtest.Append(l, b); err != nil {
		t.Fatal(err)
	}
	defer joined.Close()
	if diff := cmp.Diff([]string{"new 1", "heard 2"}, got); diff != "" {
		t.Errorf("the first turn (-want +got):\n%s", diff)
	}
	if again, _ := drain(t, joined); again != nil {
		t.Errorf("twice: %v", again)
	}
}

// TestWokenOnce: a subscriber is woken by events of its channels alone, and once until it takes its
// turn.
func TestWokenOnce(t *testing.T) {
	l := newLog(t)
	h := newHub(t, hub.Options{Log: l})
	var wakes counter
	s, err := h.Subscribe(logtest.Patterns("a", "a/*"), hub.Start{}, &wakes)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 5 {
		publish(t, l, "b", "x")
	}
	if n := wakes.Load(); n != 0 {
		t.Fatalf("woken %d times by another channel", n)
	}
	for range 5 {
		publish(t, l, "a", "x")
		publish(t, l, "a/1", "x")
	}
	if n := wakes.Load(); n != 1 {
		t.Fatalf("woken %d times before its turn, want 1", n)
	}
	if got, _ := drain(t, s); len(got) != 10 {
		t.Fatalf("%d frames, want 10", len(got))
	}
	publish(t, l, "a", "x")
	if n := wakes.Load(); n != 2 {
		t.Fatalf("woken %d times after its turn, want 2", n)
	}
}

// TestCommitAfterARead: a commit after a turn was read from the log wakes the subscriber, unless
// the turn has said that another one must follow.
func TestCommitAfterARead(t *testing.T) {
	l := newLog(t)
	h := newHub(t, hub.Options{Log: l, TailBytes: 1})
	var wakes counter
	s, err := h.Subscribe(logtest.Patterns("a"), hub.Start{}, &wakes)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var turn hub.Turn
	read := make(reader, 1)
	for i, how := range []func(){
		func() {
			if err := s.Read(context.Background(), &turn); err != nil {
				t.Fatal(err)
			}
		},
		func() {
			s.ReadLater(read)
			later := <-read
			turn = hub.Turn{Frames: slices.Clone(later.Frames), Through: later.Through, More: later.More}
			later.Release()
		},
	} {
		publish(t, l, "a", "x")
		if s.Next(&turn) {
			t.Fatal("it is in memory")
		}
		how()
		more, before := turn.More, wakes.Load()
		if len(turn.Frames) != 1 {
			t.Fatalf("%d frames", len(turn.Frames))
		}
		publish(t, l, "a", "y")
		if !more && wakes.Load() == before {
			t.Errorf("%d: nobody tells of the second event", i)
		}
		s.Advance(turn.Through, turn.More)
		if got, _ := drain(t, s); len(got) != 1 {
			t.Errorf("%d: then came %v", i, got)
		}
	}
}

// TestGapOfATurnThatIsThrownAway (P4): the gap of a turn that was read and not sent is told by the
// next turn.
func TestGapOfATurnThatIsThrownAway(t *testing.T) {
	l := newLog(t, "**=count:3")
	h := newHub(t, hub.Options{Log: l, TailBytes: 1})
	s, _, _ := subscribe(t, h, hub.Start{}, "a")
	defer s.Close()
	for i := range 10 {
		publish(t, l, "a", fmt.Sprint(i))
	}
	var thrown hub.Turn
	take(t, s, &thrown)
	if thrown.Gap == nil {
		t.Fatal("there is no gap")
	}
	got, gaps := drain(t, s)
	if diff := cmp.Diff([]*fanfare.Gap{thrown.Gap}, gaps); diff != "" || len(got) != 3 {
		t.Errorf("then came %v, gaps (-want +got):\n%s", got, diff)
	}
}

type reader chan *hub.Turn

func (r reader) HaveRead(t *hub.Turn, err error) { r <- t }

// TestSharedReads: many subscribers that resume the same channel after the same position share one
// read of the log, and each gets all events.
func TestSharedReads(t *testing.T) {
	l := newLog(t)
	h := newHub(t, hub.Options{Log: l})
	after := h.Durable()
	var want []string
	for i := range 600 { // several turns
		publish(t, l, "a", fmt.Sprint(i))
		publish(t, l, "b", fmt.Sprint(i))
		want = append(want, fmt.Sprint("a ", i))
	}
	keeper, _, _ := subscribe(t, h, hub.Start{}, "a") // memory holds only channels that have a subscriber
	before := l.Stats().EventsRead
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			start, want := after, want
			if i%2 == 1 { // in the middle of the others' events
				start, want = after+200, want[100:]
			}
			s, err := h.Subscribe(logtest.Patterns("a"), hub.Start{From: hub.FromAfter, After: start}, make(waker, 1))
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if got, _ := drain(t, s); !slices.Equal(got, want) {
				t.Errorf("got %d events, want %d", len(got), len(want))
			}
		})
	}
	all.Wait()
	keeper.Close()
	if read := l.Stats().EventsRead - before; read > 3*600 {
		t.Errorf("%d events were read for 50 subscribers to 600", read)
	}
	if tails := h.Stats().TailBytes; tails != 0 {
		t.Errorf("%d bytes are left when all have gone", tails)
	}
}

type counter struct{ atomic.Int64 }

func (c *counter) Wake()       { c.Add(1) }
func (*counter) Owner() string { return "" }

// TestLaggardIsTold: retention overtakes a subscriber that does not read. It is told of the gap
// once, and then gets the events that are left.
func TestLaggardIsTold(t *testing.T) {
	l := newLog(t, "**=count:3")
	h := newHub(t, hub.Options{Log: l, TailBytes: 1})
	s, _, _ := subscribe(t, h, hub.Start{}, "a")
	defer s.Close()
	before := s.Position()
	var at fanfare.Position
	for i := range 10 {
		at = publish(t, l, "a", fmt.Sprint(i))
	}
	got, gaps := drain(t, s)
	if diff := cmp.Diff([]string{"a 7", "a 8", "a 9"}, got); diff != "" {
		t.Error(diff)
	}
	want := []*fanfare.Gap{{Requested: before.String(), Oldest: at - 2, Reason: fanfare.GapTrimmed}}
	if diff := cmp.Diff(want, gaps); diff != "" {
		t.Error(diff)
	}
	publish(t, l, "a", "x")
	if _, gaps := drain(t, s); gaps != nil {
		t.Errorf("told again: %+v", gaps[0])
	}
}

// TestLaggardIsToldOnce: the gap is told once, though the events that are left below the trim mark
// take several turns.
func TestLaggardIsToldOnce(t *testing.T) {
	const events = 600 // more than two turns
	l := newLog(t, "a=count:1", "**=count:1000")
	h := newHub(t, hub.Options{Log: l, TailBytes: 1})
	s, _, _ := subscribe(t, h, hub.Start{}, "a", "b")
	defer s.Close()
	before := s.Position()
	publish(t, l, "a", "0")
	for i := range events {
		publish(t, l, "b", fmt.Sprint(i))
	}
	trimmed := publish(t, l, "a", "1")
	publish(t, l, "a", "2")
	got, gaps := drain(t, s)
	if len(got) != events+1 || got[0] != "b 0" || got[events] != "a 2" {
		t.Errorf("%d events, from %s to %s", len(got), got[0], got[len(got)-1])
	}
	want := []*fanfare.Gap{{Requested: before.String(), Oldest: trimmed - events, Reason: fanfare.GapTrimmed}}
	if diff := cmp.Diff(want, gaps); diff != "" {
		t.Error(diff)
	}
}

// TestGapWithSeveralChannels: X is below one channel's trim mark and not the other's; nothing
// retained is missing or repeated.
func TestGapWithSeveralChannels(t *testing.T) {
	l := newLog(t, "a=count:2", "**=count:1000")
	h := newHub(t, hub.Options{Log: l})
	var at []fanfare.Position
	for i := range 10 {
		at = append(at, publish(t, l, []string{"a", "b"}[i%2], fmt.Sprint(i)))
	}
	s, begun, _ := subscribe(t, h, hub.Start{From: hub.FromAfter, After: at[2]}, "a", "b")
	defer s.Close()
	want := opening{Position: at[2],
		Gap: &fanfare.Gap{Requested: at[2].String(), Oldest: at[3], Reason: fanfare.GapTrimmed}}
	if diff := cmp.Diff(want, begun); diff != "" {
		t.Error(diff)
	}
	got, gaps := drain(t, s)
	if diff := cmp.Diff([]string{"b 3", "b 5", "a 6", "b 7", "a 8", "b 9"}, got); diff != "" || gaps != nil {
		t.Errorf("gaps %v: %s", gaps, diff)
	}
	only, begun, _ := subscribe(t, h, hub.Start{From: hub.FromAfter, After: at[2]}, "b")
	defer only.Close()
	if begun.Gap != nil {
		t.Errorf("another channel's trim mark: %+v", begun.Gap)
	}
}

// TestNoAllocationForEachSubscriber: a commit allocates a number of times for each event that has a
// listener, and nothing for each subscriber.
func TestNoAllocationForEachSubscriber(t *testing.T) {
	allocs := func(subscribers int) float64 {
		h := newHub(t, hub.Options{Log: newLog(t), TailBytes: 4 << 10}) // full memory neither grows nor shrinks
		for range subscribers {
			s, err := h.Subscribe(logtest.Patterns("a"), hub.Start{}, make(waker, 1))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
		}
		events := []fanfare.Event{{Channel: logtest.Channel("a"), Data: "x", Position: h.Durable()}}
		commit := func() {
			events[0].Position++
			h.Committed(events, events[0].Position)
		}
		for range 2000 {
			commit()
		}
		return testing.AllocsPerRun(2000, commit)
	}
	one, many := allocs(1), allocs(1000)
	if many > one+0.1 {
		t.Fatalf("%.2f allocations a commit with 1,000 subscribers, %.2f with 1", many, one)
	}
}

// TestNoAllocationInATurn: a turn that is served from memory allocates nothing.
func TestNoAllocationInATurn(t *testing.T) {
	h := newHub(t, hub.Options{Log: newLog(t)})
	s, _, _ := subscribe(t, h, hub.Start{}, "a", "b", "*")
	defer s.Close()
	events := []fanfare.Event{{Channel: logtest.Channel("a"), Data: "x", Position: h.Durable()}}
	const runs = 500
	for range runs + 10 {
		events[0].Position++
		h.Committed(events, events[0].Position)
	}
	var turn hub.Turn
	if !s.Next(&turn) {
		t.Fatal("not in memory")
	}
	s.Advance(turn.Through, turn.More)
	n := testing.AllocsPerRun(5, func() {
		if !s.Next(&turn) || len(turn.Frames) == 0 {
			t.Fatalf("%d frames", len(turn.Frames))
		}
		s.Advance(turn.Frames[len(turn.Frames)/8].Position, true)
	})
	if n > 0 {
		t.Fatalf("%.1f allocations in a turn", n)
	}
}

// TestTailsKeepTheirBudget: memory keeps its budget, and a filter whose last subscriber has left
// costs nothing.
func TestTailsKeepTheirBudget(t *testing.T) {
	l := newLog(t)
	h := newHub(t, hub.Options{Log: l, TailBytes: 10_000})
	var subs []*hub.Subscriber
	for i := range 50 {
		s, _, _ := subscribe(t, h, hub.Start{}, fmt.Sprint("c", i), "*/nothing")
		subs = append(subs, s)
	}
	for i := range 1000 {
		publish(t, l, fmt.Sprint("c", i%50), "some data of some length")
	}
	if st := h.Stats(); st.TailBytes > 10_000 || st.TailBytes < 5_000 || st.Filters != 51 || st.Subscribers != 50 {
		t.Errorf("%+v", st)
	}
	for i, s := range subs {
		if got, gaps := drain(t, s); len(got) != 20 || gaps != nil {
			t.Errorf("subscriber %d got %d of 20 events, gaps %v", i, len(got), gaps)
		}
		s.Close()
		s.Close()
	}
	if st := h.Stats(); st.Filters != 0 || st.Subscribers != 0 {
		t.Errorf("after all have gone: %+v", st)
	}
}

func TestRoomAndDrain(t *testing.T) {
	l := newLog(t)
	h := newHub(t, hub.Options{Log: l, MaxSubscribers: 2})
	var subs []*hub.Subscriber
	for range 2 {
		s, _, _ := subscribe(t, h, hub.Start{}, "a")
		subs = append(subs, s)
	}
	if _, err := h.Subscribe(logtest.Patterns("a"), hub.Start{},
		make(waker, 1)); fanfare.CodeOf(err) != fanfare.CodeOverloaded {
		t.Fatalf("no room: %v", err)
	}
	subs[0].Close()
	s, _, w := subscribe(t, h, hub.Start{}, "a")
	subs[0] = s
	done := make(chan error, 1)
	go func() { done <- h.Drain(context.Background(), time.Millisecond) }()
	<-w
	for _, s := range subs {
		for !s.Ending() {
			time.Sleep(time.Millisecond)
		}
	}
	if _, err := h.Subscribe(logtest.Patterns("a"), hub.Start{},
		make(waker, 1)); fanfare.CodeOf(err) != fanfare.CodeUnavailable {
		t.Fatalf("while draining: %v", err)
	}
	subs[0].Close()
	select {
	case <-done:
		t.Fatal("Drain returned before the last subscriber had ended")
	case <-time.After(10 * time.Millisecond):
	}
	subs[1].Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := h.Drain(context.Background(), time.Hour); err != nil {
		t.Fatalf("a second drain, with nobody there: %v", err)
	}
}

// FuzzTrie checks the index against the definition: a subscriber is woken exactly when its pattern
// matches.
func FuzzTrie(f *testing.F) {
	f.Add("a/*/c", "a/**", "a/b/c", "$a/*")
	f.Add("**", "*", "x", "x/y")
	f.Add("*//", "a//**", "*", "a//")
	f.Add("*/y", "**", "$x/*", "$x/y")
	f.Add("*", "**", "$*", "$x")
	l := newLog(f)
	h := newHub(f, hub.Options{Log: l})
	f.Fuzz(func(t *testing.T, p1, p2, p3, name string) {
		c, err := fanfare.ParseChannel(name)
		if err != nil {
			t.Skip()
		}
		var subs []*hub.Subscriber
		var wakes []waker
		var patterns []fanfare.Pattern
		for _, text := range []string{p1, p2, p3, name} {
			p, err := fanfare.ParsePattern(text)
			if err != nil {
				continue
			}
			s, _, w := subscribe(t, h, hub.Start{}, text)
			subs, wakes, patterns = append(subs, s), append(wakes, w), append(patterns, p)
		}
		publish(t, l, name, "x")
		for i, p := range patterns {
			if woken := len(wakes[i]) > 0; woken != p.Match(c) {
				t.Errorf("%q woken %v by %q", p, woken, c)
			}
			subs[i].Close()
		}
		if st := h.Stats(); st.Filters != 0 {
			t.Errorf("%d filters are left", st.Filters)
		}
	})
}

// TestReopen: the log fails and is opened again under live subscribers. A group that was never
// acknowledged may turn out to be stored. Every subscriber sees exactly the events that the log
// holds, once and in order (P2, P3).
func TestReopen(t *testing.T) {
	disk := &faultyDisk{}
	l, err := pebblelog.Open(pebblelog.Options{Dir: "/data", FS: errorfs.Wrap(vfs.NewMem(), disk)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	h := newHub(t, hub.Options{Log: l})
	begin := h.Durable()
	patterns := [][]string{{"a"}, {"a", "b"}, {"*"}}
	var subs []*hub.Subscriber
	var wakes []waker
	got := make([][]string, len(patterns))
	for _, p := range patterns {
		s, _, w := subscribe(t, h, hub.Start{}, p...)
		defer s.Close()
		subs, wakes = append(subs, s), append(wakes, w)
	}
	append1 := func(channel, data string) error {
		_, err := logtest.Append(l,
			&fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel(channel), Data: data}}})
		return err
	}
	for round := range 3 {
		publish(t, l, "a", fmt.Sprint("before ", round))
		disk.broken.Store(true)
		if err := append1("b", fmt.Sprint("during ", round)); fanfare.CodeOf(err) != fanfare.CodeUnavailable {
			t.Fatalf("on a broken disk: %v", err)
		}
		disk.broken.Store(false)
		for deadline := time.Now().Add(time.Minute); append1("a", fmt.Sprint("after ", round)) != nil; {
			if time.Now().After(deadline) {
				t.Fatal("the log does not recover")
			}
			time.Sleep(10 * time.Millisecond)
		}
		for i, s := range subs {
			select {
			case <-wakes[i]:
			case <-time.After(time.Minute):
				t.Fatalf("subscriber %d was not woken", i)
			}
			bodies, gaps := drain(t, s)
			if gaps != nil {
				t.Errorf("a gap where nothing was trimmed: %+v", gaps[0])
			}
			got[i] = append(got[i], bodies...)
		}
	}
	for i, s := range subs {
		compare(t, l, logtest.Patterns(patterns[i]...), begin, s.Position(), got[i])
		if len(got[i]) < 6 {
			t.Errorf("subscriber %d got %q", i, got[i])
		}
	}
}

// faultyDisk fails the syncs of the WAL while it is broken.
type faultyDisk struct{ broken atomic.Bool }

func (*faultyDisk) String() string { return "faulty disk" }

func (d *faultyDisk) MaybeError(op errorfs.Op) error {
	isSync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData
	if d.broken.Load() && isSync && strings.HasSuffix(op.Path, ".log") {
		return errors.New("injected: input/output error")
	}
	return nil
}
