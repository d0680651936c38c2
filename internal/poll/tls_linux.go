package poll

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// TLS is TLS over a socket that does not block and that its user owns. It is for one goroutine at a
// time.
//
// For crypto/tls, any error of a write to the connection below ends the connection. So the
// connection below takes all bytes, and TLS keeps those that the socket does not take: Write, Flush
// and CloseWrite then return EAGAIN. The kept bytes are bounded, because a Write is one record at
// most and has to wait until no bytes are kept. Alerts, and the answers to key updates, which Read
// writes, come on top. An error of a read below also ends the connection of crypto/tls, unless the
// error is temporary, as the one for "no bytes have come" is.
type TLS struct {
	conn *tls.Conn
	fd   int
	out  []byte  // sealed, and not taken by the socket
	room *[]byte // is out during a Write
}

// MaxRecord is how many bytes a Write may have: those of one TLS record (RFC 8446, section 5.1).
const MaxRecord = 16 << 10

// OwnTLS is Own for a connection for which IsTLS is true. room is where records are sealed;
// connections that one goroutine serves share it.
func OwnTLS(conn net.Conn, room *[]byte) (*TLS, int, error) {
	secure := conn.(*tls.Conn)
	base := secure.NetConn().(*Base)
	fd, err := Own(base.Conn)
	if err != nil {
		return nil, -1, err
	}
	t := &TLS{conn: secure, fd: fd, room: room}
	base.Conn = below{t}
	return t, fd, nil
}

// Kept is how many of the sealed bytes the socket has not taken yet.
func (t *TLS) Kept() int { return len(t.out) }

// Write seals at most MaxRecord bytes and hands them to the socket. EAGAIN says that a part is
// kept; any other error is the connection's end. Nothing may be kept when Write is called.
func (t *TLS) Write(b []byte) error {
	t.out = (*t.room)[:0]
	_, err := t.conn.Write(b)
	*t.room = t.out[:0] // it may have grown
	if err == nil {
		err = t.Flush()
	}
	if len(t.out) > 0 {
		t.out = bytes.Clone(t.out)
	}
	return err
}

// Flush hands the kept bytes to the socket. EAGAIN says that a part is still kept.
func (t *TLS) Flush() error {
	for len(t.out) > 0 {
		n, err := Write(t.fd, t.out)
		t.out = t.out[n:]
		if err != nil {
			return err
		}
	}
	t.out = nil
	return nil
}

// Read reads as the function of the same name does. It may return bytes although the socket shows
// no readiness, because crypto/tls has them already. Bytes that Read has to answer with are kept.
func (t *TLS) Read(b []byte) (int, error) {
	n, err := t.conn.Read(b)
	switch {
	case n > 0 || errors.Is(err, io.EOF):
		return n, nil
	case errors.Is(err, errNothing):
		DropEmptyBuffers(t.conn)
		return 0, unix.EAGAIN
	}
	return 0, err
}

// CloseWrite tells the peer, within TLS, that nothing more comes. EAGAIN says that a part of that
// is kept.
func (t *TLS) CloseWrite() error {
	if err := t.conn.CloseWrite(); err != nil {
		return err
	}
	return t.Flush()
}

// below is the connection below TLS.
type below struct{ t *TLS }

// Read implements net.Conn.
func (b below) Read(p []byte) (int, error) {
	n, err := Read(b.t.fd, p)
	switch {
	case err == unix.EAGAIN:
		return 0, errNothing
	case n == 0 && err == nil && len(p) > 0:
		return 0, io.EOF
	}
	return n, err
}

// Write implements net.Conn.
func (b below) Write(p []byte) (int, error) {
	b.t.out = append(b.t.out, p...)
	return len(p), nil
}

func (below) Close() error                     { return nil }
func (below) LocalAddr() net.Addr              { return nil }
func (below) RemoteAddr() net.Addr             { return nil }
func (below) SetDeadline(time.Time) error      { return nil }
func (below) SetReadDeadline(time.Time) error  { return nil }
func (below) SetWriteDeadline(time.Time) error { return nil }

// errNothing is a net.Error that says that it is temporary.
var errNothing net.Error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "nothing has come" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }
