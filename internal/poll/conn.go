package poll

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"
)

// Unread is a connection of which something has been read already, which it has read again first.
type Unread struct {
	net.Conn
	Bytes []byte // owned by the reader
}

// Read implements net.Conn.
func (u *Unread) Read(b []byte) (int, error) {
	if len(u.Bytes) == 0 {
		u.Bytes = nil
		return u.Conn.Read(b)
	}
	n := copy(b, u.Bytes)
	u.Bytes = u.Bytes[n:]
	return n, nil
}

// CloseWrite closes the sending half, as *net.TCPConn does.
func (u *Unread) CloseWrite() error {
	half, ok := u.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// SyscallConn implements syscall.Conn.
func (u *Unread) SyscallConn() (syscall.RawConn, error) {
	socket, ok := u.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return socket.SyscallConn()
}

// Base is a connection for a tls.Conn to be made over, so that its socket can be owned later.
type Base struct{ net.Conn }

// CloseWrite closes the sending half, as *net.TCPConn does.
func (b *Base) CloseWrite() error {
	half, ok := b.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// SyscallConn implements syscall.Conn.
func (b *Base) SyscallConn() (syscall.RawConn, error) {
	socket, ok := b.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return socket.SyscallConn()
}

// IsTLS tells whether a connection is TLS over a Base, and that over a socket, which can be owned.
func IsTLS(conn net.Conn) bool {
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return false
	}
	base, ok := secure.NetConn().(*Base)
	return ok && IsSocket(base.Conn)
}

// IsSocket tells whether bytes that are written to a connection reach its socket unchanged, so that
// the socket can be owned.
func IsSocket(conn net.Conn) bool {
	switch bare(conn).(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// bare returns the connection below an Unread, and below a connection that only observes the bytes
// and says so with its method Socket.
func bare(conn net.Conn) net.Conn {
	if u, ok := conn.(*Unread); ok {
		conn = u.Conn
	}
	if watched, ok := conn.(interface{ Socket() net.Conn }); ok {
		if socket := watched.Socket(); socket != nil {
			conn = socket
		}
	}
	return conn
}
