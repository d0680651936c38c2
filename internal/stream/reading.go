package stream

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/fanfare-hub/fanfare/hub"
)

// readAgain is how long a stream waits before it asks a log again that could not be read.
const readAgain = time.Second

// fetched is a turn that was read from the log. It has to be released.
type fetched struct {
	turn *hub.Turn
	err  error
}

func (s *Streams) panicked(p any, stack []byte) {
	s.o.Logger.Error("a stream panicked", slog.Any("panic", p), slog.String("stack", string(stack)))
}

// awaitsRead tells whether the stream can do nothing but give signs of life: a read is under way, or the log could not be read a
// moment ago. A stream that must end waits for neither: its read is cancelled. read says that a read has just come.
func (st *Stream) awaitsRead(read bool, now int64) bool {
	reason := st.mustEnd(now)
	if st.reading && reason != "" && st.sub.CancelRead() {
		st.reading = false
	}
	return st.reading || (!read && st.unread > now && reason == "")
}

// readFailed notes that the log could not be read. A stream that has begun asks again, and loses nothing. One that is still looking
// for its start ends, and its client comes back, perhaps to another hub.
func (st *Stream) readFailed(err error, now int64) {
	switch {
	case errors.Is(err, context.Canceled): // it was taken back
	case st.sub.Opened():
		st.unread = now + int64(readAgain)
	default:
		st.failed = true
		st.streams.o.Logger.Warn("a stream ends, because the log cannot be read to find where it starts",
			slog.String("remote", st.caller.Remote), slog.Any("err", err))
	}
}
