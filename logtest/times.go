package logtest

import (
	"context"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// awaitTime waits until the log's time has reached t.
func (h *harness) awaitTime(t time.Time) {
	for h.log.Now().Before(t) {
		time.Sleep(time.Millisecond)
	}
}

// mortal publishes an event that is over after a time, and returns when that is.
func (h *harness) mortal(channel, data string, ttl time.Duration) time.Time {
	h.Helper()
	before := h.log.Now()
	r, err := Append(h.log, &fanfare.Batch{Events: []fanfare.Event{{Channel: Channel(channel), Data: data}},
		TTL: []time.Duration{ttl}})
	if err != nil {
		h.Fatal(err)
	}
	page, err := h.log.Read(context.Background(), fanfare.Query{Patterns: Patterns(channel), After: r.Positions[0] - 1})
	if err != nil || len(page.Events) != 1 {
		h.Fatalf("%+v %v", page, err)
	}
	over := page.Events[0].Expires
	if over.Before(before.Add(ttl)) || over.After(h.log.Now().Add(ttl)) {
		h.Errorf("it expires at %v", over)
	}
	return over
}

// testExpiry: an event that is over is read no more, is no channel's newest, and is no gap.
func testExpiry(h *harness) {
	const long = time.Hour
	first := h.publish("a", "1")[0]
	h.mortal("a", "2", long)
	h.mortal("only", "3", 300*time.Millisecond)
	over := h.mortal("a", "4", 300*time.Millisecond)
	h.awaitTime(over)
	h.twice(func() {
		h.equal("all", []string{"1", "2"}, h.data(fanfare.Query{Patterns: Patterns("**")}))
		h.equal("channel", []string{"1", "2"}, h.data(fanfare.Query{Patterns: Patterns("a")}))
		h.equal("newest", []string{"2"}, h.data(fanfare.Query{Patterns: Patterns("**"), Newest: true}))
		h.equal("state", []string{"a=2"}, h.channels(fanfare.ChannelQuery{Patterns: Patterns("**"), Events: true}))
		h.equal("counts", []string{"a= 2 2"}, h.channels(fanfare.ChannelQuery{Patterns: Patterns("**"), Counts: true}))
		h.equal("last", first, h.last(2, "**"))
		h.equal("gap", fanfare.GapReason(""), h.missed(first, "**").Reason)
		r, err := h.conditional(nil, "x", "only", fanfare.IfLatest(1))
		h.wantNotMet(0, r, err)
		r, err = h.conditional(nil, "x", "a", fanfare.IfNone())
		h.wantNotMet(first+1, r, err)
	})
	if _, err := h.conditional(nil, "5", "only", fanfare.IfNone(), "a", fanfare.IfLatest(first+1)); err != nil {
		h.Error(err)
	}
}

// later has an event published later.
func (h *harness) later(data string, in time.Duration) fanfare.Receipt {
	h.Helper()
	b := &fanfare.Batch{Events: []fanfare.Event{{Channel: Channel("a"), Data: data}}, DeliverAt: h.log.Now().Add(in)}
	r, err := Append(h.log, b)
	if err != nil || r.Scheduled == 0 || len(r.Positions) != 0 || !r.DeliverAt.Equal(b.DeliverAt) {
		h.Fatalf("%+v %v", r, err)
	}
	return r
}

func (h *harness) scheduled() (data []string) {
	h.Helper()
	q := fanfare.ScheduledQuery{Patterns: Patterns("**"), Limit: 1}
	for {
		page, err := h.log.Scheduled(context.Background(), q)
		if err != nil {
			h.Fatal(err)
		}
		for _, e := range page.Events {
			data = append(data, e.Event.Data)
		}
		if q.After = page.Next; !page.More {
			return data
		}
	}
}

// testScheduled: a scheduled event is no event before its time, is one then, and is not when it was
// canceled.
func testScheduled(h *harness) {
	h.later("far", 2*time.Hour)
	canceled := h.later("near", time.Hour)
	soon := h.later("soon", 300*time.Millisecond)
	h.twice(func() {
		if got := h.scheduled(); got[len(got)-1] != "far" || got[len(got)-2] != "near" {
			h.Errorf("scheduled: %v", got)
		}
		e, ok, err := h.log.ScheduledAt(context.Background(), canceled.Scheduled)
		if err != nil || !ok || e.Event.Data != "near" || !e.DeliverAt.Equal(canceled.DeliverAt) {
			h.Errorf("%+v %v %v", e, ok, err)
		}
	})
	h.awaitTime(soon.DeliverAt)
	for len(h.scheduled()) > 2 {
		time.Sleep(time.Millisecond)
	}
	for i := range 2 {
		if ok, err := h.log.Cancel(context.Background(), canceled.Scheduled); err != nil || ok != (i == 0) {
			h.Errorf("cancel %d: %v %v", i, ok, err)
		}
	}
	h.twice(func() {
		h.equal("published", []string{"soon"}, h.data(fanfare.Query{Patterns: Patterns("a")}))
		h.equal("scheduled", []string{"far"}, h.scheduled())
	})
	if again := h.later("again", time.Hour); again.Scheduled <= soon.Scheduled {
		h.Errorf("the id %v is not new", again.Scheduled)
	}
}
