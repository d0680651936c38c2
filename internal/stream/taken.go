package stream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fanfare-hub/fanfare/hub"
	"github.com/fanfare-hub/fanfare/sse"
)

var errFlood = errors.New("the peer keeps sending")

// floodLimit is how many bytes a client may send after its request before it is cut.
const floodLimit = 64 << 10

// newWire takes the connection over where it is plain HTTP/1, and writes to the ResponseWriter elsewhere.
func newWire(w http.ResponseWriter, r *http.Request, stall time.Duration) (wire, error) {
	if r.ProtoMajor != 1 || r.TLS != nil {
		return newPlain(w, r, stall), nil
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if errors.Is(err, http.ErrNotSupported) {
		return newPlain(w, r, stall), nil
	}
	if err != nil {
		return nil, err
	}
	t := &taken{conn: conn, chunked: r.ProtoAtLeast(1, 1), stall: stall, left: make(chan struct{}), half: make(chan struct{})}
	if socket, ok := conn.(syscall.Conn); ok {
		if before, known := writtenBytes(socket); known {
			t.socket, t.before = socket, before
		}
		tune(socket, stall)
	}
	t.reader.Go(func() { t.read(buffered.Reader.Buffered()) })
	return t, nil
}

// taken is a connection taken over from net/http, which would cancel the request when the peer closes its sending half.
type taken struct {
	// Fixed after newWire.
	conn    net.Conn
	socket  syscall.Conn // nil when the system does not tell what the peer has acknowledged
	chunked bool         // HTTP/1.1; HTTP/1.0 gets a body that ends with the connection
	stall   time.Duration
	before  int64         // bytes that went over the connection before the stream
	left    chan struct{} // closed by the reader
	half    chan struct{} // closed by the reader
	reader  sync.WaitGroup
	why     error // why left is closed; set before

	sent atomic.Int64

	// Owned by the writer.
	pieces  net.Buffers
	scratch []byte
}

func (t *taken) gone() <-chan struct{}       { return t.left }
func (t *taken) halfClosed() <-chan struct{} { return t.half }

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

func (t *taken) begin(header http.Header, first ...[]byte) error {
	var b bytes.Buffer
	if t.chunked {
		b.WriteString("HTTP/1.1 200 OK\r\n")
		header.Set("Transfer-Encoding", "chunked")
	} else {
		b.WriteString("HTTP/1.0 200 OK\r\n")
	}
	header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	header.Set("Connection", "close") // the connection ends with the stream
	_ = header.Write(&b)
	b.WriteString("\r\n")
	t.pieces = append(t.pieces[:0], b.Bytes(), t.body(first...))
	return t.flush()
}

// body is the parts as they go over the wire, each a chunk, in the scratch buffer.
func (t *taken) body(parts ...[]byte) []byte {
	t.scratch = t.scratch[:0]
	for _, part := range parts {
		if t.chunked {
			t.scratch = sse.AppendChunk(t.scratch, part)
		} else {
			t.scratch = append(t.scratch, part...)
		}
	}
	return t.scratch
}

func (t *taken) frameBytes(f hub.Frame) int {
	if t.chunked {
		return len(f.Chunk)
	}
	return len(f.Body)
}

func (t *taken) frames(frames []hub.Frame) error {
	t.pieces = t.pieces[:0]
	for i := range frames {
		if t.chunked {
			t.pieces = append(t.pieces, frames[i].Chunk)
		} else {
			t.pieces = append(t.pieces, frames[i].Body)
		}
	}
	return t.flush()
}

func (t *taken) bytes(b []byte) error {
	t.pieces = append(t.pieces[:0], t.body(b))
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
		t.sent.Add(n)
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return socketError(err)
		}
		_, now, _ := t.progress()
		if asked && n == 0 && now <= acked {
			return errStalled
		}
		acked, asked, patience = now, true, t.stall
	}
	t.pieces = all[:0]
	return nil
}

func (t *taken) end() error {
	if t.chunked {
		t.pieces = append(t.pieces[:0], []byte(sse.LastChunk))
		if err := t.flush(); err != nil {
			return err
		}
	}
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

func (t *taken) sentBytes() (int64, bool) { return t.sent.Load(), t.socket != nil }

// progress says how many bytes were written, and how many of them the peer's TCP has acknowledged. A write that is under
// way counts as acknowledged as far as it is, though not yet as written.
func (t *taken) progress() (sent, acked int64, known bool) {
	sent = t.sent.Load()
	if t.socket == nil {
		return sent, 0, false
	}
	acked, known = ackedBytes(t.socket)
	return sent, acked - t.before, known
}
