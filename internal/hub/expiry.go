package hub

import "slices"

// living removes the frames of events that have expired. Frames that were just read from the log
// have not; frames in memory may be old. It asks for the time only if one of the frames can expire.
func (h *Hub) living(frames []Frame) []Frame {
	for i := range frames {
		if frames[i].Expires != 0 {
			now := StampOf(h.log.Now())
			return slices.DeleteFunc(frames, func(f Frame) bool { return f.Expires != 0 && f.Expires <= now })
		}
	}
	return frames
}
