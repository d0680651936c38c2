package stream

import (
	"net/http"

	"github.com/fanfare-hub/fanfare"
)

// errCannotFlush is what a stream is answered below a handler that holds the answer back until it is whole.
var errCannotFlush = fanfare.Errorf(fanfare.CodeInternal,
	"a stream cannot go through a handler in front of the hub, whose ResponseWriter can neither flush nor be taken over (http.TimeoutHandler is one): mount the hub outside of it")

// CheckWriter returns an error when what is written to w would not reach the client before the answer has ended.
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

// encoded tells whether a handler in front has said that it encodes the body. Its connection must not be taken over: the body would
// pass it by, and be something else than the head says.
func encoded(h http.Header) bool { return len(h["Content-Encoding"]) > 0 }
