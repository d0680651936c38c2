package stream

import (
	"net/netip"
	"testing"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/hub"
)

// TestOwner: a stream's reads of the log are counted for its caller.
func TestOwner(t *testing.T) {
	address := netip.MustParseAddr("192.0.2.1")
	for _, test := range []struct {
		want string
		by   caller.Caller
	}{
		{"", caller.Caller{Who: &fanfare.Principal{}}},
		{"ada", caller.Caller{Who: &fanfare.Principal{Subject: "ada"}, Address: address}},
		{"@192.0.2.1", caller.Caller{Who: &fanfare.Principal{}, Address: address}},
	} {
		var st hub.Waker = New(Options{}).newStream(&Request{Caller: test.by})
		if got := st.Owner(); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}
