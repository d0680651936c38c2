package fleet

import (
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDevices(t *testing.T) {
	d := Device{"42", "till-7"}
	if d.Channels() != [3]string{"stores/42/pcs/till-7", "stores/42", "stores"} || Of(d.Channel()) != d {
		t.Errorf("%v is %v", d.Channels(), Of(d.Channel()))
	}
	for text, matches := range map[string]bool{"stores/42/pcs/till-7": true, "stores/*/pcs/*": true,
		"stores/42/pcs/*": true, "stores/*/pcs/till-7": true, "stores/43/pcs/*": false} {
		p, ok := ParseDevice(text)
		c, err := fanfare.ParseChannel(d.Channel())
		if !ok || err != nil || p.Match(c) != matches {
			t.Errorf("%s: %v, %v", text, ok, p.Match(c))
		}
	}
	for _, text := range []string{
		"", "stores", "stores/1", "stores/1/pcs", "stores/1/pcs/", "stores//pcs/1", "shops/1/pcs/2", "stores/1/tills/2",
		"stores/1/pcs/2/3", "stores/**", "stores/1/pcs/**",
		"stores/a*/pcs/1", "stores/ä/pcs/1", "stores/" + strings.Repeat("x", 65) + "/pcs/1",
	} {
		if p, ok := ParseDevice(text); ok {
			t.Errorf("%q is %v", text, p)
		}
	}
}
