package units

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "7d": 7 * 24 * time.Hour, "1.5d": 36 * time.Hour, "1d12h": 36 * time.Hour, "0": 0,
		"": -1, "d": -1, "-1d": -1, "1e9d": -1, "1h2d": -1, "7 d": -1, "1dx": -1, "NaNd": -1,
	} {
		if got, err := ParseDuration(text); (err != nil) != (want < 0) || (err == nil && got != want) {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{
		"65536": 65536, "64KiB": 64 << 10, "10MB": 10_000_000, "1 GiB": 1 << 30, "0": 0, "5B": 5, "4096PiB": -1,
		"": -1, "-1": -1, "1.5MB": -1, "KiB": -1, "9223372036854775807": -1, "9999999999TiB": -1,
	} {
		if got, err := ParseBytes(text); (err != nil) != (want < 0) || (err == nil && got != want) {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
}
