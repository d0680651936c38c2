package stream

import (
	"net/http"

	"github.com/fanfare-hub/fanfare"
)

// errCannotFlush is the answer to a stream below a handler that holds answers back until they are
// whole.
var errCannotFlush = fanfare.Errorf(fanfare.CodeInternal,
	"a handler in front of the hub holds the answer back until its end (http.TimeoutHandler does that), "+
		"so a stream cannot pass: mount the hub outside of it")

// CheckWriter returns an error when w can neither flush nor be hijacked: bytes would reach the
// client only at the answer's end.
func CheckWriter(w http.ResponseWriter) error {
	for {
		switch t := w.(type) {
		case http.Flusher, interface{ FlushError() error }, http.Hijacker:
			return nil
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return errCannotFlush
		}
	}
}

// encoded tells whether a handler in front of the hub has set Content-Encoding. Its connection must
// not be taken over: the body would bypass the encoder and contradict the head.
func encoded(h http.Header) bool { return len(h["Content-Encoding"]) > 0 }
