package pebblelog

import (
	"log/slog"
	"sync"
	"time"
)

const (
	clockJump  = time.Minute // more than this between the clock and the time that has passed is a jump
	clockTrust = time.Hour   // how long a clock that has jumped ahead must stay there to be believed
)

// ageClock tells the time by which things grow old. It is the machine's clock, but it does not follow a jump ahead before
// the clock has stayed there for an hour: a clock that is wrong for a while must not delete anything. A jump back makes
// things live longer, and does no harm.
type ageClock struct {
	wall    func() time.Time
	elapsed func() time.Duration // since some moment; goes on whatever the clock does
	logger  *slog.Logger
	jumps   func()

	mu    sync.Mutex // guards the fields below
	base  time.Time  // the time when elapsed was 0, as far as we believe the clock
	ahead bool       // the clock has jumped ahead and is not believed yet
	since time.Duration
	back  bool
}

func newAgeClock(o Options, jumps func()) *ageClock {
	c := &ageClock{wall: o.Now, elapsed: o.Elapsed, logger: o.Logger, jumps: jumps}
	c.base = c.wall().Round(0).Add(-c.elapsed())
	return c
}

func (c *ageClock) now() time.Time {
	wall, elapsed := c.wall().Round(0), c.elapsed()
	c.mu.Lock()
	defer c.mu.Unlock()
	steady := c.base.Add(elapsed)
	off := wall.Sub(steady)
	switch {
	case off > clockJump && !c.ahead:
		c.ahead, c.since = true, elapsed
		c.jumps()
		c.logger.Warn("the clock has jumped ahead: retention follows when it has stayed there for an hour", slog.Duration("by", off))
	case off > clockJump && elapsed-c.since > clockTrust:
		c.base, c.ahead = c.base.Add(off), false
		c.logger.Warn("retention follows the clock, which has stayed ahead", slog.Duration("by", off))
		return wall
	case off <= clockJump:
		c.ahead = false
	}
	if back := off < -clockJump; back != c.back {
		if c.back = back; back {
			c.jumps()
			c.logger.Warn("the clock has jumped back: events are kept longer, and their order is not touched", slog.Duration("by", off))
		}
	}
	if off > 0 {
		if off <= clockJump {
			c.base = c.base.Add(off) // the clock is steered, not set
			return wall
		}
		return steady
	}
	return wall
}
