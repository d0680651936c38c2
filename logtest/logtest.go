package logtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
)

// Log is the set of interfaces that an engine implements.
type Log interface {
	fanfare.Log
	fanfare.Keeper
	fanfare.Scheduler
	io.Closer
}

// Keep is the retention that a test asks for, on all channels. The zero Keep keeps everything.
type Keep struct {
	Count int
	Age   time.Duration
	Bytes int64

	Latest bool // beside Age: the newest event stays
}

// Engine makes logs for the suite.
type Engine struct {
	// New makes fresh storage and returns a function that opens it; the suite calls that again
	// after each Close.
	New func(t *testing.T, keep Keep) (open func() Log)
}

// Run runs the suite.
func Run(t *testing.T, e Engine) {
	tests := []struct {
		name string
		keep Keep
		run  func(*harness)
	}{
		{"AppendRead", Keep{}, testAppendRead},
		{"Batch", Keep{}, testBatch},
		{"PagesAndLimits", Keep{}, testPages},
		{"Patterns", Keep{}, testPatterns},
		{"Runs", Keep{}, testRuns},
		{"First", Keep{}, testFirst},
		{"Last", Keep{}, testLast},
		{"Since", Keep{}, testSince},
		{"Age", Keep{}, testAge},
		{"Keys", Keep{}, testKeys},
		{"KeysOfEvents", Keep{}, testKeysOfEvents},
		{"Conditions", Keep{}, testConditions},
		{"ConditionsAndKeys", Keep{}, testConditionsAndKeys},
		{"ConditionsOnWhatIsLeft", Keep{Count: 1}, testConditionsOnWhatIsLeft},
		{"Expiry", Keep{}, testExpiry},
		{"Scheduled", Keep{}, testScheduled},
		{"Kept", Keep{}, testKept},
		{"KeptFor", Keep{}, testKeptFor},
		{"Ride", Keep{}, testRide},
		{"RetainCount", Keep{Count: 5}, testRetainCount},
		{"RetainAge", Keep{Age: 300 * time.Millisecond}, testRetainAge},
		{"RetainBytes", Keep{Bytes: 35}, testRetainBytes},
		{"RetainLatest", Keep{Age: 300 * time.Millisecond, Latest: true}, testRetainLatest},
		{"Channels", Keep{}, testChannels},
		{"ChannelsOfThen", Keep{}, testChannelsOfThen},
		{"ChannelsThatAreTrimmed", Keep{Count: 2}, testChannelsTrimmed},
		{"At", Keep{Count: 2}, testAt},
		{"Newest", Keep{}, testNewest},
		{"NewestTrimmed", Keep{Count: 2}, testNewestTrimmed},
		{"Watch", Keep{}, testWatch},
		{"Concurrent", Keep{}, testConcurrent},
		{"Close", Keep{}, testClose},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := &harness{T: t, open: e.New(t, test.keep)}
			h.log = h.open()
			t.Cleanup(func() { _ = h.log.Close() })
			test.run(h)
		})
	}
}

// harness is one test's log.
type harness struct {
	*testing.T
	open func() Log
	log  Log
}

func (h *harness) reopen() {
	h.Helper()
	if err := h.log.Close(); err != nil {
		h.Fatalf("close: %v", err)
	}
	h.log = h.open()
}

// twice runs a check on the log as it is, and again after a reopen.
func (h *harness) twice(check func()) {
	h.Helper()
	check()
	h.reopen()
	check()
}

// Append appends and waits for the answer.
func Append(l fanfare.Log, b *fanfare.Batch) (fanfare.Receipt, error) {
	return fanfare.Append(context.Background(), l, b)
}

func (h *harness) publish(channel string, data ...string) []fanfare.Position {
	h.Helper()
	b := &fanfare.Batch{}
	for _, d := range data {
		b.Events = append(b.Events, fanfare.Event{Channel: Channel(channel), Data: d})
	}
	r, err := Append(h.log, b)
	if err != nil {
		h.Fatalf("append to %s: %v", channel, err)
	}
	if len(r.Positions) != len(data) || r.Replayed {
		h.Fatalf("receipt %+v for %d events", r, len(data))
	}
	return r.Positions
}

// Channel parses a name that is known to be good.
func Channel(name string) fanfare.Channel {
	c, err := fanfare.ParseChannel(name)
	if err != nil {
		panic(err)
	}
	return c
}

// Patterns parses patterns that are known to be good.
func Patterns(texts ...string) (patterns []fanfare.Pattern) {
	for _, text := range texts {
		p, err := fanfare.ParsePattern(text)
		if err != nil {
			panic(err)
		}
		patterns = append(patterns, p)
	}
	return patterns
}

// ReadAll reads page by page all that a query finds.
func ReadAll(l fanfare.Log, q fanfare.Query) (events []fanfare.Event, trimmed fanfare.Position, err error) {
	q.Through = l.Status().Durable
	for q.After < q.Through {
		page, err := l.Read(context.Background(), q)
		if err != nil {
			return nil, 0, err
		}
		if page.Through <= q.After || page.Through > q.Through {
			return nil, 0, fmt.Errorf("asked after %v, the page ends at %v", q.After, page.Through)
		}
		events = append(events, page.Events...)
		trimmed = max(trimmed, page.Trimmed)
		q.After = page.Through
	}
	return events, trimmed, nil
}

func (h *harness) data(q fanfare.Query) (data []string) {
	h.Helper()
	events, _, err := ReadAll(h.log, q)
	if err != nil {
		h.Fatalf("read: %v", err)
	}
	var last fanfare.Position
	for _, e := range events {
		if e.Position <= last || e.Position <= q.After {
			h.Fatalf("position %v after %v, asked after %v", e.Position, last, q.After)
		}
		last = e.Position
		data = append(data, e.Data)
	}
	return data
}

func (h *harness) equal(what string, want, got any) {
	h.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		h.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// Missed asks what was missed after a position until the answer is complete.
func Missed(l fanfare.Log, after fanfare.Position, patterns ...string) (fanfare.Loss, error) {
	a := fanfare.Absence{Patterns: Patterns(patterns...), After: after}
	for range 1_000_000 {
		loss, err := l.Missed(context.Background(), a)
		if err != nil || loss.Token == "" {
			return loss, err
		}
		a.Token = loss.Token
	}
	return fanfare.Loss{}, errors.New("the search for what was missed has no end")
}

// Last asks for the newest events until all were found, or there are no more. It returns the
// position of the oldest of them; zero when there is none.
func Last(l fanfare.Log, count int, patterns ...string) (first fanfare.Position, err error) {
	r := fanfare.Recent{Patterns: Patterns(patterns...), Count: count}
	for range 1_000_000 {
		past, err := l.Last(context.Background(), r)
		if err != nil {
			return 0, err
		}
		if past.Count > 0 {
			first = past.First
		}
		if r.Count -= past.Count; r.Count == 0 || past.From == 0 {
			return first, nil
		}
		if r.Through > 0 && past.From > r.Through {
			return 0, fmt.Errorf("asked up to %v, all above %v was looked at", r.Through, past.From)
		}
		r.Through = past.From
	}
	return 0, errors.New("the search for the newest events has no end")
}

func (h *harness) missed(after fanfare.Position, patterns ...string) fanfare.Loss {
	h.Helper()
	loss, err := Missed(h.log, after, patterns...)
	if err != nil {
		h.Fatalf("missed: %v", err)
	}
	return loss
}

func (h *harness) last(count int, patterns ...string) fanfare.Position {
	h.Helper()
	first, err := Last(h.log, count, patterns...)
	if err != nil {
		h.Fatalf("last: %v", err)
	}
	return first
}

// first is the position of the first event that a query finds, or the one after the newest.
func (h *harness) first(q fanfare.Query) fanfare.Position {
	h.Helper()
	events, _, err := ReadAll(h.log, q)
	if err != nil {
		h.Fatalf("read: %v", err)
	}
	if len(events) == 0 {
		return h.log.Status().Durable + 1
	}
	return events[0].Position
}

func (h *harness) wantCode(want fanfare.Code, err error) {
	h.Helper()
	if got := fanfare.CodeOf(err); got != want {
		h.Fatalf("error %v has code %q, want %q", err, got, want)
	}
}
