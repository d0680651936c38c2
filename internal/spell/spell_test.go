package spell

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNearest(t *testing.T) {
	stream := []string{"channel", "replay", "since", "heartbeat", "heartbeatEvent", "envelope", "lastEventId"}
	event := []string{"channel", "event", "data", "idempotencyKey"}
	for _, c := range []struct {
		word  string
		known []string
		want  string
	}{
		{"replays", stream, "replay"},
		{"repaly", stream, "replay"},
		{"Channel", stream, "channel"},
		{"channels", stream, "channel"},
		{"last-event-id", stream, "lastEventId"},
		{"heartbeat_event", stream, "heartbeatEvent"},
		{"heartbeats", stream, "heartbeat"},
		{"limt", []string{"after", "limit"}, "limit"},
		{"type", event, "event"},
		{"idempotency_key", event, "idempotencyKey"},
		{"idempotenceyKey", event, "idempotencyKey"},
		{"subjct", []string{"subject", "tokenId"}, "subject"},
		{"stroeId", []string{"storeId", "pcId"}, "storeId"},
		{"pcid", []string{"storeId", "pcId"}, "pcId"},
		// Parameters that services add are left alone.
		{"utm_source", stream, ""},
		{"_", stream, ""},
		{"v", stream, ""},
		{"t", event, ""},
		{"pid", []string{"storeId", "pcId"}, ""},
		{"pcIp", []string{"storeId", "pcId"}, ""},
		{"storeIp", []string{"storeId", "pcId"}, ""},
		{"type", stream, ""},
		{"cachebuster", stream, ""},
		{"", stream, ""},
	} {
		if got := Nearest(c.word, c.known...); got != c.want {
			t.Errorf("Nearest(%q) = %q, want %q", c.word, got, c.want)
		}
	}
}

func TestEdits(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "a", 0}, {"ab", "ba", 1}, {"abc", "abd", 1}, {"abcd", "acbe", 2}, {"limit", "limits",
			1}, {"a", "wxyz", 3}, {"kitten", "sitting", 3},
	} {
		if got := edits(c.a, c.b); got != c.want {
			t.Errorf("edits(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
