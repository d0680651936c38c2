package http1

import (
	"net/http"
	"testing"
)

// TestReleasedAtTheEnd: a connection that is owned when Close looks ends when its owner releases
// it; nobody looks a second time.
func TestReleasedAtTheEnd(t *testing.T) {
	h := begin(t, echo, nil)
	h.dial(t)
	var n *conn
	within(t, "the connection is idle", func() bool {
		for _, l := range h.conns.loops.All() {
			for _, one := range l.poll.Owners() {
				if one.state.CompareAndSwap(idle, owned) {
					n = one
				}
			}
		}
		return n != nil
	})
	n.home.leaving.Store(true)
	h.conns.look()
	if left := h.conns.Len(); left != 1 {
		t.Errorf("%d connections, want the one that is owned", left)
	}
	if !n.loop.release(n) {
		t.Error("there is more to do for the connection")
	}
	if left := h.conns.Len(); left != 0 {
		t.Error("the connection is open")
	}
}

// TestClosedTakesNothing: after Close no connection is taken over; a second Close is harmless.
func TestClosedTakesNothing(t *testing.T) {
	h := begin(t, echo, nil)
	h.dial(t)
	h.conns.Close()
	h.conns.Close()
	if home := h.conns.home(&http.Server{}); home != nil {
		t.Error("another server's connections are taken after Close")
	}
}
