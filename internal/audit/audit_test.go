package audit

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSampling: the audit has ten records of a kind a second, one of a thousand beyond them, and
// the count of those that were left out.
func TestSampling(t *testing.T) {
	var b bytes.Buffer
	clock := time.Unix(1000, 0)
	trail := New(slog.New(slog.NewTextHandler(&b, nil)), 10)
	trail.now = func() time.Time { return clock }
	by := caller.Caller{Who: &fanfare.Principal{Subject: "ada"}, From: netip.MustParseAddrPort("192.0.2.1:1")}
	for range 5000 {
		trail.Record(Published, by)
	}
	trail.Record(Refused, by)
	if n := strings.Count(b.String(), string(Published)); n != 15 || !strings.Contains(b.String(), "leftOut=999") ||
		!strings.Contains(b.String(), string(Refused)) {
		t.Errorf("%d records:\n%s", n, b.String())
	}
	b.Reset()
	clock = clock.Add(time.Second)
	trail.Record(Published, by)
	if !strings.Contains(b.String(), "subject=ada") || strings.Contains(b.String(), "leftOut") {
		t.Error(b.String())
	}
	var none *Trail
	none.Record(Published, by)
	none.RecordAlways(Revoked, by)
}
