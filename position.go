package fanfare

// Position is where an event stands in the log. Positions are given by the committer in commit
// order, counting up by one within a run; at each open of a log the counter jumps ahead, so that a
// number is never used twice. Zero stands before every event.
type Position uint64

// PositionTextBytes is the length of a position's text.
const PositionTextBytes = 13

// crockford is Douglas Crockford's base 32: its ASCII order is the numeric order, so texts sort as
// the numbers do.
const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

var crockfordValue = func() (v [256]byte) {
	for i := range v {
		v[i] = 0xff
	}
	for i := range len(crockford) {
		v[crockford[i]] = byte(i)
	}
	return v
}()

// String returns the fixed-width text: 13 characters, in which text order is numeric order.
func (p Position) String() string {
	var buf [PositionTextBytes]byte
	return string(p.Append(buf[:0]))
}

// Append appends the text of p to dst and returns the longer slice. It allocates only when dst has
// no room.
func (p Position) Append(dst []byte) []byte {
	for shift := 60; shift >= 0; shift -= 5 {
		dst = append(dst, crockford[(p>>shift)&31])
	}
	return dst
}

// ParsePosition reads what String wrote, and nothing else: one text for each position. Any other
// text is CodeInvalid.
func ParsePosition(text string) (Position, error) {
	if len(text) != PositionTextBytes {
		return 0, Invalid("%q is not a position: those have %d characters", clip(text), PositionTextBytes)
	}
	var p Position
	for i := range len(text) {
		v := crockfordValue[text[i]]
		if v == 0xff || (i == 0 && v > 15) {
			return 0, Invalid("%q is not a position", clip(text))
		}
		p = p<<5 | Position(v)
	}
	return p, nil
}
