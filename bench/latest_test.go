package bench

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
	"github.com/fanfare-hub/fanfare/server"
)

// BenchmarkLatest compares, over the Go API, a loop that starts with the state of 10,000 channels
// after a million updates with a plain replay of 10,000 events, by turns. The bar for times-plain
// is 1.5. It also counts the events that a state reads from the log: entries-a-channel is at most
// 1.
func BenchmarkLatest(b *testing.B) {
	const channels, updates, rounds = 10_000, 1_000_000, 7
	l := openLog(b, pebblelog.Options{Dir: b.TempDir()})
	fillChannels(b, l, channels, updates)
	srv, err := server.New(server.Options{Log: l})
	if err != nil {
		b.Fatal(err)
	}
	defer srv.Close()
	for b.Loop() {
		var state, plain []float64
		for range rounds {
			before := l.Stats().EventsRead
			sub := fanfare.Subscription{Patterns: []string{"q/*"}, Latest: true}
			state = append(state, hear(b, srv, sub, channels))
			b.ReportMetric(float64(l.Stats().EventsRead-before)/channels, "entries-a-channel")
			sub = fanfare.Subscription{Patterns: []string{"q/*"}, Last: channels}
			plain = append(plain, hear(b, srv, sub, channels))
		}
		slices.Sort(state)
		slices.Sort(plain)
		b.ReportMetric(state[rounds/2]*1000, "ms-state")
		b.ReportMetric(plain[rounds/2]*1000, "ms-plain")
		b.ReportMetric(state[rounds/2]/plain[rounds/2], "times-plain")
	}
}

// BenchmarkLatestOfMany is the time to the first of 100 channels that a pattern matches among a
// million; the bar is 5 ms, the median of 20.
func BenchmarkLatestOfMany(b *testing.B) {
	const channels = 1_000_000
	l := openLog(b, pebblelog.Options{Dir: b.TempDir()})
	fillChannels(b, l, channels, channels)
	batch := &fanfare.Batch{}
	for i := range 100 {
		batch.Events = append(batch.Events, fanfare.Event{Channel: logtest.Channel(fmt.Sprint("some/", i)), Data: "x"})
	}
	if _, err := logtest.Append(l, batch); err != nil {
		b.Fatal(err)
	}
	srv, err := server.New(server.Options{Log: l})
	if err != nil {
		b.Fatal(err)
	}
	defer srv.Close()
	for b.Loop() {
		var took []float64
		for range 20 {
			took = append(took, hear(b, srv, fanfare.Subscription{Patterns: []string{"some/*"}, Latest: true}, 1))
		}
		slices.Sort(took)
		b.ReportMetric(took[10]*1000, "ms-first")
	}
}

// fillChannels publishes updates to channels in turn.
func fillChannels(b *testing.B, l *pebblelog.Log, channels, updates int) {
	b.Helper()
	for i := 0; i < updates; {
		batch := &fanfare.Batch{}
		for range 1000 {
			c := logtest.Channel(fmt.Sprintf("q/%07d", (i*7919)%channels))
			batch.Events = append(batch.Events, fanfare.Event{Channel: c, Data: "a quote of some length: 12.50"})
			i++
		}
		if _, err := logtest.Append(l, batch); err != nil {
			b.Fatal(err)
		}
	}
}

// hear returns the seconds until a loop has heard a number of events.
func hear(b *testing.B, srv *server.Server, sub fanfare.Subscription, events int) float64 {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	began := time.Now()
	for _, err := range srv.Subscribe(ctx, sub) {
		if err != nil {
			b.Fatal(err)
		}
		if events--; events == 0 {
			break
		}
	}
	return time.Since(began).Seconds()
}
