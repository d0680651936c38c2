package stream

import (
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fanfare-hub/fanfare/internal/poll"
)

// holds are connections whose answer waits for a timer: each costs a socket, a timer and its
// answer, and no goroutine. One loop reports peers that have gone. The goroutine that claims a hold
// ends it, and owns its socket from then on.
type holds struct {
	mu      sync.Mutex        // guards the fields below
	loop    *poll.Loop[*hold] // made for the first hold
	ended   bool              // no connection is held any more
	closed  bool              // by close
	closing chan struct{}

	ending  sync.WaitGroup // holds, in the loop and on their way out
	running sync.WaitGroup // the goroutine that waits for the hub's stop
}

// hold is one of them.
type hold struct {
	// Fixed once it is in the loop.
	fd     int
	slot   poll.Slot
	answer []byte
	timer  *time.Timer
	left   func()

	claimed bool // guarded by holds.mu
}

// hold keeps a connection and sends it the answer after wait, or when the hub stops. It returns
// false if it cannot keep the connection. left is called when the connection has been closed, also
// if the peer has gone before.
func (h *holds) hold(s *Streams, conn net.Conn, answer []byte, wait time.Duration, left func()) bool {
	if !poll.IsSocket(conn) {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended || !h.startLocked(s) {
		return false
	}
	fd, err := poll.Own(conn)
	if err != nil {
		return false
	}
	one := &hold{fd: fd, answer: answer, left: left}
	h.ending.Add(1)
	one.timer = time.AfterFunc(wait, func() { h.end(one, true) })
	_ = h.loop.Enter(fd, one, &one.slot) // without events, it waits for the timer
	return true
}

// startLocked makes the loop.
func (h *holds) startLocked(s *Streams) bool {
	if h.loop != nil {
		return true
	}
	loop, err := poll.NewLoop(h.hear)
	if err != nil {
		s.o.Logger.Warn("refused connections cannot be detached: each takes a goroutine", slog.Any("err", err))
		return false
	}
	h.loop, h.closing = loop, make(chan struct{})
	h.running.Go(func() {
		select {
		case <-s.o.Stopping: // an early answer is better than none
			h.endAll(true)
		case <-h.closing:
		}
	})
	return true
}

// hear ends the holds whose peer has gone. A peer that has closed its sending half alone counts as
// gone: the hub cannot write anything to find out, and needs the place.
func (h *holds) hear(list []poll.Ready[*hold]) {
	for _, r := range list {
		if r.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			h.end(r.Owner, false)
		}
	}
}

// end ends one hold, with its answer or without, unless another goroutine does.
func (h *holds) end(one *hold, answered bool) {
	h.mu.Lock()
	claimed := one.claimed
	one.claimed = true
	h.mu.Unlock()
	if !claimed {
		h.finish(one, answered)
	}
}

func (h *holds) endAll(answered bool) {
	h.mu.Lock()
	loop := h.loop
	h.ended = true
	h.mu.Unlock()
	if loop == nil {
		return
	}
	for _, one := range loop.Owners() {
		h.end(one, answered)
	}
}

func (h *holds) finish(one *hold, answered bool) {
	defer h.ending.Done()
	one.timer.Stop()
	h.loop.Leave(one.fd, one.slot)
	if answered {
		_, _ = poll.Write(one.fd, one.answer) // nothing else is under way, so the kernel takes it whole
		_ = unix.Shutdown(one.fd, unix.SHUT_WR)
		// Unread bytes would make the kernel reset the connection, and the answer would be lost.
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
	started := h.loop != nil && !h.closed
	h.closed = true
	h.mu.Unlock()
	if !started {
		return
	}
	h.ending.Wait() // holds that other goroutines end leave the loop, too
	close(h.closing)
	h.loop.Close()
	h.running.Wait()
}
