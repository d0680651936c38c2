package pebblelog

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	limitInterval = time.Second
	limitPause    = 10 * time.Millisecond
	sweepShare    = 20 // sweeps that find little to do take one part in sweepShare of the time at most
)

// upkeep keeps a log within its rules, its size and its disk. It has three loops, which sweep,
// limit and measure; they run from Open to Close, on the session of the moment.
type upkeep struct {
	// Fixed after Open.
	log      *Log
	most     int64         // the largest size that the log can have, by the disk at Open; 0: any size
	sweepNow chan struct{} // one token: the sweep is to run now
	tooLarge chan struct{} // one token: the limiter is to look now

	maxBytes atomic.Int64
	room     *room
	use      use
}

func newUpkeep(l *Log) *upkeep {
	u := &upkeep{
		log: l, room: newRoom(), sweepNow: make(chan struct{}, 1), tooLarge: make(chan struct{}, 1),
	}
	u.maxBytes.Store(l.opts.MaxBytes)
	return u
}

// start starts the loops, which end when the log closes.
func (u *upkeep) start() {
	u.log.background.Go(u.sweepLoop)
	u.log.background.Go(u.limitLoop)
	u.log.background.Go(u.measureLoop)
}

// sweepLoop runs the sweep, which deletes the events that retention has hidden.
func (u *upkeep) sweepLoop() {
	pause := u.log.opts.TrimInterval
	for u.wait(pause, u.sweepNow) {
		start, trimmed := time.Now(), u.log.stats.trimmed.Load()
		looked := 0
		u.retain(func(s *session) (err error) {
			looked, err = s.retention.sweep()
			return err
		})
		u.storeClock()
		pause = sweepPause(u.log.opts.TrimInterval, time.Since(start), looked, u.log.stats.trimmed.Load()-trimmed)
	}
}

// sweepPause returns the pause after a sweep. A sweep that mostly looked has a longer one than a
// sweep that deleted.
func sweepPause(least, took time.Duration, looked int, trimmed uint64) time.Duration {
	if trimmed >= uint64(looked)/4 {
		return least
	}
	return max(least, sweepShare*took)
}

// limitLoop runs the limiter.
func (u *upkeep) limitLoop() {
	for u.wait(min(limitInterval, u.log.opts.TrimInterval), u.tooLarge) {
		u.retain(func(s *session) error { return s.limiter.keepSize() })
		if !u.wait(limitPause, nil) {
			return
		}
	}
}

// measureLoop measures the files every second, and every limitPause while there is little room. It
// also checks the free space of the disk. So an idle log on a full disk gives back the room that it
// has set aside, reports that it cannot store before a publish fails, and takes publishes again
// without a restart.
func (u *upkeep) measureLoop() {
	for u.wait(limitInterval, u.room.short) {
		_ = u.checkFree()
		if used, most := u.measure(), u.maxBytes.Load(); most > 0 && used > most {
			select {
			case u.tooLarge <- struct{}{}:
			default:
			}
		}
		if !u.wait(limitPause, nil) {
			return
		}
	}
}

// sweepSoon has the sweep run at once.
func (u *upkeep) sweepSoon() {
	select {
	case u.sweepNow <- struct{}{}:
	default:
	}
}

// wait waits for d, or until there is a token in early; false when the log closes.
func (u *upkeep) wait(d time.Duration, early <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-early:
		return true
	case <-u.log.stop:
		return false
	}
}

// retain has work done on the session of the moment, and logs an error.
func (u *upkeep) retain(work func(*session) error) {
	stop := stopContext{u.log.stop}
	err := u.log.read(stop, work)
	if err != nil && !errors.Is(err, errStopped) && stop.Err() == nil && u.log.proposals.err() == nil {
		u.log.opts.Logger.Warn("retention could not delete", slog.Any("err", err))
	}
}

// storeClock has the committer store the clock, if it has changed and no group has stored it.
func (u *upkeep) storeClock() {
	if u.log.clock.unsaved() {
		_ = u.log.command(storeTime{}) // after an error the next group stores it
	}
}
