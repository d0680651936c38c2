//go:build linux

// Command bare is the least that a server of Server-Sent Events can do: one thread, one epoll set,
// one write for each delivery, nothing kept, nothing checked. It is what others are measured
// against: it takes what POST /pub brings to all who hold GET /sub open. It is for benchmarks on
// one's own machine alone.
package main

import (
	"bytes"
	"fmt"
	"log"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

type conn struct {
	fd      int
	request []byte
	stream  bool
}

type server struct {
	listener *os.File // else it would be closed when nothing points to it any more
	epoll    int
	conns    map[int]*conn
	streams  []*conn
	chunk    []byte
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("want 127.0.0.1:PORT")
	}
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		log.Fatal(err)
	}
	s := &server{listener: file, conns: map[int]*conn{}}
	if s.epoll, err = unix.EpollCreate1(0); err != nil {
		log.Fatal(err)
	}
	listener := int(s.listener.Fd())
	_ = unix.SetNonblock(listener, true)
	s.add(listener)
	var events [512]unix.EpollEvent
	for {
		n, err := unix.EpollWait(s.epoll, events[:], -1)
		if err != nil && err != unix.EINTR {
			log.Fatal(err)
		}
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) == listener {
				s.accept(listener)
			} else {
				s.read(s.conns[int(e.Fd)])
			}
		}
	}
}

func (s *server) add(fd int) {
	if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd,
		&unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		log.Fatal(err)
	}
}

func (s *server) accept(listener int) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		s.conns[fd] = &conn{fd: fd}
		s.add(fd)
	}
}

func (s *server) read(c *conn) {
	var buf [16 << 10]byte
	n, err := unix.Read(c.fd, buf[:])
	if n <= 0 || err != nil {
		s.close(c)
		return
	}
	c.request = append(c.request, buf[:n]...)
	head := bytes.Index(c.request, []byte("\r\n\r\n"))
	if head < 0 {
		return
	}
	if bytes.HasPrefix(c.request, []byte("GET ")) {
		c.request, c.stream = nil, true
		s.streams = append(s.streams, c)
		_, _ = unix.Write(c.fd,
			[]byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: "+
				"chunked\r\n\r\n6\r\n: hi\n\n\r\n"))
		return
	}
	length := 0
	if i := bytes.Index(c.request[:head], []byte("Content-Length: ")); i >= 0 {
		line, _, _ := bytes.Cut(c.request[i+16:], []byte("\r\n"))
		length, _ = strconv.Atoi(string(line))
	}
	if len(c.request) < head+4+length {
		return
	}
	event := fmt.Sprintf("id: %d\ndata: %s\n\n", len(s.chunk), c.request[head+4:])
	s.chunk = fmt.Appendf(s.chunk[:0], "%x\r\n%s\r\n", len(event), event)
	for _, st := range s.streams {
		_, _ = unix.Write(st.fd, s.chunk)
	}
	c.request = c.request[:0]
	_, _ = unix.Write(c.fd, []byte("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"))
}

func (s *server) close(c *conn) {
	if c.stream {
		for i, other := range s.streams {
			if other == c {
				s.streams = append(s.streams[:i], s.streams[i+1:]...)
				break
			}
		}
	}
	delete(s.conns, c.fd)
	_ = unix.Close(c.fd)
}
