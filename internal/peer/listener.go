package peer

import (
	"crypto/tls"
	"errors"
	"io"
	"net"

	"github.com/fanfare-hub/fanfare/internal/poll"
)

// Listener returns a listener that accepts l's connections, and bounds the bytes that the kernel
// holds for each. With a config it speaks TLS on them, and the server must take them for plain
// ones. Without a config and without watch, they are l's own. failed is called for a handshake that
// fails.
func Listener(l net.Listener, config *tls.Config, watch bool, failed func(remote net.Addr, err error)) net.Listener {
	return &listener{Listener: l, config: config, watch: watch || config != nil, failed: failed}
}

type listener struct {
	net.Listener
	config *tls.Config
	watch  bool
	failed func(net.Addr, error)
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	Bound(conn)
	if !l.watch {
		return conn, nil
	}
	c := &Conn{Conn: conn, socket: conn, kernel: SocketOf(conn), failed: l.failed, busy: make(chan struct{}, 1)}
	if l.config != nil {
		c.secure = tls.Server(&poll.Base{Conn: conn}, l.config)
		c.Conn = c.secure
	}
	return c, nil
}

// handshake is the beginning of TLS. It ends with the deadlines of the connection, as they are set
// for a request's head.
func (c *Conn) handshake() error {
	err := c.secure.Handshake()
	if err == nil {
		state := c.secure.ConnectionState()
		c.state.Store(&state)
		return nil
	}
	if header, ok := errors.AsType[tls.RecordHeaderError](err); ok && header.Conn != nil &&
		looksLikeHTTP(header.RecordHeader) {
		_, _ = io.WriteString(header.Conn,
			"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
		err = errors.New("the client sent an HTTP request to an HTTPS server")
	}
	c.failed(c.RemoteAddr(), err)
	return err
}

// onOwnStack calls f in a goroutine of its own, and passes a panic on. A handshake needs 16 KB of
// stack and more. The goroutine that serves the connection would keep them for as long as the
// connection is there, since stacks shrink in steps, by half at most when the collector runs.
func onOwnStack(f func() error) (err error) {
	done := make(chan struct{})
	var panicked any
	go func() {
		defer close(done)
		defer func() { panicked = recover() }()
		err = f()
	}()
	<-done
	if panicked != nil {
		panic(panicked)
	}
	return err
}

// looksLikeHTTP tells whether the first bytes of a connection that should speak TLS are those of a
// request, as net/http does.
func looksLikeHTTP(header [5]byte) bool {
	switch string(header[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		return true
	}
	return false
}
