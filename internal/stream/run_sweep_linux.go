package stream

import (
	"time"

	"github.com/fanfare-hub/fanfare/internal/peer"
	"github.com/fanfare-hub/fanfare/internal/poll"
)

const (
	longestPeriod  = 500 * time.Millisecond // of a sweep: how late a stream may be visited
	shortestPeriod = 5 * time.Millisecond
)

// quicken has the sweep go round fast enough for a stream.
func (sh *shard) quicken(st *Stream, now poll.Instant) {
	shortest := min(st.manner.Heartbeat, sh.streams.o.StallLimit)
	if st.ends > 0 {
		shortest = min(shortest, st.ends.Sub(now))
	}
	sh.sweep.Hasten(now, min(max(shortest/8, shortestPeriod), longestPeriod))
}

// agenda are the streams that have something to do soon, sooner than a sweep comes by.
type agenda struct {
	list  []*Stream
	first poll.Instant // when the first is due, or never
}

// put has the worker look at a stream at a time, or before.
func (a *agenda) put(st *Stream, at poll.Instant) {
	if st.soon == 0 {
		a.list = append(a.list, st)
	}
	st.soon = st.soon.Earlier(at)
	a.first = a.first.Earlier(at)
}

// take returns all streams; the worker puts back those whose time has not come.
func (a *agenda) take() []*Stream {
	list := a.list
	*a = agenda{}
	return list
}

// nextTick is when tick has something to do, or never.
func (sh *shard) nextTick() poll.Instant {
	return sh.soon.first.Earlier(sh.sweep.Next())
}

// tick visits the streams that are due.
func (sh *shard) tick(now poll.Instant) {
	if sh.soon.first.Reached(now) {
		sh.lookSoon(now)
	}
	for st := range sh.sweep.Due(now) {
		switch {
		case st.state == blocked:
			sh.guard(st, func() { sh.visitBlocked(st, now) })
		case st.state < closed && st.lookAt <= now:
			sh.visit(st, now)
		}
	}
}

// visit looks whether a stream is due.
func (sh *shard) visit(st *Stream, now poll.Instant) {
	if st.lookAt = st.due(); st.lookAt <= now {
		st.lookAt = now.Add(time.Millisecond) // the turn writes
		sh.requeue(st)
	}
}

// visitBlocked ends a stream whose peer has taken no bytes for the limit: the worker could not
// write, and the kernel holds as many bytes as before.
func (sh *shard) visitBlocked(st *Stream, now poll.Instant) {
	if st.mustEnd(now); st.cut.get() != goesOn {
		sh.hurry(st)
	}
	const ask = 10 // times in the limit
	if now.Sub(st.since) < sh.streams.o.StallLimit/ask && st.held < 0 {
		return
	}
	queued, err := peer.QueuedFD(int(st.fd))
	if err == nil && (st.held < 0 || int32(queued) < st.held) {
		if st.held >= 0 {
			st.since = now
		}
		st.held = int32(queued)
	}
	if now.Sub(st.since) >= sh.streams.o.StallLimit {
		sh.finish(st, EndStalled)
	}
}

// lookSoon looks at the streams that have something to do soon.
func (sh *shard) lookSoon(now poll.Instant) {
	for _, st := range sh.soon.take() {
		at := st.soon
		st.soon = 0
		if st.state >= closed {
			continue
		}
		if now < at {
			sh.soon.put(st, at)
			continue
		}
		sh.guard(st, func() { sh.act(st, now) })
	}
}

// act does the work that a stream has put off.
func (sh *shard) act(st *Stream, now poll.Instant) {
	switch {
	case st.state == closing:
		if st.live.settled() || now.Sub(st.since) >= cleanWait {
			sh.finish(st, st.ended)
			return
		}
		sh.soon.put(st, now.Add(lingerStep))
	case st.cut.get() != goesOn:
		sh.finish(st, st.cut.get()) // it has had its moment
	default:
		sh.requeue(st) // the log may be read again
	}
}
