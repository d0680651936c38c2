package sse

import (
	"bytes"
	"errors"
	"strings"
	"unicode/utf8"
)

// Event is one dispatched event.
type Event struct {
	Type        string // "message" when the block names none
	Data        string
	LastEventID string // of the stream at this event, not only of this block
}

// Handler holds the functions that a Parser calls. A nil function is not called.
type Handler struct {
	Event   func(Event)
	Retry   func(milliseconds int64) // at most MaxRetry
	Comment func(text string)        // the text after the colon, as it stands
}

// ErrTooLong says that one event, or one line, is larger than the parser's limit.
var ErrTooLong = errors.New("sse: event larger than the limit")

// DefaultMaxEventBytes is the limit of a Parser whose MaxEventBytes is zero.
const DefaultMaxEventBytes = 16 << 20

// Parser reads one connection's bytes, pushed by Write in pieces cut anywhere, and calls its
// Handler at once: it never waits for a byte more than the standard needs. Use a new Parser for
// each connection, with LastEventID carried over. One goroutine at a time may use it.
type Parser struct {
	Handler       Handler
	MaxEventBytes int    // of a line, and of an event's data; zero is DefaultMaxEventBytes
	LastEventID   string // to send when reconnecting; seed it when carrying on

	line    []byte // an unfinished line
	skipLF  bool   // the last line ended in CR: one LF that follows belongs to it
	started bool   // the place for a BOM is passed
	idNext  string // the ID buffer: committed at the next blank line
	idSet   bool
	event   string
	data    strings.Builder
	hasData bool
	err     error
}

var bom = []byte("\xef\xbb\xbf")

// Write parses p and calls the handler for each complete event, retry time and comment. It fails
// with ErrTooLong, and then for good.
func (p *Parser) Write(b []byte) (int, error) {
	n := len(b)
	for p.err == nil && len(b) > 0 {
		if p.skipLF {
			p.skipLF = false
			if b[0] == '\n' {
				b = b[1:]
				continue
			}
		}
		end := bytes.IndexAny(b, "\r\n")
		if end < 0 {
			if len(p.line)+len(b) > p.limit() {
				p.err = ErrTooLong
				break
			}
			p.line = append(p.line, b...)
			break
		}
		line := b[:end]
		if len(p.line) > 0 {
			p.line = append(p.line, line...)
			line = p.line
		}
		p.skipLF = b[end] == '\r'
		b = b[end+1:]
		p.oneLine(line)
		p.line = p.line[:0]
	}
	return n, p.err
}

func (p *Parser) limit() int {
	if p.MaxEventBytes > 0 {
		return p.MaxEventBytes
	}
	return DefaultMaxEventBytes
}

func (p *Parser) oneLine(line []byte) {
	if !p.started {
		p.started = true
		line = bytes.TrimPrefix(line, bom) // exactly one, at the very start
	}
	if len(line) == 0 {
		p.dispatch()
		return
	}
	if line[0] == ':' {
		if p.Handler.Comment != nil {
			p.Handler.Comment(decode(line[1:]))
		}
		return
	}
	name, value, _ := bytes.Cut(line, []byte{':'})
	value = bytes.TrimPrefix(value, []byte{' '})
	switch string(name) {
	case "event":
		p.event = decode(value)
	case "data":
		if p.data.Len()+len(value) > p.limit() {
			p.err = ErrTooLong
			return
		}
		p.data.WriteString(decode(value))
		p.data.WriteByte('\n')
		p.hasData = true
	case "id":
		if bytes.IndexByte(value, 0) < 0 {
			p.idNext, p.idSet = decode(value), true
		}
	case "retry":
		if ms, ok := digits(value); ok && p.Handler.Retry != nil {
			p.Handler.Retry(ms)
		}
	}
}

func (p *Parser) dispatch() {
	if p.idSet {
		p.LastEventID, p.idSet = p.idNext, false
	}
	if !p.hasData {
		p.event = ""
		return
	}
	e := Event{Type: p.event, Data: strings.TrimSuffix(p.data.String(), "\n"), LastEventID: p.LastEventID}
	if e.Type == "" {
		e.Type = "message"
	}
	p.event, p.hasData = "", false
	p.data.Reset()
	if p.Handler.Event != nil {
		p.Handler.Event(e)
	}
}

// digits reads ASCII digits alone, at most MaxRetry.
func digits(b []byte) (int64, bool) {
	if len(b) == 0 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = min(n*10+int64(c-'0'), MaxRetry)
	}
	return n, true
}

// decode is UTF-8 decode of the WHATWG Encoding standard: each maximal subpart of an ill-formed
// sequence becomes one U+FFFD. (strings.ToValidUTF8 makes one of a whole run, and a range loop one
// of each byte.)
func decode(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var s strings.Builder
	s.Grow(len(b) + 8)
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			n = maximalSubpart(b)
		}
		s.WriteRune(r)
		b = b[n:]
	}
	return s.String()
}

// maximalSubpart returns the length of the longest prefix of b, at least 1, that begins a
// well-formed sequence (Unicode standard, section 3.9, table 3-7). b does not begin with a whole
// one.
func maximalSubpart(b []byte) int {
	low, high, need := byte(0x80), byte(0xbf), 0
	switch c := b[0]; {
	case c >= 0xc2 && c <= 0xdf:
		need = 1
	case c >= 0xe0 && c <= 0xef:
		need = 2
		if c == 0xe0 {
			low = 0xa0
		} else if c == 0xed {
			high = 0x9f
		}
	case c >= 0xf0 && c <= 0xf4:
		need = 3
		if c == 0xf0 {
			low = 0x90
		} else if c == 0xf4 {
			high = 0x8f
		}
	}
	n := 1
	for ; n <= need && n < len(b) && b[n] >= low && b[n] <= high; n++ {
		low, high = 0x80, 0xbf
	}
	return n
}
