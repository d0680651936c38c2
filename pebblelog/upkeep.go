package pebblelog

import (
	"errors"
	"log/slog"
	"time"
)

const (
	limitInterval = time.Second
	limitPause    = 10 * time.Millisecond
	sweepShare    = 20 // a sweep that finds little to do may take one part in so many of the time
)

// sweepLoop deletes, in batches, what retention has clipped.
func (l *Log) sweepLoop() {
	pause := l.opts.TrimInterval
	for l.wait(pause, l.sweepNow) {
		began, trimmed := time.Now(), l.stats.trimmed.Load()
		looked := 0
		l.retain(func(s *session) (err error) {
			looked, err = s.retention.sweep()
			return err
		})
		l.storeClock()
		pause = sweepPause(l.opts.TrimInterval, time.Since(began), looked, l.stats.trimmed.Load()-trimmed)
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
func (l *Log) limitLoop() {
	for l.wait(min(limitInterval, l.opts.TrimInterval), l.tooLarge) {
		l.retain(func(s *session) error { return s.limiter.keepSize() })
		if !l.wait(limitPause, nil) {
			return
		}
	}
}

// measureLoop measures the files once a second, and every limitPause while there is little room. It looks at the disk too: so
// an idle log on a full disk gives back what it has set aside, says that it cannot store before anybody publishes, and takes
// publishes again by itself.
func (l *Log) measureLoop() {
	for l.wait(limitInterval, l.room.short) {
		_ = l.checkFree()
		if used, most := l.measure(), l.maxBytes.Load(); most > 0 && used > most {
			select {
			case l.tooLarge <- struct{}{}:
			default:
			}
		}
		if !l.wait(limitPause, nil) {
			return
		}
	}
}

// sweepSoon has the sweep begin at once.
func (l *Log) sweepSoon() {
	select {
	case l.sweepNow <- struct{}{}:
	default:
	}
}

// wait waits for so long, or until it is called early; false when the log closes.
func (l *Log) wait(d time.Duration, early <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-early:
		return true
	case <-l.stop:
		return false
	}
}

func (l *Log) retain(work func(*session) error) {
	stop := stopContext{l.stop}
	err := l.read(stop, work)
	if err != nil && !errors.Is(err, errStopped) && stop.Err() == nil && l.Status().Err == nil {
		l.opts.Logger.Warn("retention could not delete", slog.Any("err", err))
	}
}
