package hub_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/logtest"
)

// busyLog is a log to which events are published during the search for a state.
type busyLog struct {
	fanfare.Log
	before func()
}

func (l *busyLog) Channels(ctx context.Context, q fanfare.ChannelQuery) (fanfare.ChannelPage, error) {
	l.before()
	return l.Log.Channels(ctx, q)
}

// TestStateIsOfOnePosition (P3): the state is that of the position at which the search started. The
// events that come during the search follow the state.
func TestStateIsOfOnePosition(t *testing.T) {
	l := &busyLog{Log: newLog(t)}
	publish(t, l, "a", "1")
	publish(t, l, "b", "2")
	l.before = func() {
		publish(t, l, "a", "3")
		publish(t, l, "c", "4")
	}
	h := newHub(t, hub.Options{Log: l})
	s, _, _ := subscribe(t, h, hub.Start{From: hub.FromLatest}, "*")
	defer s.Close()
	got, gaps := drain(t, s)
	if diff := cmp.Diff([]string{"a 1", "b 2", "a 3", "c 4"}, got); diff != "" || gaps != nil {
		t.Errorf("gaps %v (-want +got):\n%s", gaps, diff)
	}
	if st := h.Stats(); st.StateBytes != 0 {
		t.Errorf("%d bytes of states are left", st.StateBytes)
	}
}

// TestStateOfSeveralTurns: a state that takes several turns is sent whole before the events that
// follow it.
func TestStateOfSeveralTurns(t *testing.T) {
	const channels = 600 // more than two turns
	l := newLog(t)
	h := newHub(t, hub.Options{Log: l})
	var want []string
	for round := range 2 {
		for i := range channels {
			publish(t, l, fmt.Sprint(i), fmt.Sprint(round))
		}
	}
	for i := range channels {
		want = append(want, fmt.Sprint(i, " 1"))
	}
	s, _, _ := subscribe(t, h, hub.Start{From: hub.FromLatest}, "*")
	defer s.Close()
	publish(t, l, "0", "2")
	got, gaps := drain(t, s)
	if diff := cmp.Diff(append(want, "0 2"), got); diff != "" || gaps != nil {
		t.Errorf("gaps %v (-want +got):\n%s", gaps, diff)
	}
	if st := h.Stats(); st.StateBytes != 0 {
		t.Errorf("%d bytes of states are left", st.StateBytes)
	}
}

// TestConflateInMemory: from one turn of memory, a subscriber that conflates gets the newest frame
// of each channel, in log order. If memory holds more than a turn, it gets no frame of a channel
// that has a newer one there.
func TestConflateInMemory(t *testing.T) {
	l := newLog(t)
	h := newHub(t, hub.Options{Log: l})
	for _, rounds := range []int{2, 1000} {
		s, _, _ := subscribe(t, h, hub.Start{Conflate: true}, "*")
		every, _, _ := subscribe(t, h, hub.Start{}, "*")
		before := h.Stats().Conflated
		b := &fanfare.Batch{}
		for i := range rounds {
			for _, c := range []string{"a", "b", "c"} {
				if c != "b" || i == 0 { // the newest of b is the oldest of the three
					b.Events = append(b.Events, fanfare.Event{Channel: logtest.Channel(c), Data: fmt.Sprint(i)})
				}
			}
		}
		if _, err := logtest.Append(l, b); err != nil {
			t.Fatal(err)
		}
		last := fmt.Sprint(rounds - 1)
		got, gaps := drain(t, s)
		if diff := cmp.Diff([]string{"b 0", "a " + last, "c " + last}, got); diff != "" || gaps != nil {
			t.Errorf("%d rounds, gaps %v (-want +got):\n%s", rounds, gaps, diff)
		}
		if n := h.Stats().Conflated - before; n != uint64(len(b.Events)-3) {
			t.Errorf("%d of %d events count as conflated", n, len(b.Events))
		}
		if all, _ := drain(t, every); len(all) != len(b.Events) {
			t.Errorf("another subscriber got %d of %d events", len(all), len(b.Events))
		}
		s.Close()
		every.Close()
	}
}

// TestStateBudget: a subscriber that starts with the state is refused while the states of others
// have all the memory that there is for them, and admitted when they are gone.
func TestStateBudget(t *testing.T) {
	l := newLog(t)
	publish(t, l, "a", "1")
	publish(t, l, "b", "2")
	h := newHub(t, hub.Options{Log: l, StateBytes: 16})
	first, _, _ := subscribe(t, h, hub.Start{From: hub.FromLatest}, "*") // its start has been told, and nothing else
	if n := h.Stats().StateBytes; n != 16 {
		t.Fatalf("%d bytes are held: this tests less than it should", n)
	}
	w := make(waker, 1)
	if _, err := h.Subscribe(logtest.Patterns("*"), hub.Start{From: hub.FromLatest}, w); fanfare.CodeOf(err) !=
		fanfare.CodeOverloaded {
		t.Errorf("a second one: %v", err)
	}
	first.Close()
	again, err := h.Subscribe(logtest.Patterns("*"), hub.Start{From: hub.FromLatest}, w)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}
