package limit

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTake(t *testing.T) {
	r := &Rates{Events: 0.001, Bytes: 1000, Burst: 2000} // two events; two million bytes
	if v := r.Take("a", 5, 100); v.Err != nil {
		t.Errorf("more than a whole bucket takes a whole bucket: %v", v.Err)
	}
	v := r.Take("a", 1, 100)
	if fanfare.CodeOf(v.Err) != fanfare.CodeRateLimited || v.Wait < 10*time.Minute {
		t.Errorf("%+v", v)
	}
	h := http.Header{}
	v.SetHeader(h)
	if h.Get("RateLimit-Policy") != `"events";q=2;w=2000` || h.Get("RateLimit") != `"events";r=0;t=2000` {
		t.Errorf("%v", h)
	}
	if v := r.Take("b", 1, 100); v.Err != nil {
		t.Errorf("b pays for a: %v", v.Err)
	}
	// A publish that is refused for its bytes takes no event.
	if v := r.Take("c", 1, 3_000_000); v.Err != nil {
		t.Error(v.Err)
	}
	for range 5 {
		if v := r.Take("c", 1, 3_000_000); v.Err == nil || v.Err.(*fanfare.Error).Reason != fanfare.ReasonPublishBytes {
			t.Errorf("%+v", v)
		}
	}
	if v := r.Take("c", 1, 0); v.Err != nil {
		t.Errorf("%v", v.Err)
	}
	var off Rates
	if v := off.Take("a", 1<<30, 1<<30); v.Err != nil || off.On() {
		t.Error(v.Err)
	}
	off.Take("a", 1, 1).SetHeader(h)
}

func TestCallersAreForgotten(t *testing.T) {
	r := &Rates{Events: 1}
	for i := range bucketsMost + 1000 {
		r.Take(strconv.Itoa(i), 1, 1)
	}
	if len(r.buckets) > bucketsMost {
		t.Errorf("%d callers are remembered", len(r.buckets))
	}
}
