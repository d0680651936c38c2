package publish

import (
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// FuzzTimes: whatever a publisher writes, times are within their limits or refused, and equal times
// are equal in a fingerprint, however they are written.
func FuzzTimes(f *testing.F) {
	for _, text := range []string{"10m", "1h30m", "365d", "0.5s", "in 10m", "in 1d", "2026-11-27T03:00:00Z", "NaN",
		"in",
		"2026-11-27T03:00:00+02:00", "-1s", "1e9h", "9999999999999999999d", "1s1s", "..5s", "in  1m", "1d1d"} {
		f.Add(text, text)
	}
	now := time.Date(2026, 11, 26, 10, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	f.Fuzz(func(t *testing.T, ttl, at string) {
		if times, err := ReadTimes(&ttl, nil, clock); err == nil {
			if times.TTL < fanfare.MinTTL || times.TTL > fanfare.MaxTTL || !times.At.IsZero() || times.In != 0 {
				t.Errorf("ttl %q is %+v", ttl, times)
			}
		} else if fanfare.CodeOf(err) != fanfare.CodeInvalid {
			t.Errorf("ttl %q: %v", ttl, err)
		}
		times, err := ReadTimes(nil, &at, clock)
		if err != nil {
			if fanfare.CodeOf(err) != fanfare.CodeInvalid {
				t.Errorf("deliverAt %q: %v", at, err)
			}
			return
		}
		if times.In == 0 {
			times.In = times.At.Sub(now)
		} else if !times.At.IsZero() {
			t.Errorf("deliverAt %q is %+v", at, times)
		}
		if times.In <= 0 || times.In > fanfare.MaxDeferral {
			t.Errorf("deliverAt %q is %+v", at, times)
		}
	})
}
