package stream

import (
	"bytes"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/peer"
	"github.com/fanfare-hub/fanfare/sse"
)

// plain writes through net/http: over HTTP/2, and to writers that cannot be taken over.
type plain struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	done  <-chan struct{}
	cut   atomic.Bool
	guard guard

	closed atomic.Bool

	conn      *peer.Conn // nil: the connection is not ours
	body      *peer.Body // nil: nothing is known of the peer
	announced bool       // owned by the writer: body knows its first bytes
	blocked   uint64     // owned by guard: the connection's write that was under way when it was last asked
	acked     int64      // owned by guard
}

func newPlain(w http.ResponseWriter, r *http.Request, stall time.Duration) *plain {
	rc := http.NewResponseController(w)
	// The server's limits are for requests. (Recorders support none.)
	_ = rc.SetReadDeadline(time.Time{})
	_ = rc.SetWriteDeadline(time.Time{})
	p := &plain{w: w, rc: rc, done: r.Context().Done()}
	p.guard = guard{stall: stall, abort: func() { _ = rc.SetWriteDeadline(time.Unix(1, 0)) }}
	if conn := peer.FromContext(r.Context()); conn != nil && r.ProtoMajor == 2 && !encoded(w.Header()) {
		conn.Tune(stall)
		p.conn, p.body = conn, conn.Body()
	}
	if p.body != nil {
		p.guard.taken = p.progress
	}
	return p
}

func (p *plain) gone() <-chan struct{}       { return p.done }
func (p *plain) halfClosed() <-chan struct{} { return nil }
func (p *plain) end() error                  { return nil } // net/http ends the body when the handler returns

func (p *plain) acker() acker {
	if p.body == nil {
		return nil
	}
	p.body.Watch()
	return framedAcks{p.body}
}

// restWait is how long a stream whose connection has broken waits for the connection's last write.
const restWait = 200 * time.Millisecond

// goneWhy waits for the connection's last write to return: bytes that it has brought to the peer
// count, and it knows why the connection has broken.
func (p *plain) goneWhy() error {
	if p.conn == nil {
		return errGone
	}
	p.conn.Rest(restWait)
	if p.conn.TimedOut() {
		return errStalled
	}
	return errGone
}

func (p *plain) close() {
	p.guard.end()
	p.closed.Store(true)
	if p.body != nil {
		p.body.Close()
	}
}

// abort ends an HTTP/2 stream by a frame that says so. If the connection does not even take this
// frame, abort closes the whole connection: a stream whose rights have ended must end, and its
// neighbours on the connection get no bytes either, until they come back.
func (p *plain) abort() {
	p.cut.Store(true)
	_ = p.rc.SetWriteDeadline(time.Unix(1, 0))
	if p.conn == nil {
		return
	}
	write := p.conn.Writing()
	acked, _ := p.conn.Acked()
	time.AfterFunc(cutGrace, func() {
		now, _ := p.conn.Acked()
		if write != 0 && !p.closed.Load() && p.conn.Writing() == write && now <= acked {
			_ = p.conn.Close()
		}
	})
}

func (p *plain) begin(_ http.Header, first []byte) (int, error) {
	return len(first), p.write(first, nil)
}

func (p *plain) write(prefix []byte, frames []hub.Frame) error {
	if p.body != nil && !p.announced {
		p.announce(prefix, frames)
	}
	if err := p.piece(prefix); err != nil {
		return err
	}
	for i := range frames {
		if err := p.piece(frames[i].Body); err != nil {
			return err
		}
	}
	return p.flush()
}

// announce announces the first bytes of the body, as soon as they are more than comment lines.
func (p *plain) announce(prefix []byte, frames []hub.Frame) {
	for bytes.HasPrefix(prefix, []byte(sse.Comment)) {
		prefix = prefix[len(sse.Comment):]
	}
	if len(prefix) == 0 && len(frames) > 0 {
		prefix = frames[0].Body
	}
	if len(prefix) > 0 {
		p.body.Expect(prefix)
		p.announced = true
	}
}

// piece writes in pieces, so that where nothing is known of the peer a slow one is not taken for a
// stalled one.
func (p *plain) piece(b []byte) error {
	const most = 8 << 10
	for len(b) > 0 {
		n := min(most, len(b))
		p.guard.begin()
		if p.cut.Load() {
			return errGone
		}
		_, err := p.w.Write(b[:n])
		if err := p.wrote(err); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (p *plain) flush() error {
	p.guard.begin()
	err := p.rc.Flush()
	if errors.Is(err, http.ErrNotSupported) {
		err = nil
	}
	return p.wrote(err)
}

// wrote comes after a write, and says why it has failed.
func (p *plain) wrote(err error) error {
	stalled := p.guard.end()
	switch {
	case err == nil:
		return nil
	case stalled && !p.cut.Load():
		return errStalled
	}
	return p.goneWhy()
}

// progress rises when the peer takes bytes. A stream of HTTP/2 may be held up by its own peer,
// which gives it no room: then none of its bytes leave, and the progress of other streams on the
// connection does not count. Or the connection takes no bytes: then all its streams wait, and the
// bytes that its peer acknowledges count for all.
func (p *plain) progress() int64 {
	write := p.conn.Writing()
	if acked, known := p.conn.Acked(); known && write != 0 && write == p.blocked {
		p.acked = acked
	}
	p.blocked = write
	return p.body.Sent() + p.acked
}
