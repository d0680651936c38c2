package peer

import (
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// notSentLowat bounds the bytes that the kernel takes beyond those that it can send: a peer that
// never reads costs some 160 KB with it, and 2.8 MB without.
const notSentLowat = 32 << 10

// TuneFD sets a socket up for streams. It bounds the bytes that the kernel holds for a peer that
// does not read. It also ends the connection of a peer that acknowledges no bytes, or has no room,
// for the stall limit. Options that the system refuses are left out.
func TuneFD(fd int, stall time.Duration) {
	boundFD(fd)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(stall.Milliseconds()))
}

func boundFD(fd int) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
}

// AckedFD asks the kernel how many bytes the peer's TCP has acknowledged since the connection began
// (tcpi_bytes_acked). It answers for a connection that was reset, too.
func AckedFD(fd int) (n int64, known bool) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, false
	}
	return int64(info.Bytes_acked), true
}

// QueuedFD is how many bytes the kernel holds that the peer has not acknowledged (SIOCOUTQ,
// tcp(7)).
func QueuedFD(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.SIOCOUTQ) }

// GivenFD is how many bytes the kernel has been given since the connection began. It is exact while
// no goroutine writes, and never too low: the bytes that the kernel holds are read between two
// looks at the acknowledged bytes, and the figures belong together only if the two looks agree.
func GivenFD(fd int) (n int64, known bool) {
	const tries = 4
	for try := 1; ; try++ {
		before, known := AckedFD(fd)
		queued, err := QueuedFD(fd)
		after, knownStill := AckedFD(fd)
		if err != nil || !known || !knownStill {
			return 0, false
		}
		if before == after || try == tries {
			return after + int64(queued), true
		}
	}
}

// DrainedFD tells whether the peer of a Unix socket has read everything; known is false for other
// sockets. For a peer that has closed the connection it says no: the kernel has discarded the bytes
// that the peer had not read.
func DrainedFD(fd int) (drained, known bool) {
	if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_UNIX {
		return false, false
	}
	queued, err := QueuedFD(fd)
	if err != nil || queued > 0 {
		return false, err == nil
	}
	// after the queue was asked: a peer that closes says so before it throws away
	state := []unix.PollFd{{Fd: int32(fd)}}
	_, err = unix.Poll(state, 0)
	return err == nil && state[0].Revents&(unix.POLLHUP|unix.POLLERR) == 0, true
}

// Drained is DrainedFD for a connection that may be closed meanwhile.
func Drained(conn net.Conn) (drained, known bool) {
	if raw := rawConn(conn); raw != nil {
		_ = raw.Control(func(fd uintptr) { drained, known = DrainedFD(int(fd)) })
	}
	return drained, known
}

// Socket asks the kernel about a TCP connection that may be closed meanwhile. Its methods may be
// called from any goroutine.
type Socket struct {
	raw syscall.RawConn

	mu    sync.Mutex // guards the fields below
	over  bool       // the connection is being closed: acked and given say how it stood
	acked answer
	given answer
}

type answer struct {
	n     int64
	known bool
}

// SocketOf returns nil when the system does not know the acknowledged bytes, for example because it
// is no TCP connection.
func SocketOf(conn net.Conn) *Socket {
	raw := rawConn(conn)
	if raw == nil {
		return nil
	}
	s := &Socket{raw: raw}
	if _, known := s.ask(AckedFD); !known {
		return nil
	}
	return s
}

// Acked returns how many bytes the peer's TCP has acknowledged since the connection began.
func (s *Socket) Acked() (n int64, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return s.acked.n, s.acked.known
	}
	return s.ask(AckedFD)
}

// Given returns how many bytes the kernel has been given since the connection began; see GivenFD.
func (s *Socket) Given() (n int64, known bool) { return s.ask(GivenFD) }

// GivenAtClose is the value of Given when Closing was called; it includes all bytes that were
// written before.
func (s *Socket) GivenAtClose() (n int64, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.given.n, s.given.known
}

// Closing must be called before the connection is closed: Acked then keeps its present answer.
func (s *Socket) Closing() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.given.n, s.given.known = s.ask(GivenFD)
		s.acked.n, s.acked.known = s.ask(AckedFD)
		s.over = true
	}
}

func (s *Socket) ask(what func(fd int) (int64, bool)) (n int64, known bool) {
	if err := s.raw.Control(func(fd uintptr) { n, known = what(int(fd)) }); err != nil {
		return 0, false
	}
	return n, known
}

// Tune sets a connection's socket up for streams; see TuneFD.
func Tune(conn net.Conn, stall time.Duration) {
	if raw := rawConn(conn); raw != nil {
		_ = raw.Control(func(fd uintptr) { TuneFD(int(fd), stall) })
	}
}

// Bound bounds the bytes that the kernel holds for a peer that does not read.
func Bound(conn net.Conn) {
	if raw := rawConn(conn); raw != nil {
		_ = raw.Control(func(fd uintptr) { boundFD(int(fd)) })
	}
}

func rawConn(conn net.Conn) syscall.RawConn {
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = over.NetConn()
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
