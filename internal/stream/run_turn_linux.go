package stream

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/sse"
)

// turn gives a stream the pieces that there are for it.
func (sh *shard) turn(st *Stream) {
	st.queued.Store(false) // before anything is looked at, so that a wake-up from now on is not overlooked
	f := sh.adopt(st)
	var turn *hub.Turn
	if f != nil {
		turn = f.turn
		defer turn.Release()
		if p, ok := errors.AsType[*hub.PanicError](f.err); ok {
			sh.failed(st, p.Value, p.Stack)
			return
		}
		if f.err != nil {
			if st.noteReadFailed(f.err, sh.now()); st.unread > 0 {
				sh.soon.put(st, st.unread)
			}
			turn = nil
		}
	}
	if st.state == arriving {
		sh.enter(st)
	}
	if st.state != open {
		sh.hurry(st)
		return
	}
	if st.begun() && !sh.writeRest(st) {
		sh.hurry(st)
		return
	}
	sh.gather(st, turn)
}

// gather has the stream gather its next pieces, and sends them.
func (sh *shard) gather(st *Stream, read *hub.Turn) {
	now := sh.now()
	if st.awaitsRead(read != nil, now) {
		if st.wantsSign(now) {
			sh.comment(st) // it names no position: a turn that was read may be on its way
		}
		sh.hurry(st)
		return
	}
	w, t := &sh.work, read
	if t == nil {
		t = &w.turn
	}
	v := st.gather(w, t, read != nil, now)
	if v == reads {
		if st.wantsSign(now) {
			sh.comment(st)
		}
		if st.state >= closed {
			return
		}
		st.reading = true
		st.sub.ReadLater(st)
		return
	}
	whole := sh.write(st, w, t)
	clear(w.turn.Frames)
	switch {
	case st.state >= closed:
	case v == ends:
		st.ended = w.reason
		if whole {
			sh.bodyEnds(st)
		} else if st.state == blocked {
			sh.hurry(st)
		} else {
			sh.requeue(st)
		}
	case st.state == blocked:
	case v == again || !whole:
		sh.requeue(st)
	}
}

// requeue puts a stream to the back of the queue.
func (sh *shard) requeue(st *Stream) {
	if st.queued.CompareAndSwap(false, true) {
		sh.lives.push(st)
	}
}

// hurry gives a stream that must end, and cannot say so at once, a moment.
func (sh *shard) hurry(st *Stream) {
	if (st.state == open || st.state == blocked) && st.cut.get() != goesOn {
		sh.soon.put(st, sh.now().Add(cutGrace))
	}
}

// write sends the gathered pieces, and returns false if not all of them left. Frames that were not
// begun are gathered again. The rest of a frame that was begun is kept in rest.
func (sh *shard) write(st *Stream, w *work, t *hub.Turn) (whole bool) {
	frames := t.Frames
	st.live.sending(st, len(w.prefix), frames, t.Through)
	n, total, err := 0, len(w.prefix), error(nil)
	if total > 0 || len(frames) > 0 {
		sh.outlet.reset()
		if len(w.prefix) > 0 {
			sh.outlet.add(w.prefix)
		}
		for i := range frames {
			b := st.piece(&frames[i])
			if sh.outlet.count < piecesMost && (i == 0 || total+len(b) <= bytesMost) {
				sh.outlet.add(b)
			}
			total += len(b)
		}
		n, err = sh.outlet.send(st)
	}
	begun := len(frames)
	if n < total {
		if n < len(w.prefix) {
			st.rest = append(make([]byte, 0, len(w.prefix)-n), w.prefix[n:]...)
			begun = 0
		} else {
			left := n - len(w.prefix)
			begun = 0
			for left > 0 {
				b := st.piece(&frames[begun])
				if begun++; left < len(b) {
					st.rest = b[left:]
				}
				left -= len(b)
			}
		}
	}
	st.sent(w, t, begun, time.Now())
	if err != nil {
		sh.couldNotWrite(st, err)
	}
	return n == total && !st.begun()
}

// begun tells whether something has been begun that must be written first.
func (st *Stream) begun() bool { return len(st.rest) > 0 || (st.tls != nil && st.tls.Kept() > 0) }

// writeRest writes the rest of a frame that was begun, and returns true if nothing of it is left.
func (sh *shard) writeRest(st *Stream) bool {
	sh.outlet.reset()
	if len(st.rest) > 0 {
		sh.outlet.add(st.rest)
	}
	n, err := sh.outlet.send(st)
	if n > 0 {
		st.wrote = sh.now()
	}
	if st.rest = st.rest[n:]; len(st.rest) == 0 {
		st.rest = nil
	}
	switch {
	case err != nil:
		sh.couldNotWrite(st, err)
		return false
	case st.rest != nil:
		sh.requeue(st)
		return false
	case st.ended != goesOn:
		sh.bodyEnds(st)
		return false
	}
	return true
}

// comment writes a sign of life that says nothing, if the socket takes it.
func (sh *shard) comment(st *Stream) {
	if st.state != open || st.begun() || st.ended != goesOn {
		return
	}
	w := work{}
	w.say(&st.machine, []byte(sse.Comment))
	sh.outlet.reset()
	sh.outlet.add(w.prefix)
	n, err := sh.outlet.send(st)
	if n > 0 {
		st.live.sending(st, len(w.prefix), nil, st.sub.Position())
		st.wrote = sh.now()
		if n < len(w.prefix) {
			st.rest = w.prefix[n:]
			sh.requeue(st)
		}
	}
	if err != nil {
		sh.couldNotWrite(st, err)
	}
}

func (sh *shard) couldNotWrite(st *Stream, err error) {
	if errors.Is(err, unix.EAGAIN) {
		st.state, st.since, st.held = blocked, sh.now(), -1
		return
	}
	sh.finish(st, endReason(socketError(err)))
}
