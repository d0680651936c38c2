package http1

import (
	"bytes"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fanfare-hub/fanfare/internal/limit"
	"github.com/fanfare-hub/fanfare/internal/poll"
)

// readBytes is how much one call reads.
const readBytes = 16 << 10

// A connection's state says which goroutine may use its fields: a loop's, a request's, or the
// sweep's. A connection that has left its loop stays owned for ever, so that a late event cannot
// take it.
const (
	idle  int32 = iota
	owned       // by one goroutine
	stale       // the same, and something has happened meanwhile that the owner has to look at
)

// conn is one connection.
type conn struct {
	// Fixed.
	loop   *loop
	home   *home
	fd     int
	remote string
	slot   poll.Slot

	state atomic.Int32

	// Of the owner.
	rest    []byte       // has been read and not been answered
	hold    limit.Hold   // for a request that is larger than one read, until it is answered
	fresh   bool         // rest has not been looked at
	need    int          // rest is looked at again once it has this many bytes
	out     []byte       // the rest of an answer
	closing bool         // the answer is the last
	since   poll.Instant // when it began to wait
}

// acquire makes the caller the owner; false when there is another, which will look once more.
func (n *conn) acquire() bool {
	for {
		switch n.state.Load() {
		case idle:
			if n.state.CompareAndSwap(idle, owned) {
				return true
			}
		case owned:
			if n.state.CompareAndSwap(owned, stale) {
				return false
			}
		default:
			return false
		}
	}
}

// release ends the ownership. It returns false if an event came meanwhile: the owner has to look at
// it. If answers are the last of their connections, a connection that waits for a request ends
// instead, so that the caller that waits for the end need not poll.
func (l *loop) release(n *conn) bool {
	between := len(n.out) == 0
	if !n.state.CompareAndSwap(owned, idle) {
		n.state.Store(owned)
		return false
	}
	if between && n.home.leaving.Load() && n.state.CompareAndSwap(idle, owned) {
		l.close(n)
	}
	return true
}

// loop serves many connections.
type loop struct {
	of   *Conns
	poll *poll.Loop[*conn]
	buf  [readBytes]byte // owned by poll's goroutine
}

func newLoop(c *Conns) (*loop, error) {
	l := &loop{of: c}
	watched, err := poll.NewLoop(l.hear)
	if err != nil {
		return nil, err
	}
	l.poll = watched
	return l, nil
}

func (l *loop) enter(n *conn) {
	if err := l.poll.Enter(n.fd, n, &n.slot); err != nil && n.acquire() {
		l.close(n)
	}
}

// leave takes a connection out of the loop; its socket is the caller's now.
func (l *loop) leave(n *conn) {
	n.hold.Free()
	l.poll.Leave(n.fd, n.slot)
}

// hear goes on with the connections of which the kernel tells something.
func (l *loop) hear(list []poll.Ready[*conn]) {
	for _, r := range list {
		if r.Owner.acquire() {
			l.advance(r.Owner, l.buf[:], r.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0)
		}
	}
}

// advance goes on with a connection, as its owner, until there is nothing to do, or a request's
// goroutine is the owner. ended says that the peer may have sent its last byte.
func (l *loop) advance(n *conn, buf []byte, ended bool) {
	for {
		if !l.flush(n) {
			return
		}
		if n.fresh && l.begin(n, n.rest, ended) {
			return
		}
		got, err := poll.Read(n.fd, buf)
		switch {
		case err == unix.EAGAIN:
			if l.pause(n) {
				return
			}
			continue
		case err != nil || (got == 0 && len(n.rest) == 0):
			l.close(n)
			return
		case got == 0:
			l.giveBack(n, n.rest) // it says what is missing
			return
		}
		data := buf[:got]
		if len(n.rest) > 0 {
			if data = l.join(n, data); !l.afford(n) {
				l.giveBack(n, data)
				return
			}
		}
		if l.begin(n, data, ended) {
			return
		}
		if got < len(buf) && !ended && l.pause(n) {
			return
		}
	}
}

// join appends the bytes that were read to those before. The room doubles, up to the size that the
// request is known to need.
func (l *loop) join(n *conn, data []byte) []byte {
	if need := len(n.rest) + len(data); need > cap(n.rest) {
		size := 2 * cap(n.rest)
		if n.need > 0 {
			size = min(size, n.need)
		}
		grown := make([]byte, len(n.rest), max(need, size))
		copy(grown, n.rest)
		n.rest = grown
	}
	n.rest = append(n.rest, data...)
	return n.rest
}

// afford takes the kept bytes of a connection's request out of the budget, if they are more than
// one read.
func (l *loop) afford(n *conn) bool {
	size := cap(n.rest)
	return size <= readBytes || n.hold.Grow(size-n.hold.Bytes()) == nil
}

// pause releases a connection that waits for more; false when something has happened meanwhile.
func (l *loop) pause(n *conn) bool {
	if len(n.rest) == 0 {
		n.since = l.of.clock.Now()
	}
	return l.release(n)
}

// begin looks at the bytes that have come. It returns true if another goroutine, or net/http, goes
// on with the connection.
func (l *loop) begin(n *conn, data []byte, ended bool) bool {
	n.fresh = false
	// Some clients send an empty line after a body (RFC 9112, section 2.2). net/http skips it too.
	if data = bytes.TrimLeft(data, "\r\n"); len(data) == 0 {
		n.rest = nil
		return false
	}
	if len(data) >= n.need {
		r := l.of.pending.Get().(*request)
		r.Request = *n.home.blank
		used, v := l.parse(data, r)
		switch v {
		case foreign:
			l.giveBack(n, data)
			return true
		case whole:
			n.need = 0
			n.rest = append([]byte(nil), data[used:]...) // nil when there is nothing
			n.fresh = len(n.rest) > 0
			if ended {
				n.state.Store(stale) // to be looked at after the answer
			}
			r.RemoteAddr = n.remote
			l.of.work(job{n, r})
			return true
		}
		l.of.pending.Put(r)
		n.need = used
	}
	if len(n.rest) == 0 {
		n.rest = append([]byte(nil), data...)
		n.since = l.of.clock.Now()
	}
	return false
}

// parse is parse. Should it panic, which would end the process, the connection is net/http's.
func (l *loop) parse(data []byte, r *request) (used int, v verdict) {
	defer func() {
		if p := recover(); p != nil {
			l.of.o.Logger.Error(
				"reading a request panicked",
				slog.Any("panic", p),
				slog.String("stack", string(debug.Stack())),
			)
			used, v = 0, foreign
		}
	}()
	return parse(data, r, l.of.o.Takes)
}

// serve has a request answered, and writes the answer.
func (l *loop) serve(n *conn, r *request) {
	a := l.of.answers.Get().(*answer)
	if !l.handle(n, a, &r.Request) {
		l.close(n)
		return
	}
	l.of.pending.Put(r)
	if n.home.leaving.Load() {
		a.Header()["Connection"] = []string{"close"}
	}
	n.closing = a.closes()
	now := time.Now()
	a.Header()["Date"] = l.of.dateOf(now)
	buf := l.of.buffers.Get().(*[readBytes]byte)
	defer l.of.buffers.Put(buf)
	out := a.appendTo(buf[:0])
	a.reset()
	l.of.answers.Put(a)
	n.hold.Free()
	sent, err := poll.Write(n.fd, out)
	if err != nil && err != unix.EAGAIN {
		l.close(n)
		return
	}
	n.since = l.of.clock.At(now)
	if sent < len(out) {
		n.out = bytes.Clone(out[sent:])
	}
	if len(n.out) > 0 || n.closing || n.fresh || !l.release(n) {
		l.advance(n, buf[:], true)
	}
}

// handle is false when the handler has panicked.
func (l *loop) handle(n *conn, a *answer, r *http.Request) (ok bool) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler {
			l.of.o.Logger.Error("a request panicked", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
		}
	}()
	n.home.handler.ServeHTTP(a, r)
	return true
}

// flush writes the rest of an answer. It returns false when the connection is no longer owned,
// because the socket takes no bytes or the answer was the last.
func (l *loop) flush(n *conn) bool {
	for len(n.out) > 0 {
		sent, err := poll.Write(n.fd, n.out)
		switch {
		case err == unix.EAGAIN:
			if l.release(n) {
				return false
			}
		case err != nil:
			l.close(n)
			return false
		default:
			n.out = n.out[sent:]
			n.since = l.of.clock.Now()
		}
	}
	n.out = nil
	if n.closing {
		_ = unix.Shutdown(n.fd, unix.SHUT_WR)
		var buf [512]byte
		for { // unread bytes would make the kernel reset the connection, and lose the bytes under way
			if got, err := poll.Read(n.fd, buf[:]); err != nil || got == 0 {
				break
			}
		}
		l.close(n)
		return false
	}
	return true
}

// writeLimit is how long a peer may take nothing of an answer where the http.Server has no limit.
const writeLimit = time.Minute

// overdue checks, as the owner, whether a connection has waited for too long. A request that does
// not arrive in full soon goes to net/http, which has limits for that.
func (l *loop) overdue(n *conn, now poll.Instant) {
	server := n.home.server
	limit := time.Duration(0)
	switch {
	case len(n.out) > 0:
		if limit = server.WriteTimeout; limit <= 0 {
			limit = writeLimit
		}
		if n.home.leaving.Load() {
			limit = min(limit, sweepEvery)
		}
	case len(n.rest) > 0:
		if now.Sub(n.since) > sweepEvery && !n.home.leaving.Load() {
			l.giveBack(n, n.rest)
			return
		}
	default:
		if limit = server.IdleTimeout; limit <= 0 {
			limit = server.ReadTimeout
		}
	}
	if (limit > 0 && now.Sub(n.since) > limit) || (n.home.leaving.Load() && len(n.out) == 0) {
		l.close(n)
		return
	}
	if !l.release(n) {
		buf := l.of.buffers.Get().(*[readBytes]byte)
		defer l.of.buffers.Put(buf)
		l.advance(n, buf[:], true)
	}
}

func (l *loop) close(n *conn) {
	l.leave(n)
	_ = unix.Close(n.fd)
}

// giveBack has net/http go on with a connection, of which data has been read.
func (l *loop) giveBack(n *conn, data []byte) {
	data = bytes.Clone(data)
	l.leave(n)
	conn, err := poll.Conn(n.fd)
	if err != nil {
		l.of.o.Logger.Warn("a connection cannot be given back to net/http, and ends", slog.Any("err", err))
		return
	}
	n.home.back.give(&poll.Unread{Conn: conn, Bytes: data})
}
