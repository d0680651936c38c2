package stream

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// notSentLowat bounds what the kernel takes from us beyond what it can send: a reader that never reads costs some 160 KB
// with it, and 2.8 MB without.
const notSentLowat = 32 << 10

// tune sets the socket up for a stream; what the system refuses is done without.
func tune(socket syscall.Conn, stall time.Duration) {
	control(socket, func(fd int) error {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(stall.Milliseconds()))
	})
}

// ackedBytes asks the kernel how many bytes the peer's TCP has acknowledged since the connection began (tcpi_bytes_acked). It
// answers for a connection that was reset, too.
func ackedBytes(c syscall.Conn) (n int64, known bool) {
	ok := control(c, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			n = int64(info.Bytes_acked)
		}
		return err
	})
	return n, ok
}

// writtenBytes is how many bytes have been written to the connection, or a few more: what the kernel holds (SIOCOUTQ, tcp(7))
// and what was acknowledged, asked in this order. An acknowledgement that comes between the two makes their sum too high;
// the other way round it would be too low, and bytes of an earlier answer would count as bytes of the stream.
func writtenBytes(c syscall.Conn) (n int64, known bool) {
	var queued int
	ok := control(c, func(fd int) (err error) {
		queued, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		return err
	})
	acked, known := ackedBytes(c)
	return acked + int64(queued), ok && known
}

func control(c syscall.Conn, f func(fd int) error) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = f(int(fd)) })
	return err == nil && inner == nil
}
