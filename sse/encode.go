package sse

import (
	"strconv"
	"strings"
)

// MediaType is the type of a stream; by the standard it is always UTF-8.
const MediaType = "text/event-stream"

// Comment is the idle sign of life: a comment line with one line feed. A blank line after it would
// make several clients dispatch an empty event.
const Comment = ":\n"

// MaxRetry is the longest reconnection time in milliseconds that no known client overflows on.
const MaxRetry = 1<<31 - 1

// AppendEvent appends one block to dst and returns the longer slice: `id:`, `event:`, a `data:`
// line for each line of data, and the blank line. CR, LF and CRLF in data all end a line, as they
// would for the reader. An empty id or event leaves its line out. It allocates only when dst has no
// room.
//
// id and event must be free of CR, LF and NUL; the caller has parsed them at its border.
func AppendEvent(dst []byte, id, event, data string) []byte {
	if id != "" {
		dst = append(dst, "id: "...)
		dst = append(dst, id...)
		dst = append(dst, '\n')
	}
	if event != "" {
		dst = append(dst, "event: "...)
		dst = append(dst, event...)
		dst = append(dst, '\n')
	}
	for {
		dst = append(dst, "data: "...)
		end := strings.IndexAny(data, "\r\n")
		if end < 0 {
			dst = append(dst, data...)
			return append(dst, '\n', '\n')
		}
		dst = append(dst, data[:end]...)
		dst = append(dst, '\n')
		if data[end] == '\r' && end+1 < len(data) && data[end+1] == '\n' {
			end++
		}
		data = data[end+1:]
	}
}

// AppendRetry appends a `retry:` line with the time in milliseconds, limited to 1 to MaxRetry. No
// blank line follows: the line stands in front of the lines of an event. Alone, even at the end of
// a stream, some clients take it for an empty event.
func AppendRetry(dst []byte, milliseconds int64) []byte {
	dst = append(dst, "retry: "...)
	dst = strconv.AppendInt(dst, min(max(milliseconds, 1), MaxRetry), 10)
	return append(dst, '\n')
}

// AppendChunk appends body as one chunk of HTTP/1.1's chunked coding (RFC 9112 section 7.1). An
// empty body appends nothing, because an empty chunk would end the message.
func AppendChunk(dst, body []byte) []byte {
	if len(body) == 0 {
		return dst
	}
	dst = strconv.AppendUint(dst, uint64(len(body)), 16)
	dst = append(dst, "\r\n"...)
	dst = append(dst, body...)
	return append(dst, "\r\n"...)
}

// LastChunk ends a chunked message.
const LastChunk = "0\r\n\r\n"
