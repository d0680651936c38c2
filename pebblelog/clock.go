package pebblelog

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// Four times
//
// Wall time is the time of the machine's clock. It is the time of events, because people compare
// it. It may jump either way, be wrong for two seconds or for a month, and differ from the time
// before the log was closed.
//
// Log time passes as the kernel's monotonic clock does while the log is open, and stands while the
// log is closed. It never jumps and never falls, and goes on at the next opening from where it was.
// The log time of an event is exact, even if the wall clock was wrong when the event was stored.
//
// Guarded time is log time plus the jumps of the wall clock that are believed. It decides which
// events and records are forgotten or deleted. The wall clock is believed as far as it has been
// ahead for the last hour of log time without a break (clockTrust). So two seconds of a wrong clock
// change nothing, nor does an opening of the log while the clock is wrong; and a machine that was
// off for a week is believed an hour after it came back. That hour may be spread over several
// openings. Guarded time never falls: it does not follow a wall clock that goes back, and events go
// on growing old at their own pace.
//
// A phase (phase.go) is a stretch of the log in which wall time and log time ran side by side. From
// the position and the wall time of an event, the list of phases tells its log time. So ages are
// exact later on: a jump that turns out false adds nothing to any age, and a jump that is believed
// adds to the age of the events before it, but not of those after it.
//
// Due time decides which events have expired (ttl), and which are to be published (deliverAt). It
// is wall time with two exceptions: it never falls, and it follows a jump ahead only when the jump
// has stood for five minutes without a break (dueTrust); until then it passes as log time does. At
// an opening the wall clock is believed, so that a hub that was off publishes the events that have
// become due meanwhile. While the wall clock is behind due time, due time stands.

const (
	clockJump  = time.Minute // a step of the wall clock by more than this is a jump
	clockTrust = time.Hour   // the time for which the wall clock must have been ahead to be believed
	dueTrust   = 5 * time.Minute
	clockSlip  = time.Second // a wall clock that is not believed begins a phase when it slips by more than this
)

// clock keeps these times, by reading the machine's clock. Its methods may be called from any
// goroutine.
type clock struct {
	// Fixed after newClock.
	read   func() (wall time.Time, elapsed time.Duration)
	logger *slog.Logger
	jumps  func() // counts a jump

	mu       sync.Mutex // guards the fields below
	elapsed  int64      // the kernel's clock when it was last read, in milliseconds since some moment; never falls
	base     int64      // log time when elapsed was 0
	believed int64      // guarded time less log time
	due      int64      // due time when it was last read
	opened   int64      // log time when the log was opened
	phases   []phase    // oldest first, never empty after open; replaced, not changed
	changed  bool       // the phases differ from the stored ones
	saved    int64      // log time when the clock was last stored
	off      clockOff
	lead     int64 // wall time less guarded time, when last read
}

// clockOff tells whether the wall clock agrees with guarded time.
type clockOff int

const (
	clockRight clockOff = iota
	clockAhead
	clockBehind
)

// moment is one reading of the clock, with the phases of the past.
type moment struct {
	wall    int64 // milliseconds, as all times here
	log     int64
	guarded int64
	due     int64
	phases  []phase
}

func newClock(o Options, jumps func()) *clock {
	c := &clock{logger: o.Logger, jumps: jumps}
	if o.Elapsed != nil {
		c.read = func() (time.Time, time.Duration) { return o.Now(), o.Elapsed() }
	} else { // one reading has both times, so that no time can pass between the two
		start := o.Now()
		c.read = func() (time.Time, time.Duration) { now := o.Now(); return now, now.Sub(start) }
	}
	return c
}

// open has the clock go on from its stored state. Only the first call does so.
func (c *clock) open(stored clockState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phases != nil {
		return
	}
	_, elapsed := c.read()
	c.elapsed = elapsed.Milliseconds()
	c.base = stored.log - c.elapsed
	c.believed, c.phases, c.due = stored.believed, stored.phases, stored.due
	c.lookLocked(true)
}

// guardedTime returns guarded time as a time.Time.
func (m moment) guardedTime() time.Time { return time.UnixMilli(m.guarded).UTC() }

// look reads the clock.
func (c *clock) look() moment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lookLocked(false)
}

// group is look for a new group, whose first event gets the position next. It also returns whether
// the phases are to be stored.
func (c *clock) group(next fanfare.Position) (m moment, changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m = c.lookLocked(false)
	if at := len(m.phases) - 1; m.phases[at].from == notYet {
		c.phases = slices.Clone(c.phases)
		for ; at >= 0 && c.phases[at].from == notYet; at-- {
			c.phases[at].from = next
		}
		m.phases = c.phases
	}
	changed, c.changed, c.saved = c.changed, false, m.log
	return m, changed
}

// unsaved tells whether the committer should store the clock without another reason to write. A
// crash takes back log time that was not stored, and then events live longer by as much.
func (c *clock) unsaved() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := 10 * time.Minute
	if c.off != clockRight {
		wait = time.Minute // so that the hour until the clock is believed goes on after a crash
	}
	return c.changed || c.lookLocked(false).log-c.saved >= wait.Milliseconds()
}

// ahead returns the time by which the wall clock is ahead of guarded time; below zero it is behind.
func (c *clock) ahead() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lookLocked(false)
	return time.Duration(c.lead) * time.Millisecond
}

// prune forgets the phases that have no event above a floor.
func (c *clock) prune(floor fanfare.Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	recent := c.logLocked() - clockTrust.Milliseconds()
	n := 0
	for n+1 < len(c.phases) && c.phases[n+1].from <= floor+1 && c.phases[n+1].start <= recent {
		n++
	}
	if n > 0 {
		c.phases, c.changed = slices.Clone(c.phases[n:]), true
	}
}

// lookLocked reads the clock. opening says that the log was closed until now.
func (c *clock) lookLocked(opening bool) moment {
	read, elapsed := c.read()
	wall := max(read.UnixMilli(), 0)
	c.elapsed = max(c.elapsed, elapsed.Milliseconds())
	c.stepLocked(wall, opening)
	c.believeLocked()
	now := c.logLocked()
	if opening {
		c.opened = now // what the wall clock says now is believed at once
	}
	c.dueLocked(wall)
	c.lead = wall - now - c.believed
	c.sayLocked(opening)
	return moment{wall: wall, log: now, guarded: now + c.believed, due: c.due, phases: c.phases}
}

// stepLocked compares the wall clock with log time, and begins a phase when it has jumped.
func (c *clock) stepLocked(wall int64, opening bool) {
	now := c.logLocked()
	off, last := wall-now, c.phases[len(c.phases)-1]
	lead := off - c.believed
	switch {
	case off <= last.high && off >= last.high-clockJump.Milliseconds():
		if off < last.low { // after a small step back log time goes on, so that no event lives too short
			c.phases = slices.Clone(c.phases)
			c.phases[len(c.phases)-1].low = off
			c.changed = true
		}
	case lead > 0 && lead <= clockJump.Milliseconds():
		// The clock was corrected a little, or the log was closed for a moment: time has passed.
		c.base += lead
		if last.high != c.believed {
			c.beginLocked(c.believed, opening)
		}
	case off > last.high && off <= last.high+clockSlip.Milliseconds() && !opening:
		c.base += off - last.high
	default:
		c.beginLocked(off, opening)
	}
}

// logLocked returns log time. It stands for the first millisecond of a phase, so that no event of
// the phase has the same log time as an event before it.
func (c *clock) logLocked() int64 {
	return max(c.base+c.elapsed, c.phases[len(c.phases)-1].start)
}

// beginLocked begins a phase in which the wall clock is ahead of log time by off milliseconds.
func (c *clock) beginLocked(off int64, opening bool) {
	p := phase{from: notYet, start: c.logLocked() + 1, low: off - 1, high: off, opened: opening}
	c.phases = mergeOldest(append(slices.Clone(c.phases), p))
	c.changed = true
}

// believeLocked moves guarded time ahead by the time that the wall clock has been ahead of it for
// the whole of the last hour.
func (c *clock) believeLocked() {
	since := c.logLocked() + clockSlip.Milliseconds() - clockTrust.Milliseconds()
	i := len(c.phases) - 1
	lowest := c.phases[i].high
	for ; i > 0 && c.phases[i].start > since; i-- {
		lowest = min(lowest, c.phases[i-1].high)
	}
	if lowest <= c.believed || c.phases[i].start > since {
		return
	}
	first := len(c.phases) - 1 // the phase that began with the jump
	for first > 0 && c.phases[first-1].high > c.believed {
		first--
	}
	by := lowest - c.believed
	c.phases = slices.Clone(c.phases)
	c.phases[first].believed += by
	c.believed += by
	c.changed = true
	if by > clockJump.Milliseconds() {
		c.logger.Warn("the clock has stayed ahead for an hour and is believed: events that are too old are removed",
			slog.Duration("by", time.Duration(by)*time.Millisecond))
	}
}

// dueLocked moves due time to the wall clock. It believes only the lead over log time that the wall
// clock has had without a break for the last five minutes, or since the opening if that is later.
func (c *clock) dueLocked(wall int64) {
	now := c.logLocked()
	since := max(now-dueTrust.Milliseconds(), c.opened)
	i := len(c.phases) - 1
	lowest := c.phases[i].high
	for ; i > 0 && c.phases[i].start > since; i-- {
		lowest = min(lowest, c.phases[i-1].high)
	}
	c.due = max(c.due, min(wall, now+lowest))
}

// sayLocked logs, once for each change, that the clock is not believed, or that it is right again.
func (c *clock) sayLocked(opening bool) {
	off := clockRight
	switch by := time.Duration(c.lead) * time.Millisecond; {
	case by > clockJump:
		off = clockAhead
	case by < -clockJump:
		off = clockBehind
	}
	if off == c.off {
		return
	}
	by := slog.Duration("by", time.Duration(c.lead)*time.Millisecond)
	switch {
	case off == clockAhead && opening:
		c.jumps()
		c.logger.Warn("the clock is ahead of the time when the log was closed: either it was closed for that long, "+
			"or the clock is wrong; no event is removed because of it for an hour", by)
	case off == clockAhead:
		c.jumps()
		c.logger.Warn("the clock has jumped ahead: no event is removed because of it for an hour", by)
	case off == clockBehind:
		c.jumps()
		c.logger.Warn("the clock has jumped back: stored events keep their age and their order", by)
	default:
		c.logger.Info("the clock agrees with the time that the log knows")
	}
	c.off = off
}
