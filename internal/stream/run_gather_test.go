package stream

import (
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/logtest"

	"github.com/fanfare-hub/fanfare"
)

// TestWhatWasNotBegunIsGatheredAgain: of a turn that a socket took in part, or not at all, the
// stream stands where that part ends, and the rest comes with the next turn; what a PC is known to
// have does not move past it either.
func TestWhatWasNotBegunIsGatheredAgain(t *testing.T) {
	log, h := memoryHub(t)
	p := &told{ack: 1 << 20}
	st := attach(t, New(Options{Hub: h, Heartbeat: time.Hour}), p, Request{Patterns: logtest.Patterns("a")}).st
	before := st.sub.Position()
	b := &fanfare.Batch{}
	for range 4 {
		b.Events = append(b.Events, fanfare.Event{Channel: logtest.Channel("a")})
	}
	receipt, err := logtest.Append(log, b)
	if err != nil {
		t.Fatal(err)
	}
	at := receipt.Positions
	w := &work{}
	for _, step := range []struct {
		gathered, begun int
		stands          fanfare.Position
	}{{4, 0, before}, {4, 1, at[0]}, {3, 2, at[2]}, {1, 0, at[2]}, {1, 1, at[3]}} {
		if v := st.gather(w, &w.turn, false, 0); v == reads || len(w.turn.Frames) != step.gathered {
			t.Fatalf("%+v: verdict %v, %d frames", step, v, len(w.turn.Frames))
		}
		st.live.sending(st, len(w.prefix), w.turn.Frames, w.turn.Through)
		st.sent(w, &w.turn, step.begun, time.Now())
		kept, _ := st.live.Position()
		if st.sub.Position() != step.stands || kept != step.stands {
			t.Errorf("%+v: the stream stands at %v, the peer is known to have %v", step, st.sub.Position(), kept)
		}
		if lags := st.sub.Lag() > 0; lags != (step.stands != at[3]) {
			t.Errorf("%+v: lag %d", step, st.sub.Lag())
		}
	}
	if all := st.streams.Stats(); st.events.Load() != 4 || all.Delivered != 4 || all.Replayed != 0 {
		t.Errorf(
			"%d events were counted, %d of all streams, %d as replayed",
			st.events.Load(),
			all.Delivered,
			all.Replayed,
		)
	}
}
