package server_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/server"
)

// TestConflateStaysWithinARound: a reader that takes one of a hundred events of 50 quotes is never
// more than one round of them behind: what it gets was the newest of its channel 50 deliveries ago
// or later. It never gets an older event after a newer one.
func TestConflateStaysWithinARound(t *testing.T) {
	const quotes, deliveries, each = 50, 1000, 100
	f := start(t, server.Options{})
	sub := fanfare.Subscription{Patterns: []string{"q/*"}, Conflate: true}
	newest := map[string]fanfare.Position{} // by channel
	n := 0
	publish := func(count int) {
		messages := make([]fanfare.Message, count)
		for i := range messages {
			messages[i] = fanfare.Message{Channel: fmt.Sprint("q/", n%quotes), Data: fmt.Sprintf("%0200d", n)}
			n++
		}
		r, err := f.srv.Publish(t.Context(), messages...)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range r.Positions {
			newest[messages[i].Channel] = p
		}
	}
	rounds := []map[string]fanfare.Position{} // what was the newest at each delivery
	var last fanfare.Position
	publish(each)
	sub.All = true
	for d, err := range f.srv.Subscribe(t.Context(), sub) {
		if err != nil || d.Gap != nil {
			t.Fatal(err, d.Gap)
		}
		channel := d.Event.Channel.String()
		if d.Event.Position <= last {
			t.Fatalf("event %v after %v", d.Event.Position, last)
		}
		last = d.Event.Position
		if at := len(rounds) - quotes; at >= 0 && d.Event.Position < rounds[at][channel] {
			t.Fatalf("delivery %d is %v of %s, and %d deliveries ago %v was there", len(rounds), last, channel, quotes,
				rounds[at][channel])
		}
		seen := make(map[string]fanfare.Position, quotes)
		for c, p := range newest {
			seen[c] = p
		}
		if rounds = append(rounds, seen); len(rounds) == deliveries {
			break
		}
		publish(each)
	}
	metrics := f.call("GET", "/metrics", "").body
	if strings.Contains(metrics, "\nfanfare_events_conflated_total 0\n") {
		t.Error("nothing was left out: this tests less than it should")
	}
}
