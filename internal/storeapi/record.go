package storeapi

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
)

// readerID tells the readers of a PC apart, by subject and address. The zero readerID is a reader
// of whom neither is known. There is one for each PC in memory, so it is small.
type readerID struct {
	subject uint64 // of the SHA-256 of the credential's subject; 0: no subject
	network uint64 // see networkOf
}

func readerOf(by caller.Caller) (id readerID) {
	if name := subjectOf(by); name != "" {
		sum := sha256.Sum256([]byte(name))
		id.subject = max(binary.BigEndian.Uint64(sum[:8]), 1)
	}
	id.network = networkOf(by.Network())
	return id
}

// subjectOf is the credential's subject, with its realm; "" if there is none. A token's id does not
// count, because a reader that renews its token is the same reader.
func subjectOf(by caller.Caller) string {
	if by.Who.Subject == "" {
		return ""
	}
	return by.Name()
}

// The number that networkOf adds to an IPv4 address, and the number that stands for ::/64. No IPv6
// network has these numbers (RFC 4291, section 2.4).
const (
	networkIPv4 = 1 << 32
	networkZero = 2 << 32
)

// networkOf is an IPv4 address, or the first half of an IPv6 one, as a number: limits go by the
// same (caller.Network). 0 is none.
func networkOf(a netip.Addr) uint64 {
	switch {
	case !a.IsValid():
		return 0
	case a.Is4():
		b := a.As4()
		return networkIPv4 | uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return cmp.Or(binary.BigEndian.Uint64(b[:8]), networkZero)
}

// text is the address, or the network, for people.
func (id readerID) text() string {
	var b [16]byte
	switch {
	case id.network == 0:
		return "unknown"
	case id.network>>32 == networkIPv4>>32:
		binary.BigEndian.PutUint32(b[:], uint32(id.network))
		return netip.AddrFrom4([4]byte(b[:4])).String()
	case id.network != networkZero:
		binary.BigEndian.PutUint64(b[:], id.network)
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), 64).String()
}

// cursor is the stored position of a reader. A cursor that is older than positions are kept says
// only that there was one.
type cursor struct {
	id       readerID
	position fanfare.Position
	age      time.Duration // since the reader was there, when it was stored
}

// recordVersion begins the value that is kept with a PC's position; docs/format/pebblelog.md
// describes it.
const recordVersion = 1

// appendCursors makes the value of a PC's cursors.
func appendCursors(dst []byte, list []cursor) []byte {
	dst = append(dst, recordVersion)
	for _, c := range list {
		for _, n := range []uint64{c.id.subject, c.id.network, uint64(c.position),
			uint64(max(c.age.Milliseconds(), 0))} {
			dst = binary.AppendUvarint(dst, n)
		}
	}
	return dst
}

var errRecord = errors.New("the cursors kept for a PC are damaged")

// readCursors reads the record of a PC. In a record of an earlier version, the owner of the cursor
// is not known.
func readCursors(k fanfare.Kept) (list []cursor, err error) {
	if k.Value == "" {
		return []cursor{{position: k.Position, age: k.Age}}, nil
	}
	b := []byte(k.Value)
	if b[0] != recordVersion {
		return nil, errRecord
	}
	for b = b[1:]; len(b) > 0; {
		var numbers [4]uint64
		for i := range numbers {
			n, size := binary.Uvarint(b)
			if size <= 0 {
				return nil, errRecord
			}
			numbers[i], b = n, b[size:]
		}
		list = append(list, cursor{
			id: readerID{numbers[0], numbers[1]}, position: fanfare.Position(numbers[2]),
			age: k.Age + time.Duration(min(numbers[3], maxAgeMs))*time.Millisecond,
		})
	}
	return list, nil
}

// maxAgeMs bounds an age that is read: a hundred years.
const maxAgeMs = 100 * 365 * 24 * 3600 * 1000
