package stream

import (
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare/hub"
	"github.com/fanfare-hub/fanfare/internal/peer"
	"github.com/fanfare-hub/fanfare/internal/poll"
)

// detached is what a stream has that is served by a shard. All fields but the first are owned by the shard's worker.
type detached struct {
	queued atomic.Bool             // it is in the inbox, or in one of the worker's queues
	read   atomic.Pointer[fetched] // a turn that has been read from the log and not been sent
	next   *Stream                 // in the inbox
	fd     int                     // the socket; open while state is below closed
	tls    *poll.TLS               // nil: what is written goes out as it is
	rest   []byte                  // has to be written first: the head, or what is left of a frame
	slot   uint32                  // in shard.slots, when it has one
	took   int32                   // bytes that the client has sent after its request
	queue  int32                   // bytes that the kernel held when it was last asked, while blocked
	state  state
	over   EndReason // the body ends with rest, or has ended
	half   bool      // the peer has closed its sending half
	bye    bool      // the peer has been told within TLS that nothing more comes
	since  int64     // when a blocked peer was last seen to take something
	soon   int64     // in shard.soon since it has something to do then; 0: not
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
type shards struct {
	next atomic.Uint32 // of list

	mu     sync.RWMutex // guards the fields below
	list   []*shard     // made for the first stream
	closed bool
}

// detach hands a stream's connection to a shard, which then ends it; false where that cannot be done. buffered is how many bytes the
// client has sent after its request. Opened is called before it returns true.
func (s *shards) detach(streams *Streams, st *Stream, conn net.Conn, buffered int, begin []byte) bool {
	secure := poll.IsTLS(conn)
	if !secure && !poll.IsSocket(conn) {
		return false
	}
	s.begin(streams)
	s.mu.RLock() // until the stream is in the inbox: close has the shards look there once more
	defer s.mu.RUnlock()
	if len(s.list) == 0 {
		return false
	}
	sh := s.list[int(s.next.Add(1))%len(s.list)] // by turns
	var fd int
	var err error
	if secure {
		st.tls, fd, err = poll.OwnTLS(conn, &sh.sealed)
	} else {
		fd, err = poll.Own(conn)
	}
	if err != nil {
		return false
	}
	peer.TuneFD(fd, streams.o.StallLimit)
	st.fd, st.rest, st.took = fd, begin, int32(min(buffered, floodLimit+1))
	if st.watch != nil {
		st.live = newLive(st.sub.Position(), acksOf(fd, st.tls))
		st.live.sending(st, len(begin), nil, st.sub.Position())
		st.watch.Opened(st.live)
	}
	st.runner.Store(&sh.self)
	sh.wake(st)
	return true
}

// begin makes the shards, unless they are there or closed.
func (s *shards) begin(streams *Streams) {
	s.mu.RLock()
	begun := s.list != nil || s.closed
	s.mu.RUnlock()
	if begun {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.list != nil || s.closed {
		return
	}
	s.list = []*shard{}
	for range min(runtime.GOMAXPROCS(0), 16) {
		sh, err := newShard(streams)
		if err != nil {
			streams.o.Logger.Warn("streams cannot be detached: each takes a goroutine", slog.Any("err", err))
			return
		}
		s.list = append(s.list, sh)
	}
}

// close ends all streams and waits for the shards' goroutines.
func (s *shards) close() {
	s.mu.Lock()
	list := s.list
	s.list, s.closed = nil, true
	s.mu.Unlock()
	for _, sh := range list {
		close(sh.stopping)
	}
	for _, sh := range list {
		sh.done.Wait()
	}
}

// shard serves many streams with two goroutines: one waits for the kernel's news (epoll), the other, the worker, does everything
// else. A stream is in the worker's queue when it was woken, when its socket has room again, or when it is due.
type shard struct {
	// Fixed.
	streams  *Streams
	self     runner
	set      *poll.Set
	stopping chan struct{}
	done     sync.WaitGroup

	inbox    atomic.Pointer[Stream] // a stack of those that were woken
	sleeping atomic.Bool
	token    chan struct{} // ends the worker's sleep

	mu     sync.Mutex // guards the fields below
	events []poll.Event
	over   bool      // the worker takes no more
	room   sync.Cond // events were taken, or over is set

	// Owned by the worker.
	slots   []slot
	free    []uint32
	count   int // of streams that have a slot
	orphans int // streams that have ended, but not the read of the log
	lives   queue
	replays queue // those that have read from the log: they come after the others
	soon    []*Stream
	soonest int64
	sweep   sweep
	ended   bool
	work    work
	news    []poll.Event
	socket  socket
	plain   []byte // what is to be sealed
	sealed  []byte // and sealed
}

// slot is a place in the epoll set. Its generation tells news of a former stream from that of the present one.
type slot struct {
	st         *Stream
	generation int32
	due        int64 // it need not be looked at before
}

// queue is first in, first out.
type queue struct {
	list []*Stream
	head int
}

func (q *queue) push(st *Stream) { q.list = append(q.list, st) }

func (q *queue) pop() (st *Stream) {
	if q.head == len(q.list) {
		return nil
	}
	st, q.list[q.head] = q.list[q.head], nil
	if q.head++; q.head == len(q.list) {
		q.list, q.head = q.list[:0], 0
	}
	return st
}

func newShard(streams *Streams) (*shard, error) {
	set, err := poll.NewSet()
	if err != nil {
		return nil, err
	}
	sh := &shard{streams: streams, set: set, stopping: make(chan struct{}), token: make(chan struct{}, 1)}
	sh.self = sh
	sh.room.L = &sh.mu
	sh.done.Go(sh.listen)
	sh.done.Go(sh.run)
	return sh, nil
}

func (sh *shard) now() int64 { return sh.streams.at(time.Now()) }

// wake implements runner.
func (sh *shard) wake(st *Stream) {
	if st.queued.Load() || !st.queued.CompareAndSwap(false, true) {
		return
	}
	for {
		st.next = sh.inbox.Load()
		if sh.inbox.CompareAndSwap(st.next, st) {
			break
		}
	}
	sh.rouse()
}

// stop implements runner: the worker sees that the stream has been cut.
func (sh *shard) stop(st *Stream) { sh.wake(st) }

func (sh *shard) rouse() {
	if sh.sleeping.Load() && sh.sleeping.CompareAndSwap(true, false) {
		select {
		case sh.token <- struct{}{}:
		default:
		}
	}
}

// listen takes the kernel's news and hands them to the worker.
func (sh *shard) listen() {
	const most = 4096 // news that the worker has not taken
	var buf [256]poll.Event
	for {
		n, err := sh.set.Wait(buf[:])
		if err != nil {
			return // it has been closed
		}
		sh.mu.Lock()
		for len(sh.events) > most && !sh.over {
			sh.room.Wait()
		}
		sh.events = append(sh.events, buf[:n]...)
		sh.mu.Unlock()
		sh.rouse()
	}
}

// collect takes what others have left for the worker.
func (sh *shard) collect() {
	var list *Stream
	for st := sh.inbox.Swap(nil); st != nil; { // the last one woken first: turn the list round
		next := st.next
		st.next, list = list, st
		st = next
	}
	for st := list; st != nil; {
		next := st.next
		st.next = nil
		if st.read.Load() != nil {
			sh.replays.push(st)
		} else {
			sh.lives.push(st)
		}
		st = next
	}
	sh.mu.Lock()
	sh.news, sh.events = sh.events, sh.news[:0]
	sh.room.Broadcast()
	sh.mu.Unlock()
	for _, e := range sh.news {
		if s := &sh.slots[e.Fd]; s.st != nil && s.generation == e.Pad {
			sh.guard(s.st, func() { sh.happened(s.st, e.Events) })
		}
	}
}

// yieldAfter is how long the worker goes on before it lets others run: on one core, those who publish wait for that.
const yieldAfter = 500 * time.Microsecond

// run is the worker.
func (sh *shard) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	yielded := time.Now()
	for {
		sh.collect()
		now := time.Now()
		sh.tick(sh.streams.at(now))
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
		sh.collect() // whoever came before the end
		for st := sh.lives.pop(); st != nil; st = sh.lives.pop() {
			sh.leave(st)
		}
		for st := sh.replays.pop(); st != nil; st = sh.replays.pop() {
			sh.leave(st)
		}
		for i := range sh.slots {
			if st := sh.slots[i].st; st != nil {
				sh.finish(st, EndDrain)
			}
		}
	}
	if sh.orphans > 0 {
		return false
	}
	sh.mu.Lock()
	sh.over = true
	sh.room.Broadcast()
	sh.mu.Unlock()
	sh.set.Close()
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
	sh.sleeping.Store(true)
	sh.mu.Lock()
	news := len(sh.events)
	sh.mu.Unlock()
	if sh.inbox.Load() != nil || news > 0 {
		sh.sleeping.Store(false)
		return
	}
	wait := time.Hour
	if at := sh.nextTick(); at > 0 {
		wait = time.Duration(max(at-sh.now(), 0))
	}
	timer.Reset(wait)
	select {
	case <-sh.token:
	case <-timer.C:
	case <-sh.stopping:
		if sh.orphans > 0 {
			<-sh.token
		}
	}
	sh.sleeping.Store(false)
}

// guard ends a stream whose turn panics, and that one alone.
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
