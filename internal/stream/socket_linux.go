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
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(stall.Milliseconds()))
	})
}

// tcpBytes asks the kernel how many bytes the peer's TCP has acknowledged since the connection began (tcpi_bytes_acked), and
// how many more it holds (SIOCOUTQ, tcp(7)). It answers for a connection that was reset, too.
func tcpBytes(c syscall.Conn) (acked, queued int64, known bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0, false
	}
	var info *unix.TCPInfo
	var n int
	var infoErr, queueErr error
	err = raw.Control(func(fd uintptr) {
		// In this order: an acknowledgement that comes between the two makes their sum too high, never too low. Too low, and
		// bytes of an earlier answer would count as bytes of the stream, which the peer has not got.
		n, queueErr = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err != nil || infoErr != nil || queueErr != nil {
		return 0, 0, false
	}
	return int64(info.Bytes_acked), int64(n), true
}
