package hub

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestPermits: owners are served in rotation, a waiter that gives up leaves no trace, and no permit
// is lost.
func TestPermits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newPermits(1)
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
				q.leave(name)
			})
			synctest.Wait() // in this order
		}
		gone, cancel := context.WithCancel(t.Context())
		for range 3 {
			all.Go(func() {
				if q.enter(gone, "gone") == nil {
					t.Error("a waiter that had gone got a permit")
				}
			})
		}
		synctest.Wait()
		if waiting, waits := q.stats(); waiting != 10 || waits != 10 {
			t.Errorf("%d wait, %d have", waiting, waits)
		}
		cancel()
		synctest.Wait()
		q.leave("first")
		all.Wait()
		if want := []string{"herd", "a", "b", "herd", "a", "herd", "herd"}; !slices.Equal(order, want) {
			t.Errorf("%v, want %v", order, want)
		}
		if q.free != 1 || len(q.owners) != 0 || len(q.ring) != 0 {
			t.Errorf("%+v", q)
		}
	})
}

// TestPermitsUnderLoad: while many waiters come, go and give up, no more permits are held than
// there are, and none is lost.
func TestPermitsUnderLoad(t *testing.T) {
	q := newPermits(3)
	var mu sync.Mutex
	inside := 0
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			for n := range 50 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration((i+n)%7)*20*time.Microsecond)
				name := string(rune('a' + i%5))
				if q.enter(ctx, name) == nil {
					mu.Lock()
					if inside++; inside > 3 {
						t.Error("too many permits are held")
					}
					mu.Unlock()
					time.Sleep(10 * time.Microsecond)
					mu.Lock()
					inside--
					mu.Unlock()
					q.leave(name)
				}
				cancel()
			}
		})
	}
	all.Wait()
	if q.free != 3 || len(q.owners) != 0 {
		t.Errorf("%d are free of 3", q.free)
	}
}

// TestNoOwnerHoldsAllPermits: an owner that is alone gets half of the permits, later owners find
// one free, and a permit that is given back goes to an owner with fewer than are free.
func TestNoOwnerHoldsAllPermits(t *testing.T) {
	q := newPermits(16)
	has := map[string]int{}
	wants := func(name string, n int) {
		for range n {
			w := waiter{granted: make(chan struct{})}
			if q.take(name, w) {
				has[name]++
			} else {
				go func() { <-w.granted }()
			}
		}
	}
	check := func(when string, want map[string]int) {
		t.Helper()
		for name, n := range want {
			if o := q.owners[name]; o == nil || o.held != n {
				t.Errorf("%s: %s has %+v, want %d", when, name, o, n)
			}
		}
	}
	wants("herd", 100)
	check("alone", map[string]int{"herd": 8})
	wants("second", 100)
	check("a second", map[string]int{"herd": 8, "second": 4})
	wants("third", 1)
	check("a third", map[string]int{"third": 1})
	for range 8 { // the herd's eight end
		q.leave("herd")
	}
	if h, s := q.owners["herd"].held, q.owners["second"].held; h+s+1+q.free != 16 || h < 4 || s < 4 || q.free < 4 {
		t.Errorf("then the herd has %d, the second %d, and %d are free", h, s, q.free)
	}
	for len(q.owners) > 0 {
		for name, o := range q.owners {
			if o.held > 0 {
				q.leave(name)
				break
			}
		}
		sum := q.free
		for _, o := range q.owners {
			sum += o.held
		}
		if sum != 16 {
			t.Fatalf("%d permits of 16", sum)
		}
	}
	if q.free != 16 || len(q.ring) != 0 {
		t.Errorf("%d are free of 16, %d wait", q.free, len(q.ring))
	}
}
