package logtest

import (
	"errors"
	"fmt"
	"sync"

	"github.com/fanfare-hub/fanfare"
)

// conditional appends an event to each of some channels, under a condition each.
func (h *harness) conditional(keys []fanfare.Key, data string, on ...any) (fanfare.Receipt, error) {
	b := &fanfare.Batch{Keys: keys}
	for i := 0; i < len(on); i += 2 {
		b.Events = append(b.Events, fanfare.Event{Channel: Channel(on[i].(string)), Data: data})
		b.If = append(b.If, on[i+1].(fanfare.Condition))
	}
	return Append(h.log, b)
}

// wantNotMet checks the refusal of a condition on a channel whose newest event is at latest.
func (h *harness) wantNotMet(latest fanfare.Position, r fanfare.Receipt, err error) {
	h.Helper()
	refused, ok := errors.AsType[*fanfare.Error](err)
	if !ok || refused.Code != fanfare.CodePreconditionFailed || refused.Latest != latest || len(r.Positions) > 0 {
		h.Fatalf("%+v %v, want that the newest event is %v", r, err, latest)
	}
}

func testConditions(h *harness) {
	r, err := h.conditional(nil, "1", "a", fanfare.IfNone())
	if err != nil {
		h.Fatal(err)
	}
	first := r.Positions[0]
	h.twice(func() {
		r, err := h.conditional(nil, "x", "a", fanfare.IfNone())
		h.wantNotMet(first, r, err)
		r, err = h.conditional(nil, "x", "a", fanfare.IfLatest(first-1))
		h.wantNotMet(first, r, err)
		r, err = h.conditional(nil, "x", "a", fanfare.IfLatest(first+1))
		h.wantNotMet(first, r, err)
		r, err = h.conditional(nil, "x", "none", fanfare.IfLatest(first))
		h.wantNotMet(0, r, err)
	})
	// All or none; all conditions are decided before the first event is stored.
	r, err = h.conditional(nil, "x", "b", fanfare.IfNone(), "a", fanfare.IfNone())
	h.wantNotMet(first, r, err)
	r, err = h.conditional(nil, "2", "a", fanfare.IfLatest(first), "a", fanfare.Condition{}, "b", fanfare.IfNone())
	if err != nil || len(r.Positions) != 3 {
		h.Fatalf("%+v %v", r, err)
	}
	h.twice(func() {
		h.equal("all", []string{"1", "2", "2", "2"}, h.data(fanfare.Query{Patterns: Patterns("**")}))
		again, err := h.conditional(nil, "x", "a", fanfare.IfLatest(first))
		h.wantNotMet(r.Positions[1], again, err)
	})
	h.race(r.Positions[1])
}

func latestOf(err error) fanfare.Position {
	refused, _ := errors.AsType[*fanfare.Error](err)
	return refused.Latest
}

// race has publishers make one chain: each event of it was stored after the one before, and nothing
// came between.
func (h *harness) race(latest fanfare.Position) {
	h.Helper()
	const racers, rounds = 16, 20
	var wins sync.Map
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() {
			latest := latest
			for range rounds {
				r, err := h.conditional(nil, fmt.Sprint("racer ", i), "a", fanfare.IfLatest(latest))
				if fanfare.CodeOf(err) == fanfare.CodePreconditionFailed {
					latest = latestOf(err)
					continue
				}
				if err != nil {
					h.Error(err)
					return
				}
				if other, twice := wins.LoadOrStore(latest, i); twice {
					h.Errorf("%d and %v both won after %v", i, other, latest)
				}
				latest = r.Positions[0]
			}
		})
	}
	wg.Wait()
	events, _, err := ReadAll(h.log, fanfare.Query{Patterns: Patterns("a"), After: latest})
	if err != nil || len(events) < rounds {
		h.Fatalf("%d rounds were won: %v", len(events), err)
	}
	for _, e := range events {
		if winner, ok := wins.Load(latest); !ok || e.Data != fmt.Sprint("racer ", winner) {
			h.Fatalf("after %v comes %+v, and %v won", latest, e, winner)
		}
		latest = e.Position
	}
}

// testConditionsAndKeys: the key comes first. A publish that was stored is answered as a repeat,
// and a refused one is not remembered.
func testConditionsAndKeys(h *harness) {
	key := func(text string) []fanfare.Key { return []fanfare.Key{{Scope: "s", Text: text}} }
	first := h.publish("a", "1")[0]
	r, err := h.conditional(key("k"), "2", "a", fanfare.IfNone())
	h.wantNotMet(first, r, err)
	r, err = h.conditional(key("k"), "2", "a", fanfare.IfLatest(first))
	if err != nil || r.Replayed {
		h.Fatalf("%+v %v", r, err)
	}
	h.twice(func() {
		again, err := h.conditional(key("k"), "2", "a", fanfare.IfLatest(first))
		if err != nil || !again.Replayed || again.Positions[0] != r.Positions[0] {
			h.Fatalf("a repeat: %+v %v", again, err)
		}
	})
	// The same for a batch under one key, and for one of which a part was stored before.
	whole := func(c fanfare.Condition) (fanfare.Receipt, error) {
		return Append(h.log, &fanfare.Batch{
			Key: fanfare.Key{Scope: "s", Text: "whole"}, If: []fanfare.Condition{c},
			Events: []fanfare.Event{{Channel: Channel("b"), Data: "3"}},
			Keep:   []fanfare.Kept{{Name: "n", Position: 1}},
		})
	}
	refused, err := whole(fanfare.IfLatest(first))
	h.wantNotMet(0, refused, err)
	if _, ok, err := h.log.Kept(h.Context(), "n"); ok || err != nil {
		h.Fatal("a refused batch has kept a position", err)
	}
	stored, err := whole(fanfare.IfNone())
	if again, err2 := whole(fanfare.IfNone()); err != nil || err2 != nil || !again.Replayed {
		h.Fatalf("%v %+v %v", err, again, err2)
	}
	keys := append(key("k"), fanfare.Key{Scope: "s", Text: "new"})
	refused, err = h.conditional(keys, "2", "a", fanfare.IfLatest(first), "b", fanfare.IfNone())
	h.wantNotMet(stored.Positions[0], refused, err)
	part, err := h.conditional(keys, "2", "a", fanfare.IfLatest(first), "b", fanfare.IfLatest(stored.Positions[0]))
	if err != nil || part.Replayed || part.Positions[0] != r.Positions[0] {
		h.Fatalf("%+v %v", part, err)
	}
	h.equal("all", []string{"1", "2", "3", "2"}, h.data(fanfare.Query{Patterns: Patterns("**")}))
}

// testConditionsOnWhatIsLeft: a limit leaves the newest event.
func testConditionsOnWhatIsLeft(h *harness) {
	last := h.publish("a", "1", "2", "3")[2]
	h.twice(func() {
		r, err := h.conditional(nil, "x", "a", fanfare.IfNone())
		h.wantNotMet(last, r, err)
	})
	if _, err := h.conditional(nil, "4", "a", fanfare.IfLatest(last)); err != nil {
		h.Fatal(err)
	}
	h.equal("what is left", []string{"4"}, h.data(fanfare.Query{Patterns: Patterns("a")}))
}
