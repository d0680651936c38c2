package stream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/fanfare-hub/fanfare/hub"
)

var errFlood = errors.New("the peer keeps sending")

// floodLimit is how many bytes a client may send after its request before it is cut.
const floodLimit = 64 << 10

// takeOver takes the connection over where it is plain HTTP/1; nil elsewhere. buffered is how many bytes the client has sent after
// its request.
func takeOver(w http.ResponseWriter, r *http.Request) (conn net.Conn, buffered int, err error) {
	if r.ProtoMajor != 1 || r.TLS != nil || encoded(w.Header()) {
		return nil, 0, nil
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if errors.Is(err, http.ErrNotSupported) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	return conn, rw.Reader.Buffered(), nil
}

// appendHead appends the head of a stream's response.
func appendHead(b []byte, header http.Header, chunked bool) []byte {
	var head bytes.Buffer
	if chunked {
		head.WriteString("HTTP/1.1 200 OK\r\n")
		header.Set("Transfer-Encoding", "chunked")
	} else {
		head.WriteString("HTTP/1.0 200 OK\r\n")
	}
	header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	header.Set("Connection", "close") // the connection ends with the stream
	_ = header.Write(&head)
	head.WriteString("\r\n")
	return append(b, head.Bytes()...)
}

// newTaken is for connections that cannot be detached: those that are not the system's own, and other systems than Linux.
func newTaken(conn net.Conn, buffered int, chunked bool, stall time.Duration) *taken {
	t := &taken{conn: conn, chunks: chunked, stall: stall, left: make(chan struct{}), half: make(chan struct{})}
	if socket, ok := conn.(syscall.Conn); ok {
		if raw, err := socket.SyscallConn(); err == nil {
			t.acks = acksOfConn(raw)
			tune(raw, stall)
		}
	}
	t.reader.Go(func() { t.read(buffered) })
	return t
}

// taken is a connection taken over from net/http, which would cancel the request when the peer closes its sending half. One
// goroutine writes, and one throws away what the peer sends.
type taken struct {
	// Fixed after newTaken.
	conn   net.Conn
	acks   acker // nil when the system does not tell what the peer has acknowledged
	chunks bool  // HTTP/1.1; HTTP/1.0 gets a body that ends with the connection
	stall  time.Duration
	left   chan struct{} // closed by the reader
	half   chan struct{} // closed by the reader
	reader sync.WaitGroup
	why    error // why left is closed; set before

	// Owned by the writer.
	pieces net.Buffers
}

func (t *taken) gone() <-chan struct{}       { return t.left }
func (t *taken) halfClosed() <-chan struct{} { return t.half }
func (t *taken) chunked() bool               { return t.chunks }
func (t *taken) acker() acker                { return t.acks }

// read throws away what the peer sends, and notices when it goes.
func (t *taken) read(total int) {
	var buf [512]byte
	for {
		if total > floodLimit {
			t.leave(errFlood)
			return
		}
		n, err := t.conn.Read(buf[:])
		total += n
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			close(t.half)
		} else {
			t.leave(socketError(err))
		}
		return
	}
}

func (t *taken) leave(why error) {
	t.why = why
	close(t.left)
}

// goneWhy may be called when gone is closed, and after close.
func (t *taken) goneWhy() error { return t.why }

// socketError tells a peer that is there and takes nothing, or has vanished (TCP_USER_TIMEOUT), from one that has closed.
func socketError(err error) error {
	if errors.Is(err, syscall.ETIMEDOUT) {
		return errStalled
	}
	return errGone
}

func (t *taken) begin(header http.Header, first []byte) (int, error) {
	head := appendHead(nil, header, t.chunks)
	t.pieces = append(t.pieces[:0], head, first)
	return len(head) + len(first), t.flush()
}

func (t *taken) write(prefix []byte, frames []hub.Frame) error {
	t.pieces = t.pieces[:0]
	if len(prefix) > 0 {
		t.pieces = append(t.pieces, prefix)
	}
	for i := range frames {
		if t.chunks {
			t.pieces = append(t.pieces, frames[i].Chunk)
		} else {
			t.pieces = append(t.pieces, frames[i].Body)
		}
	}
	return t.flush()
}

// flush writes the pieces with as few system calls as the socket allows (writev). It fails when the peer has taken nothing for
// the stall limit: neither bytes from us, nor, by its acknowledgements, from the kernel. What it has acknowledged is asked
// only of a peer that has kept us waiting for a while, so that a write which does not wait costs nothing more.
func (t *taken) flush() error {
	all := t.pieces
	defer func() { clear(all) }()
	patience := t.stall / 10
	var acked int64
	asked := false
	for len(t.pieces) > 0 {
		if err := t.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			return errGone
		}
		n, err := t.pieces.WriteTo(t.conn)
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return socketError(err)
		}
		var now int64
		if t.acks != nil {
			now, _ = t.acks.acked()
		}
		if asked && n == 0 && now <= acked {
			return errStalled
		}
		acked, asked, patience = now, true, t.stall
	}
	t.pieces = all[:0]
	return nil
}

// end follows the last chunk.
func (t *taken) end() error {
	half, ok := t.conn.(interface{ CloseWrite() error })
	if !ok {
		return nil
	}
	if err := half.CloseWrite(); err != nil {
		return errGone
	}
	return nil
}

func (t *taken) abort() { _ = t.conn.Close() }

func (t *taken) close() {
	_ = t.conn.Close()
	t.reader.Wait()
}
