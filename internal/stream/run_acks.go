package stream

import (
	"sync"
	"sync/atomic"

	"github.com/fanfare-hub/fanfare/internal/peer"
)

// acker tells how many bytes of the stream, from the first one that its wire has written, the peer
// has acknowledged. A Live asks it under its lock, and no more once end has returned: then the
// connection may be closed. Its methods may be called from any goroutine.
type acker interface {
	handed(n int) // n more bytes have been handed over: the write has returned
	acked() (n int64, known bool)
}

// plainAcks is for a TCP connection that carries the bytes of the stream unchanged.
type plainAcks struct {
	socket *peer.Socket
	before int64 // bytes that went over the connection before the stream
}

func (a *plainAcks) handed(int) {}

func (a *plainAcks) acked() (n int64, known bool) {
	n, known = a.socket.Acked()
	return n - a.before, known
}

// sealedAcks is for a TCP connection on which something makes other bytes of those of the stream
// (TLS), and has given them to the kernel when a write returns.
type sealedAcks struct {
	socket *peer.Socket

	mu    sync.Mutex // guards the fields below
	sent  int64
	marks peer.Marks
}

func (a *sealedAcks) handed(n int) {
	given, known := a.socket.Given()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent += int64(n)
	if known {
		a.marks.Add(given, a.sent)
	}
}

func (a *sealedAcks) acked() (n int64, known bool) {
	acked, known := a.socket.Acked()
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.marks.Sent(acked), known
}

// localAcks is for a Unix socket. Its peer, a proxy on the same machine, has the bytes that it has
// read. While the connection is there, the kernel tells when that is all of them: so it is asked
// once more before the stream's end is written.
type localAcks struct {
	drained func() (drained, known bool)
	sent    atomic.Int64
	got     atomic.Int64
}

func (a *localAcks) handed(n int) { a.sent.Add(int64(n)) }

func (a *localAcks) acked() (n int64, known bool) {
	n = a.sent.Load() // before the kernel is asked: bytes that are handed over meanwhile do not count
	drained, known := a.drained()
	if drained {
		a.got.Store(n)
	}
	return a.got.Load(), known
}

// framedAcks is for HTTP/2, where bytes are noted as they leave.
type framedAcks struct{ body *peer.Body }

func (a framedAcks) handed(int) {}

func (a framedAcks) acked() (n int64, known bool) { return a.body.Acked() }
