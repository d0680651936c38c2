package http1

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare/internal/poll"
)

// Conns are the connections that have been taken over from net/http. Its methods may be called from
// any goroutine.
type Conns struct {
	o     Options
	clock poll.Clock
	loops poll.Ring[*loop]

	buffers sync.Pool // *[readBytes]byte
	answers sync.Pool // *answer
	pending sync.Pool // *request
	date    atomic.Pointer[date]
	jobs    chan job // to workers that wait
	waiting atomic.Int64

	mu     sync.RWMutex // guards the fields below
	closed bool
	homes  map[*http.Server]*home
	done   sync.WaitGroup
	stop   chan struct{}
}

// date is the text of a second.
type date struct {
	second int64
	text   []string
}

// home is where connections come from, and go back to.
type home struct {
	server  *http.Server
	handler http.Handler
	blank   *http.Request // the context of all requests
	back    *listener
	leaving atomic.Bool // every answer is its connection's last
}

// New makes Conns.
func New(o Options) *Conns {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Conns{
		o:     o,
		clock: poll.NewClock(),
		homes: map[*http.Server]*home{},
		stop:  make(chan struct{}),
		jobs:  make(chan job),
	}
	c.buffers.New = func() any { return new([readBytes]byte) }
	c.answers.New = func() any { return new(answer) }
	c.pending.New = func() any { return new(request) }
	return c
}

// Wants tells whether a connection can be taken over once its request has been answered.
func (c *Conns) Wants(w http.ResponseWriter, r *http.Request) bool {
	_, ours := w.(*answer)
	return !ours && r.TLS == nil && r.ProtoMajor == 1 && r.ProtoMinor == 1 && !r.Close && r.ContentLength >= 0 &&
		r.Header["Expect"] == nil
}

// Take takes over a connection for which Wants is true. The request's body must have been read to
// the end, and its answer must be complete, with a Content-Length. If the connection cannot be
// taken over, net/http goes on with it. The caller must not write to w any more.
func (c *Conns) Take(w http.ResponseWriter, r *http.Request) {
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	if server == nil || server.Handler == nil || w.Header()["Connection"] != nil ||
		w.Header()["Content-Length"] == nil {
		return
	}
	h := c.home(server)
	if h == nil || h.leaving.Load() {
		return
	}
	rc := http.NewResponseController(w)
	if rc.Flush() != nil { // the answer
		return
	}
	conn, buffered, err := rc.Hijack()
	if err != nil {
		return
	}
	var rest []byte
	if n := buffered.Reader.Buffered(); n > 0 {
		rest, _ = buffered.Reader.Peek(n)
	}
	if u, ok := conn.(*poll.Unread); ok {
		rest = append(rest, u.Bytes...)
	}
	if !c.add(h, conn, rest, r.RemoteAddr) {
		_ = conn.SetDeadline(time.Time{})
		h.back.give(&poll.Unread{Conn: conn, Bytes: rest})
	}
}

// home finds the record of a server. It returns nil when all connections are ending.
func (c *Conns) home(server *http.Server) *home {
	c.mu.RLock()
	h, closed := c.homes[server], c.closed
	c.mu.RUnlock()
	if h != nil || closed {
		return h
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.homes[server]; h != nil || c.closed {
		return h
	}
	if len(c.homes) == 0 {
		c.begin()
	}
	if len(c.loops.All()) == 0 {
		return nil
	}
	h = &home{server: server, handler: server.Handler, back: newListener()}
	h.blank = new(http.Request).WithContext(context.WithValue(context.Background(), http.ServerContextKey, server))
	c.homes[server] = h
	server.RegisterOnShutdown(func() {
		h.leaving.Store(true)
		c.look()
	})
	c.done.Go(func() { _ = server.Serve(h.back) }) // ends with the server, or with Close
	return h
}

// begin makes the loops.
func (c *Conns) begin() {
	if err := c.loops.Begin(func() (*loop, error) { return newLoop(c) }); err != nil {
		c.o.Logger.Warn(
			"connections of publishers cannot be taken over: net/http goes on with them",
			slog.Any("err", err),
		)
	}
	if len(c.loops.All()) > 0 {
		c.done.Go(c.sweep)
	}
}

// add gives a connection to a loop.
func (c *Conns) add(h *home, from net.Conn, rest []byte, remote string) bool {
	if !poll.IsSocket(from) {
		return false
	}
	return c.loops.Use(func(l *loop) bool {
		fd, err := poll.Own(from)
		if err != nil {
			return false
		}
		n := &conn{loop: l, home: h, fd: fd, remote: remote, since: c.clock.Now(), hold: c.o.Budget.Hold(owner(remote))}
		if len(rest) > 0 {
			n.rest, n.fresh = append([]byte(nil), rest...), true
		}
		l.enter(n) // its first event comes at once: the socket can be written
		return true
	})
}

// owner is the owner of a peer's bytes before the peer is identified: its address.
func owner(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		return "@" + host
	}
	return "@" + remote
}

// Close ends every connection with its next answer, and at once if it is between two requests, as
// the end of an http.Server does with its own connections. It waits until the running requests have
// been answered.
func (c *Conns) Close() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	for _, h := range c.homes {
		h.leaving.Store(true)
		_ = h.back.Close()
	}
	c.mu.Unlock()
	loops := c.loops.Close()
	c.look() // connections that are owned at this moment end when they are released
	for _, l := range loops {
		l.poll.Drain() // handlers are under way, which the log answers in time
	}
	close(c.stop)
	for _, l := range loops {
		l.poll.Close()
	}
	c.done.Wait()
}

// job is a request to be answered; without one the worker ends.
type job struct {
	n *conn
	r *request
}

// work has a worker answer a request. Each answers one at a time, and may wait for the log; there
// are as many as are needed. They are kept, for their stacks: a new one's would have to grow for
// most requests.
func (c *Conns) work(j job) {
	select {
	case c.jobs <- j:
	default:
		c.done.Go(func() { c.worker(j) })
	}
}

func (c *Conns) worker(j job) {
	for j.n != nil {
		j.n.loop.serve(j.n, j.r)
		c.waiting.Add(1)
		select {
		case j = <-c.jobs:
		case <-c.stop:
			j = job{}
		}
		c.waiting.Add(-1)
	}
}

// dismiss ends some of the waiting workers.
func (c *Conns) dismiss(most int64) {
	for ; most > 0; most-- {
		select {
		case c.jobs <- job{}:
		default:
			return
		}
	}
}

// sweepEvery is how often it is looked whether a connection has waited for too long.
const sweepEvery = time.Second

func (c *Conns) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.look()
			c.dismiss((c.waiting.Load() + 3) / 4)
		case <-c.stop:
			return
		}
	}
}

// look ends the connections that are to end.
func (c *Conns) look() {
	now := c.clock.Now()
	for _, l := range c.loops.All() {
		for _, n := range l.poll.Owners() {
			if n.state.CompareAndSwap(idle, owned) {
				l.overdue(n, now)
			}
		}
	}
}

// Len is how many connections there are.
func (c *Conns) Len() (n int) {
	for _, l := range c.loops.All() {
		n += l.poll.Len()
	}
	return n
}

// dateOf is the value of the header Date.
func (c *Conns) dateOf(now time.Time) []string {
	d := c.date.Load()
	if d == nil || d.second != now.Unix() {
		d = &date{now.Unix(), []string{now.UTC().Format(http.TimeFormat)}}
		c.date.Store(d)
	}
	return d.text
}

// listener has an http.Server take connections back.
type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newListener() *listener {
	return &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *listener) give(conn net.Conn) {
	select {
	case l.conns <- conn:
	case <-l.closed:
		_ = conn.Close()
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }
