package poll

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Event is an event of a socket: the slot and the generation that Add was given, and the kind of
// the event.
type Event = unix.EpollEvent

// Set is a set of sockets that are waited for together (epoll, edge-triggered). Its methods may be
// called from any goroutine.
type Set struct {
	file *os.File
	fd   int
	raw  syscall.RawConn
	last time.Time // when Wait had events
}

// NewSet makes a set. Wait holds a goroutine, and no thread: the runtime's own poller does the
// waiting.
func NewSet() (*Set, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	_ = unix.SetNonblock(fd, true) // else the runtime would not poll it
	s := &Set{file: os.NewFile(uintptr(fd), "epoll"), fd: fd}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		_ = s.file.Close()
		return nil, err
	}
	return s, nil
}

// Add puts a socket into the set. Its events bring the slot and the generation, which tells them
// from those of a former socket in the same slot. If the socket can already be read or written, or
// has ended, there is an event at once.
func (s *Set) Add(fd int, slot uint32, generation int32) error {
	e := Event{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLOUT | unix.EPOLLET, Fd: int32(slot), Pad: generation}
	return unix.EpollCtl(s.fd, unix.EPOLL_CTL_ADD, fd, &e)
}

// Remove takes a socket out of the set. It has to come before the socket is closed.
func (s *Set) Remove(fd int) { _ = unix.EpollCtl(s.fd, unix.EPOLL_CTL_DEL, fd, nil) }

// The runtime of a busy process asks the kernel for events every ten milliseconds only, because it
// does so when no goroutine can run. So for a while after the last event a set asks the kernel
// itself.
const (
	lookEvery = time.Millisecond
	lookFor   = 20 * time.Millisecond
)

// Wait blocks until there are events, and returns how many it has put into buf. An error says that
// the set has been closed. One goroutine at a time may call it.
func (s *Set) Wait(buf []Event) (n int, err error) {
	for {
		var until time.Time // for ever
		now := time.Now()
		if now.Sub(s.last) < lookFor {
			until = now.Add(lookEvery)
		}
		_ = s.file.SetReadDeadline(until)
		err = s.raw.Read(func(fd uintptr) bool {
			var err error
			if n, err = unix.EpollWait(int(fd), buf, 0); err != nil {
				n = 0
			}
			return n > 0
		})
		if n > 0 {
			s.last = time.Now()
		}
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

// Close ends the set, and with it Wait. The sockets stay open.
func (s *Set) Close() { _ = s.file.Close() }

// Own takes the socket out of a connection for which IsSocket is true, and closes the connection:
// the runtime then keeps no memory for it. The socket does not block, and the caller must close it.
// Bytes that Unread holds are lost.
func Own(conn net.Conn) (fd int, err error) {
	raw, err := bare(conn).(syscall.Conn).SyscallConn()
	if err != nil {
		return -1, err
	}
	if err := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, err
	}
	if err != nil {
		return -1, err
	}
	_ = conn.Close() // the socket stays open: we have it
	return fd, nil
}

// Conn is the way back from Own: the connection of a socket, which is the caller's no more.
func Conn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	return net.FileConn(f)
}

// Read reads into b, which has room. The error is EAGAIN when no bytes have come; 0 without an
// error says that the peer sends no more.
func Read(fd int, b []byte) (int, error) {
	return call(
		unix.SYS_READ,
		fd,
		unsafe.Pointer(unsafe.SliceData(b)),
		len(b),
	) // #nosec G103 -- b is alive until it returns
}

// Write writes as much of b as the socket takes. An error is EAGAIN when it takes nothing.
func Write(fd int, b []byte) (int, error) {
	return call(
		unix.SYS_WRITE,
		fd,
		unsafe.Pointer(unsafe.SliceData(b)),
		len(b),
	) // #nosec G103 -- b is alive until it returns
}

// WriteAll is Write for one piece or more.
func WriteAll(fd int, pieces []unix.Iovec) (int, error) {
	return call(
		unix.SYS_WRITEV,
		fd,
		unsafe.Pointer(unsafe.SliceData(pieces)),
		len(pieces),
	) // #nosec G103 -- as above, and the pieces keep their bytes alive
}

// call makes a system call that does not block, and so need not tell the scheduler that it might.
func call(trap uintptr, fd int, p unsafe.Pointer, n int) (int, error) {
	for {
		got, _, errno := syscall.RawSyscall(trap, uintptr(fd), uintptr(p), uintptr(n))
		switch errno {
		case 0:
			return int(got), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
