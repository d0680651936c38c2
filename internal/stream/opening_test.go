package stream

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/poll"
	"github.com/fanfare-hub/fanfare/internal/problem"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

// heldLog is a log whose answers wait until the test lets them go, or their reader goes.
type heldLog struct {
	fanfare.Log
	asked     chan string   // what was asked for
	cancelled chan error    // why an answer did not wait any more
	release   chan struct{} // closed: nothing waits any more
	fail      error         // the answer, when it is set
}

func (l *heldLog) wait(ctx context.Context, what string) error {
	select {
	case <-l.release:
		return l.fail
	default:
	}
	l.asked <- what
	select {
	case <-l.release:
		return l.fail
	case <-ctx.Done():
		l.cancelled <- ctx.Err()
		return ctx.Err()
	}
}

func (l *heldLog) Missed(ctx context.Context, a fanfare.Absence) (fanfare.Loss, error) {
	if err := l.wait(ctx, "missed"); err != nil {
		return fanfare.Loss{}, err
	}
	return l.Log.Missed(ctx, a)
}

func (l *heldLog) Read(ctx context.Context, q fanfare.Query) (fanfare.Page, error) {
	if err := l.wait(ctx, "read"); err != nil {
		return fanfare.Page{}, err
	}
	return l.Log.Read(ctx, q)
}

// kinds are the kinds of connections, each with what serves it.
var kinds = map[string]struct{ attached, tls, h2 bool }{
	"detached": {}, "attached": {attached: true}, "TLS": {tls: true}, "HTTP/2": {tls: true, h2: true},
}

// held is a hub over a heldLog, behind a real listener.
type held struct {
	log     *heldLog
	hub     *hub.Hub
	streams *Streams
	web     *httptest.Server
	at      []fanfare.Position // of three events on channel a
}

func holdLog(t *testing.T, kind string, req Request, o hub.Options) *held {
	t.Helper()
	log, err := pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory})
	if err != nil {
		t.Fatal(err)
	}
	b := &fanfare.Batch{}
	for _, data := range []string{"one", "two", "three"} {
		b.Events = append(b.Events, fanfare.Event{Channel: logtest.Channel("a"), Data: data})
	}
	receipt, err := logtest.Append(log, b)
	if err != nil {
		t.Fatal(err)
	}
	h := &held{
		log: &heldLog{
			Log:       log,
			asked:     make(chan string, 9),
			cancelled: make(chan error, 9),
			release:   make(chan struct{}),
		},
		at: receipt.Positions,
	}
	o.Log = h.log
	o.Encode = func(e fanfare.Event) hub.Frame {
		body := []byte("data: " + e.Data + "\n\n")
		return hub.Frame{
			Body: body,
			Chunk: append(
				append([]byte{'0' + byte(len(body)/16), "0123456789abcdef"[len(body)%16]}, "\r\n"...),
				append(body, "\r\n"...)...),
		}
	}
	h.hub = hub.New(o)
	logger := slog.New(slog.DiscardHandler)
	h.streams = New(
		Options{
			Hub:       h.hub,
			Logger:    logger,
			Problems:  problem.NewWriter(logger),
			Heartbeat: 50 * time.Millisecond,
			Attached:  kinds[kind].attached,
		},
	)
	h.web = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req := req
		if req.Start.From == hub.FromAfter {
			req.Start.After = h.at[0]
		}
		req.Patterns, req.First = logtest.Patterns("a"), AppendHeartbeat
		req.Caller = caller.Caller{Who: &fanfare.Principal{Unlimited: true}}
		h.streams.Serve(w, r, req)
	}))
	if kinds[kind].tls {
		h.web.EnableHTTP2 = kinds[kind].h2
		h.web.StartTLS()
	} else {
		h.web.Start()
	}
	t.Cleanup(func() {
		h.streams.Close()
		h.web.Close()
		h.hub.Close()
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// open opens a stream and returns its lines, and what closes its connection. The channel is closed
// when the body has ended.
func (h *held) open(t *testing.T) (lines <-chan string, leave func()) {
	t.Helper()
	client := h.web.Client()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "GET", h.web.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req) // returns when the head has come
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan string, 100)
	var done sync.WaitGroup
	done.Go(func() {
		defer close(read)
		for r := bufio.NewReader(resp.Body); ; {
			line, err := r.ReadString('\n')
			if line != "" {
				read <- line
			}
			if err != nil {
				return
			}
		}
	})
	leave = sync.OnceFunc(func() {
		cancel()
		for range read {
		}
		done.Wait()
		client.CloseIdleConnections()
	})
	t.Cleanup(leave)
	return read, leave
}

func within[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
		return v
	case <-time.After(time.Minute):
		t.Fatalf("%s has not come", what)
		return v
	}
}

// until reads lines until one begins with a prefix, and returns those before it.
func until(t *testing.T, lines <-chan string, prefix string) (before []string) {
	t.Helper()
	for {
		line := within(t, prefix, lines)
		if line == "" {
			t.Fatalf("the body has ended after %q, before %q", before, prefix)
		}
		if strings.HasPrefix(line, prefix) {
			return before
		}
		before = append(before, line)
	}
}

// TestHeadBeforeTheStartIsFound: while the log is asked where a stream starts, the client has the
// head, and with it the first event of a resume, whose position is known, or a comment; signs of
// life follow; then the rest comes, in its order.
func TestHeadBeforeTheStartIsFound(t *testing.T) {
	for kind := range kinds {
		t.Run(kind+"/replay", func(t *testing.T) {
			at := holdLog(
				t,
				kind,
				Request{Start: hub.Start{From: hub.FromLast, Last: 2}, Manner: Manner{Heartbeat: time.Hour}},
				hub.Options{},
			)
			lines, _ := at.open(t)
			if line := within(t, "a comment with the head", lines); line != ":\n" {
				t.Fatalf("%q", line)
			}
			close(at.log.release)
			until(t, lines, "id: "+at.at[0].String())

			h := holdLog(t, kind, Request{Start: hub.Start{From: hub.FromAll}}, hub.Options{})
			lines, _ = h.open(t)
			for range 3 { // signs of life, while it waits
				if line := within(t, "a comment", lines); line != ":\n" {
					t.Fatalf("%q", line)
				}
			}
			within(t, "the question", h.log.asked)
			close(h.log.release)
			for _, line := range until(t, lines, "retry: ") {
				if line != ":\n" {
					t.Errorf("%q before the first event", line)
				}
			}
			if before := until(t, lines, "id: "+(h.at[0]-1).String()); len(before) > 0 {
				t.Errorf("%q before the id", before)
			}
			if before := until(t, lines, "data: one"); strings.Join(before, "") == "" {
				t.Error("no heartbeat event")
			}
			until(t, lines, "data: three")
		})
		t.Run(kind+"/resume", func(t *testing.T) {
			h := holdLog(t, kind, Request{Start: hub.Start{From: hub.FromAfter}}, hub.Options{})
			lines, _ := h.open(t)
			within(t, "the question", h.log.asked)
			if before := until(t, lines, "retry: "); len(before) > 0 {
				t.Errorf("%q before the first event", before)
			}
			until(t, lines, "id: "+h.at[0].String())
			until(t, lines, ":\n")
			close(h.log.release)
			if before := until(t, lines, "data: two"); strings.Contains(strings.Join(before, ""), "one") {
				t.Errorf("%q before the second event", before)
			}
			until(t, lines, "data: three")
		})
	}
}

// TestReadEndsWithItsPeer: what is asked of the log for a stream is cancelled when its peer has
// gone, and what waits for its turn waits no more.
func TestReadEndsWithItsPeer(t *testing.T) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			h := holdLog(t, kind, Request{Start: hub.Start{From: hub.FromAfter}}, hub.Options{MaxReplays: 1})
			_, leave := h.open(t)
			within(t, "the question", h.log.asked)
			_, leaveToo := h.open(t)
			for deadline := time.Now().Add(time.Minute); h.hub.Stats().Waiting != 1; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the second does not wait for its turn")
				}
			}
			leaveToo()
			for deadline := time.Now().Add(time.Minute); h.hub.Stats().Waiting > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("who has gone waits still")
				}
			}
			leave()
			within(t, "the end of the read", h.log.cancelled)
			for deadline := time.Now().Add(time.Minute); h.hub.Stats().Subscribers > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the streams are open still")
				}
			}
		})
	}
}

// TestHalfClosedPeerHears: a client that has closed its sending half, and listens, gets what is
// looked for. net/http would have cancelled the request.
func TestHalfClosedPeerHears(t *testing.T) {
	for _, kind := range []string{"detached", "attached"} {
		t.Run(kind, func(t *testing.T) {
			h := holdLog(t, kind, Request{Start: hub.Start{From: hub.FromAll}}, hub.Options{})
			conn, err := net.Dial("tcp", h.web.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
				t.Fatal(err)
			}
			within(t, "the question", h.log.asked)
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			lines := make(chan string, 100)
			go func() {
				defer close(lines)
				for r := bufio.NewReader(conn); ; {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					lines <- line
				}
			}()
			for range 4 { // with the head, upon the half-close, and as heartbeats
				until(t, lines, ":")
			}
			close(h.log.release)
			until(t, lines, "data: three")
			_ = conn.Close()
			for range lines {
			}
		})
	}
}

// TestStartCannotBeFound (P4, P6): a stream whose start the log cannot tell ends, and its client is
// told to come back; it is counted.
func TestStartCannotBeFound(t *testing.T) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			for _, from := range []hub.From{hub.FromAll, hub.FromAfter} {
				h := holdLog(
					t,
					kind,
					Request{Start: hub.Start{From: from}, Manner: Manner{Farewell: FarewellPosition}},
					hub.Options{},
				)
				h.log.fail = fanfare.Unavailable("the disk is gone", nil)
				lines, _ := h.open(t)
				within(t, "the question", h.log.asked)
				close(h.log.release)
				var ids []string
				retries := 0
				for line := range lines {
					if strings.HasPrefix(line, "id: ") {
						ids = append(ids, strings.TrimSpace(line[4:]))
					} else if strings.HasPrefix(line, "retry: ") {
						retries++
					}
				}
				at := h.at[0].String()
				if want := []string{at, at}; from == hub.FromAfter && (!slices.Equal(ids, want) || retries != 2) ||
					from == hub.FromAll && ids != nil {
					t.Errorf("%q, and %d times when to come back", ids, retries)
				}
				deadline := time.Now().Add(time.Minute)
				for ; h.streams.Stats().Ended[EndFailed.String()] != 1; time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("%v", h.streams.Stats().Ended)
					}
				}
			}
		})
	}
}

// TestEndBeforeTheStartIsFound (P3, P4): a stream that ends while its start is looked for says no
// position, because the client would go on there.
func TestEndBeforeTheStartIsFound(t *testing.T) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			h := holdLog(
				t,
				kind,
				Request{
					Start:  hub.Start{From: hub.FromAll},
					Manner: Manner{Farewell: FarewellPosition, Idle: IdleEvent},
				},
				hub.Options{},
			)
			lines, _ := h.open(t)
			within(t, "the question", h.log.asked)
			for range 3 {
				if line := within(t, "a sign of life", lines); line != ":\n" {
					t.Errorf("%q while the start is looked for", line)
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := h.hub.Drain(ctx, 0); err != nil {
				t.Error(err)
			}
			for line := range lines {
				if strings.HasPrefix(line, "id:") {
					t.Errorf("%q", line)
				}
			}
		})
	}
}

// endlessLog is a log in which the search for what was missed has no end.
type endlessLog struct{ fanfare.Log }

func (l endlessLog) Missed(context.Context, fanfare.Absence) (fanfare.Loss, error) {
	return fanfare.Loss{Token: "go on"}, nil
}

// TestNoPositionBeforeTheStartIsTold (P3, P4): neither a piece of a search that has found nothing
// yet, nor a start that was found and not told, lets an idle sign or a farewell name a position.
func TestNoPositionBeforeTheStartIsTold(t *testing.T) {
	log, _ := memoryHub(t)
	publish(t, log, 1)
	never := hub.New(hub.Options{Log: endlessLog{log}, Encode: func(fanfare.Event) hub.Frame { return hub.Frame{} }})
	defer never.Close()
	h := hub.New(hub.Options{Log: log, TailBytes: 1, Encode: func(fanfare.Event) hub.Frame { return hub.Frame{} }})
	defer h.Close()
	says := func(a *attached, read bool, now poll.Instant) string {
		a.st.gather(&a.work, &a.work.turn, read, now)
		return string(a.work.prefix)
	}
	for _, start := range []hub.Start{{From: hub.FromAll}, {From: hub.FromAfter, After: 7}} {
		req := Request{
			Patterns: logtest.Patterns("a"),
			Start:    start,
			Manner:   Manner{Idle: IdleEvent, Farewell: FarewellPosition},
		}
		a := attach(t, New(Options{Hub: never, Heartbeat: time.Second}), &told{}, req)
		if err := a.st.sub.Read(t.Context(), &a.work.turn); err != nil || a.work.turn.Opens {
			t.Fatal(err, a.work.turn)
		}
		if text := says(a, true, poll.Instant(time.Hour)); text != ":\n" {
			t.Errorf("an idle sign while it searches: %q", text)
		}

		a = attach(t, New(Options{Hub: h, Heartbeat: time.Second}), &told{}, req)
		if err := a.st.sub.Read(t.Context(), &a.work.turn); err != nil || !a.work.turn.Opens {
			t.Fatal(err, a.work.turn)
		}
		a.st.ends = 1 // and what was read is thrown away
		if text := says(a, false, 2); text != "" {
			t.Errorf("a farewell before anything was told: %q", text)
		}
	}
}

// TestSlowWriteHoldsNoTurn (P5): a peer that takes nothing of what was read from the log keeps no
// turn to read it from others.
func TestSlowWriteHoldsNoTurn(t *testing.T) {
	log, _ := memoryHub(t)
	publish(t, log, 1)
	h := hub.New(
		hub.Options{
			Log:        log,
			MaxReplays: 1,
			Encode:     func(fanfare.Event) hub.Frame { return hub.Frame{Body: make([]byte, 100)} },
		},
	)
	defer h.Close()
	p := &told{stuck: make(chan struct{})}
	writing := make(chan struct{}, 1)
	p.writing = func() { writing <- struct{}{} }
	a := attach(
		t,
		New(Options{Hub: h, Heartbeat: time.Hour}),
		p,
		Request{Patterns: logtest.Patterns("a"), Start: hub.Start{From: hub.FromAll}},
	)
	ended := make(chan error)
	go func() { ended <- a.next() }()
	within(t, "the write", writing)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := h.Replay(ctx, "somebody else", func() error { return nil }); err != nil {
		t.Errorf("no turn is free: %v", err)
	}
	p.abort()
	within(t, "the end", ended)
}
