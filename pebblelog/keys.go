package pebblelog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// The first byte of each key; docs/format/pebblelog.md describes them. Numbers in keys are big
// endian, so that they sort.
const (
	keyChannel = 'c' // c name -> channel number
	keyDue     = 'd' // d due-time id -> nothing: the scheduled events in the order of their times
	keyEvent   = 'e' // e position -> event
	keyFormat  = 'f' // f -> format version
	keyFloor   = 'g' // g pattern -> floor of a retention rule
	keyHighest = 'h' // h -> the highest id of a scheduled event, how many there are, and their bytes
	keyIndex   = 'i' // i channel-number position -> sequence, time, sum of bytes, expiry
	keyJump    = 'j' // j -> the highest second before the clock went back; of logs of earlier formats
	keyUsed    = 'k' // k hash -> what was stored under an idempotency key
	keyGone    = 'l' // l -> position up to which the events of all channels were removed
	keyMark    = 'm' // m channel-number -> trim mark
	keyName    = 'n' // n channel-number -> name
	keyUnsized = 'o' // o -> position up to which index entries have no sums: the log was of format 1
	keyKept    = 'p' // p name -> kept position
	keyBefore  = 'q' // q first -> first and last of the run before
	keyRun     = 'r' // r first -> last
	keyWaiting = 's' // s id -> scheduled event
	keySecond  = 't' // t second of log time -> first position of that second
	keyNext    = 'u' // u -> number of the next channel
	keyPhases  = 'v' // v -> the phases of the clock
	keyWaitsIn = 'y' // y channel NUL id -> nothing: the scheduled events of a channel
	keyClock   = 'w' // w -> log time, due time
	keyUsedAt  = 'x' // x log-time hash -> nothing: the used keys in the order of their age
	keyExpiry  = 'z' // z due-time channel-number position -> nothing: events in the order of their expiry
)

// formatVersion is written into the store at each open. Stores of earlier formats are converted
// when they are opened: format 1 lacks the keys that retention by bytes, floors and times need, and
// format 2 lacks log time. Stores of other versions are refused.
const (
	formatVersion  = "fanfare pebblelog 3"
	formatVersion2 = "fanfare pebblelog 2"
	formatVersion1 = "fanfare pebblelog 1"
)

// readable tells whether this program reads a format.
func readable(version string) bool {
	return version == formatVersion || version == formatVersion2 || version == formatVersion1
}

var errCorrupt = errors.New("stored value is damaged")

func appendKey(dst []byte, tag byte, numbers ...uint64) []byte {
	dst = append(dst, tag)
	for _, n := range numbers {
		dst = binary.BigEndian.AppendUint64(dst, n)
	}
	return dst
}

func keyOf(tag byte, numbers ...uint64) []byte {
	return appendKey(make([]byte, 0, 1+8*len(numbers)), tag, numbers...)
}

func textKey(tag byte, text string) []byte {
	return append([]byte{tag}, text...)
}

// indexBounds returns the bounds of a channel's index entries in (after, through].
func indexBounds(num uint64, after, through fanfare.Position) (lower, upper []byte) {
	return keyOf(keyIndex, num, uint64(after)+1), keyOf(keyIndex, num, uint64(through)+1)
}

func lastNumber(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }

// fields reads the numbers and texts of a stored value one by one. If the value ends too early, err
// is set.
type fields struct {
	b   []byte
	err error
}

func (f *fields) number() uint64 {
	n, size := binary.Uvarint(f.b)
	if size <= 0 {
		f.err = errCorrupt
		return 0
	}
	f.b = f.b[size:]
	return n
}

// signed is a number that may be below zero.
func (f *fields) signed() int64 {
	n, size := binary.Varint(f.b)
	if size <= 0 {
		f.err = errCorrupt
		return 0
	}
	f.b = f.b[size:]
	return n
}

// optional is a number that may be missing.
func (f *fields) optional() uint64 {
	if len(f.b) == 0 {
		return 0
	}
	return f.number()
}

func (f *fields) bytes(n uint64) []byte {
	if n > uint64(len(f.b)) {
		f.err = errCorrupt
		return nil
	}
	b := f.b[:n]
	f.b = f.b[n:]
	return b
}

// traceMark stands between an event's type, its trace and its expiry. Types and traces do not
// contain it.
const traceMark = "\x00"

func appendEvent(dst []byte, num, seq uint64, ms, expires int64, e *fanfare.Event) []byte {
	dst = binary.AppendUvarint(dst, num)
	dst = binary.AppendUvarint(dst, seq)
	dst = binary.AppendUvarint(dst, uint64(ms))
	name := typeAndTrace(e)
	if expires > 0 {
		if e.Trace == "" {
			name += traceMark
		}
		name += traceMark + string(binary.AppendUvarint(nil, uint64(expires)))
	}
	dst = binary.AppendUvarint(dst, uint64(len(name)))
	dst = append(dst, name...)
	return append(dst, e.Data...)
}

func typeAndTrace(e *fanfare.Event) string {
	name := ""
	if !e.Type.IsDefault() {
		name = e.Type.String()
	}
	if e.Trace != "" {
		name += traceMark + e.Trace
	}
	return name
}

// eventChannel reads only the number of the channel, for scans that skip most events.
func eventChannel(value []byte) (uint64, error) {
	f := fields{b: value}
	return f.number(), f.err
}

// eventMs reads only the wall time that an event is stamped with.
func eventMs(value []byte) (int64, error) {
	f := fields{b: value}
	f.number()
	f.number()
	return int64(f.number()), f.err
}

// eventExpiry reads only the due time at which an event expires; 0 means never.
func eventExpiry(value []byte) (int64, error) {
	f := fields{b: value}
	f.number()
	f.number()
	f.number()
	name := f.bytes(f.number())
	if f.err != nil {
		return 0, f.err
	}
	_, rest, _ := bytes.Cut(name, []byte(traceMark))
	if _, expires, ok := bytes.Cut(rest, []byte(traceMark)); ok {
		f.b = expires
		return int64(f.number()), f.err
	}
	return 0, nil
}

func readEvent(pos fanfare.Position, channel fanfare.Channel, value []byte) (fanfare.Event, error) {
	f := fields{b: value}
	f.number()
	f.number()
	ms := f.number()
	name := f.bytes(f.number())
	if f.err != nil {
		return fanfare.Event{}, fmt.Errorf("event %v: %w", pos, f.err)
	}
	text, rest, _ := strings.Cut(string(name), traceMark)
	trace, expires, _ := strings.Cut(rest, traceMark)
	kind, err := fanfare.ParseEventType(text)
	if err != nil {
		return fanfare.Event{}, fmt.Errorf("event %v: %w", pos, errCorrupt)
	}
	e := fanfare.Event{Position: pos, Channel: channel, Type: kind, Data: string(f.b),
		Time: time.UnixMilli(int64(ms)).UTC(), Trace: trace}
	if expires != "" {
		over := fields{b: []byte(expires)}
		e.Expires = time.UnixMilli(int64(over.number())).UTC()
		if over.err != nil {
			return fanfare.Event{}, fmt.Errorf("event %v: %w", pos, errCorrupt)
		}
	}
	return e, nil
}

func channelOfIndex(key []byte) uint64 { return binary.BigEndian.Uint64(key[1:9]) }

// entry is one index entry: an event seen from its channel.
type entry struct {
	pos   fanfare.Position
	seq   uint64 // counts the channel's events from 1
	ms    int64  // the wall time that the event is stamped with; not of a trim mark
	bytes uint64 // sum of the data of the channel's events up to this one

	// holed says that the channel had had an event with an expiry when the entry was written, so
	// that entries before it may be missing. The other two are stored only with holed.
	holed   bool
	expires int64  // due time when the event expires; 0: never
	size    uint64 // bytes of the event's own data
}

// before returns the sum of the data of the channel's events before this one. known is that sum by
// the entry before, or by the trim mark.
func (e entry) before(known uint64) uint64 {
	if e.holed {
		return e.bytes - min(e.size, e.bytes)
	}
	return known
}

func appendEntry(dst []byte, e entry) []byte {
	dst = binary.AppendUvarint(binary.AppendUvarint(binary.AppendUvarint(dst, e.seq), uint64(e.ms)), e.bytes)
	if e.holed {
		dst = binary.AppendUvarint(binary.AppendUvarint(dst, uint64(e.expires)), e.size)
	}
	return dst
}

func readEntry(key, value []byte) (entry, error) {
	f := fields{b: value}
	e := entry{pos: fanfare.Position(lastNumber(key)), seq: f.number(), ms: int64(f.number())}
	e.bytes = f.optional()
	if e.holed = len(f.b) > 0; e.holed {
		e.expires, e.size = int64(f.number()), f.number()
	}
	return e, f.err
}

func appendMark(dst []byte, mark entry) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(binary.AppendUvarint(dst, uint64(mark.pos)), mark.seq), mark.bytes)
}

func readMark(value []byte) (entry, error) {
	f := fields{b: value}
	e := entry{pos: fanfare.Position(f.number()), seq: f.number()}
	e.bytes = f.optional()
	return e, f.err
}

// used is the record of an idempotency key.
type used struct {
	ms          int64 // log time
	fingerprint [16]byte
	first       fanfare.Position
	count       uint64
	note        string

	// due is set for a scheduled event, whose id is first, and whose count is 0.
	due int64
}

// neverForgotten stands for the log time of a key whose scheduled event has not been published.
const neverForgotten = int64(1) << 61

// scheduled tells whether the key is that of an event that is, or was, to be published later.
func (u used) scheduled() bool { return u.count == 0 }

func (u used) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(u.ms))
	dst = append(dst, u.fingerprint[:]...)
	dst = binary.AppendUvarint(dst, uint64(u.first))
	dst = binary.AppendUvarint(dst, u.count)
	if u.scheduled() {
		dst = binary.AppendUvarint(dst, uint64(u.due))
	}
	return append(dst, u.note...)
}

func readUsed(value []byte) (u used, err error) {
	f := fields{b: value}
	u.ms = int64(f.number())
	copy(u.fingerprint[:], f.bytes(16))
	u.first = fanfare.Position(f.number())
	if u.count = f.number(); u.scheduled() {
		u.due = int64(f.number())
	}
	u.note = string(f.b)
	return u, f.err
}

// kept is a kept position as it is stored.
type kept struct {
	fanfare.Kept
	// storedMs is the guarded time at which it was stored; 0 when an earlier version stored it, and
	// only Time is known.
	storedMs int64
}

func (k kept) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(k.Position))
	dst = binary.AppendUvarint(dst, uint64(k.Time.UnixMilli()))
	dst = binary.AppendUvarint(dst, uint64(k.Expires.UnixMilli()))
	return append(binary.AppendUvarint(dst, uint64(k.storedMs)), k.Value...)
}

// readKept reads a kept position, with its age at the guarded time now.
func readKept(name string, value []byte, now time.Time) (fanfare.Kept, error) {
	f := fields{b: value}
	k := kept{Kept: fanfare.Kept{Name: name, Position: fanfare.Position(f.number())}}
	k.Time = time.UnixMilli(int64(f.number())).UTC()
	k.Expires = time.UnixMilli(int64(f.number())).UTC()
	k.storedMs = int64(f.optional())
	k.Value = string(f.b)
	if k.storedMs == 0 {
		k.storedMs = k.Time.UnixMilli()
	}
	k.Age = max(time.Duration(now.UnixMilli()-k.storedMs)*time.Millisecond, 0)
	return k.Kept, f.err
}

// ofKind returns the range of all keys of a kind, for an iterator.
func ofKind(tag byte) *pebble.IterOptions { return between([]byte{tag}, []byte{tag + 1}) }

// between returns the range of keys from lower on, and below upper.
func between(lower, upper []byte) *pebble.IterOptions {
	return &pebble.IterOptions{LowerBound: lower, UpperBound: upper}
}

// eventsBetween returns the range of the events in (after, through].
func eventsBetween(after, through fanfare.Position) *pebble.IterOptions {
	return between(keyOf(keyEvent, uint64(after)+1), keyOf(keyEvent, uint64(through)+1))
}
