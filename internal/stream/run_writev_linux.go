package stream

import (
	"iter"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fanfare-hub/fanfare/internal/poll"
)

// piecesMost is how many pieces one write takes: a turn's frames, and what goes before them. (The
// kernel's own limit is 1024.)
const (
	piecesMost = 258
	bytesMost  = 256 << 10 // but for a single piece
)

// socket makes a worker's system calls on sockets that do not block. Its pieces are made once: a
// write costs no allocation.
type socket struct {
	pieces [piecesMost]unix.Iovec
	count  int
	buf    [4 << 10]byte
}

// write writes the pieces, as far as the socket takes them. An error is EAGAIN when it takes
// nothing.
func (s *socket) write(fd int) (int, error) {
	defer s.reset()
	return poll.WriteAll(fd, s.pieces[:s.count])
}

// all yields the pieces.
func (s *socket) all() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := range s.count {
			p := &s.pieces[i]
			if !yield(unsafe.Slice(p.Base, p.Len)) { // #nosec G103 -- what add was given
				return
			}
		}
	}
}

// read reads and forgets. An error is EAGAIN when there is nothing; 0 without an error says that
// the peer sends nothing more.
func (s *socket) read(fd int) (int, error) {
	return poll.Read(fd, s.buf[:])
}

func (s *socket) reset() {
	clear(s.pieces[:s.count]) // they would keep frames in memory
	s.count = 0
}

func (s *socket) add(b []byte) {
	p := &s.pieces[s.count]
	p.Base = unsafe.SliceData(b) // #nosec G103 -- of a slice, for the kernel to read
	p.SetLen(len(b))
	s.count++
}
