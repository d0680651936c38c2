package poll

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"unsafe"
)

// A tls.Conn keeps the buffers in which its handshake came, some 3.5 KB, for ever: nearly half of
// the memory of an idle stream over TLS. crypto/tls offers no way to drop them, so this file does
// it. It replaces an empty bytes.Buffer by the zero one, which is documented to be empty and ready.
// If crypto/tls has no such fields, it does nothing, and a test fails.
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

// DropEmptyBuffers drops the buffers in which a connection's handshake came, if all are empty, and
// returns false if they are not. The handshake must be over, and no other goroutine may read.
func DropEmptyBuffers(c *tls.Conn) bool {
	if !idleFields.found {
		return true
	}
	p := unsafe.Pointer(c)
	rawInput := (*bytes.Buffer)(unsafe.Add(p, idleFields.rawInput)) // #nosec G103 -- the type was checked
	hand := (*bytes.Buffer)(unsafe.Add(p, idleFields.hand))         // #nosec G103 -- likewise
	input := (*bytes.Reader)(unsafe.Add(p, idleFields.input))       // #nosec G103 -- likewise
	if rawInput.Len() > 0 || hand.Len() > 0 || input.Len() > 0 {
		return false
	}
	*rawInput, *hand = bytes.Buffer{}, bytes.Buffer{}
	input.Reset(nil) // else it would keep what it has been read from
	return true
}
