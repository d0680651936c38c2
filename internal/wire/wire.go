// Package wire makes the bytes of events on a stream. They are made once and shared by all
// subscribers.
package wire

import (
	"bytes"
	"strings"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/sse"
)

// Encode makes the frame of an event: the SSE block, and the same as an HTTP/1.1 chunk, in one
// array.
func Encode(e fanfare.Event) hub.Frame {
	const room = 10 // for a chunk's length in hexadecimal, and CRLF
	kind := ""
	if !e.Type.IsDefault() {
		kind = e.Type.String()
	}
	var id [fanfare.PositionTextBytes]byte
	buf := make([]byte, room, room+len(e.Data)+len(kind)+64)
	buf = sse.AppendEvent(buf, string(e.Position.Append(id[:0])), kind, e.Data)
	size := len(buf) - room
	begin := room - 2
	buf[begin], buf[begin+1] = '\r', '\n'
	for n := size; n > 0; n >>= 4 {
		begin--
		buf[begin] = "0123456789abcdef"[n&15]
	}
	buf = append(buf, '\r', '\n')
	return hub.Frame{Body: buf[room : room+size : room+size], Chunk: buf[begin:],
		Folded: strings.IndexByte(e.Data, '\r') >= 0}
}

var (
	eventField = []byte("event: ")
	dataField  = []byte("data: ")
)

// Decode reads a frame's event back. Where the frame is folded, each CR and CRLF of the data has
// become LF. A trace is known only of live events.
func Decode(f *hub.Frame) fanfare.Event {
	e := fanfare.Event{Position: f.Position, Channel: f.Channel, Time: f.Time.Time()}
	if f.Expires != 0 {
		e.Expires = f.Expires.Time()
	}
	if f.Trace != nil {
		e.Trace = f.Trace.Parent
	}
	_, rest, _ := bytes.Cut(f.Body, []byte{'\n'}) // the id
	if kind, ok := bytes.CutPrefix(rest, eventField); ok {
		var name []byte
		name, rest, _ = bytes.Cut(kind, []byte{'\n'})
		e.Type, _ = fanfare.ParseEventType(string(name)) // it was checked when it was published
	}
	rest = rest[:len(rest)-1] // without the blank line: data lines, each with its line feed
	first := rest[len(dataField):]
	if end := bytes.IndexByte(first, '\n'); end == len(first)-1 {
		e.Data = string(first[:end])
		return e
	}
	var data strings.Builder
	data.Grow(len(rest))
	for len(rest) > 0 {
		line, more, _ := bytes.Cut(rest[len(dataField):], []byte{'\n'})
		data.Write(line)
		if rest = more; len(rest) > 0 {
			data.WriteByte('\n')
		}
	}
	e.Data = data.String()
	return e
}
