package storeapi

import (
	"testing"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/fleet"
	"github.com/fanfare-hub/fanfare/logtest"
)

// TestMayBe (P8): who may subscribe to a PC's channels may look, and is not the PC; a PC is no
// other PC, whatever it may hear.
func TestMayBe(t *testing.T) {
	all := fanfare.Grants{fanfare.ActionSubscribe: logtest.Patterns("stores", "stores/**")}
	self := func(text string) fanfare.Pattern { return logtest.Patterns(text)[0] }
	for name, c := range map[string]struct {
		who     fanfare.Principal
		is, may bool
	}{
		"nobody":         {fanfare.Principal{}, false, false},
		"no limits":      {fanfare.Principal{Unlimited: true}, true, true},
		"the PC":         {fanfare.Principal{Self: self("stores/42/pcs/7")}, true, true},
		"a fleet":        {fanfare.Principal{Self: self("stores/*/pcs/*")}, true, true},
		"another":        {fanfare.Principal{Self: self("stores/42/pcs/8")}, false, false},
		"another, looks": {fanfare.Principal{Self: self("stores/42/pcs/8"), Grants: all}, false, false},
		"looks":          {fanfare.Principal{Grants: all}, false, true},
		"hears a part": {fanfare.Principal{
			Grants: fanfare.Grants{fanfare.ActionSubscribe: logtest.Patterns("stores/**")}}, false, false},
	} {
		is, err := mayBe(caller.Caller{Who: &c.who}, fleet.Device{Store: "42", PC: "7"})
		if is != c.is || (err == nil) != c.may {
			t.Errorf("%s: %v, %v", name, is, err)
		}
	}
}
