package stream

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/problem"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

// replaying is a stream that is about to replay one event of each of the channels a and b.
func replaying(t *testing.T, req Request) (*attached, *told, []fanfare.Position) {
	t.Helper()
	log, err := pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	receipt, err := logtest.Append(
		log,
		&fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("a")}, {Channel: logtest.Channel("b")}}},
	)
	if err != nil {
		t.Fatal(err)
	}
	h := hub.New(
		hub.Options{
			Log: log,
			Encode: func(fanfare.Event) hub.Frame {
				return hub.Frame{Body: make([]byte, 100),
					Chunk: make([]byte, 100)}
			},
		},
	)
	t.Cleanup(h.Close)
	p := &told{}
	req.Patterns, req.Start = logtest.Patterns("*"), hub.Start{From: hub.FromAll}
	a := attach(t, New(Options{Hub: h, Heartbeat: time.Hour, Logger: slog.New(slog.DiscardHandler)}), p, req)
	return a, p, receipt.Positions
}

// TestReplayedEventsAreLookedAtOnceMore (P8): what is read from the log and may not be heard does
// not reach the wire, and is counted.
func TestReplayedEventsAreLookedAtOnceMore(t *testing.T) {
	a, p, _ := replaying(t, Request{May: func(c fanfare.Channel) bool { return c.String() == "a" }})
	if err := a.next(); err != nil {
		t.Fatal(err)
	}
	if p.sent != 100 || a.st.streams.Stats().Withheld != 1 {
		t.Errorf("%d bytes were sent, %d events withheld", p.sent, a.st.streams.Stats().Withheld)
	}
	a, p, _ = replaying(t, Request{})
	if err := a.next(); err != nil || p.sent != 200 {
		t.Errorf("%d bytes were sent: %v", p.sent, err)
	}
}

// TestCutInTheMiddle (P8): rights that end while a turn is fetched send nothing of it, and what a
// PC is known to have does not move past what was sent.
func TestCutInTheMiddle(t *testing.T) {
	a, p, at := replaying(t, Request{})
	st, w := a.st, &a.work
	if st.sub.Next(&w.turn) {
		t.Fatal("what was to be replayed is in memory")
	}
	if err := st.sub.Read(context.Background(), &w.turn); err != nil || len(w.turn.Frames) != 2 {
		t.Fatal(err, w.turn)
	}
	st.endNow(EndRevoked)
	st.endNow(EndExpired) // the first reason counts
	if v := st.gather(w, &w.turn, true, 0); v != ends || len(w.turn.Frames) > 0 || w.reason != EndRevoked {
		t.Errorf("verdict %v, frames %v, reason %s", v, w.turn.Frames, w.reason)
	}
	if err := a.loop(); err != nil || w.reason != EndRevoked || p.sent != 0 {
		t.Errorf("%d bytes were sent, ended for %s, %v", p.sent, w.reason, err)
	}
	p.ack = 1 << 20
	st.live.end(st.sub.Position(), false)
	if pos, _ := st.live.Position(); pos >= at[0] {
		t.Errorf("the kept position %v is beyond events %v that were not sent", pos, at)
	}
}

// TestRightsEndWhileAWriteWaits (P8): a peer that takes nothing does not keep a stream open beyond
// its caller's rights, nor gets the rest of what was being written.
func TestRightsEndWhileAWriteWaits(t *testing.T) {
	a, p, _ := replaying(
		t,
		Request{
			Caller: caller.Caller{
				Who: &fanfare.Principal{
					Subject:   "ada",
					Unlimited: true,
					Expires:   time.Now().Add(50 * time.Millisecond),
				},
			},
		},
	)
	p.stuck = make(chan struct{})
	ended := make(chan EndReason)
	go func() { ended <- a.serve(nil, nil) }()
	select {
	case reason := <-ended:
		if reason != EndExpired {
			t.Errorf("it ended for %s", reason)
		}
	case <-time.After(time.Minute):
		t.Fatal("the stream is open still")
	}
}

// TestRightsAreAskedAgain (P8): rights that end between the request's check and the stream's
// registration are noticed, since whoever ends streams looked before this one could be found.
func TestRightsAreAskedAgain(t *testing.T) {
	log, err := pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	h := hub.New(hub.Options{Log: log, Encode: func(fanfare.Event) hub.Frame { return hub.Frame{} }})
	defer h.Close()
	logger := slog.New(slog.DiscardHandler)
	var s *Streams
	found := false
	s = New(
		Options{
			Hub:       h,
			Logger:    logger,
			Problems:  problem.NewWriter(logger),
			Heartbeat: time.Minute,
			StillMay: func(*fanfare.Principal) error {
				for range s.Each() { // whoever revokes now finds it
					found = true
				}
				return fanfare.Errorf(fanfare.CodeUnauthenticated, "revoked just now")
			},
		},
	)
	w := httptest.NewRecorder()
	s.Serve(
		w,
		httptest.NewRequest("GET", "/", nil),
		Request{Patterns: logtest.Patterns("a"), Caller: caller.Caller{Who: &fanfare.Principal{Subject: "ada"}}},
	)
	if w.Code != 401 || !found || len(s.List(10)) != 0 {
		t.Errorf("%d %s, found: %v, %d are open", w.Code, w.Body, found, len(s.List(10)))
	}
}
