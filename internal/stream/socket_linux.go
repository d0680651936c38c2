package stream

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// notSentLowat bounds what the kernel takes from us beyond what it can send: a reader that never reads costs some 160 KB
// with it, and 2.8 MB without.
const notSentLowat = 32 << 10

// tune sets the socket up for a stream; what the system refuses is done without.
func (t *taken) tune() {
	if t.socket == nil {
		return
	}
	raw, err := t.socket.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(t.stall.Milliseconds()))
	})
}

// queuedBytes asks the kernel what it holds that the peer has not acknowledged (SIOCOUTQ, tcp(7)).
func queuedBytes(c syscall.Conn) (int64, bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	var n int
	var ioctl error
	if err := raw.Control(func(fd uintptr) { n, ioctl = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil || ioctl != nil {
		return 0, false
	}
	return int64(n), true
}
