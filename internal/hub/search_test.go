package hub_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/logtest"
)

// countedLog is a log whose search for missed events on `herd` never ends, and takes one piece
// after another. It reports each question, and answers when the test tells it to.
type countedLog struct {
	fanfare.Log
	asked  chan string
	answer chan struct{}
}

func (l *countedLog) Missed(ctx context.Context, a fanfare.Absence) (fanfare.Loss, error) {
	name := a.Patterns[0].String()
	l.asked <- name
	select {
	case <-l.answer:
	case <-ctx.Done():
		return fanfare.Loss{}, ctx.Err()
	}
	if name == "herd" {
		return fanfare.Loss{Token: "go on"}, nil
	}
	return l.Log.Missed(ctx, a)
}

// owned is a waker of an owner.
type owned string

func (owned) Wake()           {}
func (o owned) Owner() string { return string(o) }

// TestSearchesTakeTurns: a long search gives its permit back after each piece, so that another
// owner's resume waits for two pieces at most, however many searches there are.
func TestSearchesTakeTurns(t *testing.T) {
	l := &countedLog{Log: newLog(t), asked: make(chan string), answer: make(chan struct{})}
	after := publish(t, l, "other", "0")
	publish(t, l, "other", "1")
	h := newHub(t, hub.Options{Log: l, MaxReplays: 1})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	start := func(name string, done func(*hub.Turn)) {
		s, err := h.Subscribe(logtest.Patterns(name), hub.Start{From: hub.FromAfter, After: after}, owned(name))
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			defer s.Close()
			var turn hub.Turn
			for !turn.Opens {
				if err := s.Read(ctx, &turn); err != nil {
					return
				}
			}
			done(&turn)
		})
	}
	for range 5 {
		start("herd", func(*hub.Turn) { t.Error("the search has no end") })
	}
	if name := <-l.asked; name != "herd" {
		t.Fatal(name)
	}
	got := make(chan string, 1)
	start("other", func(turn *hub.Turn) { got <- fmt.Sprint(turn.Begins, string(turn.Frames[0].Body)) })
	for deadline := time.Now().Add(time.Minute); h.Stats().Waiting != 5; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d wait", h.Stats().Waiting)
		}
	}
	l.answer <- struct{}{}
	name := <-l.asked
	if name == "herd" {
		l.answer <- struct{}{}
		name = <-l.asked
	}
	if name != "other" {
		t.Fatalf("%s has had three turns, and the other waits", name)
	}
	l.answer <- struct{}{}
	if text := <-got; text != fmt.Sprint(after, "other 1") {
		t.Error(text)
	}
	for range 20 { // the herd goes on piece by piece
		<-l.asked
		l.answer <- struct{}{}
	}
	<-l.asked
	cancel()
	all.Wait()
	if st := h.Stats(); st.Waiting != 0 {
		t.Errorf("%d wait still", st.Waiting)
	}
}

// piecemealLog answers every question in the smallest pieces.
type piecemealLog struct {
	fanfare.Log
	begins fanfare.Position
}

func (l piecemealLog) Read(ctx context.Context, q fanfare.Query) (fanfare.Page, error) {
	q.After = max(q.After, l.begins)
	if q.Through == 0 || q.Through > q.After+2 {
		q.Through = q.After + 2 // the log has one run
	}
	return l.Log.Read(ctx, q)
}

func (l piecemealLog) Last(ctx context.Context, r fanfare.Recent) (fanfare.Past, error) {
	count := r.Count
	r.Count = 1
	past, err := l.Log.Last(ctx, r)
	if past.From = 0; past.Count > 0 && count > 1 {
		past.From = past.First - 1
	}
	return past, err
}

// TestStartsFoundInPieces: a search in many pieces finds the same start as a search in one. Turns
// before the start is found tell the client nothing, and do not move the cursor.
func TestStartsFoundInPieces(t *testing.T) {
	l := newLog(t)
	at := []fanfare.Position{publish(t, l, "a", "0")}
	for i := range 20 {
		publish(t, l, "b", fmt.Sprint(i))
	}
	for i := range 5 {
		at = append(at, publish(t, l, "a", fmt.Sprint(i+1)))
	}
	whole, pieces := newHub(t, hub.Options{Log: l, TailBytes: 1}), newHub(t,
		hub.Options{Log: piecemealLog{l, at[0] - 1}, TailBytes: 1})
	for _, start := range []hub.Start{
		{From: hub.FromLast, Last: 3}, {From: hub.FromLast, Last: 99}, {From: hub.FromAfter,
			After: at[0]}, {From: hub.FromAfter, After: at[3]},
		{From: hub.FromAfter, After: at[5] + 9}, {From: hub.FromUnknown, Requested: "junk"}, {From: hub.FromSince,
			Since: time.Now().Add(time.Hour)},
	} {
		var heard [2][]string
		var begun [2]opening
		for i, h := range []*hub.Hub{whole, pieces} {
			s, o, _ := subscribe(t, h, start, "a")
			begun[i] = o
			heard[i], _ = drain(t, s)
			s.Close()
		}
		if diff := cmp.Diff(begun[0], begun[1]); diff != "" {
			t.Errorf("%+v (-whole +pieces):\n%s", start, diff)
		}
		if diff := cmp.Diff(heard[0], heard[1]); diff != "" {
			t.Errorf("%+v (-whole +pieces):\n%s", start, diff)
		}
	}
	s, err := pieces.Subscribe(logtest.Patterns("none"), hub.Start{From: hub.FromUnknown, Requested: "junk"},
		make(waker, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	turns := 0
	var turn hub.Turn
	for take(t, s, &turn); !turn.Opens; take(t, s, &turn) {
		if turns++; len(turn.Frames) > 0 || turn.Gap != nil || turn.Through != 0 || !turn.More || s.Opened() ||
			s.Lag() != 0 {
			t.Fatalf("a turn before the start is found: %+v", turn)
		}
		s.Advance(turn.Through, turn.More)
	}
	if s.Opened() || turns < 10 {
		t.Errorf("it has begun before the turn was sent, or after %d turns", turns)
	}
	if s.Advance(turn.Through, turn.More); !s.Opened() {
		t.Error("it has not begun")
	}
	if take(t, s, &turn); turn.Opens || turn.Gap != nil {
		t.Errorf("it begins twice: %+v", turn)
	}
}

// looseLog knows no trim mark, only that none is above the newest event, like a log with very many
// channels.
type looseLog struct{ fanfare.Log }

func (l looseLog) Missed(ctx context.Context, a fanfare.Absence) (fanfare.Loss, error) {
	loss, err := l.Log.Missed(ctx, a)
	loss.Trimmed = loss.Durable
	return loss, err
}

// TestGapsOfWhatIsTrimmed (P4): a replay tells no gap for events that were removed before it
// started. A resume that had missed nothing, and is overtaken before its turn, tells a gap for the
// events that it has missed by then, also if the log knows only an upper limit of the trim marks.
func TestGapsOfWhatIsTrimmed(t *testing.T) {
	for name, loose := range map[string]bool{"marks": false, "a bound": true} {
		t.Run(name, func(t *testing.T) {
			var l fanfare.Log = newLog(t, "**=count:2")
			if loose {
				l = looseLog{l}
			}
			h := newHub(t, hub.Options{Log: l, TailBytes: 1})
			first := publish(t, l, "a", "0")
			for i := range 5 {
				publish(t, l, "b", fmt.Sprint(i))
			}
			for _, start := range []hub.Start{{From: hub.FromAll}, {From: hub.FromLast, Last: 3}} {
				s, begun, _ := subscribe(t, h, start, "a", "b")
				got, gaps := drain(t, s)
				if diff := cmp.Diff([]string{"a 0", "b 3", "b 4"}, got); diff != "" || gaps != nil ||
					begun.Gap != nil || begun.Position != first-1 {
					t.Errorf("%+v, gaps %v (-want +got):\n%s", begun, gaps, diff)
				}
				s.Close()
			}
			publish(t, l, "a", "1")
			publish(t, l, "a", "2")
			s, begun, _ := subscribe(t, h, hub.Start{From: hub.FromAfter, After: first}, "a")
			defer s.Close()
			publish(t, l, "a", "3")
			var turn hub.Turn
			take(t, s, &turn)
			if begun.Gap != nil || turn.Gap == nil || turn.Gap.Requested != first.String() ||
				turn.Gap.Oldest != turn.Frames[0].Position || string(turn.Frames[0].Body) != "a 2" {
				t.Errorf("%+v, then %+v", begun, turn)
			}
		})
	}
}

// TestPositionBeforeTheStartIsTold (P3, P4): the position does not move when the start is found,
// but when its turn is sent, because until then the peer has not been told of a gap. After a turn
// of which only the first bytes were sent, the position is that of the start.
func TestPositionBeforeTheStartIsTold(t *testing.T) {
	l := newLog(t)
	at := publish(t, l, "a", "0")
	publish(t, l, "a", "1")
	h := newHub(t, hub.Options{Log: l, TailBytes: 1})
	for _, c := range []struct {
		start  hub.Start
		before fanfare.Position
	}{
		{hub.Start{From: hub.FromAfter, After: 1}, 1},
		{hub.Start{From: hub.FromUnknown}, 0},
		{hub.Start{From: hub.FromForgotten}, 0},
		{hub.Start{From: hub.FromLast, Last: 2}, 0},
	} {
		s, begun, _ := subscribe(t, h, c.start, "a")
		if begun.Gap == nil != (c.start.From == hub.FromLast) || s.Position() != c.before {
			t.Errorf("%+v: at %v, gap %v, before anything was told", c.start, s.Position(), begun.Gap)
		}
		var turn hub.Turn
		take(t, s, &turn)
		s.Advance(turn.After, true)
		if s.Position() != at-1 {
			t.Errorf("%+v: at %v when no event has gone out", c.start, s.Position())
		}
		if got, _ := drain(t, s); len(got) != 2 {
			t.Errorf("%+v: %q", c.start, got)
		}
		s.Close()
	}
}
