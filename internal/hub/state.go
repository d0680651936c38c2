package hub

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// A subscriber that starts with the state (FromLatest) is first sent the newest event of each
// channel up to a position P, in log order, and then all events after P. So no event is on both
// sides of the seam, and none is lost there. The search for the start collects the positions of the
// newest events; each turn then reads some of these events. A position is small, but there may be a
// million of them, so all subscribers together have a budget of memory for them.

// state is the list of events that a subscriber starts with.
type state struct {
	at      []fanfare.Position // of the newest events; sorted when all are known
	through fanfare.Position   // P
	from    string             // the name of the channel that the search looks at next
}

const positionBytes = 8

// states is the budget of all states of a hub.
type states struct {
	most  int64 // fixed
	bytes atomic.Int64
}

// grow takes room for more positions; false when there is none.
func (b *states) grow(positions int) bool {
	bytes := int64(positions) * positionBytes
	if b.bytes.Add(bytes) <= b.most {
		return true
	}
	b.bytes.Add(-bytes)
	return false
}

// room tells whether there is room for a position. A subscriber that comes when there is none is
// refused before its head is sent.
func (b *states) room() bool { return b.bytes.Load()+positionBytes <= b.most }

func (b *states) free(positions int) { b.bytes.Add(-int64(positions) * positionBytes) }

// full returns the error for a subscriber whose state finds no room.
func (b *states) full() error {
	return &fanfare.Error{
		Code: fanfare.CodeOverloaded, RetryAfter: 5 * time.Second, Setting: fanfare.SettingMaxLatestBytes,
		Detail: "no memory for another stream that starts with the newest event of each channel",
	}
}

// askState looks for the newest events of some more channels.
func (s *Subscriber) askState(ctx context.Context) error {
	b, search := s.starting, s.starting.search
	if b.state == nil {
		b.state = &state{through: search.durable}
	}
	if search.durable == 0 { // Through: 0 would mean the durable position of the moment
		s.endState()
		s.found(0)
		return nil
	}
	q := fanfare.ChannelQuery{Patterns: search.patterns, From: b.state.from, Through: search.durable, Limit: 4096}
	page, err := s.hub.log.Channels(ctx, q)
	if err != nil {
		return err
	}
	if !s.hub.states.grow(len(page.Channels)) {
		return s.hub.states.full()
	}
	for i := range page.Channels {
		b.state.at = append(b.state.at, page.Channels[i].Latest.Position)
	}
	if b.state.from = page.Next; page.Next != "" {
		return nil
	}
	if len(b.state.at) == 0 {
		s.endState()
		s.found(search.durable)
		return nil
	}
	slices.Sort(b.state.at)
	s.found(b.state.at[0] - 1)
	return nil
}

// readState reads the next events of the state.
func (s *Subscriber) readState(ctx context.Context, t *Turn, durable fanfare.Position) error {
	s.hub.stats.tailMisses.Add(1)
	at, through := s.starting.state.at, s.starting.state.through
	next, _ := slices.BinarySearch(at, s.cursor.get()+1)
	at = at[next:]
	if len(at) > turnFrames {
		at = at[:turnFrames]
		through = at[turnFrames-1]
	}
	q := fanfare.Query{At: at, After: s.cursor.get(), Through: through, Limit: turnFrames, Bytes: turnBytes}
	for i := range s.refs {
		q.Patterns = append(q.Patterns, s.refs[i].f.pattern)
	}
	page, err := s.hub.log.Read(ctx, q)
	if err != nil {
		return err
	}
	t.Frames = s.hub.frames(t.Frames, page.Events)
	t.Through, t.More = page.Through, page.Through < durable
	return nil
}

// inState tells whether events of the state are still to be sent.
func (s *Subscriber) inState() bool {
	b := s.starting
	return b != nil && b.state != nil && s.cursor.get() < b.state.through
}

// endState gives the memory of the state back.
func (s *Subscriber) endState() {
	if b := s.starting; b != nil && b.state != nil {
		s.hub.states.free(len(b.state.at))
		b.state = nil
	}
}

// newest keeps only the newest frame of each channel, of frames that are in order.
func (h *Hub) newest(frames []Frame) []Frame {
	if len(frames) < 2 {
		return frames
	}
	seen := make(map[fanfare.Channel]bool, len(frames))
	kept := len(frames)
	for i := len(frames) - 1; i >= 0; i-- {
		if c := frames[i].Channel; !seen[c] {
			seen[c] = true
			kept--
			frames[kept] = frames[i]
		}
	}
	h.stats.conflated.Add(uint64(kept))
	n := copy(frames, frames[kept:])
	clear(frames[n:])
	return frames[:n]
}
