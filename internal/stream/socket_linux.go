package stream

import "github.com/fanfare-hub/fanfare/internal/peer"

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

// acksOf is for a stream of which nothing has been written yet; nil when the system does not tell.
func acksOf(fd int) acker {
	if before, known := peer.GivenFD(fd); known {
		return fdAcks{fd, before}
	}
	if _, known := peer.DrainedFD(fd); known {
		return &localAcks{drained: func() (bool, bool) { return peer.DrainedFD(fd) }}
	}
	return nil
}
