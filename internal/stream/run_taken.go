package stream

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/peer"
	"github.com/fanfare-hub/fanfare/internal/poll"
)

var errFlood = errors.New("the peer keeps sending")

// floodLimit is how many bytes a client may send after its request before it is cut.
const floodLimit = 64 << 10

// takeOver takes over a connection of HTTP/1, with TLS or without. Otherwise it returns nil.
// buffered is how many bytes the client has sent after its request.
func takeOver(w http.ResponseWriter, r *http.Request) (conn net.Conn, buffered int, err error) {
	if r.ProtoMajor != 1 || encoded(w.Header()) {
		return nil, 0, nil
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if errors.Is(err, http.ErrNotSupported) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if watched, ok := conn.(*peer.Conn); ok {
		conn = watched.Inner()
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
	_ = header.Write(&head)
	head.WriteString("\r\n")
	return append(b, head.Bytes()...)
}

// newTaken is for connections that cannot be detached: TLS connections of another listener,
// connections that are not the system's own, and other systems than Linux.
func newTaken(conn net.Conn, buffered int, chunked bool, stall time.Duration) *taken {
	t := &taken{
		conn:   conn,
		socket: conn,
		kernel: peer.SocketOf(conn),
		chunks: chunked,
		left:   make(chan struct{}),
		half:   make(chan struct{}),
	}
	if secure, ok := conn.(*tls.Conn); ok {
		t.socket = secure.NetConn()
	}
	peer.Tune(conn, stall)
	_, local := peer.Drained(conn)
	switch plain := poll.IsSocket(conn); {
	case t.kernel != nil && plain:
		if before, known := t.kernel.Given(); known {
			t.acks, t.whole = &plainAcks{t.kernel, before}, true
		}
	case t.kernel != nil:
		t.acks = &sealedAcks{socket: t.kernel}
	case local && plain:
		t.acks = &localAcks{drained: func() (bool, bool) { return peer.Drained(conn) }}
	}
	t.guard = guard{stall: stall, abort: t.abort}
	if t.kernel != nil {
		t.guard.taken = t.progress
	}
	t.reader.Go(func() { t.read(buffered) })
	return t
}

// taken is a connection taken over from net/http, which would cancel the request when the peer
// closes its sending half. One goroutine writes, and one discards the bytes that the peer sends.
type taken struct {
	// Fixed after newTaken.
	conn   net.Conn
	socket net.Conn      // below conn
	kernel *peer.Socket  // nil when the system tells nothing
	acks   acker         // nil when the system does not know the acknowledged bytes
	whole  bool          // acks knows of every byte by itself
	chunks bool          // HTTP/1.1; HTTP/1.0 gets a body that ends with the connection
	left   chan struct{} // closed by the reader
	half   chan struct{} // closed by the reader
	guard  guard
	reader sync.WaitGroup
	why    error // why left is closed; set before

	// Owned by the writer.
	pieces net.Buffers
	record []byte
}

func (t *taken) gone() <-chan struct{}       { return t.left }
func (t *taken) halfClosed() <-chan struct{} { return t.half }
func (t *taken) acker() acker                { return t.acks }

// read discards the bytes that the peer sends, and notices when the peer goes.
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

// socketError tells a peer that is there and takes nothing, or has vanished (TCP_USER_TIMEOUT),
// from one that has closed.
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

// flush writes the pieces. It fails when the peer takes no bytes for the stall limit. If it must
// report its progress, it writes one TLS record at a time, otherwise everything at once (writev).
func (t *taken) flush() error {
	if t.whole {
		all := t.pieces
		defer func() { clear(all); t.pieces = all[:0] }()
		t.guard.begin()
		_, err := t.pieces.WriteTo(t.conn)
		return t.wrote(err)
	}
	const most = 16 << 10
	for i, piece := range t.pieces {
		for len(piece) > 0 {
			n := min(most-len(t.record), len(piece))
			t.record = append(t.record, piece[:n]...)
			if piece = piece[n:]; len(t.record) < most {
				break
			}
			if err := t.flushRecord(); err != nil {
				return err
			}
		}
		t.pieces[i] = nil
	}
	t.pieces = t.pieces[:0]
	err := t.flushRecord()
	if cap(t.record) > 1<<10 {
		t.record = nil // most streams are idle most of the time
	}
	return err
}

func (t *taken) flushRecord() error {
	if len(t.record) == 0 {
		return nil
	}
	t.guard.begin()
	n, err := t.conn.Write(t.record)
	t.record = t.record[:0]
	if err := t.wrote(err); err != nil {
		return err
	}
	if t.acks != nil {
		t.acks.handed(n)
	}
	return nil
}

// wrote comes after a write, and says why it has failed.
func (t *taken) wrote(err error) error {
	stalled := t.guard.end()
	switch {
	case err == nil:
		return nil
	case stalled:
		return errStalled
	}
	return socketError(err)
}

// progress rises as the peer takes something: bytes from us, or, by its acknowledgements, from the
// kernel.
func (t *taken) progress() int64 {
	acked, _ := t.kernel.Acked()
	given, _ := t.kernel.Given()
	return acked + given
}

// end follows the last chunk: the peer is told that nothing more comes, by TLS and by TCP.
func (t *taken) end() error {
	for _, conn := range []net.Conn{t.conn, t.socket} {
		half, ok := conn.(interface{ CloseWrite() error })
		if !ok {
			continue
		}
		if err := half.CloseWrite(); err != nil {
			return errGone
		}
		if conn == t.socket {
			break
		}
	}
	return nil
}

// abort leaves the connection open, so that it can still be asked for the acknowledged bytes.
func (t *taken) abort() { _ = t.socket.SetWriteDeadline(time.Unix(1, 0)) }

// close closes the socket. TLS would first wait for room for its closing alert; end has sent that
// if the stream has ended cleanly.
func (t *taken) close() {
	t.guard.end()
	_ = t.socket.Close()
	t.reader.Wait()
}
