package hub

import (
	"reflect"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

// TestSizes: each idle stream has a subscriber, and many have a filter of their own. Resident
// memory grows by about twice their size, since the collector lets the heap double. A field that
// one phase of a subscriber alone needs belongs into starting, or into fetch.
func TestSizes(t *testing.T) {
	for kind, most := range map[reflect.Type]uintptr{ // sizes in bytes that the runtime allocates
		reflect.TypeFor[Subscriber](): 112,
		reflect.TypeFor[filter]():     96,
	} {
		if size := kind.Size(); size > most {
			t.Errorf("a %s takes %d bytes, want at most %d", kind.Name(), size, most)
		}
	}
}

type sleeper struct{}

func (sleeper) Wake()         {}
func (sleeper) Owner() string { return "" }

// TestIdleSubscribersAreBare: a subscriber that has caught up holds nothing more of its search, of
// a state, or of its reads of the log, wherever it started; nor does its filter, when memory has
// dropped the events.
func TestIdleSubscribersAreBare(t *testing.T) {
	l, err := pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	var inCommit func() // called while a commit is under way
	h := New(Options{Log: l, TailBytes: 1, Encode: func(e fanfare.Event) Frame {
		if inCommit != nil {
			inCommit()
		}
		return Frame{Body: []byte(e.Data), Chunk: []byte(e.Data)}
	}})
	t.Cleanup(h.Close)
	publish := func() fanfare.Position {
		r, err := logtest.Append(l, &fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("a"), Data: "1"}}})
		if err != nil {
			t.Fatal(err)
		}
		return r.Positions[0]
	}
	first := publish()
	publish()
	subscribe := func(start Start) *Subscriber {
		s, err := h.Subscribe(logtest.Patterns("a"), start, sleeper{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return s
	}
	subs := map[string]*Subscriber{
		"newest":  subscribe(Start{}),
		"all":     subscribe(Start{From: FromAll}),
		"last":    subscribe(Start{From: FromLast, Last: 1}),
		"since":   subscribe(Start{From: FromSince, Since: time.Unix(1, 0)}),
		"after":   subscribe(Start{From: FromAfter, After: first}),
		"unknown": subscribe(Start{From: FromUnknown, Requested: "x"}),
		"latest":  subscribe(Start{From: FromLatest}),
	}
	inCommit = func() {
		inCommit = nil
		s := subscribe(Start{From: FromAfter, After: first})
		if subs["after, joined in a commit"] = s; s.starting.joined <= h.Durable() {
			t.Error("a subscriber does not know of the commit that it joined in")
		}
	}
	publish()
	for name, s := range subs {
		got := 0
		for turn := new(Turn); ; {
			if !s.Next(turn) {
				if err := s.Read(t.Context(), turn); err != nil {
					t.Fatal(name, err)
				}
			}
			got += len(turn.Frames)
			s.Advance(turn.Through, turn.More)
			if !turn.More {
				break
			}
		}
		if got == 0 || !s.Opened() || s.starting != nil || s.fetch != nil {
			t.Errorf("%s: %d events, opened %v, starting %+v, fetch %+v", name, got, s.Opened(), s.starting, s.fetch)
		}
	}
	if f := h.exact[logtest.Channel("a")]; f.growing != nil || f.past != nil {
		t.Errorf("memory has no room, and the filter holds %+v, %+v", f.growing, f.past)
	}
}
