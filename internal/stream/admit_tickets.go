package stream

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/audit"
	"github.com/fanfare-hub/fanfare/internal/hub"
)

// A ticket opens one stream. A newer stream of the ticket ends the older one, which may be
// half-dead: the client has come back, and the hub has not noticed that it had gone. But two tabs
// with one ticket would push each other out for ever, each coming back as an EventSource does. So
// the client that was pushed out is answered 204 at its next try, and browsers then stay away
// (WHATWG 9.2).
//
// Both come back with the same URL from the same address. The position tells them apart:
//
//   - A newcomer that brings a position which the older stream has sent is that stream's own
//     client. It takes its place, and no note is made.
//   - Any other newcomer is a second client; most bring no position, because their page has just
//     begun. It takes the place too, and the older stream's last id is noted: its client will bring
//     it. From then on, as long as there are notes, the ids of all pushed-out streams are noted.
//   - A newcomer that brings a noted id while the ticket's stream is open was pushed out: 204. Its
//     position may be that of the open stream's own client too, where the channel is quiet. So that
//     stream is asked first, by a sign of life: when its peer does not acknowledge it, the newcomer
//     takes the place.
//
// A client that has never had an id brings none, and cannot be told from a page that begins, so it
// is told only when two such have been pushed out already.

const (
	noteFor     = 2 * time.Minute // longer than browsers put timers of a hidden tab off
	notesMost   = 8               // of one ticket
	notedMost   = 10_000          // tickets
	aliveWithin = time.Second
)

// tickets are the streams that were opened by ticket. Their methods may be called from any
// goroutine.
type tickets struct {
	stopped atomic.Uint64 // answered 204

	mu    sync.Mutex // guards the fields below
	open  map[string]*Stream
	notes map[string]*notes
}

// notes are the ids that pushed-out clients of one ticket will bring.
type notes struct {
	until time.Time
	ids   []fanfare.Position // oldest first; 0: none
}

func newTickets() *tickets { return &tickets{open: map[string]*Stream{}, notes: map[string]*notes{}} }

// byTicket is the part of a stream that was opened by ticket. It is the stream's Watcher.
type byTicket struct {
	ticket string
	newer  atomic.Pointer[hub.Start] // of the stream that has pushed this one out
	live   atomic.Pointer[Live]      // nil before the stream runs
}

// byTicket returns nil if the stream was opened otherwise.
func (st *Stream) byTicket() *byTicket {
	if st.live == nil {
		return nil
	}
	by, _ := st.live.watch.(*byTicket)
	return by
}

// Opened implements Watcher.
func (b *byTicket) Opened(l *Live) { b.live.Store(l) }

// Changed implements Watcher.
func (b *byTicket) Changed() {}

func ticketOf(who *fanfare.Principal) string {
	if who == nil {
		return ""
	}
	return who.Ticket
}

// has reports whether a stream of the ticket is open.
func (t *tickets) has(ticket string) bool { return ticket != "" && t.current(ticket) != nil }

func (t *tickets) current(ticket string) *Stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open[ticket]
}

// enter makes st, which starts where start says, the ticket's stream, and ends the older one.
func (t *tickets) enter(st *Stream, start hub.Start) {
	by := st.byTicket()
	if by == nil {
		return
	}
	t.mu.Lock()
	older := t.open[by.ticket]
	t.open[by.ticket] = st
	t.mu.Unlock()
	if older != nil {
		older.byTicket().newer.Store(&start)
		older.endNow(EndReplaced)
	}
}

func (t *tickets) leave(st *Stream) {
	by := st.byTicket()
	if by == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[by.ticket] == st {
		delete(t.open, by.ticket)
	}
}

// pushedOut notes the id that the client of a pushed-out stream will bring, before the client is
// told that its stream ends. The goroutine that runs the stream calls it.
func (t *tickets) pushedOut(st *Stream) {
	by := st.byTicket()
	newer := by.newer.Load()
	own := newer.From == hub.FromAfter && st.firstID <= newer.After && newer.After <= st.lastID
	id := st.lastID
	if st.retry {
		id = 0 // `retry:` goes out with the first id
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.notesLocked(by.ticket, now)
	if n == nil {
		if own || !t.roomLocked(now) {
			return
		}
		n = &notes{}
		t.notes[by.ticket] = n
	}
	n.until = now.Add(noteFor)
	if n.ids = append(n.ids, id); len(n.ids) > notesMost {
		n.ids = n.ids[1:]
	}
}

func (t *tickets) notesLocked(ticket string, now time.Time) *notes {
	if n := t.notes[ticket]; n != nil && now.Before(n.until) {
		return n
	}
	delete(t.notes, ticket)
	return nil
}

// roomLocked tells whether one more ticket can have notes. Without, its clients go on pushing each
// other out.
func (t *tickets) roomLocked(now time.Time) bool {
	if len(t.notes) < notedMost {
		return true
	}
	for ticket, n := range t.notes {
		if now.After(n.until) {
			delete(t.notes, ticket)
		}
	}
	return len(t.notes) < notedMost
}

// keepsOut tells whether a newcomer is one that was pushed out by the ticket's stream, which goes
// on. It blocks for aliveWithin at most, and does so only when that may be.
func (t *tickets) keepsOut(ctx context.Context, ticket string, start hub.Start) bool {
	st := t.current(ticket)
	if st == nil || !t.noted(ticket, start) || !t.alive(ctx, st) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.notes[ticket]; n != nil {
		n.until = time.Now().Add(noteFor) // some clients do not know 204
	}
	return true
}

func (t *tickets) noted(ticket string, start hub.Start) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.notesLocked(ticket, time.Now())
	if n == nil {
		return false
	}
	if start.From == hub.FromAfter {
		return slices.Contains(n.ids, start.After)
	}
	without := 0
	for _, id := range n.ids {
		if id == 0 {
			without++
		}
	}
	return start.From != hub.FromUnknown && without >= 2
}

// alive tells whether a stream's peer is there: whether it acknowledges bytes that are written to
// it now. If acknowledgements are not known, it is enough that the stream does not end.
func (t *tickets) alive(ctx context.Context, st *Stream) bool {
	by := st.byTicket()
	var moment Moment
	if live := by.live.Load(); live != nil {
		moment = live.Now()
	}
	st.probed.Store(true)
	st.Wake()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for began := time.Now(); ; {
		live := by.live.Load() // nil while the stream is about to run
		switch {
		case t.current(by.ticket) != st:
			return false
		case live != nil && live.AckedSince(moment):
			return true
		case time.Since(began) > aliveWithin:
			return live == nil || !live.tells()
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return false
		}
	}
}

// tells reports whether the acknowledged bytes are known.
func (l *Live) tells() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, known := l.askLocked()
	return known
}

// stop answers a client that another one with its ticket has pushed out.
func (s *Streams) stop(w http.ResponseWriter, r *http.Request, req *Request) {
	s.tickets.stopped.Add(1)
	s.o.Audit.Record(
		audit.StreamRefused,
		req.Caller,
		slog.String("adapter", req.Adapter),
		slog.String("reason", EndReplaced.String()),
	)
	a := &answer{header: w.Header(), status: http.StatusNoContent}
	a.header.Set("Cache-Control", "no-store")
	s.answer(w, r, req, a)
}
