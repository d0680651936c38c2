package stream

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// notSentLowat bounds what the kernel takes from us beyond what it can send: a reader that never reads costs some 160 KB
// with it, and 2.8 MB without.
const notSentLowat = 32 << 10

// tune sets a connection's socket up for a stream; what the system refuses is done without.
func tune(raw syscall.RawConn, stall time.Duration) {
	control(raw, func(fd int) error {
		tuneSocket(fd, stall)
		return nil
	})
}

func tuneSocket(fd int, stall time.Duration) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(stall.Milliseconds()))
}

// fdAcks is an acker that asks the kernel about a socket that is open as long as it is asked.
type fdAcks struct {
	fd     int
	before int64 // bytes that went over the connection before the stream
}

// acked implements acker. It answers for a connection that was reset, too.
func (a fdAcks) acked() (n int64, known bool) {
	n, known = ackedBytes(a.fd)
	return n - a.before, known
}

// acksOf is for a stream of which nothing has been written yet; nil when the system does not tell. What was written before is what
// the kernel holds (SIOCOUTQ, tcp(7)) and what was acknowledged, asked in this order: an acknowledgement that comes between the
// two makes their sum too high; the other way round it would be too low, and bytes of an earlier answer would count as bytes
// of the stream.
func acksOf(fd int) acker {
	queued, err := queuedBytes(fd)
	acked, known := ackedBytes(fd)
	if err != nil || !known {
		return nil
	}
	return fdAcks{fd, acked + int64(queued)}
}

// connAcks is fdAcks for a connection that may be closed meanwhile.
type connAcks struct {
	raw  syscall.RawConn
	acks fdAcks
}

func (a *connAcks) acked() (n int64, known bool) {
	control(a.raw, func(fd int) error {
		n, known = fdAcks{fd, a.acks.before}.acked()
		return nil
	})
	return n, known
}

func acksOfConn(raw syscall.RawConn) acker {
	var a *connAcks
	control(raw, func(fd int) error {
		if acks, ok := acksOf(fd).(fdAcks); ok {
			a = &connAcks{raw, acks}
		}
		return nil
	})
	if a == nil {
		return nil
	}
	return a
}

// ackedBytes asks the kernel how many bytes the peer's TCP has acknowledged since the connection began (tcpi_bytes_acked).
func ackedBytes(fd int) (n int64, known bool) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, false
	}
	return int64(info.Bytes_acked), true
}

// queuedBytes is how many bytes the kernel holds that the peer has not acknowledged.
func queuedBytes(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.SIOCOUTQ) }

func control(raw syscall.RawConn, f func(fd int) error) bool {
	var inner error
	err := raw.Control(func(fd uintptr) { inner = f(int(fd)) })
	return err == nil && inner == nil
}
