package stream

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/hub"
)

// TestOwner: a stream's reads of the log are counted for its caller.
func TestOwner(t *testing.T) {
	address := netip.MustParseAddrPort("192.0.2.1:1")
	for _, test := range []struct {
		want string
		by   caller.Caller
	}{
		{"", caller.Caller{Who: &fanfare.Principal{}}},
		{"", caller.Caller{Who: &fanfare.Principal{}, From: address}},
		{"ada", caller.Caller{Who: &fanfare.Principal{Subject: "ada"}, From: address, Limited: true}},
		{"@192.0.2.1", caller.Caller{Who: &fanfare.Principal{}, From: address, Limited: true}},
	} {
		var st hub.Waker = New(Options{}).newStream(&Request{Caller: test.by})
		if got := st.Owner(); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}

// TestSizes: resident memory grows by about twice what an idle stream holds, since the
// collector lets the heap double. A field that few streams need belongs behind a pointer, as live
// and tls are.
func TestSizes(t *testing.T) {
	for kind, most := range map[reflect.Type]uintptr{ // sizes in bytes that the runtime allocates
		reflect.TypeFor[Stream](): 320,
		reflect.TypeFor[Live]():   96, // of a stream that is watched
	} {
		if size := kind.Size(); size > most {
			t.Errorf("a %s takes %d bytes, want at most %d", kind.Name(), size, most)
		}
	}
}
