package pebblelog

import (
	"fmt"
	"testing"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
)

// TestMoreChannelsThanTheCacheHolds: states that the cache has dropped are read again, and go on
// counting from where they were.
func TestMoreChannelsThanTheCacheHolds(t *testing.T) {
	l, err := Open(Options{Durability: DurabilityMemory,
		Retention: []fanfare.Rule{{Pattern: mustPattern(t, "**"), Count: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.session.catalog.channels.most = 100 // before anything is appended, so the committer sees it
	const channels = 1000
	for round := range 4 {
		for first := 0; first < channels; first += 50 {
			b := &fanfare.Batch{}
			for c := first; c < first+50; c++ {
				channel, err := fanfare.ParseChannel(fmt.Sprint("c", c))
				if err != nil {
					t.Fatal(err)
				}
				b.Events = append(b.Events, fanfare.Event{Channel: channel, Data: fmt.Sprint(round)})
			}
			if _, err := logtest.Append(l, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(l.session.catalog.channels.byName); n > 200 {
		t.Errorf("%d states are cached, the limit is 100", n)
	}
	for c := range channels {
		page, err := l.Read(t.Context(), fanfare.Query{Patterns: []fanfare.Pattern{mustPattern(t, fmt.Sprint("c", c))}})
		if err != nil || len(page.Events) != 2 || page.Events[0].Data != "2" || page.Events[1].Data != "3" {
			t.Fatalf("channel %d: %v, %v", c, page.Events, err)
		}
	}
}
