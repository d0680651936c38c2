package stream

import (
	"bufio"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/poll"
	"github.com/fanfare-hub/fanfare/internal/problem"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

// TestWhoWaitsToReadCanEnd: a detached stream that waits for its turn to read the log ends when it
// must (P7, P8), not when its turn comes, and leaves nothing in the queue.
func TestWhoWaitsToReadCanEnd(t *testing.T) {
	log, err := pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	body := func(e fanfare.Event) hub.Frame {
		b := []byte("5\r\n" + e.Data + "\r\n")
		return hub.Frame{Body: b[3:8], Chunk: b}
	}
	h := hub.New(hub.Options{Log: log, Encode: body, TailBytes: 1, MaxReplays: 1})
	defer h.Close()
	logger := slog.New(slog.DiscardHandler)
	s := New(Options{Hub: h, Logger: logger, Problems: problem.NewWriter(logger), Heartbeat: time.Minute})
	defer s.Close()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Serve(
			w,
			r,
			Request{
				Patterns: logtest.Patterns("a"),
				Manner:   Manner{First: AppendHeartbeat},
				Caller:   caller.Caller{Who: &fanfare.Principal{Unlimited: true}},
			},
		)
	}))
	defer web.Close()
	resp, err := http.Get(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	for line := ""; !strings.HasPrefix(line, "data:"); {
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	entered, release, left := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		left <- h.Replay(context.Background(), "somebody", func() error {
			close(entered)
			<-release
			return nil
		})
	}()
	<-entered // the only place is taken
	if _, err := logtest.Append(log,
		&fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("a"), Data: "hello"}}}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); h.Stats().Waiting == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the stream does not wait to read the log")
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := h.Drain(ctx, 0); err != nil {
		t.Errorf("the stream did not end while it waited: %v", err)
	}
	if n := h.Stats().Waiting; n != 0 {
		t.Errorf("%d wait still", n)
	}
	close(release)
	if err := <-left; err != nil {
		t.Error(err)
	}
}

// TestNoAllocationForADelivery: a shard that gathers an event for a stream and writes it to a real
// connection allocates nothing.
func TestNoAllocationForADelivery(t *testing.T) {
	log, err := pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	frame := []byte("6\r\n:hello\r\n")
	h := hub.New(
		hub.Options{
			Log:    log,
			Encode: func(fanfare.Event) hub.Frame { return hub.Frame{Body: frame[3:9], Chunk: frame} },
		},
	)
	defer h.Close()
	s := New(Options{Hub: h, Heartbeat: time.Hour})
	st := s.newStream(&Request{})
	if st.sub, err = h.Subscribe(logtest.Patterns("a"), hub.Start{}, st); err != nil {
		t.Fatal(err)
	}
	defer st.sub.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	st.fd, st.state, st.chunked = int32(pair[0]), open, true
	sh := &shard{streams: s} // without goroutines: this one is its worker
	events := []fanfare.Event{{Channel: logtest.Channel("a"), Position: h.Durable()}}
	var buf [64]byte
	deliver := func(turn bool) {
		events[0].Position++
		h.Committed(events, events[0].Position)
		if !turn {
			return
		}
		sh.turn(st)
		if n, err := unix.Read(pair[1], buf[:]); err != nil || n%len(frame) != 0 || n == 0 {
			t.Fatalf("%d bytes came: %v", n, err)
		}
	}
	deliver(true)
	commit := testing.AllocsPerRun(500, func() { deliver(false) })
	for st.sub.Position() < h.Durable() {
		sh.turn(st)
		for n := 1; n > 0; {
			n, _ = unix.Read(pair[1], buf[:])
		}
	}
	if both := testing.AllocsPerRun(500, func() { deliver(true) }); both > commit+0.1 {
		t.Errorf("%.2f allocations for a commit and its delivery, %.2f for the commit alone", both, commit)
	}
}

// TestLateEvents: an event that a shard's loop has handed on before its stream has left finds the
// stream closed, and nothing happens.
func TestLateEvents(t *testing.T) {
	var text strings.Builder
	s := New(Options{Logger: slog.New(slog.NewTextHandler(&text, nil))})
	st := &Stream{streams: s}
	sh := &shard{streams: s} // without goroutines: this one is its worker
	sh.inbox.init()
	for _, st.state = range []state{closed, orphan} {
		sh.inbox.hear(
			[]poll.Ready[*Stream]{
				{Owner: st, Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP},
				{Owner: st, Events: unix.EPOLLERR},
			},
		)
		sh.collect()
	}
	if text.Len() > 0 || len(sh.lives.list) > 0 || len(sh.inbox.events) > 0 {
		t.Errorf("%d streams are queued, %d events are left; the log has %s", len(sh.lives.list), len(sh.inbox.events),
			&text)
	}
}

// TestNoAllocationToCollect: a worker that takes a stream that was woken, and an event of its
// socket, allocates nothing.
func TestNoAllocationToCollect(t *testing.T) {
	st := &Stream{streams: New(Options{})}
	st.state = blocked
	sh := &shard{streams: st.streams} // without goroutines: this one is its worker
	sh.inbox.init()
	list := []poll.Ready[*Stream]{{Owner: st, Events: unix.EPOLLOUT}}
	if n := testing.AllocsPerRun(100, func() {
		sh.wake(st)
		sh.inbox.hear(list)
		sh.collect()
		if sh.lives.pop() != st || st.link != nil || st.state != open {
			t.Error("the stream is not in the queue, or has not heard that its socket has room")
		}
		st.queued.Store(false)
		st.state = blocked
	}); n > 0 {
		t.Errorf("%.1f allocations", n)
	}
}
