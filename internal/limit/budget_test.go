package limit

import (
	"strings"
	"sync"
	"testing"

	"github.com/fanfare-hub/fanfare"
)

// TestBudgetIsShared (P6): an owner gets as much as it leaves free, so whoever holds nothing always
// finds room.
func TestBudgetIsShared(t *testing.T) {
	const most = 1 << 20
	b := &Budget{Most: most}
	take := func(owner string) *Hold {
		h := b.Hold(owner)
		for h.Grow(1000) == nil {
		}
		return &h
	}
	var holds []*Hold
	for i, want := range []int{most / 2, most / 4, most / 8, most / 16} {
		h := take(strings.Repeat("x", i))
		holds = append(holds, h)
		if h.Bytes() > want || h.Bytes() < want-1000 {
			t.Errorf("owner %d holds %d, want about %d", i, h.Bytes(), want)
		}
		if small := b.Hold("small"); small.Grow(10_000) != nil {
			t.Errorf("there is no room for a small one beside %d large ones", i+1)
		} else {
			small.Free()
		}
	}
	// A second request of an owner counts as the first does.
	second := b.Hold("")
	err := second.Grow(2000)
	if e, ok := err.(*fanfare.Error); !ok || e.Code != fanfare.CodeOverloaded ||
		e.Reason != fanfare.ReasonMaxInflight || e.RetryAfter <= 0 ||
		!strings.Contains(e.Detail, "1048576") || e.Setting != fanfare.SettingMaxInflightBytes {
		t.Errorf("%v", err)
	}
	if second.Bytes() != 0 {
		t.Errorf("what was refused is held: %d", second.Bytes())
	}
	for _, h := range holds {
		h.Shrink(1)
		h.Free()
		h.Free()
	}
	if b.Held() != 0 || len(b.owners) != 0 {
		t.Errorf("%d bytes of %d owners are left", b.Held(), len(b.owners))
	}
	if err := second.Grow(most / 2); err != nil {
		t.Errorf("half of what is free: %v", err)
	}
	second.Free()
}

// TestNoBudget: without a limit everything fits.
func TestNoBudget(t *testing.T) {
	var none *Budget
	for _, b := range []*Budget{none, {}} {
		h := b.Hold("a")
		if err := h.Grow(1 << 40); err != nil {
			t.Error(err)
		}
		h.Shrink(1)
		h.Free()
	}
}

// TestBudgetAtOnce: many requests that grow and shrink together leave nothing behind, and never
// hold more than there is.
func TestBudgetAtOnce(t *testing.T) {
	b := &Budget{Most: 100_000}
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for range 1000 {
				h := b.Hold(string(rune('a' + i%4)))
				for n := 64; h.Grow(n) == nil; n *= 2 {
					h.Shrink(n / 2)
				}
				if held := b.Held(); held > b.Most {
					t.Errorf("%d held", held)
				}
				h.Free()
			}
		})
	}
	all.Wait()
	if b.Held() != 0 || len(b.owners) != 0 {
		t.Errorf("%d bytes of %d owners are left", b.Held(), len(b.owners))
	}
}
