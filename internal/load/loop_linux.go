package load

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// loop waits for many connections.
type loop struct {
	epoll  int
	conns  []*conn // by descriptor
	events [512]unix.EpollEvent
	buf    [256 << 10]byte
}

func (l *loop) open() (err error) {
	l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return err
}

func (l *loop) shut() { _ = unix.Close(l.epoll) }

func (l *loop) close(fd int) { _ = unix.Close(fd) }

// forget waits for a connection no more.
func (l *loop) forget(c *conn) { _ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, c.fd, nil) }

// dial connects, waiting for that, and returns a socket that does not wait any more. A narrow one
// holds little that was not read.
func (l *loop) dial(a *net.TCPAddr, narrow bool) (int, error) {
	family, to := unix.AF_INET, unix.Sockaddr(nil)
	if v4 := a.IP.To4(); v4 != nil {
		to = &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(v4)}
	} else {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: a.Port, Addr: [16]byte(a.IP.To16())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if narrow {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10)
	}
	if err := unix.Connect(fd, to); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	return fd, unix.SetNonblock(fd, true)
}

func (l *loop) add(c *conn) error {
	for len(l.conns) <= c.fd {
		l.conns = append(l.conns, nil)
	}
	l.conns[c.fd] = c
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.fd)})
}

// write writes a request, which the socket takes at once: there is one at a time.
func (l *loop) write(fd int, b []byte) error {
	n, err := unix.Write(fd, b)
	if err == nil && n < len(b) {
		err = fmt.Errorf("the socket took %d of %d bytes", n, len(b))
	}
	return err
}

// wait waits for something to come, and hands it on.
func (l *loop) wait(most time.Duration, came func(*conn, []byte) error) error {
	n, err := unix.EpollWait(l.epoll, l.events[:], int(max(most, 0).Milliseconds()))
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range l.events[:n] {
		c := l.conns[e.Fd]
		n, err := unix.Read(c.fd, l.buf[:])
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			continue
		case err != nil || n == 0:
			_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, c.fd, nil)
			n = 0
		}
		if err := came(c, l.buf[:n]); err != nil {
			return err
		}
	}
	return nil
}
