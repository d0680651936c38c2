package limit

import (
	"fmt"
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// Budget bounds the bytes that the requests under way hold at once: bodies that are coming in,
// pages that are going out. Each request takes its bytes from it step by step, as they come, and
// gives them back. No request waits for a Budget: a request that does not fit is refused, so that
// requests that hold bytes and want more can never block one another. The zero Budget limits
// nothing. Its methods may be called from any goroutine.
//
// An owner gets no more than it leaves free: alone it may hold half of the budget, and with k
// others that hold as much as they can, 1/(k+2) (the dynamic thresholds of shared switch buffers:
// Choudhury and Hahne, 1998). So there is always room for a small request of an owner that holds
// nothing, and no share lies idle for owners that never come.
type Budget struct {
	Most int // fixed; 0: no limit

	mu     sync.Mutex // guards the fields below
	held   int
	owners map[string]int // the owners that hold bytes
}

// Held is how many bytes are held.
func (b *Budget) Held() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held
}

// Hold begins a request of an owner, which holds nothing yet.
func (b *Budget) Hold(owner string) Hold { return Hold{of: b, owner: owner} }

// Hold is the part of a Budget that one request holds. Its methods must not be called at once. The
// zero Hold limits nothing.
type Hold struct {
	of    *Budget
	owner string
	bytes int
}

// Bytes is how many are held.
func (h *Hold) Bytes() int { return h.bytes }

// Grow takes n bytes more, or refuses with CodeOverloaded and takes nothing.
func (h *Hold) Grow(n int) error {
	b := h.of
	if b == nil || b.Most <= 0 || n <= 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if owned := b.owners[h.owner] + n; owned > b.Most-b.held-n {
		return &fanfare.Error{
			Code: fanfare.CodeOverloaded, Reason: fanfare.ReasonMaxInflight, RetryAfter: 2 * time.Second,
			Detail: fmt.Sprintf("the requests under way hold too many bytes: together they may hold %d, "+
				"and those of one caller as many as they leave free", b.Most),
			Setting: fanfare.SettingMaxInflightBytes,
		}
	}
	if b.owners == nil {
		b.owners = map[string]int{}
	}
	b.owners[h.owner] += n
	b.held += n
	h.bytes += n
	return nil
}

// Shrink gives n bytes back.
func (h *Hold) Shrink(n int) {
	if n = min(n, h.bytes); n <= 0 {
		return
	}
	b := h.of
	b.mu.Lock()
	defer b.mu.Unlock()
	h.bytes -= n
	b.held -= n
	if b.owners[h.owner] -= n; b.owners[h.owner] == 0 {
		delete(b.owners, h.owner)
	}
}

// Free gives everything back. The Hold may be used again.
func (h *Hold) Free() { h.Shrink(h.bytes) }
