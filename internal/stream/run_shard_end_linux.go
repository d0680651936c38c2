package stream

import (
	"time"

	"golang.org/x/sys/unix"
)

// enter has the loop watch a stream's connection.
func (sh *shard) enter(st *Stream) {
	now := sh.now()
	st.wrote = now
	st.lookAt = st.due()
	sh.quicken(st, now)
	st.state = open
	switch err := sh.loop.Enter(int(st.fd), st, &st.slot); {
	case err != nil:
		sh.finish(st, EndFailed)
	case st.took > floodLimit:
		sh.finish(st, EndFlood)
	case st.tls != nil:
		sh.arrived(st) // crypto/tls may have it already, so that the kernel tells nothing of it
	}
}

// happened handles an event that the kernel reports for a connection.
func (sh *shard) happened(st *Stream, events uint32) {
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		sh.finish(st, endReason(st.socketError()))
		return
	}
	if events&unix.EPOLLIN != 0 {
		if sh.arrived(st); st.state >= closed {
			return
		}
	}
	if events&unix.EPOLLRDHUP != 0 && !st.shut.in {
		// A peer that has closed for good answers the next bytes with a reset; one that has closed
		// its sending half alone keeps hearing.
		st.shut.in = true
		sh.comment(st)
	}
	if events&unix.EPOLLOUT != 0 && st.state == blocked {
		st.state = open
		sh.requeue(st)
	}
}

// arrived takes the bytes that the client has sent. Within TLS the client may have ended its
// sending half, or want an answer.
func (sh *shard) arrived(st *Stream) {
	half := st.shut.in
	reason := sh.outlet.discard(st)
	switch {
	case reason != goesOn:
		sh.finish(st, reason)
	case st.shut.in != half:
		sh.comment(st)
	case st.tls != nil && st.tls.Kept() > 0 && st.state == open:
		sh.requeue(st)
	}
}

// bodyEnds follows the last byte of the body. If a watcher wants to know the acknowledged bytes,
// the peer gets time to acknowledge.
func (sh *shard) bodyEnds(st *Stream) {
	if st.tls != nil && !st.shut.out {
		st.shut.out = true
		if err := st.tls.CloseWrite(); err != nil {
			sh.couldNotWrite(st, err) // it comes back when the rest has gone
			return
		}
	}
	if unix.Shutdown(int(st.fd), unix.SHUT_WR) != nil {
		sh.finish(st, EndGone)
		return
	}
	if st.live == nil || st.cut.get() != goesOn || st.live.settled() {
		sh.finish(st, st.ended)
		return
	}
	st.state = closing
	st.since = sh.now()
	sh.soon.put(st, st.since.Add(lingerStep))
}

// lingerStep is how often it is looked whether the peer has acknowledged a stream's end.
const lingerStep = 5 * time.Millisecond

// finish closes the connection, and lets everything go that the stream has. Only the worker closes
// connections, after they have left the loop.
func (sh *shard) finish(st *Stream, reason EndReason) {
	clean := st.ended != goesOn && !st.begun()
	st.state = closed
	if clean {
		reason = st.ended // the stream had ended, however the connection ends afterwards
		// unread bytes would make the kernel reset the connection, and lose the bytes under way
		_ = sh.outlet.discard(st)
	}
	if cut := st.cut.get(); cut != goesOn {
		reason, clean = cut, false
	}
	sh.loop.Leave(int(st.fd), st.slot)
	st.live.end(st.sub.Position(), clean) // asks the socket once more, and never again
	_ = unix.Close(int(st.fd))
	st.fd, st.tls, st.rest = -1, nil, nil
	st.live.changed()
	st.streams.end(st, reason)
	if st.reading && !st.sub.CancelRead() {
		st.state = orphan // the read still uses the subscriber
		sh.orphans++
		return
	}
	st.streams.discard(st)
}
