package stream

import (
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fanfare-hub/fanfare/internal/poll"
)

// holds are connections whose answer waits for a timer: each costs a socket, a timer and its answer, and no goroutine. One epoll set
// tells of peers that have gone. Who takes a hold out of the map owns its socket, and nobody else touches it.
type holds struct {
	mu      sync.Mutex // guards the fields below
	of      map[uint32]*hold
	last    uint32
	set     *poll.Set // made for the first hold
	over    bool      // nobody is held any more
	closed  bool      // by close
	closing chan struct{}

	ending  sync.WaitGroup // holds, in the map and on their way out
	running sync.WaitGroup // goroutines
}

// hold is one of them.
type hold struct {
	fd     int
	answer []byte
	timer  *time.Timer
	left   func()
}

// hold keeps a connection and sends it the answer after wait, or when the hub stops; false where that cannot be done. left is called
// when the connection has been closed, also when the peer has gone before.
func (h *holds) hold(s *Streams, conn net.Conn, answer []byte, wait time.Duration, left func()) bool {
	if !poll.IsSocket(conn) {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over || !h.beginLocked(s) {
		return false
	}
	fd, err := poll.Own(conn)
	if err != nil {
		return false
	}
	h.last++
	key := h.last
	one := &hold{fd: fd, answer: answer, left: left}
	h.of[key] = one
	h.ending.Add(1)
	one.timer = time.AfterFunc(wait, func() { h.end(key, true) })
	_ = h.set.Add(fd, key, 0) // without it, it waits for the timer
	return true
}

// beginLocked makes the set and what listens to it.
func (h *holds) beginLocked(s *Streams) bool {
	if h.set != nil {
		return true
	}
	set, err := poll.NewSet()
	if err != nil {
		s.o.Logger.Warn("refused connections cannot be detached: each takes a goroutine", slog.Any("err", err))
		return false
	}
	h.set, h.of, h.closing = set, map[uint32]*hold{}, make(chan struct{})
	h.running.Go(h.listen)
	h.running.Go(func() {
		select {
		case <-s.o.Stopping: // better told early than cut
			h.endAll(true)
		case <-h.closing:
		}
	})
	return true
}

// listen ends the holds whose peer has gone. A peer that has closed its sending half alone is taken for one that has gone: nothing
// can be written to find out, and its place is wanted.
func (h *holds) listen() {
	var buf [64]poll.Event
	for {
		n, err := h.set.Wait(buf[:])
		if err != nil {
			return // it has been closed
		}
		for _, e := range buf[:n] {
			if e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
				h.end(uint32(e.Fd), false)
			}
		}
	}
}

// end ends one hold, with its answer or without.
func (h *holds) end(key uint32, answered bool) {
	h.mu.Lock()
	one := h.of[key]
	delete(h.of, key)
	h.mu.Unlock()
	if one != nil {
		h.finish(one, answered)
	}
}

func (h *holds) endAll(answered bool) {
	h.mu.Lock()
	list := h.of
	h.of, h.over = nil, true
	h.mu.Unlock()
	for _, one := range list {
		h.finish(one, answered)
	}
}

func (h *holds) finish(one *hold, answered bool) {
	defer h.ending.Done()
	one.timer.Stop()
	h.set.Remove(one.fd)
	if answered {
		_, _ = poll.Write(one.fd, one.answer) // nothing else is under way, so the kernel takes it whole
		_ = unix.Shutdown(one.fd, unix.SHUT_WR)
		// What is unread would have the kernel reset the connection, and the answer be lost.
		var sink [4 << 10]byte
		for range floodLimit / len(sink) {
			if n, err := poll.Read(one.fd, sink[:]); n == 0 || err != nil {
				break
			}
		}
	}
	_ = unix.Close(one.fd)
	one.left()
}

// close ends all holds with their answer, and waits for that.
func (h *holds) close() {
	h.endAll(true)
	h.mu.Lock()
	begun := h.set != nil && !h.closed
	h.closed = true
	h.mu.Unlock()
	if !begun {
		return
	}
	h.ending.Wait() // before the set is closed, which they leave
	close(h.closing)
	h.set.Close()
	h.running.Wait()
}
