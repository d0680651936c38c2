package logtest

import (
	"context"
	"fmt"
	"time"

	"github.com/fanfare-hub/fanfare"
)

func testKept(h *harness) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	keep := fanfare.Kept{Name: "pc/1", Position: 7, Time: now, Expires: now.Add(time.Hour)}
	event := fanfare.Event{Channel: Channel("a"), Data: "x"}
	if _, err := Append(h.log, &fanfare.Batch{Events: []fanfare.Event{event},
		Keep: []fanfare.Kept{{Name: "pc/1", Position: 3, Expires: now}}}); err != nil {
		h.Fatal(err)
	}
	more := fanfare.Kept{Name: "pc/3", Position: 8, Value: "\x00 and more \xff", Time: now, Expires: now.Add(time.Hour)}
	other := fanfare.Kept{Name: "seen/1", Time: now, Expires: now.Add(time.Hour)}
	if _, err := Append(h.log, &fanfare.Batch{Keep: []fanfare.Kept{keep, more, other,
		{Name: "pc/2", Position: 1, Expires: now.Add(-time.Second)}, {Name: "old", Position: 1,
			Expires: now.Add(-time.Second)}}}); err != nil {
		h.Fatal(err)
	}
	h.twice(func() {
		got, ok, err := h.log.Kept(context.Background(), "pc/1")
		if err != nil || !ok {
			h.Fatalf("kept: %v, %v", ok, err)
		}
		h.equal("kept", keep, ageless(got))
		for most, want := range map[int][]fanfare.Kept{9: {keep, more}, 1: {keep}} {
			var all []fanfare.Kept
			err := h.log.EachKept(context.Background(), "pc/", func(k fanfare.Kept) bool {
				all = append(all, ageless(k))
				return len(all) < most
			})
			if err != nil {
				h.Fatal(err)
			}
			h.equal("each kept", want, all)
		}
		for _, name := range []string{"old", "pc/2", "pc"} {
			if k, ok, err := h.log.Kept(context.Background(), name); ok || err != nil {
				h.Fatalf("%s: %+v, %v", name, k, err)
			}
		}
	})
}

func ageless(k fanfare.Kept) fanfare.Kept {
	k.Age = 0
	return k
}

// testKeptFor: what is kept for a time is stamped by the log, says how old it is, and can be
// forgotten at once.
func testKeptFor(h *harness) {
	began := time.Now()
	if _, err := Append(h.log, &fanfare.Batch{Keep: []fanfare.Kept{
		{Name: "long", Position: 1, Lifetime: time.Hour}, {Name: "short", Position: 2, Lifetime: time.Millisecond},
		{Name: "given", Time: began.Add(-time.Hour), Lifetime: time.Hour}, {Name: "again", Position: 3,
			Lifetime: time.Hour},
	}}); err != nil {
		h.Fatal(err)
	}
	if _, err := Append(h.log, &fanfare.Batch{Keep: []fanfare.Kept{{Name: "again", Forget: true},
		{Name: "never", Forget: true}}}); err != nil {
		h.Fatal(err)
	}
	time.Sleep(5 * time.Millisecond)
	h.twice(func() {
		long, ok, err := h.log.Kept(context.Background(), "long")
		if err != nil || !ok || long.Position != 1 {
			h.Fatalf("kept: %+v, %v, %v", long, ok, err)
		}
		if since := time.Since(began); long.Age < time.Millisecond || long.Age > since+time.Second ||
			began.Sub(long.Time) > time.Millisecond || time.Since(long.Time) > since+time.Second {
			h.Errorf("kept %+v, which was %v ago at most", long, since)
		}
		if given, _, err := h.log.Kept(context.Background(), "given"); err != nil ||
			began.Sub(given.Time) < time.Hour ||
			given.Age > time.Minute {
			h.Errorf("with a time of its own: %+v, %v", given, err)
		}
		for _, name := range []string{"short", "again", "never"} {
			if k, ok, err := h.log.Kept(context.Background(), name); ok || err != nil {
				h.Errorf("%s: %+v, %v", name, k, err)
			}
		}
	})
}

// riding is a fanfare.Rider with as many positions as it is asked for, left times.
type riding struct {
	left   int
	stored chan error
}

func (r *riding) Board(most int) ([]fanfare.Kept, func(error)) {
	if r.left == 0 {
		return nil, nil
	}
	r.left--
	keep := make([]fanfare.Kept, most)
	for i := range keep {
		keep[i] = fanfare.Kept{Name: fmt.Sprintf("ride/%d/%d", r.left, i), Position: fanfare.Position(i + 1),
			Lifetime: time.Hour}
	}
	return keep, func(err error) { r.stored <- err }
}

// testRide: what rides is stored with a group, and with no other; nobody is asked after stop.
func testRide(h *harness) {
	r := &riding{left: 2, stored: make(chan error, 9)}
	stop := h.log.Ride(r)
	select {
	case <-r.stored:
		h.Error("something was stored without a group")
	case <-time.After(20 * time.Millisecond):
	}
	h.publish("a", "1")
	if err := <-r.stored; err != nil {
		h.Error(err)
	}
	if _, err := Append(h.log, &fanfare.Batch{}); err != nil { // a group that has nothing else
		h.Error(err)
	}
	if err := <-r.stored; err != nil {
		h.Error(err)
	}
	stop()
	r.left = 1
	h.publish("a", "2")
	h.twice(func() {
		for left := range 2 {
			for i, want := range map[int]bool{0: true, 999: true, 1000: false} {
				if k, ok, err := h.log.Kept(context.Background(), fmt.Sprintf("ride/%d/%d", left, i)); err != nil ||
					ok != want ||
					(ok && k.Position != fanfare.Position(i+1)) {
					h.Errorf("%d of ride %d: %+v, %v, %v", i, left, k, ok, err)
				}
			}
		}
	})
	if r.left != 1 {
		h.Error("who has stopped was asked")
	}
}
