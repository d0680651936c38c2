package http1

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
)

// answer is the ResponseWriter of one request. It holds the answer, which is small, until the
// handler has returned. It can do nothing that http.ResponseController asks for: handlers that need
// that are not for this package.
type answer struct {
	header http.Header
	status int // 0: not said yet
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = make(http.Header, 4)
	}
	return a.header
}

// WriteHeader implements http.ResponseWriter. Informational statuses, which nothing waits for here,
// are dropped.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}

// closes tells whether the handler wants the connection to end.
func (a *answer) closes() bool { return a.header["Connection"] != nil }

// reset makes the answer ready for another request.
func (a *answer) reset() {
	const most = 64 << 10
	clear(a.header)
	a.status = 0
	if a.body.Reset(); a.body.Cap() > most {
		a.body = bytes.Buffer{}
	}
}

// appendTo appends the answer as it goes over the wire, in net/http's order of lines.
func (a *answer) appendTo(b []byte) []byte {
	a.WriteHeader(http.StatusOK)
	h := a.Header()
	bodied := a.status != http.StatusNoContent && a.status != http.StatusNotModified
	if bodied {
		h["Content-Length"] = []string{strconv.Itoa(a.body.Len())}
		if a.body.Len() > 0 && h["Content-Type"] == nil {
			h.Set("Content-Type", http.DetectContentType(a.body.Bytes()))
		}
	}
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(a.status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(a.status)...)
	b = append(b, "\r\n"...)
	var room [16]string
	names := room[:0]
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range h[name] {
			b = append(b, name...)
			b = append(b, ": "...)
			b = appendLine(b, value)
			b = append(b, "\r\n"...)
		}
	}
	b = append(b, "\r\n"...)
	if bodied {
		b = append(b, a.body.Bytes()...)
	}
	return b
}

// appendLine appends a value without the bytes that would end its line.
func appendLine(b []byte, value string) []byte {
	for i := range len(value) {
		if c := value[i]; c == '\r' || c == '\n' {
			c = ' '
			b = append(b, c)
		} else {
			b = append(b, c)
		}
	}
	return b
}
