package peer

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// frames follows the frames that a server sends over an HTTP/2 connection (RFC 9113, section 4.1),
// to count the DATA of each response. It changes nothing, and decodes nothing but the frames'
// headers.
//
// The frames do not tell which handler a response belongs to, because a handler does not learn its
// stream's number. So a handler announces the first bytes of its body (Body.Expect), and the
// response whose body begins with them is its own. If two handlers announce the same bytes at the
// same time, they cannot be told apart, and neither is followed. A stream's first event has a
// `retry:` of its own, so that hardly ever happens.
type frames struct {
	header [9]byte // of the present frame
	have   int     // of header
	left   int     // of the frame's payload
	kind   byte
	flags  byte
	id     uint32 // of its stream
	block  bool   // a block of headers goes on in the next frame

	fresh    map[uint32]beginning // responses whose handler is not known
	expected []*Body              // bodies that have not begun to leave
	bodies   map[uint32]*Body     // bodies that have, and are followed
	touched  []*Body              // the watched bodies of the present write
}

// beginning is the part of a response's body that has left.
type beginning struct {
	bytes int64
	text  []byte // without the comment lines it began with
}

const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	framePush         = 5
	frameContinuation = 9

	flagEndStream  = 1
	flagEndHeaders = 4
	flagPadded     = 8

	expectedMost = 512   // on one connection; one more is not followed
	comment      = ":\n" // the sign of life that a stream may begin with
)

// between tells whether another frame may be put before the next bytes.
func (f *frames) between() bool { return f.have == 0 && !f.block }

// scan reads the bytes of the next write, and appends to touched the watched bodies that have DATA
// in it.
func (f *frames) scan(p []byte, touched []*Body) []*Body {
	f.touched = touched
	for len(p) > 0 {
		if f.have < len(f.header) {
			n := copy(f.header[f.have:], p)
			f.have += n
			p = p[n:]
			if f.have < len(f.header) {
				break
			}
			f.begin()
		}
		n := min(f.left, len(p))
		if f.kind == frameData && n > 0 {
			f.data(p[:n])
		}
		p = p[n:]
		if f.left -= n; f.left == 0 {
			f.end()
			f.have = 0
		}
	}
	f.expire()
	touched, f.touched = f.touched, nil
	return touched
}

// expire drops the announcements of closed bodies once their bytes can no longer come: those that
// net/http had taken by then are in the first write that began afterwards, or end in the second.
func (f *frames) expire() {
	f.expected = slices.DeleteFunc(f.expected, func(b *Body) bool {
		if b.closed {
			b.since++
		}
		return b.since == 2
	})
}

func (f *frames) begin() {
	head := binary.BigEndian.Uint32(f.header[:4])
	f.left, f.kind, f.flags = int(head>>8), byte(head), f.header[4]
	f.id = binary.BigEndian.Uint32(f.header[5:]) & (1<<31 - 1)
	if f.kind == frameHeaders || f.kind == framePush || f.kind == frameContinuation {
		f.block = f.flags&flagEndHeaders == 0
	}
	switch {
	case f.kind == frameHeaders && f.bodies[f.id] == nil:
		if f.fresh == nil {
			f.fresh = map[uint32]beginning{}
		}
		f.fresh[f.id] = beginning{}
	// net/http's server does not pad; padded frames are not counted
	case f.kind == frameData && f.flags&flagPadded != 0:
		f.forget()
	}
}

func (f *frames) end() {
	if (f.kind == frameData || f.kind == frameHeaders) && f.flags&flagEndStream != 0 || f.kind == frameReset {
		f.forget()
	}
}

func (f *frames) forget() {
	delete(f.fresh, f.id)
	delete(f.bodies, f.id)
}

// data counts a part of a body.
func (f *frames) data(p []byte) {
	if b := f.bodies[f.id]; b != nil {
		b.sent += int64(len(p))
		f.touch(b)
		return
	}
	seen, fresh := f.fresh[f.id]
	if !fresh {
		return
	}
	seen.bytes += int64(len(p))
	seen.text = append(seen.text, p...)
	for bytes.HasPrefix(seen.text, []byte(comment)) {
		seen.text = seen.text[len(comment):]
	}
	b, perhaps := f.whose(seen.text)
	switch {
	case b != nil:
		f.found(b, seen.bytes)
	case perhaps:
		f.fresh[f.id] = seen
	default:
		delete(f.fresh, f.id)
	}
}

// whose returns the body that begins with a text; perhaps says that more of the text may decide.
func (f *frames) whose(text []byte) (b *Body, perhaps bool) {
	perhaps = bytes.HasPrefix([]byte(comment), text)
	for _, b := range f.expected {
		if bytes.HasPrefix(text, b.first) {
			return b, false
		}
		perhaps = perhaps || bytes.HasPrefix(b.first, text)
	}
	return nil, perhaps
}

// found binds the response of the present frame to a body, of which sent bytes have left.
func (f *frames) found(b *Body, sent int64) {
	delete(f.fresh, f.id)
	f.expected = slices.DeleteFunc(f.expected, func(one *Body) bool { return one == b })
	b.first = nil
	if b.twin || b.closed {
		return
	}
	if f.bodies == nil {
		f.bodies = map[uint32]*Body{}
	}
	f.bodies[f.id] = b
	b.known, b.sent = true, sent
	f.touch(b)
}

func (f *frames) touch(b *Body) {
	if b.watched && !slices.Contains(f.touched, b) {
		f.touched = append(f.touched, b)
	}
}

// expect notes the first bytes of a body.
func (f *frames) expect(b *Body, first []byte) {
	if len(f.expected) >= expectedMost {
		return
	}
	b.first = bytes.Clone(first)
	for _, other := range f.expected {
		if bytes.HasPrefix(other.first, b.first) || bytes.HasPrefix(b.first, other.first) {
			other.twin, b.twin = true, true
		}
	}
	f.expected = append(f.expected, b)
}

// drop stops following a body. Its first bytes stay expected until they have left, or can no longer
// come: otherwise they might be taken for another body's.
func (f *frames) drop(b *Body) {
	b.closed = true
	for id, one := range f.bodies {
		if one == b {
			delete(f.bodies, id)
		}
	}
}
