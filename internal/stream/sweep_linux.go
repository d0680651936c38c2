package stream

import (
	"time"

	"github.com/fanfare-hub/fanfare/internal/peer"
)

// sweep is where the worker is on its way round the slots. It comes by each once in a period and looks whether something is due:
// so 10,000 streams that were all written to in the same moment do not all beat in the same moment, and a stream costs no timer.
type sweep struct {
	period int64 // 0: there is no stream
	at     int64 // when the next step is due
	slot   int   // the next one
}

const (
	longestPeriod  = 500 * time.Millisecond // so late what is due may come
	shortestPeriod = 5 * time.Millisecond
	sweepSteps     = 16 // in which it goes round
)

// quicken has the sweep go round fast enough for a stream.
func (s *sweep) quicken(st *Stream, now int64, stall time.Duration) {
	shortest := min(st.heartbeat, int64(stall))
	if st.ends > 0 {
		shortest = min(shortest, st.ends-now)
	}
	period := min(max(shortest/8, int64(shortestPeriod)), int64(longestPeriod))
	if s.period == 0 || period < s.period {
		s.period = period
		s.at = now + period/sweepSteps
	}
}

// soonAt has the worker look at a stream at a time, or before.
func (sh *shard) soonAt(st *Stream, at int64) {
	if st.soon == 0 {
		sh.soon = append(sh.soon, st)
		st.soon = at
	}
	st.soon = min(st.soon, at)
	if sh.soonest == 0 || at < sh.soonest {
		sh.soonest = at
	}
}

// nextTick is when tick has something to do; 0: never.
func (sh *shard) nextTick() int64 {
	if sh.soonest > 0 && (sh.sweep.period == 0 || sh.soonest < sh.sweep.at) {
		return sh.soonest
	}
	if sh.sweep.period == 0 {
		return 0
	}
	return sh.sweep.at
}

// tick does what is due.
func (sh *shard) tick(now int64) {
	if sh.soonest > 0 && now >= sh.soonest {
		sh.lookSoon(now)
	}
	for sh.sweep.period > 0 && now >= sh.sweep.at {
		steps := min(sweepSteps, len(sh.slots))
		for range (len(sh.slots) + steps - 1) / steps {
			if sh.sweep.slot >= len(sh.slots) {
				sh.sweep.slot = 0
			}
			s := &sh.slots[sh.sweep.slot]
			sh.sweep.slot++
			if s.st == nil || (s.due > now && s.st.state != blocked) {
				continue
			}
			sh.visit(s, now)
		}
		sh.sweep.at += sh.sweep.period / int64(steps)
		if sh.sweep.period > 0 && sh.sweep.at < now-sh.sweep.period {
			sh.sweep.at = now // it has been held up for more than a round
		}
	}
}

// visit looks whether a stream is due, or has stalled.
func (sh *shard) visit(s *slot, now int64) {
	st := s.st
	if st.state == blocked {
		sh.guard(st, func() { sh.visitBlocked(st, now) })
		return
	}
	if s.due = st.due(); s.due <= now {
		s.due = now + int64(time.Millisecond) // the turn writes
		sh.requeue(st)
	}
}

// visitBlocked ends a stream whose peer has taken nothing for the limit: neither have we been able to write, nor does the kernel hold
// less than before.
func (sh *shard) visitBlocked(st *Stream, now int64) {
	if st.mustEnd(now); st.cut.Load() != nil {
		sh.hurry(st)
	}
	const ask = 10 // times in the limit
	if now-st.since < int64(sh.streams.o.StallLimit)/ask && st.queue < 0 {
		return
	}
	queued, err := peer.QueuedFD(st.fd)
	if err == nil && (st.queue < 0 || int32(queued) < st.queue) {
		if st.queue >= 0 {
			st.since = now
		}
		st.queue = int32(queued)
	}
	if now-st.since >= int64(sh.streams.o.StallLimit) {
		sh.finish(st, EndStalled)
	}
}

// lookSoon looks at the streams that have something to do soon.
func (sh *shard) lookSoon(now int64) {
	list := sh.soon
	sh.soon, sh.soonest = nil, 0
	for _, st := range list {
		at := st.soon
		st.soon = 0
		if st.state >= closed {
			continue
		}
		if now < at {
			sh.soonAt(st, at)
			continue
		}
		sh.guard(st, func() { sh.act(st, now) })
	}
}

// act does what a stream has put off.
func (sh *shard) act(st *Stream, now int64) {
	switch {
	case st.state == closing:
		if st.live.settled() || now-st.since >= int64(cleanWait) {
			sh.finish(st, st.over)
			return
		}
		sh.soonAt(st, now+int64(lingerStep))
	case st.cut.Load() != nil:
		sh.finish(st, *st.cut.Load()) // it has had its moment
	default:
		sh.requeue(st) // the log may be read again
	}
}
