package hub

import (
	"time"

	"github.com/fanfare-hub/fanfare"
)

// admit takes a place for a subscriber, or returns the reason why there is none. The limit on all
// subscribers is here, and not with the limits on streams, because a Go program's own subscribers
// count too, and a drain waits for every admitted subscriber.
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

// release gives back a place that admit took.
func (h *Hub) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.releaseLocked()
}

// releaseLocked is release under the hub's lock.
func (h *Hub) releaseLocked() {
	h.admitted--
	if h.empty != nil && h.admitted == 0 {
		close(h.empty)
		h.empty = nil
	}
}
