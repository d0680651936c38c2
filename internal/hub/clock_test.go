package hub_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

// TestStartsOfAWrongClock: a replay after a gap, or by age, goes by the time at which events were
// stored, and not by a clock that was wrong for a moment, then or now. A replay since a time goes
// by the events' times.
func TestStartsOfAWrongClock(t *testing.T) {
	for _, by := range []time.Duration{-time.Hour, time.Hour, 48 * time.Hour, 30 * 24 * time.Hour} {
		t.Run(fmt.Sprint(by), func(t *testing.T) {
			var wall, elapsed atomic.Int64
			wall.Store(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC).UnixNano())
			pass := func(d time.Duration) { wall.Add(int64(d)); elapsed.Add(int64(d)) }
			l, err := pebblelog.Open(pebblelog.Options{
				Durability: pebblelog.DurabilityMemory,
				Now:        func() time.Time { return time.Unix(0, wall.Load()) },
				Elapsed:    func() time.Duration { return time.Duration(elapsed.Load()) },
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			h := newHub(t, hub.Options{Log: l})
			hears := func(start hub.Start, want ...string) {
				t.Helper()
				for _, pattern := range []string{"a", "*"} {
					s, _, _ := subscribe(t, h, start, pattern)
					got, _ := drain(t, s)
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%s, %+v (-want +got):\n%s", pattern, start, diff)
					}
					s.Close()
				}
			}
			old := publish(t, l, "a", "old")
			pass(2 * time.Hour)
			publish(t, l, "a", "young")
			wall.Add(int64(by))
			publish(t, l, "a", "wrong")
			gap := hub.Start{From: hub.FromAfter, After: old + 1<<40, GapReplay: time.Hour} // newer than the log
			ago := hub.Start{From: hub.FromSince, Age: time.Hour}
			hears(gap, "a young", "a wrong")
			hears(ago, "a young", "a wrong")
			pass(2 * time.Second)
			wall.Add(-int64(by))
			right := time.Unix(0, wall.Load())
			publish(t, l, "a", "right")
			// its events are in memory from here on
			keep, _, _ := subscribe(t, h, hub.Start{From: hub.FromAll}, "a", "*")
			defer keep.Close()
			if got, _ := drain(t, keep); len(got) != 4 {
				t.Fatalf("all: %q", got)
			}
			hears(gap, "a young", "a wrong", "a right")
			hears(ago, "a young", "a wrong", "a right")
			since := hub.Start{From: hub.FromSince, Since: right.Add(-time.Minute)}
			if by < 0 {
				hears(since, "a young", "a right")
			} else {
				hears(since, "a young", "a wrong", "a right")
			}
			if since.Since = right; by > 0 {
				hears(since, "a wrong", "a right")
			}
			pass(59 * time.Minute)
			publish(t, l, "a", "later")
			if by > 0 { // the event of the wrong clock has a time that is still ahead
				since.Since = right.Add(30 * time.Minute)
				hears(since, "a wrong", "a later")
			}
			pass(2 * time.Minute)
			hears(gap, "a later")
			hears(ago, "a later")
			// After the start all events come, with any time.
			s, _, _ := subscribe(t, h, hub.Start{From: hub.FromSince, Since: right.Add(30 * time.Minute)}, "a")
			defer s.Close()
			wall.Add(-int64(3 * time.Hour))
			publish(t, l, "a", "live")
			if got, _ := drain(t, s); len(got) == 0 || got[len(got)-1] != "a live" {
				t.Errorf("a live event is left out because of its time: %q", got)
			}
		})
	}
}
