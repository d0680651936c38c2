package stream

import (
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// told is a wire whose other end acknowledges what the test says.
type told struct {
	sent, ack int64
	writing   func()        // called in the middle of a write of frames
	stuck     chan struct{} // when set, a write of frames waits until abort
}

func (p *told) begin(http.Header, []byte) (int, error) { return 0, nil }
func (p *told) end() error                             { return nil }
func (p *told) close()                                 {}
func (p *told) abort()                                 { close(p.stuck) }
func (p *told) gone() <-chan struct{}                  { return nil }
func (p *told) goneWhy() error                         { return errGone }
func (p *told) halfClosed() <-chan struct{}            { return nil }
func (p *told) acker() acker                           { return p }
func (p *told) acked() (int64, bool)                   { return p.ack, true }
func (p *told) handed(int)                             {}
func (p *told) write(prefix []byte, frames []hub.Frame) error {
	if p.writing != nil {
		p.writing()
	}
	if p.stuck != nil && len(frames) > 0 {
		<-p.stuck
		return errGone
	}
	p.sent += int64(len(prefix))
	for i := range frames {
		p.sent += int64(len(frames[i].Body))
	}
	return nil
}

// memoryHub is a hub whose frames have 100 bytes each.
func memoryHub(t *testing.T) (*pebblelog.Log, *hub.Hub) {
	t.Helper()
	log, err := pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory})
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
	t.Cleanup(func() {
		h.Close()
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return log, h
}

type unwatched struct{}

func (unwatched) Opened(*Live) {}
func (unwatched) Changed()     {}

// attach makes a stream that a test runs by hand.
func attach(t *testing.T, s *Streams, p *told, req Request) *attached {
	t.Helper()
	st := s.newStream(&req)
	sub, err := s.o.Hub.Subscribe(req.Patterns, req.Start, st)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Close)
	st.sub, st.live = sub, &Live{watch: unwatched{}, acker: p, base: sub.Position()}
	st.lastID = sub.Position()
	return newAttached(st, p)
}

// next takes a turn, and the one that follows when the log has to be read.
func (a *attached) next() error {
	_, err := a.turn(nil)
	if err == nil && a.st.reading {
		read := <-a.reads
		_, err = a.turn(&read)
	}
	return err
}

// TestPeerHasAFrameBeforeItsWriteReturns: a PC can have an event, and be gone, while the write is
// under way; what its TCP has acknowledged counts at once, frame by frame, and no further.
func TestPeerHasAFrameBeforeItsWriteReturns(t *testing.T) {
	log, h := memoryHub(t)
	p := &told{}
	a := attach(t, New(Options{Hub: h, Heartbeat: time.Hour}), p, Request{Patterns: logtest.Patterns("a")})
	st := a.st
	start := st.sub.Position()
	b := &fanfare.Batch{}
	for range 3 {
		b.Events = append(b.Events, fanfare.Event{Channel: logtest.Channel("a")})
	}
	receipt, err := logtest.Append(log, b)
	if err != nil {
		t.Fatal(err)
	}
	at := receipt.Positions
	check := func(when string, acked int64, want fanfare.Position) {
		t.Helper()
		p.ack = acked
		if got, _ := st.live.Position(); got != want {
			t.Errorf("%s, %d bytes acknowledged: %v, want %v", when, acked, got, want)
		}
	}
	p.writing = func() {
		check("in mid-write", 99, start)
		check("in mid-write", 100, at[0])
		check("in mid-write", 299, at[1])
	}
	if err := a.next(); err != nil {
		t.Fatal(err)
	}
	p.writing = nil
	check("after the write", 299, at[1])
	check("after the write", 300, at[2])
	// Other channels' events move an idle stream's position, once the peer has all.
	b = &fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("other")}}}
	if receipt, err = logtest.Append(log, b); err != nil {
		t.Fatal(err)
	}
	if err := a.next(); err != nil {
		t.Fatal(err)
	}
	check("idle", 300, receipt.Positions[0])
	// A PC that has a stream's end opens the next one at once, and that starts where the last one
	// ended.
	if receipt, err = logtest.Append(log, b); err != nil {
		t.Fatal(err)
	}
	st.chunked, st.ends = true, st.streams.clock.Now()
	p.writing = func() { check("in mid-write of the end", 1000, receipt.Positions[0]) }
	for v := again; v != ends; {
		if v, err = a.turn(nil); err != nil {
			t.Fatal(err)
		}
	}
	st.live.end(st.sub.Position(), true)
	if got, ended := st.live.Position(); got != receipt.Positions[0] || !ended {
		t.Errorf("after a clean end: %v, %v", got, ended)
	}
}

// TestMarksAreBounded: a peer that acknowledges nothing is remembered less exactly, and never too
// far.
func TestMarksAreBounded(t *testing.T) {
	p := &told{}
	l := &Live{acker: p, base: 1}
	for i := range 100_000 {
		l.sending(
			&Stream{},
			0,
			[]hub.Frame{{Position: fanfare.Position(i + 2), Body: make([]byte, 10)}},
			fanfare.Position(i+2),
		)
	}
	if len(l.marks) > 1024 {
		t.Fatalf("%d marks", len(l.marks))
	}
	for _, acked := range []int64{5, 9_999, 500_000, 1_000_000} {
		p.ack = acked
		got, _ := l.Position()
		if most := fanfare.Position(acked/10 + 1); got > most {
			t.Errorf("%d bytes acknowledged: %v, at most %v", acked, got, most)
		}
	}
	if got, _ := l.Position(); got != 100_001 {
		t.Errorf("all acknowledged: %v", got)
	}
}

// TestAckedSince: only what was written after a moment, and acknowledged, tells that somebody was
// there after it; the connection's end, which the kernel counts as a byte, does not.
func TestAckedSince(t *testing.T) {
	p := &told{}
	l := &Live{acker: p, base: 1}
	send := func() { l.sending(&Stream{}, 10, nil, 1) }
	want := func(when string, m Moment, ack int64, want bool) {
		t.Helper()
		p.ack = ack
		if got := l.AckedSince(m); got != want {
			t.Errorf("%s: %v", when, got)
		}
	}
	send()
	m := l.Now()
	want("nothing written since", m, 11, false)
	send()
	want("what was under way", m, 10, false)
	want("a byte", m, 11, true)
	want("remembered, when the kernel tells no more", m, 0, true)
	m = l.Now()
	p.ack = 21 // all, and the end
	l.end(1, true)
	want("the end of the connection", m, 21, false)
	want("before the end", 15, 0, true)
}
