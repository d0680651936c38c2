package http1

import (
	"bytes"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
)

// Limits of the requests that are read here. Larger requests go to net/http.
const (
	headBytes   = 8 << 10
	bodyBytes   = 64 << 10
	headerLines = 64
)

// request is a request that is being answered, with its parts. All of it is used again for later
// requests.
type request struct {
	http.Request
	header http.Header
	values [16]string
	body   body
}

// verdict is the outcome of parsing the bytes that a client has sent.
type verdict int

const (
	partial verdict = iota // the beginning of a request that may be ours
	whole                  // a request of ours
	foreign                // net/http's
)

// parse reads the request at the beginning of b. used is the number of its bytes, also for a
// partial request if that is known. r gets the same fields as from http.ReadRequest (a fuzzer
// compares them), and keeps no part of b. take says whether a request is for us; it must not read
// the body.
func parse(b []byte, r *request, take func(*http.Request) bool) (used int, v verdict) {
	const begin = "POST /"
	if n := min(len(b), len(begin)); string(b[:n]) != begin[:n] {
		return 0, foreign
	}
	end := bytes.Index(b[:min(len(b), headBytes)], []byte("\r\n\r\n"))
	switch {
	case end < 0 && len(b) >= headBytes:
		return 0, foreign
	case end < 0:
		return 0, partial
	}
	head := string(b[:end+2]) // each line with its end
	target, lines, ok := requestLine(head)
	if !ok {
		return 0, foreign
	}
	length, ok := readHeader(r, lines)
	if !ok {
		return 0, foreign
	}
	var err error
	if r.URL, err = url.ParseRequestURI(target); err != nil || r.Host == "" {
		return 0, foreign
	}
	r.Method, r.RequestURI, r.ContentLength = http.MethodPost, target, int64(length)
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	if !take(&r.Request) {
		return 0, foreign
	}
	used = end + 4 + length
	if len(b) < used {
		return used, partial
	}
	r.Body = http.NoBody
	if length > 0 {
		r.body = body{text: string(b[end+4 : used])}
		r.Body = &r.body
	}
	return used, whole
}

// requestLine is RFC 9112, section 3, in the shape that all clients send.
func requestLine(head string) (target, lines string, ok bool) {
	line, lines, _ := strings.Cut(head, "\r\n")
	target, isOurs := strings.CutSuffix(line[len("POST "):], " HTTP/1.1")
	if !isOurs {
		return "", "", false
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return "", "", false
		}
	}
	return target, lines, true
}

// readHeader reads header lines of the simplest shape (RFC 9112, section 5), and the body's length;
// false when a line has another, or asks for something that is not done here.
func readHeader(r *request, lines string) (length int, ok bool) {
	length = -1
	r.Host = ""
	if r.header == nil {
		r.header = make(http.Header, 8)
	}
	clear(r.header)
	r.Header = r.header
	values := r.values[:0]
	for count := 0; lines != ""; count++ {
		var line string
		line, lines, _ = strings.Cut(lines, "\r\n")
		name, value, cut := strings.Cut(line, ":")
		if !cut || count == headerLines || !isToken(name) || !isText(value) {
			return 0, false
		}
		name, value = textproto.CanonicalMIMEHeaderKey(name), strings.Trim(value, " ")
		switch name {
		case "Host":
			if r.Host != "" || !isHost(value) {
				return 0, false
			}
			r.Host = value
			continue // as net/http does
		case "Content-Length":
			if length >= 0 {
				return 0, false
			}
			if length = number(value); length < 0 {
				return 0, false
			}
		case "Connection":
			if !strings.EqualFold(value, "keep-alive") {
				return 0, false
			}
		case "Transfer-Encoding", "Expect", "Upgrade", "Te", "Trailer", "Proxy-Connection", "Http2-Settings", "Pragma":
			return 0, false
		}
		if len(values) == cap(values) {
			values = make([]string, 0, 8) // those before stay where they are
		}
		values = append(values, value)
		if before := r.Header[name]; before != nil {
			r.Header[name] = append(before, value)
		} else {
			r.Header[name] = values[len(values)-1 : len(values) : len(values)]
		}
	}
	return length, length >= 0
}

// isToken tells whether a field's name is one (RFC 9110, section 5.6.2), of the characters that
// names have.
func isToken(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return s != ""
}

// isText tells whether a field's value is printable ASCII.
func isText(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// isHost tells whether a Host is a name or an address, with or without a port.
func isHost(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z',
			c >= 'A' && c <= 'Z',
			c >= '0' && c <= '9',
			c == '-',
			c == '.',
			c == ':',
			c == '[',
			c == ']',
			c == '_':
		default:
			return false
		}
	}
	return s != ""
}

// number reads a length within the limit; below 0 when it is none.
func number(s string) int {
	if s == "" || len(s) > 6 {
		return -1
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return -1
		}
		n = n*10 + int(s[i]-'0')
	}
	if n > bodyBytes {
		return -1
	}
	return n
}

// body is a request's, which has come already.
type body struct {
	text string // the part that has not been read
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (n int, err error) {
	if b.text == "" {
		return 0, io.EOF
	}
	n = copy(p, b.text)
	b.text = b.text[n:]
	return n, nil
}

// Text takes the unread rest, without a copy.
func (b *body) Text() (text string) {
	text, b.text = b.text, ""
	return text
}

// Close implements io.Closer.
func (b *body) Close() error { return nil }
