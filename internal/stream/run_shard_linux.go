package stream

import (
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/peer"
	"github.com/fanfare-hub/fanfare/internal/poll"
)

// detached is the part of a stream that a shard serves. The worker owns all fields but queued, read
// and link. Their order leaves no holes.
type detached struct {
	queued atomic.Bool             // it is in the inbox, or in one of the worker's queues
	fd     int32                   // the socket; open while state is below closed
	read   atomic.Pointer[fetched] // a turn that has been read from the log and not been sent
	link   *Stream                 // the next one in the inbox; owned by the goroutine that has set queued
	tls    *poll.TLS               // nil: bytes leave as they are
	rest   []byte                  // has to be written first: the head, or the rest of a frame
	slot   poll.Slot               // in shard.loop, once state is open
	took   int32                   // bytes that the client has sent after its request
	held   int32                   // bytes that the kernel held when it was last asked, while blocked
	state  state
	shut   halves
	ended  EndReason    // the body ends with rest, or has ended
	lookAt poll.Instant // the sweep passes the stream by before
	since  poll.Instant // when a blocked peer was last seen to take something
	soon   poll.Instant // in shard.soon since it has something to do then, or never
}

// halves are the directions of a connection in which nothing more comes.
type halves struct {
	in  bool // the peer has closed its sending half
	out bool // the peer has been told within TLS that it was all
}

// state is how a detached stream's connection is.
type state uint8

const (
	arriving state = iota // the worker has not seen it yet
	open
	blocked // the kernel takes nothing: it waits for EPOLLOUT
	closing // the body has been written to its end; the peer is given time to acknowledge it
	closed
	orphan // closed, but a read of the log is still under way
)

// shards serve the detached streams.
type shards struct{ ring poll.Ring[*shard] }

// detach hands a stream's connection to a shard, which then ends the stream. It returns false if
// that cannot be done. buffered is how many bytes the client has sent after its request. Opened is
// called before it returns true.
func (s *shards) detach(streams *Streams, st *Stream, conn net.Conn, buffered int, begin []byte) bool {
	if !poll.IsTLS(conn) && !poll.IsSocket(conn) {
		return false
	}
	if err := s.ring.Begin(func() (*shard, error) { return newShard(streams) }); err != nil {
		streams.o.Logger.Warn("streams cannot be detached: each takes a goroutine", slog.Any("err", err))
	}
	return s.ring.Use(func(sh *shard) bool { return sh.take(st, conn, buffered, begin) })
}

// take makes a stream the shard's. When the ring is closed the shard looks into its inbox once
// more.
func (sh *shard) take(st *Stream, conn net.Conn, buffered int, begin []byte) bool {
	var fd int
	var err error
	if poll.IsTLS(conn) {
		st.tls, fd, err = poll.OwnTLS(conn, &sh.outlet.sealed)
	} else {
		fd, err = poll.Own(conn)
	}
	if err != nil {
		return false
	}
	peer.TuneFD(fd, sh.streams.o.StallLimit)
	st.fd, st.rest, st.took = int32(fd), begin, int32(min(buffered, floodLimit+1))
	if l := st.live; l != nil {
		l.begin(st.sub.Position(), acksOf(fd, st.tls))
		l.sending(st, len(begin), nil, st.sub.Position())
		l.watch.Opened(l)
	}
	st.runner.Store(&sh.self)
	sh.wake(st)
	return true
}

// close ends all streams and waits for the shards' goroutines.
func (s *shards) close() {
	list := s.ring.Close()
	for _, sh := range list {
		close(sh.stopping)
	}
	for _, sh := range list {
		sh.done.Wait()
	}
}

// shard serves many streams with two goroutines: its loop's waits for the kernel's events, and the
// other, the worker, does everything else. A stream is in the worker's queue when it was woken,
// when its socket has room again, or when it is due. Only the worker makes streams enter and leave
// the loop; an event that comes after that finds the stream closed.
//
// It has more methods than other types, because only a shard may touch a detached stream. They are
// in files by subject: a turn (run_turn_linux.go), what is due (run_sweep_linux.go), and the
// connection's beginning and end (run_shard_end_linux.go).
type shard struct {
	// Fixed.
	streams  *Streams
	self     runner
	loop     *poll.Loop[*Stream]
	stopping chan struct{}
	done     sync.WaitGroup

	inbox inbox

	// Owned by the worker.
	orphans int // streams that have ended, but not the read of the log
	lives   queue
	replays queue // streams that have read from the log: they come after the others
	soon    agenda
	sweep   poll.Sweep[*Stream]
	ended   bool
	work    work
	outlet  outlet
}

func newShard(streams *Streams) (*shard, error) {
	sh := &shard{streams: streams, stopping: make(chan struct{}), work: work{house: &streams.house}}
	sh.self = sh
	sh.inbox.init()
	loop, err := poll.NewLoop(sh.inbox.hear)
	if err != nil {
		return nil, err
	}
	sh.loop, sh.sweep = loop, poll.NewSweep(loop)
	sh.done.Go(sh.run)
	return sh, nil
}

func (sh *shard) now() poll.Instant { return sh.streams.clock.Now() }

// wake implements runner.
func (sh *shard) wake(st *Stream) {
	if st.queued.Load() || !st.queued.CompareAndSwap(false, true) {
		return
	}
	sh.inbox.push(st)
}

// stop implements runner: the worker sees that the stream has been cut.
func (sh *shard) stop(st *Stream) { sh.wake(st) }

// collect takes the streams and events that other goroutines have left for the worker.
func (sh *shard) collect() {
	for st := range sh.inbox.woken {
		if st.read.Load() != nil {
			sh.replays.push(st)
		} else {
			sh.lives.push(st)
		}
	}
	for r := range sh.inbox.heard {
		if st := r.Owner; st.state < closed {
			sh.guard(st, func() { sh.happened(st, r.Events) })
		}
	}
}

// yieldAfter is how long the worker goes on before it yields: on one core, publishers wait for
// that.
const yieldAfter = 500 * time.Microsecond

// run is the worker.
func (sh *shard) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	yielded := time.Now()
	for {
		sh.collect()
		now := time.Now()
		sh.tick(sh.streams.clock.At(now))
		if sh.stopped() {
			return
		}
		worked := false
		for range 16 {
			st := sh.lives.pop()
			if st == nil {
				if st = sh.replays.pop(); st == nil {
					break
				}
			}
			worked = true
			sh.guard(st, func() { sh.turn(st) })
		}
		if !worked {
			sh.sleep(timer)
			yielded = time.Now()
		} else if now.Sub(yielded) > yieldAfter {
			runtime.Gosched()
			yielded = time.Now()
		}
	}
}

// stopped ends everything when the shards are closed, and is true when that is done.
func (sh *shard) stopped() bool {
	select {
	case <-sh.stopping:
	default:
		return false
	}
	if !sh.ended {
		sh.ended = true
		sh.collect() // streams that came before the end
		for st := sh.lives.pop(); st != nil; st = sh.lives.pop() {
			sh.leave(st)
		}
		for st := sh.replays.pop(); st != nil; st = sh.replays.pop() {
			sh.leave(st)
		}
		for _, st := range sh.loop.Owners() {
			sh.finish(st, EndDrain)
		}
	}
	if sh.orphans > 0 {
		return false
	}
	sh.inbox.close()
	sh.loop.Close()
	return true
}

// leave takes a stream out of the queue and ends it.
func (sh *shard) leave(st *Stream) {
	st.queued.Store(false)
	if f := sh.adopt(st); f != nil {
		f.turn.Release()
	}
	if st.state == arriving {
		sh.enter(st)
	}
	if st.state < closed {
		sh.finish(st, EndDrain)
	}
}

// sleep waits until there is something to do.
func (sh *shard) sleep(timer *time.Timer) {
	wait := time.Hour
	if at := sh.nextTick(); at > 0 {
		wait = max(at.Sub(sh.now()), 0)
	}
	if !sh.inbox.sleeps() {
		return
	}
	timer.Reset(wait)
	select {
	case <-sh.inbox.token:
	case <-timer.C:
	case <-sh.stopping:
		if sh.orphans > 0 {
			<-sh.inbox.token
		}
	}
	sh.inbox.sleeping.Store(false)
}

// guard ends a stream whose turn panics, and no other stream.
func (sh *shard) guard(st *Stream, f func()) {
	defer func() {
		if p := recover(); p != nil {
			sh.failed(st, p, debug.Stack())
		}
	}()
	f()
}

func (sh *shard) failed(st *Stream, p any, stack []byte) {
	sh.streams.panicked(p, stack)
	if st.state < closed {
		sh.finish(st, EndFailed)
	}
}

// HaveRead implements hub.Reader.
func (st *Stream) HaveRead(t *hub.Turn, err error) {
	st.read.Store(&fetched{t, err})
	st.Wake()
}

// adopt takes the turn that has been read for a stream, if there is one.
func (sh *shard) adopt(st *Stream) *fetched {
	f := st.read.Swap(nil)
	if f == nil {
		return nil
	}
	st.reading = false
	if st.state == orphan {
		f.turn.Release()
		sh.orphans--
		st.state = closed
		st.streams.discard(st)
		return nil
	}
	return f
}
