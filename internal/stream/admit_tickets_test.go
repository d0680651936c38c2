package stream

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
)

// peerAcks acknowledges n bytes.
type peerAcks struct{ n atomic.Int64 }

func (p *peerAcks) acked() (int64, bool) { return p.n.Load(), true }
func (p *peerAcks) handed(int)           {}

// opened is a stream of the ticket that has sent ids from first to last.
func opened(ticket string, first, last fanfare.Position, acks acker) *Stream {
	by := &byTicket{ticket: ticket}
	l := &Live{watch: by, acker: acks, base: first, bytes: 100}
	st := &Stream{streams: &Streams{}, live: l}
	st.firstID, st.lastID, st.manner.Heartbeat = first, last, time.Hour
	by.live.Store(l)
	return st
}

// pushOut has a newcomer take the ticket, and the older stream's goroutine hear of it.
func pushOut(tickets *tickets, older, newer *Stream, start hub.Start) {
	tickets.enter(newer, start)
	tickets.pushedOut(older)
}

func after(p fanfare.Position) hub.Start { return hub.Start{From: hub.FromAfter, After: p} }

// TestWhoWasPushedOut: the one that brings the last id of a stream that a second client has ended,
// and not a client that follows itself.
func TestWhoWasPushedOut(t *testing.T) {
	for name, c := range map[string]struct {
		newer hub.Start // of the stream that pushes one out which has sent 10 to 15
		back  hub.Start
		out   bool
	}{
		"a second page, and the first comes back":         {hub.Start{}, after(15), true},
		"a second page that replays":                      {hub.Start{From: hub.FromAll}, after(15), true},
		"a second page, and its own client comes back":    {hub.Start{}, after(16), false},
		"a second page, and a third begins":               {hub.Start{}, hub.Start{}, false},
		"a second page, and somebody brings garbage":      {hub.Start{}, hub.Start{From: hub.FromUnknown}, false},
		"its own client, which had all":                   {after(15), after(15), false},
		"its own client, which had nothing but the first": {after(10), after(15), false},
		"somebody with an older position":                 {after(9), after(15), true},
		"somebody with a newer position":                  {after(16), after(15), true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tickets := newTickets()
				one, two := opened("t", 10, 15, nil), opened("t", 15, 15, nil)
				tickets.enter(one, hub.Start{})
				pushOut(tickets, one, two, c.newer)
				if got := tickets.keepsOut(t.Context(), "t", c.back); got != c.out {
					t.Errorf("kept out: %v", got)
				}
				if tickets.keepsOut(t.Context(), "another", c.back) {
					t.Error("kept out with another ticket")
				}
				time.Sleep(noteFor - time.Second)
				if got := tickets.keepsOut(t.Context(), "t", c.back); got != c.out {
					t.Errorf("kept out later: %v", got)
				}
				time.Sleep(noteFor - 2*time.Second) // the notes are as good as new
				if got := tickets.keepsOut(t.Context(), "t", c.back); got != c.out {
					t.Errorf("kept out much later: %v", got)
				}
				tickets.leave(two)
				if tickets.keepsOut(t.Context(), "t", c.back) {
					t.Error("kept out though the stream has ended")
				}
			})
		})
	}
}

// TestNotesEnd: who comes back after some minutes is let in.
func TestNotesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tickets := newTickets()
		one, two := opened("t", 10, 15, nil), opened("t", 15, 15, nil)
		tickets.enter(one, hub.Start{})
		pushOut(tickets, one, two, hub.Start{})
		time.Sleep(noteFor)
		if tickets.keepsOut(t.Context(), "t", after(15)) {
			t.Error("kept out")
		}
	})
}

// TestOnceThereAreTwo: while there are notes, whoever is pushed out is noted.
func TestOnceThereAreTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tickets := newTickets()
		one, two, three := opened("t", 10, 15, nil), opened("t", 15, 16, nil), opened("t", 16, 17, nil)
		tickets.enter(one, hub.Start{})
		pushOut(tickets, one, two, hub.Start{})
		pushOut(tickets, two, three, after(16))
		if !tickets.keepsOut(t.Context(), "t", after(16)) {
			t.Error("let in")
		}
	})
}

// TestWhetherAStreamIsAlive: its peer acknowledges what is written now. Where that is not known, it
// is enough that it goes on.
func TestWhetherAStreamIsAlive(t *testing.T) {
	acks := &peerAcks{}
	for name, c := range map[string]struct {
		acks  acker
		then  func(*tickets, *Stream)
		alive bool
	}{
		"acknowledges":           {acks, func(*tickets, *Stream) { acks.n.Store(101) }, true},
		"acknowledges no more":   {acks, func(*tickets, *Stream) { acks.n.Store(100) }, false},
		"not known, and goes on": {nil, func(*tickets, *Stream) {}, true},
		"not known, and ends":    {nil, func(tickets *tickets, st *Stream) { tickets.leave(st) }, false},
		"not known, and is replaced": {nil,
			func(tickets *tickets, _ *Stream) { tickets.enter(opened("t", 1, 1, nil), hub.Start{}) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tickets := newTickets()
				st := opened("t", 10, 15, c.acks)
				tickets.enter(st, hub.Start{})
				acks.n.Store(100)
				time.AfterFunc(aliveWithin/2, func() {
					st.byTicket().live.Load().sending(st, 2, nil, 15) // the sign of life
					c.then(tickets, st)
				})
				if got := tickets.alive(t.Context(), st); got != c.alive || !st.wantsSign(0) || st.wantsSign(0) {
					t.Errorf("alive: %v", got)
				}
			})
		})
	}
}

// TestNotesAreBounded: in tickets, and of one ticket.
func TestNotesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tickets := newTickets()
		push := func(ticket string) {
			one, two := opened(ticket, 10, 15, nil), opened(ticket, 15, 15, nil)
			tickets.enter(one, hub.Start{})
			pushOut(tickets, one, two, hub.Start{})
		}
		for i := range notedMost + 100 {
			push(fmt.Sprint(i))
		}
		for range 100 {
			push("1")
		}
		if len(tickets.notes) != notedMost || len(tickets.notes["1"].ids) != notesMost {
			t.Errorf("%d tickets, %d notes of one", len(tickets.notes), len(tickets.notes["1"].ids))
		}
		time.Sleep(noteFor + time.Second)
		push("new")
		if len(tickets.notes) != 1 {
			t.Errorf("%d tickets after a while", len(tickets.notes))
		}
	})
}
