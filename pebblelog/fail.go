package pebblelog

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
)

// storeLogger is Pebble's logger. Pebble's default would end the process in Fatalf; ours fails the session.
type storeLogger struct{ s *session }

func (g storeLogger) Infof(format string, args ...any) {
	g.s.log.opts.Logger.Debug("store", slog.String("message", fmt.Sprintf(format, args...)))
}

func (g storeLogger) Errorf(format string, args ...any) {
	if g.s.isDead() {
		return // what a fenced store complains about is of no use to anybody
	}
	if !g.s.complaints.due() {
		g.s.complaints.unsaid.Add(1)
		return
	}
	unsaid := g.s.complaints.unsaid.Swap(0)
	g.s.log.opts.Logger.Warn("store", slog.String("message", fmt.Sprintf(format, args...)), slog.Int64("unsaid", unsaid))
}

// complaints bounds what is logged of Pebble's complaints to one a second: on a full disk it tries a
// hundred times a second, and complains each time.
type complaints struct {
	last   atomic.Int64 // the second of the last one that was logged
	unsaid atomic.Int64 // how many were not logged since
}

// due tells whether the next complaint is to be logged.
func (c *complaints) due() bool {
	now := time.Now().Unix()
	return c.last.Swap(now) != now
}

// Fatalf marks the session failed. In a goroutine of ours it panics, and guard makes an error of it, because Pebble's
// Commit would return nil after a failed write. In one of Pebble's own (flush, compaction) a panic would end the process;
// there it returns, and Pebble hands the error back.
func (g storeLogger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	g.s.fail(err)
	if underGuard() {
		panic(storeFailure{err})
	}
}

type storeFailure struct{ err error }

// guard calls into Pebble and turns a panic from there into an error that has failed the session.
//
//go:noinline
func (s *session) guard(f func() error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case storeFailure:
			err = p.err
		default:
			// Pebble panics where it does not know how to go on, for one when the old WAL cannot be closed.
			stack := make([]byte, 8<<10)
			stack = stack[:runtime.Stack(stack, false)]
			err = fmt.Errorf("the store panicked: %v", p)
			s.log.opts.Logger.Error("store panicked", slog.Any("panic", p), slog.String("stack", string(stack)))
			s.fail(err)
		}
	}()
	return f()
}

// underGuard tells whether the calling goroutine is inside guard.
func underGuard() bool {
	pcs := make([]uintptr, 128)
	for skip := 2; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs)
		frames := runtime.CallersFrames(pcs[:n])
		for {
			frame, more := frames.Next()
			if strings.HasSuffix(frame.Function, "pebblelog.(*session).guard") {
				return true
			}
			if !more {
				break
			}
		}
		if n < len(pcs) {
			return false
		}
	}
}

// fail marks the session failed, once. It may be called under Pebble's locks, so it only marks; the rest is done by a
// goroutine: refuse what waits, and open a successor.
func (s *session) fail(cause error) {
	s.failOnce.Do(func() {
		s.fs.fence()
		s.tip.fence()
		s.cause = cause
		close(s.dead)
		l := s.log
		l.mu.Lock()
		current := l.session == s && !l.closing
		if current {
			failed := fanfare.Unavailable("the log cannot store: its disk or files have failed; it is being opened again", cause)
			l.failed = failed
			l.background.Go(func() { l.recover(s, failed) }) // under mu, so that Close cannot miss it
		}
		l.mu.Unlock()
		if current {
			l.opts.Logger.Error("the log has failed", slog.Any("err", cause))
		}
	})
}

// refuseAll answers all that waits or is in flight with err.
func (l *Log) refuseAll(err error) {
	l.mu.Lock()
	var victims []*request
	for _, g := range l.inflight {
		if !g.answered {
			g.answered = true
			victims = append(victims, g.requests...)
		}
	}
	victims = append(victims, l.queue...)
	l.queue, l.queueBytes = nil, 0
	l.mu.Unlock()
	for _, r := range victims {
		l.stats.refused.Add(1)
		r.done(fanfare.Receipt{}, err)
	}
}

// recover replaces a failed session, trying again with back-off until it works or the log is closed.
func (l *Log) recover(old *session, failed error) {
	l.refuseAll(failed)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-l.stop:
			timer.Stop()
			l.closers.Go(func() { _ = old.close() })
			return
		}
		if err := l.checkFree(); err != nil {
			continue
		}
		s, err := l.openSession()
		if err != nil {
			l.opts.Logger.Warn("the log cannot be opened again yet", slog.Any("err", err))
			continue
		}
		l.replace(old, s)
		return
	}
}

func (l *Log) replace(old, s *session) {
	l.tell.Lock()
	durable := s.catalog.runs.first - 1
	l.mu.Lock()
	l.session, l.failed, l.slow = s, nil, nil
	l.inflight = nil
	l.durable.Store(uint64(durable))
	s.start() // under mu, so that Close cannot miss its goroutines; nothing becomes visible before tell is let go
	l.mu.Unlock()
	for _, w := range l.watchers {
		w.w.Reopened(durable)
	}
	l.tell.Unlock()
	l.stats.reopened.Add(1)
	l.opts.Logger.Info("the log is open again", slog.String("durable", durable.String()))
	l.closers.Go(func() { _ = old.close() })
}

// checkFree reports a disk with less than MinFreeBytes free. Before that, the log gives back what it has set aside.
func (l *Log) checkFree() error {
	if l.opts.MinFreeBytes < 0 || l.opts.Durability == DurabilityMemory {
		return nil
	}
	free, err := l.freeBytes()
	switch {
	case err != nil:
	case free-yieldMargin >= l.opts.MinFreeBytes:
		l.current().fs.yield(false)
	case free < l.opts.MinFreeBytes && l.current().fs.yield(true):
		free, err = l.freeBytes()
	}
	if err == nil && free < l.opts.MinFreeBytes {
		err = fanfare.Unavailable(fmt.Sprintf("the disk is full: %d bytes are free, the minimum is %d (--min-free-bytes)",
			free, l.opts.MinFreeBytes), nil)
	}
	l.mu.Lock()
	changed := (l.lowDisk == nil) != (err == nil)
	l.lowDisk = err
	l.mu.Unlock()
	if changed && err != nil {
		l.opts.Logger.Error("publishes are refused", slog.Any("err", err))
	} else if changed {
		l.opts.Logger.Info("publishes are taken again: the disk has room")
	}
	return err
}

// yieldMargin is how much more than MinFreeBytes must be free before anything is set aside again.
const yieldMargin = 2 * spareLeast

// freeBytes is how much the disk has free; without limit where the system does not say.
func (l *Log) freeBytes() (int64, error) {
	usage, err := l.opts.FS.GetDiskUsage(l.opts.Dir)
	if errors.Is(err, vfs.ErrUnsupported) {
		return math.MaxInt64, nil
	}
	if err != nil {
		return 0, fanfare.Unavailable("the disk's free space cannot be read", err)
	}
	return int64(min(usage.AvailBytes, math.MaxInt64)), nil
}

// current is the session to read from; it may have failed.
func (l *Log) current() *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session
}

// watchCommits answers for a commit that takes too long.
func (l *Log) watchCommits() {
	tick := time.NewTicker(min(l.opts.SlowCommit/10, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		l.mu.Lock()
		late := l.failed == nil && len(l.inflight) > 0 && time.Since(l.inflight[0].began) > l.opts.SlowCommit
		turned := late != (l.slow != nil)
		if late {
			l.slow = fanfare.Unavailable(fmt.Sprintf("the disk is slow: a commit has taken more than %v", l.opts.SlowCommit), nil)
		} else {
			l.slow = nil
		}
		slow := l.slow
		l.mu.Unlock()
		if late {
			if turned {
				l.opts.Logger.Error("publishes are refused", slog.Any("err", slow))
			}
			l.refuseAll(slow)
		} else if turned {
			l.opts.Logger.Info("publishes are taken again: the disk has caught up")
		}
	}
}
