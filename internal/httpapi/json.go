package httpapi

import (
	"time"
	"unicode/utf8"

	"github.com/fanfare-hub/fanfare"
)

// appendEventHead appends an event as history shows it, up to the beginning of its data.
func appendEventHead(b []byte, e *fanfare.Event) []byte {
	b = append(e.Position.Append(append(b, `{"id":"`...)), `","channel":"`...)
	b = append(appendText(b, e.Channel.String()), `","event":"`...)
	return append(appendText(b, e.Type.String()), `","data":"`...)
}

// appendEventTail appends the rest, from the end of its data on.
func appendEventTail(b []byte, e *fanfare.Event) []byte {
	b = append(b, `","time":"`...)
	b = e.Time.UTC().AppendFormat(b, time.RFC3339Nano)
	if !e.Expires.IsZero() {
		b = e.Expires.UTC().AppendFormat(append(b, `","expires":"`...), time.RFC3339Nano)
	}
	if e.Trace != "" {
		b = append(append(b, `","traceparent":"`...), e.Trace...)
	}
	return append(b, `"}`...)
}

// eventBytes is how much JSON an event is, with a comma.
func eventBytes(e *fanfare.Event) int {
	const names = len(`{"id":"","channel":"","event":"","data":"","time":"","traceparent":""},`)
	expires := 0
	if !e.Expires.IsZero() {
		expires = len(`,"expires":""`) + len(time.RFC3339Nano)
	}
	return names + expires + fanfare.PositionTextBytes + textBytes(e.Channel.String()) + textBytes(e.Type.String()) +
		textBytes(e.Data) + len(time.RFC3339Nano) + len(e.Trace)
}

const hexDigits = "0123456789abcdef"

// escaped is how many bytes a byte below 0x80 becomes in a JSON string; 0 means that it stays as it
// is.
var escaped = func() (n [utf8.RuneSelf]uint8) {
	for c := range byte(' ') {
		n[c] = uint8(len(`\u0000`))
	}
	for _, c := range "\b\f\n\r\t\"\\" {
		n[c] = uint8(len(`\n`))
	}
	return n
}()

// special is the replacement for a character above 0x7f that cannot stand as it is: U+2028 and
// U+2029, at which some clients split lines, and bytes that are no UTF-8. It is "" for all others.
func special(c rune, size int) string {
	switch {
	case c == utf8.RuneError && size == 1:
		return `\ufffd`
	case c == '\u2028':
		return `\u2028`
	case c == '\u2029':
		return `\u2029`
	}
	return ""
}

// appendText appends the inside of a JSON string, as encoding/json makes it without HTML escapes.
func appendText(b []byte, s string) []byte {
	begin := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if escaped[c] != 0 {
				b = appendEscaped(append(b, s[begin:i]...), c)
				begin = i + 1
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if text := special(r, size); text != "" {
			b = append(append(b, s[begin:i]...), text...)
			begin = i + size
		}
		i += size
	}
	return append(b, s[begin:]...)
}

func appendEscaped(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\b':
		return append(b, '\\', 'b')
	case '\f':
		return append(b, '\\', 'f')
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

// textBytes is how many bytes appendText appends.
func textBytes(s string) int {
	n := len(s)
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if e := escaped[c]; e != 0 {
				n += int(e) - 1
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		n += max(len(special(r, size))-size, 0)
		i += size
	}
	return n
}

// cutText takes about n bytes off the front, and no part of a character.
func cutText(s string, n int) (front, rest string) {
	if len(s) <= n {
		return s, ""
	}
	for i := 0; i < utf8.UTFMax-1 && !utf8.RuneStart(s[n]); i++ { // text that is no UTF-8 is cut anywhere
		n--
	}
	return s[:n], s[n:]
}
