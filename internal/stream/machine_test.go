package stream

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/poll"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
	"github.com/fanfare-hub/fanfare/sse"
)

// noon is the time of day in the texts of a machine that a test has.
var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// noonHeartbeat is a heartbeat event at noon, with P for its position.
const noonHeartbeat = "id: P\nevent: heartbeat\ndata: {\"time\":\"2026-11-26T12:00:00.000Z\"}\n\n"

// alone is a machine without a stream, a runner, or a clock: the test says what time it is. It
// hears channel a.
func alone(t *testing.T, h *hub.Hub, start hub.Start, manner Manner) *machine {
	t.Helper()
	m := &machine{manner: manner}
	sub, err := h.Subscribe(logtest.Patterns("a"), start, nobody{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Close)
	m.sub = sub
	return m
}

// atNoon is the work of a goroutine for which it is always noon.
func atNoon() *work {
	return &work{house: &house{func() time.Time { return noon }, func() time.Duration { return 7 * time.Second }}}
}

type nobody struct{}

func (nobody) Wake()         {}
func (nobody) Owner() string { return "" }

// round takes a turn at a time, has all of it sent, and returns what the client gets before the
// frames, how many frames, and the verdict.
func round(t *testing.T, m *machine, w *work, now poll.Instant) (text string, frames int, v verdict) {
	t.Helper()
	if v = m.next(w, &w.turn, false, now); v == reads {
		if err := m.sub.Read(t.Context(), &w.turn); err != nil {
			t.Fatal(err)
		}
		v = m.next(w, &w.turn, true, now)
	}
	m.advance(w, &w.turn, len(w.turn.Frames), now)
	return string(w.prefix), len(w.turn.Frames), v
}

func publish(t *testing.T, log *pebblelog.Log, n int) []fanfare.Position {
	t.Helper()
	b := &fanfare.Batch{}
	for range n {
		b.Events = append(b.Events, fanfare.Event{Channel: logtest.Channel("a")})
	}
	receipt, err := logtest.Append(log, b)
	if err != nil {
		t.Fatal(err)
	}
	return receipt.Positions
}

const second = poll.Instant(time.Second)

// TestHeartbeat: an idle client hears a sign of life when its heartbeat has passed, and not before;
// what it is sent puts the next one off. As an event it names the position up to which the stream
// is complete.
func TestHeartbeat(t *testing.T) {
	for name, c := range map[string]struct {
		manner  Manner
		chunked bool
		want    string
	}{
		"a comment":            {Manner{}, false, ":\n"},
		"a comment in a chunk": {Manner{}, true, "2\r\n:\n\r\n"},
		"an event":             {Manner{Idle: IdleEvent}, false, noonHeartbeat},
	} {
		t.Run(name, func(t *testing.T) {
			log, h := memoryHub(t)
			c.manner.Heartbeat = 10 * time.Second
			m, w := alone(t, h, hub.Start{}, c.manner), atNoon()
			m.chunked, m.wrote = c.chunked, 5*second
			if at := m.due(); at != 15*second {
				t.Errorf("it is due at %d", at)
			}
			if text, _, v := round(t, m, w, 15*second-1); text != "" || v != waits {
				t.Errorf("before the heartbeat: %q, verdict %d", text, v)
			}
			at := publish(t, log, 1)[0]
			if text, n, _ := round(t, m, w, 15*second-1); text != "" || n != 1 {
				t.Errorf("an event: %q and %d frames", text, n)
			}
			if text, _, _ := round(t, m, w, 25*second-2); text != "" {
				t.Errorf("just before 10 s after an event: %q", text)
			}
			want := c.want
			if c.manner.Idle == IdleEvent {
				want = strings.Replace(want, "id: P", "id: "+at.String(), 1)
			}
			if text, _, v := round(t, m, w, 25*second-1); text != want || v != waits {
				t.Errorf("10 s after an event: %q, want %q, verdict %d", text, want, v)
			}
			m.probed.Store(true)
			if text, _, _ := round(t, m, w, 26*second); text != want {
				t.Errorf("when somebody asks for one: %q", text)
			}
		})
	}
}

// TestEnds: what a client hears when its stream ends, by the reason and its manner (P7, P8).
func TestEnds(t *testing.T) {
	const farewell = noonHeartbeat
	endFor := func(reasons ...EndReason) func(*machine) {
		return func(m *machine) {
			for _, reason := range reasons {
				m.end(reason)
			}
		}
	}
	for name, c := range map[string]struct {
		manner Farewell
		end    func(*machine)
		reason EndReason
		want   string
	}{
		"lifetime":             {FarewellPosition, func(m *machine) { m.ends = second }, EndLifetime, farewell},
		"lifetime, and silent": {FarewellRetry, func(m *machine) { m.ends = second }, EndLifetime, ""},
		"drain":                {FarewellRetry, func(m *machine) { m.sub.End() }, EndDrain, "retry: 7000\n" + farewell},
		"drain, and silent":    {FarewellNone, func(m *machine) { m.sub.End() }, EndDrain, ""},
		"an operator": {FarewellPosition, endFor(EndDisconnected), EndDisconnected,
			"retry: 7000\n" + farewell},
		"rights that expire": {FarewellPosition, func(m *machine) { m.expires = second }, EndExpired, ""},
		"rights taken away":  {FarewellPosition, endFor(EndRevoked, EndDisconnected), EndRevoked, ""},
	} {
		t.Run(name, func(t *testing.T) {
			log, h := memoryHub(t)
			m, w := alone(t, h, hub.Start{}, Manner{Farewell: c.manner, Heartbeat: time.Hour}), atNoon()
			m.chunked, m.lastID = true, m.sub.Position()
			publish(t, log, 1)
			before := m.sub.Position()
			if _, n, _ := round(t, m, w, second/2); n != 1 {
				t.Fatalf("%d frames", n)
			}
			// Another channel's event moves the position, which the client has not heard.
			other := fanfare.Event{Channel: logtest.Channel("other")}
			if _, err := logtest.Append(log, &fanfare.Batch{Events: []fanfare.Event{other}}); err != nil {
				t.Fatal(err)
			}
			c.end(m)
			var text string
			v := again
			for rounds := 0; v != ends; rounds++ {
				if rounds > 2 {
					t.Fatal("it does not end")
				}
				var more string
				more, _, v = round(t, m, w, second)
				text += more
			}
			if w.reason != c.reason {
				t.Errorf("it ended for %s", w.reason)
			}
			want := "0\r\n\r\n"
			if c.want != "" {
				at := m.sub.Position()
				if at <= before {
					t.Errorf("the position %v has not moved", at)
				}
				body := strings.Replace(c.want, "id: P", "id: "+at.String(), 1)
				want = string(sse.AppendChunk(nil, []byte(body))) + want
			}
			if text != want {
				t.Errorf("%q\nwant %q", text, want)
			}
		})
	}
}

// TestGapIsToldOnce (P4): a client that resumes after what is no position hears of the gap first,
// then the events, and the gap once.
func TestGapIsToldOnce(t *testing.T) {
	log, h := memoryHub(t)
	at := publish(t, log, 2)
	m, w := alone(
		t,
		h,
		hub.Start{From: hub.FromUnknown, Requested: "what\xffever"},
		Manner{Heartbeat: time.Hour},
	), atNoon()
	m.retry = true
	if v := m.next(w, &w.turn, false, second); v != reads {
		t.Fatalf("verdict %d: the start has to be looked for in the log", v)
	}
	want := "id: " + (at[0] - 1).String() + "\nevent: gap\ndata: {\"requested\":\"what\ufffdever\",\"oldest\":\"" +
		at[0].String() + "\",\"reason\":\"unknown\"}\n\n"
	read := 0
	var text string
	for range 5 {
		more, n, _ := round(t, m, w, second)
		text, read = text+more, read+n
	}
	if got := text[min(len("retry: 2000\n"), len(text)):]; got != want || read != 2 {
		t.Errorf("%q and %d events\nwant %q and 2", got, read, want)
	}
}

// TestALogThatCannotBeRead: a stream that has begun asks again after a second, and until then gives
// signs of life alone; one that has not found its start ends.
func TestALogThatCannotBeRead(t *testing.T) {
	_, h := memoryHub(t)
	m := alone(t, h, hub.Start{}, Manner{Heartbeat: time.Hour})
	if m.readFailed(errors.New("broken"), second) || m.awaitsRead(false, 2*second) ||
		!m.awaitsRead(false, 2*second-1) ||
		m.awaitsRead(true, second) {
		t.Error("a stream that has begun does not ask again after a second")
	}
	m = alone(t, h, hub.Start{From: hub.FromAll}, Manner{Heartbeat: time.Hour})
	if !m.readFailed(errors.New("broken"), second) || m.mustEnd(second) != EndFailed {
		t.Error("a stream whose start cannot be found goes on")
	}
}

// TestStreamIsSmall: there are as many as there are clients, and most are idle. 448 is a size that
// the runtime allocates; the next is 480.
func TestStreamIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(Stream{}); size > 448 {
		t.Errorf("a Stream takes %d bytes", size)
	}
}
