package stream

import (
	"sync"

	"github.com/fanfare-hub/fanfare/internal/peer"
	"github.com/fanfare-hub/fanfare/internal/poll"
)

// fdAcks is an acker that asks the kernel about a socket that is open as long as it is asked.
type fdAcks struct {
	fd     int
	before int64 // bytes that went over the connection before the stream
}

func (a fdAcks) handed(int) {}

// acked implements acker. It answers for a connection that was reset, too.
func (a fdAcks) acked() (n int64, known bool) {
	n, known = peer.AckedFD(a.fd)
	return n - a.before, known
}

// sealedFDAcks is sealedAcks for a socket that is open as long as it is asked.
type sealedFDAcks struct {
	fd  int
	tls *poll.TLS

	mu    sync.Mutex // guards the fields below
	sent  int64
	marks peer.Marks
}

// handed implements acker. The goroutine that writes calls it.
func (a *sealedFDAcks) handed(n int) {
	given, known := peer.GivenFD(a.fd)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent += int64(n)
	if known {
		a.marks.Add(given+int64(a.tls.Kept()), a.sent)
	}
}

func (a *sealedFDAcks) acked() (n int64, known bool) {
	acked, known := peer.AckedFD(a.fd)
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.marks.Sent(acked), known
}

// acksOf is for a stream of which nothing has been written yet; nil when the system does not tell.
func acksOf(fd int, secure *poll.TLS) acker {
	if secure != nil {
		if _, known := peer.AckedFD(fd); known {
			return &sealedFDAcks{fd: fd, tls: secure}
		}
		return nil
	}
	if before, known := peer.GivenFD(fd); known {
		return fdAcks{fd, before}
	}
	if _, known := peer.DrainedFD(fd); known {
		return &localAcks{drained: func() (bool, bool) { return peer.DrainedFD(fd) }}
	}
	return nil
}
