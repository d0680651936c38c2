package storeapi

import (
	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/stream"
)

// Readers and their cursors
//
// The older client sends no position, so the hub keeps one for it: a cursor. Several programs may
// read the stream of one PC: the PC's own, one on a cloned disk, a curl that an operator runs. So a
// cursor belongs to a reader: the subject of its credential, and its address. A reader's cursor is
// where its last stream stood.
//
// A client that comes back while its last stream still looks open is the ordinary case: that stream
// is half-dead. The newer stream takes the reader's cursor over, and the older one is superseded:
// it leaves no cursor when it ends, because that cursor would be an old one. But two machines may
// be one reader, behind one address or with one disk. An acknowledgement tells the two cases apart:
// a superseded stream whose peer acknowledges bytes that were written later is not dead, and has a
// cursor of its own again. Of the cursors that the streams of one reader leave, only the lowest is
// kept, and the reader's next stream takes it. So no command is lost that the other machine did not
// take.
//
// A reader without a cursor starts where the PC's most recent reader stood, and does not change
// that reader's cursor.

// readersMost is how many readers a PC may have, and of how many streams of one reader the cursors
// are followed.
const readersMost = 4

// pc is a PC that has streams open, or cursors that are not stored yet. There is one for each PC
// that is connected, so it is small, and so are the two below. All of its fields but k and channel
// are guarded by positions.mu.
type pc struct {
	k       *positions
	channel string  // the PC's own, which its streams hold anyway
	readers *reader // in no order

	sum    uint32 // of the cursors that were stored last
	due    int32  // the second on positions' clock when they are stored again though nothing has changed
	visits uint32 // requests that have not been answered yet
	flying uint16 // groups under way that bring its cursors
	state  state
}

// state is a set of facts that hold for a PC.
type state uint8

const (
	loaded state = 1 << iota // readers has those that were stored
	queued                   // it is in positions.queue
	late                     // it is in positions.late
	force                    // its cursors are to be stored though none has moved: their ages have
	twice                    // it is in positions.doubles
)

func (p *pc) is(s state) bool { return p.state&s != 0 }
func (p *pc) set(s state)     { p.state |= s }
func (p *pc) unset(s state)   { p.state &^= s }

// reader is one reader of a PC. Guarded by positions.mu.
type reader struct {
	id   readerID
	next *reader
	// when it was last there, on positions' clock; of before the start of the process when it is
	// negative
	used int64
	left fanfare.Position // the lowest that an ended stream left, and no stream has taken; 0: none
	open *visit           // its streams with followed cursors, the newest first
}

// visit is a request for a PC's stream, and then that stream.
type visit struct {
	pc   *pc
	live *stream.Live // nil before it opens; owned by the stream

	// Guarded by positions.mu.
	reader *reader // before the stream opens, a record with its reader alone; nil: the stream leaves no cursor
	next   *visit  // of the reader's streams
	since  stream.Moment

	given      bool // it brought a position
	took       bool // it starts where an ended stream of its reader stood
	pending    bool // it is not known up to where its peer is complete: it has not heard of its gap yet
	superseded bool // at the moment since, by a newer stream of the reader
	rival      bool // at the moment since a stream of another reader opened
}

func (p *pc) find(id readerID) *reader {
	for r := p.readers; r != nil; r = r.next {
		if r.id == id {
			return r
		}
	}
	return nil
}

func (p *pc) add(r *reader, used int64) *reader {
	r.used, r.next = used, p.readers
	p.readers = r
	return r
}

func (p *pc) remove(r *reader) {
	for at := &p.readers; *at != nil; at = &(*at).next {
		if *at == r {
			*at = r.next
			return
		}
	}
}

// idle tells whether nothing of the PC is needed in memory.
func (p *pc) idle() bool {
	return p.visits == 0 && p.flying == 0 && !p.is(queued|late|twice) && !p.open()
}

// open tells whether a stream of the PC is.
func (p *pc) open() bool {
	for r := p.readers; r != nil; r = r.next {
		if r.open != nil {
			return true
		}
	}
	return false
}

// active calls f for the reader's open streams that have a cursor.
func (r *reader) active(f func(*visit)) {
	for v := r.open; v != nil; v = v.next {
		if !v.superseded {
			f(v)
		}
	}
}

// unlink takes a stream out of its reader's.
func (v *visit) unlink() {
	for at := &v.reader.open; *at != nil; at = &(*at).next {
		if *at == v {
			*at = v.next
			break
		}
	}
	v.reader, v.next = nil, nil
}

// lower is the lower of two positions, of which 0 is none.
func lower(a, b fanfare.Position) fanfare.Position {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// begin makes a stream that has just opened, at a position, the newest of its reader. Locked.
func (p *pc) begin(v *visit, from fanfare.Position, now int64) (dropped []*reader) {
	r := p.find(v.reader.id)
	if r == nil {
		r = p.add(v.reader, now)
	}
	supersedes := true
	switch {
	case from == 0: // the peer must acknowledge a gap first; until then the reader stands where it stood
		v.pending, supersedes = true, false
	case v.given:
		r.left = 0
	case v.took && r.left != 0: // the streams that are open are of other machines
		r.left, supersedes = 0, false
	case r.left >= from: // left by the stream that it follows, which has ended meanwhile
		r.left = 0
	}
	if !v.pending {
		r.used = now
	}
	for other := p.readers; other != nil; other = other.next {
		for o := other.open; o != nil; o = o.next {
			o.since = o.live.Now()
			o.superseded = o.superseded || (other == r && supersedes)
			o.rival = o.rival || other != r
		}
	}
	v.reader, v.next = r, r.open
	r.open = v
	return p.bound(r)
}

// heard is for a stream whose peer has now acknowledged its gap: from here on the stream is the
// newest of its reader.
func (v *visit) heard(now int64) {
	r := v.reader
	v.pending = false
	r.left, r.used = 0, now
	for o := v.next; o != nil; o = o.next { // a stream that opened later has superseded it
		o.superseded, o.since = true, o.live.Now()
	}
}

// bound drops what is too many: the reader that was away longest, the oldest stream. It returns the
// readers that lost a cursor by that.
func (p *pc) bound(r *reader) (dropped []*reader) {
	n := 0
	for v := r.open; v != nil; v = v.next {
		if n++; n > readersMost {
			if !v.superseded {
				dropped = append(dropped, r)
			}
			v.unlink()
			break
		}
	}
	n = 0
	var oldest *reader
	for other := p.readers; other != nil; other = other.next {
		n++
		if other != r && (oldest == nil || longerUnused(other, oldest)) {
			oldest = other
		}
	}
	if n <= readersMost {
		return dropped
	}
	for oldest.open != nil {
		oldest.open.unlink()
	}
	p.remove(oldest)
	return append(dropped, oldest)
}

// longerUnused orders readers by how long they have been unused: the first is dropped first.
func longerUnused(a, b *reader) bool {
	if (a.open == nil) != (b.open == nil) {
		return a.open == nil
	}
	return a.used < b.used
}

// end takes a stream that has ended at a position out of the PC's. Locked.
func (p *pc) end(v *visit, at fanfare.Position, now int64) {
	r := v.reader
	if v.pending && at != 0 {
		v.heard(now)
	}
	if !v.superseded && !v.pending {
		r.left, r.used = lower(r.left, at), now
	}
	v.unlink()
	if r.left == 0 && r.open == nil {
		p.remove(r)
	}
}
