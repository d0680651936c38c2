package poll

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"unsafe"
)

// A tls.Conn keeps the buffers in which its handshake came, some 3.5 KB, for ever: nearly half of
// what a stream over TLS takes that is idle. There is no way to have it drop them but to do it
// here. What is done is what the zero bytes.Buffer documents: an empty one is replaced by another.
// Where crypto/tls has no such fields nothing is done; a test says so.
var idleFields = findIdleFields(reflect.TypeFor[tls.Conn]())

type fields struct {
	found                 bool
	rawInput, hand, input uintptr // offsets
}

func findIdleFields(t reflect.Type) (f fields) {
	rawInput, ok := t.FieldByName("rawInput")
	hand, ok2 := t.FieldByName("hand")
	input, ok3 := t.FieldByName("input")
	buffer := reflect.TypeFor[bytes.Buffer]()
	f.found = ok && ok2 && ok3 && rawInput.Type == buffer && hand.Type == buffer &&
		input.Type == reflect.TypeFor[bytes.Reader]()
	f.rawInput, f.hand, f.input = rawInput.Offset, hand.Offset, input.Offset
	return f
}

// dropEmptyBuffers has a connection that nobody uses at the same time, and whose handshake is over,
// drop its buffers if all are empty.
func dropEmptyBuffers(c *tls.Conn) {
	if !idleFields.found {
		return
	}
	p := unsafe.Pointer(c)
	rawInput := (*bytes.Buffer)(unsafe.Add(p, idleFields.rawInput)) // #nosec G103 -- the type was checked
	hand := (*bytes.Buffer)(unsafe.Add(p, idleFields.hand))         // #nosec G103 -- likewise
	input := (*bytes.Reader)(unsafe.Add(p, idleFields.input))       // #nosec G103 -- likewise
	if rawInput.Len() > 0 || hand.Len() > 0 || input.Len() > 0 {
		return
	}
	*rawInput, *hand = bytes.Buffer{}, bytes.Buffer{}
	input.Reset(nil) // else it would keep what it has been read from
}
