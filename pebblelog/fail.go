package pebblelog

import (
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// storeLogger is Pebble's logger. Pebble's default would end the process in Fatalf; ours fails the
// session.
type storeLogger struct{ s *session }

func (g storeLogger) Infof(format string, args ...any) {
	g.s.log.opts.Logger.Debug("store", slog.String("message", fmt.Sprintf(format, args...)))
}

func (g storeLogger) Errorf(format string, args ...any) {
	if g.s.isDead() {
		return // a fenced store is of no use, so its complaints are not either
	}
	if !g.s.complaints.due() {
		g.s.complaints.unsaid.Add(1)
		return
	}
	unsaid := g.s.complaints.unsaid.Swap(0)
	g.s.log.opts.Logger.Warn("store", slog.String("message", fmt.Sprintf(format, args...)),
		slog.Int64("unsaid", unsaid))
}

// complaints has at most one of Pebble's complaints logged a second. On a full disk Pebble retries
// a hundred times a second, and complains each time.
type complaints struct {
	last   atomic.Int64 // the second of the last complaint that was logged
	unsaid atomic.Int64 // the number of complaints since then
}

// due tells whether the next complaint is to be logged.
func (c *complaints) due() bool {
	now := time.Now().Unix()
	return c.last.Swap(now) != now
}

// Fatalf marks the session failed. In a goroutine of ours it then panics, because Pebble's Commit
// would return nil after a failed write; guard turns the panic into an error. In a goroutine of
// Pebble's (flush, compaction) a panic would end the process. There Fatalf returns, and Pebble
// hands the error back.
func (g storeLogger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	g.s.fail(err)
	if underGuard() {
		panic(storeFailure{err})
	}
}

type storeFailure struct{ err error }

// guard calls f, which calls Pebble. When Pebble panics, guard fails the session and returns an
// error.
//
//go:noinline
func (s *session) guard(f func() error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case storeFailure:
			err = p.err
		default:
			// Pebble panics where it cannot go on, for example when the old WAL cannot be closed.
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

// fail marks the session failed, once. It may be called under Pebble's locks, so a goroutine does
// the rest: it refuses the waiting proposals, and opens a successor (Log.recover).
func (s *session) fail(cause error) {
	s.failOnce.Do(func() {
		s.fs.fence()
		s.tip.fence()
		s.cause = cause
		close(s.dead)
		l := s.log
		failed := fanfare.Unavailable("the log cannot store: its disk or files have failed; it is being opened again",
			cause)
		l.mu.Lock()
		current := l.session == s && l.proposals.fail(failed)
		if current {
			l.background.Go(func() { l.recover(s, failed) }) // under mu, so that Close cannot miss it
		}
		l.mu.Unlock()
		if current {
			l.opts.Logger.Error("the log has failed", slog.Any("err", cause))
		}
	})
}

// recover replaces a failed session. It tries again with back-off until that succeeds or the log is
// closed.
func (l *Log) recover(old *session, failed error) {
	l.proposals.refuseAll(failed)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-l.stop:
			timer.Stop()
			l.closers.Go(func() { _ = old.close() })
			return
		}
		if err := l.upkeep.checkFree(); err != nil {
			continue
		}
		s, err := openSession(l)
		if err != nil {
			l.opts.Logger.Warn("the log cannot be opened again yet", slog.Any("err", err))
			continue
		}
		l.replace(old, s)
		return
	}
}

// replace puts a new session in the place of a failed one, and tells the watchers.
func (l *Log) replace(old, s *session) {
	l.watchers.Lock()
	durable := s.catalog.runs.first - 1
	l.mu.Lock()
	l.session = s
	l.proposals.reopen()
	l.durable.Store(uint64(durable))
	// start is called under mu, so that Close cannot miss its goroutines. Nothing that they commit
	// becomes visible before watchers is unlocked.
	s.start()
	l.mu.Unlock()
	for _, w := range l.watchers.list {
		w.w.Reopened(durable)
	}
	l.watchers.Unlock()
	l.stats.reopened.Add(1)
	l.opts.Logger.Info("the log is open again", slog.String("durable", durable.String()))
	l.closers.Go(func() { _ = old.close() })
}

// current returns the newest session, which may have failed.
func (l *Log) current() *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session
}
