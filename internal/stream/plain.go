package stream

import (
	"errors"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare/hub"
)

// plain writes through net/http: TLS, HTTP/2, and writers that cannot be taken over.
type plain struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	done  <-chan struct{}
	stall time.Duration
	cut   atomic.Bool
}

func newPlain(w http.ResponseWriter, r *http.Request, stall time.Duration) *plain {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // the server's, for a body, would end the stream
	return &plain{w: w, rc: rc, done: r.Context().Done(), stall: stall}
}

func (p *plain) gone() <-chan struct{}       { return p.done }
func (p *plain) goneWhy() error              { return errGone }
func (p *plain) chunked() bool               { return false } // net/http does that
func (p *plain) halfClosed() <-chan struct{} { return nil }
func (p *plain) acker() acker                { return nil }
func (p *plain) end() error                  { return nil } // net/http ends the body when the handler returns
func (p *plain) close()                      { _ = p.rc.SetWriteDeadline(time.Time{}) }

func (p *plain) abort() {
	p.cut.Store(true)
	_ = p.rc.SetWriteDeadline(time.Unix(1, 0))
}

func (p *plain) begin(_ http.Header, first []byte) (int, error) {
	return len(first), p.write(first, nil)
}

func (p *plain) write(prefix []byte, frames []hub.Frame) error {
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

// piece writes in pieces with a deadline each, so that a slow peer is not taken for a stalled one.
func (p *plain) piece(b []byte) error {
	const most = 8 << 10
	for len(b) > 0 {
		n := min(most, len(b))
		_ = p.rc.SetWriteDeadline(time.Now().Add(p.stall)) // not supported by recorders
		if p.cut.Load() {                                  // after the deadline, which abort may have set before
			return errGone
		}
		if _, err := p.w.Write(b[:n]); err != nil {
			return wireError(err)
		}
		b = b[n:]
	}
	return nil
}

func (p *plain) flush() error {
	if err := p.rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return wireError(err)
	}
	// A deadline that passes while nothing is written has HTTP/2 reset the stream. (Abort is seen by the next piece.)
	_ = p.rc.SetWriteDeadline(time.Time{})
	return nil
}

func wireError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errStalled
	}
	return errGone
}
