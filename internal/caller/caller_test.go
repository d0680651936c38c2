package caller_test

import (
	"net/netip"
	"testing"

	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestAddresses: how a caller's address stands in records, what limits count by, and the owner's
// name of a caller without credentials.
func TestAddresses(t *testing.T) {
	addressed := func(text string, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(text), port)
	}
	for name, c := range map[string]struct {
		from                   netip.AddrPort
		remote, network, owner string
	}{
		"IPv4": {addressed("192.0.2.1", 7), "192.0.2.1:7", "192.0.2.1", "@192.0.2.1"},
		"IPv6": {
			addressed("2001:db8:1:2:3::4", 7), "[2001:db8:1:2:3::4]:7", "2001:db8:1:2::", "@2001:db8:1:2::",
		},
		"IPv6 with a zone": {addressed("fe80::1%eth0", 7), "[fe80::1%eth0]:7", "fe80::", "@fe80::"},
		"IPv4 within IPv6": {addressed("::ffff:192.0.2.1", 7), "[::ffff:192.0.2.1]:7", "192.0.2.1", "@192.0.2.1"},
		"a proxy says":     {addressed("192.0.2.1", 0), "192.0.2.1", "192.0.2.1", "@192.0.2.1"},
		"a Unix socket":    {netip.AddrPort{}, "@", "invalid IP", ""},
	} {
		by := caller.Caller{Who: &fanfare.Principal{}, From: c.from, Limited: true}
		if by.Remote() != c.remote || by.Network().String() != c.network || by.CountedAs() != by.Network() {
			t.Errorf("%s: %s in %s, counted as %s", name, by.Remote(), by.Network(), by.CountedAs())
		}
		if got := by.Owner(); got != c.owner {
			t.Errorf("%s: the owner is %q, want %q", name, got, c.owner)
		}
		by.Limited = false
		if by.CountedAs().IsValid() || by.Owner() != "" {
			t.Errorf("%s: without limits it is counted as %s, of owner %q", name, by.CountedAs(), by.Owner())
		}
	}
}
