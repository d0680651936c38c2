package stream

import (
	"errors"
	"iter"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fanfare-hub/fanfare/internal/poll"
)

// piecesMost is how many pieces one write takes: a turn's frames, and the pieces before them. (The
// kernel's own limit is 1024.)
const (
	piecesMost = 258
	bytesMost  = 256 << 10 // but for a single piece
)

// outlet makes a worker's system calls on its streams' sockets that do not block. Its pieces are
// made once: a write costs no allocation.
type outlet struct {
	pieces [piecesMost]unix.Iovec
	count  int
	buf    [4 << 10]byte
	plain  []byte // the bytes to seal
	sealed []byte // and sealed
}

// write writes the pieces, as far as the socket takes them. An error is EAGAIN when it takes
// nothing.
func (o *outlet) write(fd int) (int, error) {
	defer o.reset()
	return poll.WriteAll(fd, o.pieces[:o.count])
}

// all yields the pieces.
func (o *outlet) all() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := range o.count {
			p := &o.pieces[i]
			if !yield(unsafe.Slice(p.Base, p.Len)) { // #nosec G103 -- the bytes that add was given
				return
			}
		}
	}
}

// readPlain reads and discards. The error is EAGAIN when no bytes have come; 0 without an error
// says that the peer sends no more.
func (o *outlet) readPlain(fd int) (int, error) {
	return poll.Read(fd, o.buf[:])
}

func (o *outlet) reset() {
	clear(o.pieces[:o.count]) // they would keep frames in memory
	o.count = 0
}

func (o *outlet) add(b []byte) {
	p := &o.pieces[o.count]
	p.Base = unsafe.SliceData(b) // #nosec G103 -- of a slice, for the kernel to read
	p.SetLen(len(b))
	o.count++
}

// send writes the pieces, and returns how many bytes of them are certain to go out. An
// error is EAGAIN when the socket takes no more.
func (o *outlet) send(st *Stream) (n int, err error) {
	if st.tls == nil {
		n, err = o.write(int(st.fd))
	} else {
		n, err = o.seal(st)
	}
	st.live.handed(n)
	return n, err
}

// seal is send over TLS: a record at a time, as long as the socket takes them.
func (o *outlet) seal(st *Stream) (n int, err error) {
	defer o.reset()
	if err := st.tls.Flush(); err != nil {
		return 0, err
	}
	if o.plain == nil {
		o.plain = make([]byte, 0, poll.MaxRecord)
	}
	record := o.plain[:0]
	for piece := range o.all() {
		for len(piece) > 0 {
			size := min(len(piece), cap(record)-len(record))
			record = append(record, piece[:size]...)
			if piece = piece[size:]; len(record) < cap(record) {
				break
			}
			if err := st.tls.Write(record); err != nil {
				return n + sealed(record, err), err
			}
			n += len(record)
			record = record[:0]
		}
	}
	if len(record) > 0 {
		err = st.tls.Write(record)
		n += sealed(record, err)
	}
	return n, err
}

// sealed is how many bytes of a record leave: those that the socket does not take are kept.
func sealed(record []byte, err error) int {
	if err == nil || errors.Is(err, unix.EAGAIN) {
		return len(record)
	}
	return 0
}

// discard discards the bytes that the client has sent. It returns the reason to end if the client
// has sent too many, or has gone.
func (o *outlet) discard(st *Stream) EndReason {
	for {
		n, err := o.read(st)
		st.took += int32(max(n, 0))
		switch {
		case st.took > floodLimit:
			return EndFlood
		case n == 0 && err == nil:
			st.shut.in = st.shut.in || st.tls != nil // over TCP the kernel tells
			return goesOn
		case err == unix.EAGAIN:
			return goesOn
		case err != nil:
			return endReason(socketError(err))
		}
	}
}

// read reads and forgets, as Read of package poll does.
func (o *outlet) read(st *Stream) (int, error) {
	if st.tls == nil || st.state >= closed {
		return o.readPlain(int(st.fd))
	}
	return st.tls.Read(o.buf[:])
}

// socketError is why the kernel has given a connection up.
func (st *Stream) socketError() error {
	n, err := unix.GetsockoptInt(int(st.fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || n == 0 {
		return errGone
	}
	return socketError(syscall.Errno(n))
}
