package hub

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/fanfare-hub/fanfare"
)

// Read is Next for events that are not in memory: it reads the log, and so waits for a permit and
// for the disk. After an error (CodeUnavailable: the log cannot be read at present, or ctx's)
// nothing has changed.
func (s *Subscriber) Read(ctx context.Context, t *Turn) error {
	owner := s.waker.Owner()
	if err := s.hub.replays.enter(ctx, owner); err != nil {
		return err
	}
	defer s.hub.replays.leave(owner) // also when an engine panics, which ends the stream alone
	s.fetch = new(fetch)
	err := s.read(ctx, t)
	t.More = true // it was not woken meanwhile
	return err
}

// Reader is told when ReadLater has read the log.
type Reader interface {
	// HaveRead is called from a goroutine of the hub and must not block. t is the reader's until it
	// calls t.Release, which also gives the permit back: it should do so soon. An error is one of
	// Read's, or a *PanicError.
	HaveRead(t *Turn, err error)
}

// PanicError says that the log panicked in a read. The stream that asked for the read should end.
type PanicError struct {
	Value any
	Stack []byte
}

// Error implements error.
func (e *PanicError) Error() string { return fmt.Sprintf("the log panicked: %v", e.Value) }

// fetch is a read of the log. The subscriber drops it when the turn that was read has been sent, or
// was thrown away.
type fetch struct {
	// Fixed. Read needs none of these.
	owner  string // of the permit
	reader Reader
	ctx    context.Context
	cancel context.CancelFunc // of ctx

	trimmed fanfare.Position // the trim mark that the turn tells of; 0: none; owned by the read, then by the stream
}

// ReadLater is Read without waiting: it returns at once, and r is told. Only one may be under way.
func (s *Subscriber) ReadLater(r Reader) {
	f := &fetch{owner: s.waker.Owner(), reader: r}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	s.fetch = f
	s.hub.replays.queue(f.owner, s)
}

// CancelRead takes back a ReadLater that waits for its permit. Otherwise it cancels the read and
// returns false, and the reader is told soon, or has been told.
func (s *Subscriber) CancelRead() bool {
	s.fetch.cancel()
	return s.hub.replays.cancel(s.fetch.owner, s)
}

// readNow is the read that ReadLater has asked for, with its permit.
func (s *Subscriber) readNow() {
	f, t := s.fetch, s.hub.turns.Get().(*Turn)
	t.release = func() {
		clear(t.Frames)
		t.release = nil
		s.hub.turns.Put(t)
		s.hub.replays.leave(f.owner)
	}
	err := s.readSafely(f.ctx, t)
	f.cancel()
	f.reader.HaveRead(t, err)
}

func (s *Subscriber) readSafely(ctx context.Context, t *Turn) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{p, debug.Stack()}
		}
	}()
	err = s.read(ctx, t)
	t.More = true
	return err
}

// manyFilters is from how many on a subscriber reads the log for all of its filters at once, and
// shares with nobody.
const manyFilters = 8

func (s *Subscriber) read(ctx context.Context, t *Turn) error {
	searched := s.starting.searches()
	if found, err := s.search(ctx); !found {
		s.begin(t)
		t.Through = s.cursor.get()
		return err
	}
	durable, joining := s.begin(t)
	if s.cursor.get() >= durable {
		return nil
	}
	if s.inState() {
		return s.readState(ctx, t, durable)
	}
	if searched && !joining && !s.dated() && s.fromMemory(t, durable) {
		s.hub.stats.tailHits.Add(1)
		return nil
	}
	wild := 0
	for i := range s.refs {
		if _, exact := s.refs[i].f.pattern.Channel(); !exact {
			wild++ // each would read the whole log
		}
	}
	if joining || s.dated() || s.conflate || wild > 1 || len(s.refs) > manyFilters {
		return s.readAlone(ctx, t, durable)
	}
	return s.readShared(ctx, t, durable)
}

// readAlone reads the log for all filters in one go.
func (s *Subscriber) readAlone(ctx context.Context, t *Turn, durable fanfare.Position) error {
	s.hub.stats.tailMisses.Add(1)
	q := fanfare.Query{After: s.cursor.get(), Through: durable, Limit: turnFrames, Bytes: turnBytes,
		Newest: s.conflate}
	for i := range s.refs {
		q.Patterns = append(q.Patterns, s.refs[i].f.pattern)
	}
	if s.dated() {
		q.Since, q.Through = s.starting.since.Time(), min(durable, s.starting.sinceThrough)
	}
	page, err := s.hub.log.Read(ctx, q)
	if err != nil {
		return err
	}
	s.hub.stats.conflated.Add(page.Replaced)
	t.Frames = s.hub.frames(t.Frames, page.Events)
	s.tell(t, page.Trimmed, page.Through)
	t.Through, t.More = page.Through, page.Through < durable
	return nil
}

func (h *Hub) frames(dst []Frame, events []fanfare.Event) []Frame {
	for i := range events {
		dst = append(dst, h.encode(events[i]).of(&events[i]))
	}
	return dst
}

// tell adds the gap of a subscriber that lags and that retention has overtaken, as at a resume
// (P4).
func (s *Subscriber) tell(t *Turn, trimmed, through fanfare.Position) {
	if trimmed <= s.cursor.get() || trimmed <= s.told {
		return
	}
	s.fetch.trimmed = trimmed
	oldest := through + 1
	if len(t.Frames) > 0 {
		oldest = t.Frames[0].Position
	}
	if t.Gap != nil { // the one that the subscriber begins with
		gap := *t.Gap
		gap.Oldest = oldest
		t.Gap = &gap
		return
	}
	t.Gap = &fanfare.Gap{Requested: s.cursor.get().String(), Oldest: oldest, Reason: fanfare.GapTrimmed}
}

// readShared reads what each filter lacks, and keeps it in memory for others who resume the same
// filter.
func (s *Subscriber) readShared(ctx context.Context, t *Turn, durable fanfare.Position) error {
	through, trimmed, at := durable, fanfare.Position(0), s.cursor.get()
	for i := range s.refs {
		f := s.refs[i].f
		var end fanfare.Position
		t.Frames, end = f.collect(t.Frames, at, through, turnFrames, turnBytes)
		if end == at {
			var mark fanfare.Position
			var err error
			if t.Frames, end, mark, err = s.hub.readFilter(ctx, t.Frames, f, at, through); err != nil {
				clear(t.Frames)
				t.Frames = t.Frames[:0]
				return err
			}
			trimmed = max(trimmed, mark)
		}
		through = min(through, end)
	}
	s.bring(t, through, durable)
	s.tell(t, trimmed, through)
	return nil
}

// flight is a read that others may wait for.
type flight struct {
	after fanfare.Position
	done  chan struct{}
}

// readFilter appends to dst what one filter has above after, which is not in memory, or was not a
// moment ago. It returns up to where that is complete, and the trim mark, if it has read the log.
func (h *Hub) readFilter(
	ctx context.Context, dst []Frame, f *filter, after, through fanfare.Position,
) (_ []Frame, end, trimmed fanfare.Position, err error) {
	mine, other := f.takeOff(after)
	if other != nil {
		select {
		case <-other:
		case <-ctx.Done():
			return dst, after, 0, ctx.Err()
		}
		if dst, end = f.collect(dst, after, through, turnFrames, turnBytes); end > after {
			return dst, end, 0, nil
		}
	} else {
		defer f.land(mine)
	}
	h.stats.tailMisses.Add(1)
	from, to, some := f.missing(after, through)
	if !some { // it has come meanwhile
		from, to = after, through
	}
	q := fanfare.Query{Patterns: []fanfare.Pattern{f.pattern}, After: from, Through: to, Limit: turnFrames,
		Bytes: turnBytes}
	page, err := h.log.Read(ctx, q)
	if err != nil {
		return dst, after, 0, err
	}
	begun := len(dst)
	dst = h.frames(dst, page.Events)
	if s, bytes := f.insert(max(from, page.Trimmed), page.Through, dst[begun:]); s != nil {
		h.memory.add(f, s, bytes)
	}
	return dst, page.Through, page.Trimmed, nil
}

// takeOff begins a read, or returns what tells when another one after the same position has ended.
func (f *filter) takeOff(after fanfare.Position) (mine *flight, other <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range f.flights {
		if one.after == after {
			return nil, one.done
		}
	}
	mine = &flight{after, make(chan struct{})}
	f.flights = append(f.flights, mine)
	return mine, nil
}

func (f *filter) land(mine *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.Index(f.flights, mine)
	if f.flights = slices.Delete(f.flights, i, i+1); len(f.flights) == 0 {
		f.flights = nil
	}
	close(mine.done)
}
