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
	sweepShare    = 20 // a sweep that finds little to do may take one part in so many of the time
)

// upkeep keeps a log within its rules, its size, and its disk, for as long as the log is open, on
// whichever session there is: three loops that sweep, limit, and measure.
type upkeep struct {
	// Fixed after Open.
	log      *Log
	most     int64         // how large the log can become at most, as far as it was known at Open; 0: any size
	sweepNow chan struct{} // one token: the sweep is asked to begin
	tooLarge chan struct{} // one token: the limiter is asked to look

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

// start sets the loops to work; they end when the log closes.
func (u *upkeep) start() {
	u.log.background.Go(u.sweepLoop)
	u.log.background.Go(u.limitLoop)
	u.log.background.Go(u.measureLoop)
}

// sweepLoop deletes, in batches, what retention has clipped.
func (u *upkeep) sweepLoop() {
	pause := u.log.opts.TrimInterval
	for u.wait(pause, u.sweepNow) {
		began, trimmed := time.Now(), u.log.stats.trimmed.Load()
		looked := 0
		u.retain(func(s *session) (err error) {
			looked, err = s.retention.sweep()
			return err
		})
		u.storeClock()
		pause = sweepPause(u.log.opts.TrimInterval, time.Since(began), looked, u.log.stats.trimmed.Load()-trimmed)
	}
}

// sweepPause is longer after a sweep that mostly looked, and not after one that deleted.
func sweepPause(least, took time.Duration, looked int, trimmed uint64) time.Duration {
	if trimmed >= uint64(looked)/4 {
		return least
	}
	return max(least, sweepShare*took)
}

// limitLoop keeps the log within its size.
func (u *upkeep) limitLoop() {
	for u.wait(min(limitInterval, u.log.opts.TrimInterval), u.tooLarge) {
		u.retain(func(s *session) error { return s.limiter.keepSize() })
		if !u.wait(limitPause, nil) {
			return
		}
	}
}

// measureLoop measures the files once a second, and every limitPause while there is little room. It
// looks at the disk too: so an idle log on a full disk gives back what it has set aside, says that
// it cannot store before anybody publishes, and takes publishes again by itself.
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

// sweepSoon has the sweep begin at once.
func (u *upkeep) sweepSoon() {
	select {
	case u.sweepNow <- struct{}{}:
	default:
	}
}

// wait waits for so long, or until it is called early; false when the log closes.
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

func (u *upkeep) retain(work func(*session) error) {
	stop := stopContext{u.log.stop}
	err := u.log.read(stop, work)
	if err != nil && !errors.Is(err, errStopped) && stop.Err() == nil && u.log.proposals.err() == nil {
		u.log.opts.Logger.Warn("retention could not delete", slog.Any("err", err))
	}
}

// storeClock has the committer store what has changed about the clock, when nothing else gives it a
// reason to write.
func (u *upkeep) storeClock() {
	if u.log.clock.unsaved() {
		_ = u.log.command(storeTime{}) // else the next group does
	}
}
