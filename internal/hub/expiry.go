package hub

import "slices"

// living leaves out the frames of events that are over. Those that were just read from the log are
// not over; those in memory may have been there for long. It asks for the time only when there is a
// frame that can be over.
func (h *Hub) living(frames []Frame) []Frame {
	for i := range frames {
		if frames[i].Expires != 0 {
			now := StampOf(h.log.Now())
			return slices.DeleteFunc(frames, func(f Frame) bool { return f.Expires != 0 && f.Expires <= now })
		}
	}
	return frames
}
