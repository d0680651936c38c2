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
	t.More = true // commits meanwhile have not woken the stream
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

// manyFilters is the most filters of a subscriber whose reads are shared, and kept in memory. With
// more, it reads the log for all filters in one go.
const manyFilters = 8

func (s *Subscriber) read(ctx context.Context, t *Turn) error {
	searched := s.starting.searches()
	if found, err := s.search(ctx); !found {
		s.prepare(t)
		t.Through = s.cursor.get()
		return err
	}
	durable, joining := s.prepare(t)
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
			wild++ // the read of each such filter alone would go through the whole log
		}
	}
	if joining || s.dated() || s.conflate || wild > 1 || len(s.refs) > manyFilters {
		return s.readAlone(ctx, t, durable)
	}
	return s.readShared(ctx, t, durable)
}

// readAlone reads the log for all filters in one go, and keeps nothing in memory.
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
	s.tellGap(t, page.Trimmed, page.Through)
	t.Through, t.More = page.Through, page.Through < durable
	return nil
}

// frames encodes events, and appends the frames to dst.
func (h *Hub) frames(dst []Frame, events []fanfare.Event) []Frame {
	for i := range events {
		dst = append(dst, h.encode(events[i]).of(&events[i]))
	}
	return dst
}

// tellGap adds a gap to a turn when retention has removed events that the lagging subscriber was
// still to be sent, as at a resume (P4).
func (s *Subscriber) tellGap(t *Turn, trimmed, through fanfare.Position) {
	if trimmed <= s.cursor.get() || trimmed <= s.told {
		return
	}
	s.fetch.trimmed = trimmed
	oldest := through + 1
	if len(t.Frames) > 0 {
		oldest = t.Frames[0].Position
	}
	if t.Gap != nil { // the gap that the subscriber starts with
		gap := *t.Gap
		gap.Oldest = oldest
		t.Gap = &gap
		return
	}
	t.Gap = &fanfare.Gap{Requested: s.cursor.get().String(), Oldest: oldest, Reason: fanfare.GapTrimmed}
}

// readShared reads the events that memory lacks, filter by filter, and keeps them in memory for
// other subscribers that resume the same filter.
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
	s.tellGap(t, trimmed, through)
	return nil
}

// sharedRead is a read of the log for one filter. Other subscribers may wait for it.
type sharedRead struct {
	after fanfare.Position
	done  chan struct{} // closed when the read has ended
}

// readFilter appends to dst the next frames of one filter in (after, through], which memory lacked
// a moment ago. It waits for another subscriber's read after the same position, if there is one;
// otherwise, or when that read has failed, it reads the log. It returns the position up to which
// the frames are complete, and the trim mark, if it has read the log itself.
func (h *Hub) readFilter(
	ctx context.Context, dst []Frame, f *filter, after, through fanfare.Position,
) (_ []Frame, end, trimmed fanfare.Position, err error) {
	mine, other := f.startRead(after)
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
		defer f.endRead(mine)
	}
	h.stats.tailMisses.Add(1)
	from, to, some := f.missing(after, through)
	if !some { // memory has the events by now; to read them all the same is simpler
		from, to = after, through
	}
	q := fanfare.Query{Patterns: []fanfare.Pattern{f.pattern}, After: from, Through: to, Limit: turnFrames,
		Bytes: turnBytes}
	page, err := h.log.Read(ctx, q)
	if err != nil {
		return dst, after, 0, err
	}
	had := len(dst)
	dst = h.frames(dst, page.Events)
	if s, bytes := f.insert(max(from, page.Trimmed), page.Through, dst[had:]); s != nil {
		h.memory.add(f, s, bytes)
	}
	return dst, page.Through, page.Trimmed, nil
}

// startRead starts a read after a position. If another read after the same position is under way,
// it returns a channel that is closed when that has ended.
func (f *filter) startRead(after fanfare.Position) (mine *sharedRead, other <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.makePast()
	for _, one := range p.reads {
		if one.after == after {
			return nil, one.done
		}
	}
	mine = &sharedRead{after, make(chan struct{})}
	p.reads = append(p.reads, mine)
	return mine, nil
}

// endRead ends a read, and wakes the subscribers that wait for it.
func (f *filter) endRead(mine *sharedRead) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.past
	i := slices.Index(p.reads, mine)
	p.reads = slices.Delete(p.reads, i, i+1)
	f.trimPast()
	close(mine.done)
}
