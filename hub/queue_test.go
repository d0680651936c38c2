package hub

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestTurnstile: owners take turns, whoever gives up leaves no trace, and no place is lost.
func TestTurnstile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurnstile(1)
		if err := q.enter(t.Context(), "first"); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []string
		var all sync.WaitGroup
		for _, name := range []string{"herd", "herd", "herd", "herd", "a", "b", "a"} {
			all.Go(func() {
				if err := q.enter(t.Context(), name); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				time.Sleep(time.Second)
				q.leave()
			})
			synctest.Wait() // in this order
		}
		gone, cancel := context.WithCancel(t.Context())
		for range 3 {
			all.Go(func() {
				if q.enter(gone, "gone") == nil {
					t.Error("who had gone got a turn")
				}
			})
		}
		synctest.Wait()
		if waiting, waits := q.stats(); waiting != 10 || waits != 10 {
			t.Errorf("%d wait, %d have", waiting, waits)
		}
		cancel()
		synctest.Wait()
		q.leave()
		all.Wait()
		if want := []string{"herd", "a", "b", "herd", "a", "herd", "herd"}; !slices.Equal(order, want) {
			t.Errorf("%v, want %v", order, want)
		}
		if q.free != 1 || len(q.waiting) != 0 || len(q.ring) != 0 {
			t.Errorf("%+v", q)
		}
	})
}

// TestTurnstileUnderLoad: with many coming, going and giving up, there are never more inside than may be, and no place is lost.
func TestTurnstileUnderLoad(t *testing.T) {
	q := newTurnstile(3)
	var mu sync.Mutex
	inside := 0
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			for n := range 50 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration((i+n)%7)*20*time.Microsecond)
				if q.enter(ctx, string(rune('a'+i%5))) == nil {
					mu.Lock()
					if inside++; inside > 3 {
						t.Error("too many are inside")
					}
					mu.Unlock()
					time.Sleep(10 * time.Microsecond)
					mu.Lock()
					inside--
					mu.Unlock()
					q.leave()
				}
				cancel()
			}
		})
	}
	all.Wait()
	if q.free != 3 || len(q.waiting) != 0 {
		t.Errorf("%d are free of 3", q.free)
	}
}
