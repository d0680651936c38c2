package poll

import (
	"crypto/tls"
	"reflect"
	"testing"
)

// TestIdleFields: crypto/tls is as DropEmptyBuffers knows it; if not, idle streams over TLS take
// twice the memory. A type with other fields is left alone.
func TestIdleFields(t *testing.T) {
	if !idleFields.found {
		t.Error("crypto/tls has changed: see DropEmptyBuffers")
	}
	if findIdleFields(reflect.TypeFor[struct{ rawInput, hand, input []byte }]()).found {
		t.Error("other fields are taken for those of crypto/tls")
	}
	idleFields.found = false
	defer func() { idleFields.found = true }()
	DropEmptyBuffers(&tls.Conn{})
}
