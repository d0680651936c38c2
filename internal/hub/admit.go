package hub

import (
	"time"

	"github.com/fanfare-hub/fanfare"
)

// admit takes a place for a subscriber. The limit on all of them is here, and not with the limits
// on streams: a Go program's own subscribers count, too, and a drain waits for all who were
// admitted.
func (h *Hub) admit() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.draining:
		left, _ := h.DrainLeft()
		return &fanfare.Error{Code: fanfare.CodeUnavailable, Detail: "the hub is shutting down",
			RetryAfter: left + 2*time.Second}
	case h.most > 0 && h.admitted >= h.most:
		return &fanfare.Error{
			Code: fanfare.CodeOverloaded, RetryAfter: 5 * time.Second, Reason: fanfare.ReasonMaxStreams,
			Detail: "no room for another stream", Setting: fanfare.SettingMaxStreams,
		}
	}
	h.admitted++
	return nil
}

func (h *Hub) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.releaseLocked()
}

// releaseLocked gives back a place that admit took.
func (h *Hub) releaseLocked() {
	h.admitted--
	if h.empty != nil && h.admitted == 0 {
		close(h.empty)
		h.empty = nil
	}
}
