package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fanfare-hub/fanfare/internal/poll"
)

// Conn is a connection on which HTTP is spoken: a socket, or TLS over one. Over HTTP/2 it follows
// the frames that leave. net.Conn's methods are used as those of any connection, with one writer at
// a time; the others may be called from any goroutine.
type Conn struct {
	net.Conn // socket, or secure

	// Fixed.
	socket net.Conn
	secure *tls.Conn // nil: no TLS
	kernel *Socket   // nil: the system tells nothing
	failed func(remote net.Addr, err error)
	busy   chan struct{} // holds a token while frames are being written and noted

	state    atomic.Pointer[tls.ConnectionState] // set by the handshake
	timedOut atomic.Bool
	writing  atomic.Uint64 // the number of the write that is under way; 0: none
	returned atomic.Uint64 // the number of the last write that has succeeded
	tuned    sync.Once

	shaken  bool     // owned by the reader: the handshake is over
	refused error    // owned by the reader: why it has failed
	light   bool     // owned by the reader: the buffers of the handshake are gone
	writes  uint64   // owned by the writer
	touched []*Body  // owned by the writer: watched bodies whose DATA is in the present write
	out     []byte   // owned by the writer
	spoken  protocol // owned by the writer

	mu     sync.Mutex // guards the fields below, and each Body
	frames frames
	closed bool
	last   uint64 // the last write that had succeeded when it was closed
}

// protocol is the protocol that the server has begun to speak.
type protocol int8

const (
	nothing protocol = iota
	http1
	http2
)

type contextKey struct{}

// NewContext returns a context for a connection's requests, from which FromContext takes the
// connection.
func NewContext(ctx context.Context, c *Conn) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// FromContext returns nil where the connection is no Conn.
func FromContext(ctx context.Context) *Conn {
	c, _ := ctx.Value(contextKey{}).(*Conn)
	return c
}

// Inner returns the connection that Conn observes: the socket's, or TLS over it.
func (c *Conn) Inner() net.Conn { return c.Conn }

// Socket returns the connection below, if its bytes are the same as those written here; nil over
// TLS.
func (c *Conn) Socket() net.Conn {
	if c.secure != nil {
		return nil
	}
	return c.socket
}

// TLS returns nil without TLS, and before the handshake.
func (c *Conn) TLS() *tls.ConnectionState { return c.state.Load() }

// TimedOut reports whether the connection has ended because its peer took or acknowledged nothing
// for the stall limit.
func (c *Conn) TimedOut() bool { return c.timedOut.Load() }

// Writing returns the number of the write that is under way, and 0 when there is none: a write that
// is there twice waits for the peer.
func (c *Conn) Writing() uint64 { return c.writing.Load() }

// Acked returns how many bytes of the connection the peer's TCP has acknowledged.
func (c *Conn) Acked() (n int64, known bool) {
	if c.kernel == nil {
		return 0, false
	}
	return c.kernel.Acked()
}

// Tune sets the socket up for streams, once; see Tune.
func (c *Conn) Tune(stall time.Duration) { c.tuned.Do(func() { Tune(c.socket, stall) }) }

// Read implements net.Conn. The first one shakes hands.
func (c *Conn) Read(p []byte) (int, error) {
	if c.secure != nil && !c.shaken {
		c.shaken = true
		c.refused = onOwnStack(c.handshake)
	}
	if c.refused != nil {
		return 0, c.refused
	}
	if c.secure != nil && !c.light {
		c.light = poll.DropEmptyBuffers(c.secure)
	}
	n, err := c.Conn.Read(p)
	c.ended(err)
	return n, err
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if c.spoken == nothing && len(p) > 0 {
		// HTTP/2 begins with a SETTINGS frame, HTTP/1 with the protocol's name.
		c.spoken = http2
		if p[0] == 'H' {
			c.spoken = http1
		}
	}
	if c.spoken != http2 || c.kernel == nil {
		n, err := c.Conn.Write(p)
		c.ended(err)
		return n, err
	}
	return c.writeFrames(p)
}

// writeFrames writes bytes of HTTP/2.
func (c *Conn) writeFrames(p []byte) (int, error) {
	c.busy <- struct{}{}
	defer func() { <-c.busy }()
	c.mu.Lock()
	between := c.frames.between()
	c.touched = c.frames.scan(p, c.touched[:0])
	c.mu.Unlock()
	c.writes++
	c.writing.Store(c.writes)
	asked := 0
	out := p
	if between && len(c.touched) > 0 {
		asked = len(ping)
		c.out = append(append(c.out[:0], ping...), p...)
		out = c.out
	}
	n, err := c.Conn.Write(out)
	if err == nil {
		c.returned.Store(c.writes)
	}
	c.writing.Store(0)
	if err == nil && len(c.touched) > 0 {
		c.mark(c.writes)
	}
	if cap(c.out) > 1<<10 {
		c.out = nil // most connections are idle most of the time
	}
	c.ended(err)
	return max(n-asked, 0), err
}

// ping is a frame that is answered at once (RFC 9113, section 6.7). It goes before the DATA of
// bodies that are watched. Else a peer's TCP may take its time to acknowledge (40 ms on Linux,
// which takes HTTP/2 for a conversation, 200 ms elsewhere), and a PC that obeys REBOOT before that
// would be told to reboot again at each boot. net/http pays no attention to an answer that it did
// not ask for.
const ping = "\x00\x00\x08\x06\x00\x00\x00\x00\x00fanfare\x00"

// mark notes how many bytes the kernel has been given when a write has returned.
func (c *Conn) mark(write uint64) {
	given, known := c.kernel.Given()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !known && c.closed && write <= c.last {
		given, known = c.kernel.GivenAtClose()
	}
	for i, b := range c.touched {
		if known {
			b.marks.Add(given, b.sent)
		}
		c.touched[i] = nil
	}
}

// Rest waits until no frames are being written, but no longer than most. A user of a broken
// connection may learn of the break before the last write has returned.
func (c *Conn) Rest(most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case c.busy <- struct{}{}:
		<-c.busy
	case <-timer.C:
	}
}

func (c *Conn) ended(err error) {
	if errors.Is(err, syscall.ETIMEDOUT) {
		c.timedOut.Store(true)
	}
}

// closeWait is how long Close waits for a write to return. A peer can have its bytes, and have
// reset the connection, before the write returns.
const closeWait = 50 * time.Millisecond

// Close implements net.Conn. The acknowledged bytes can still be asked for afterwards.
func (c *Conn) Close() error {
	c.Rest(closeWait)
	c.mu.Lock()
	if !c.closed {
		c.closed, c.last = true, c.returned.Load() // before the kernel is asked: it has been given all of these
	}
	c.mu.Unlock()
	c.kernel.Closing()
	return c.Conn.Close()
}

// CloseWrite closes the sending half, if the protocol on the connection has one.
func (c *Conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// Body is one response's body among the frames of an HTTP/2 connection. Its methods may be called
// from any goroutine.
type Body struct {
	conn *Conn

	// Guarded by conn.mu.
	first   []byte // its first bytes, until they have left
	twin    bool   // another begins the same
	known   bool   // it has been found among the frames
	sent    int64  // bytes that have left
	watched bool   // a caller asks how much of it the peer has
	marks   Marks  // when it is watched
	closed  bool
	since   int // writes that began after it was closed
}

// Body returns the body of a response of which nothing has been written; nil where nothing can be
// known of it.
func (c *Conn) Body() *Body {
	if c.kernel == nil {
		return nil
	}
	return &Body{conn: c}
}

// Watch is called once, before any byte is written, by a caller that will ask for the acknowledged
// bytes.
func (b *Body) Watch() {
	b.conn.mu.Lock()
	defer b.conn.mu.Unlock()
	b.watched = true
}

// Expect announces the first bytes of the body that are no comment line. It is called before they
// are written, and they must be written in one piece. Every response that might begin like
// another's has to be announced, also if no caller asks for its acknowledged bytes.
func (b *Body) Expect(first []byte) {
	b.conn.mu.Lock()
	defer b.conn.mu.Unlock()
	b.conn.frames.expect(b, first)
}

// Acked returns how many bytes of a body that is watched the peer's TCP has acknowledged.
func (b *Body) Acked() (n int64, known bool) {
	b.conn.mu.Lock()
	defer b.conn.mu.Unlock()
	if !b.known {
		return 0, false
	}
	acked, known := b.conn.kernel.Acked()
	return b.marks.Sent(acked), known
}

// Sent returns how many bytes of the body have left, or are about to.
func (b *Body) Sent() int64 {
	b.conn.mu.Lock()
	defer b.conn.mu.Unlock()
	return b.sent
}

// Close ends the interest in the body.
func (b *Body) Close() {
	b.conn.mu.Lock()
	defer b.conn.mu.Unlock()
	b.conn.frames.drop(b)
}
