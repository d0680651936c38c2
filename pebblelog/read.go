package pebblelog

import (
	"container/heap"
	"context"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

var errStopped = errors.New("stopped")

// stopContext is a context that ends with a channel.
type stopContext struct{ stop <-chan struct{} }

func (c stopContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c stopContext) Done() <-chan struct{}       { return c.stop }
func (c stopContext) Value(any) any               { return nil }
func (c stopContext) Err() error {
	select {
	case <-c.stop:
		return errStopped
	default:
		return nil
	}
}

const (
	defaultReadLimit = 256
	defaultReadBytes = 256 << 10
)

// Read implements fanfare.Log.
func (l *Log) Read(ctx context.Context, q fanfare.Query) (page fanfare.Page, err error) {
	durable := fanfare.Position(l.durable.Load())
	if q.Through == 0 || q.Through > durable {
		q.Through = durable
	}
	setDefault(&q.Limit, defaultReadLimit)
	setDefault(&q.Bytes, defaultReadBytes)
	if q.After >= q.Through {
		return fanfare.Page{Through: max(q.After, q.Through)}, nil
	}
	err = l.read(ctx, func(s *session) error {
		if q.At != nil {
			q.At = rising(q.At, q.After, q.Through)
			page, err = s.readers.readAt(ctx, q)
			return err
		}
		through := q.Through
		if q.After, err = s.readers.skipAge(q.Age, q.After, through); err != nil {
			return err
		}
		if q.After, q.Through, err = s.readers.skipTo(q.Since, q.After, through); err != nil {
			return err
		}
		if q.After >= through {
			page.Through = through
			return nil
		}
		channels, few, err := s.readers.byIndex(ctx, q.Patterns, q.After, q.Through)
		if err != nil {
			return err
		}
		switch {
		case few && q.Newest:
			page, err = s.readers.readNewest(ctx, q, channels)
		case few:
			page, err = s.readers.readMerged(ctx, q, channels)
		default:
			page, err = s.readers.scan(ctx, q)
		}
		return err
	})
	if err != nil {
		return fanfare.Page{}, err
	}
	return page, nil
}

// skipAge returns the position just before the first event after after that is not older than age.
func (rd *readers) skipAge(age time.Duration, after, through fanfare.Position) (fanfare.Position, error) {
	if age <= 0 {
		return after, nil
	}
	m := rd.now()
	limit := m.ageLimitAtOnce(age.Milliseconds())
	if age < time.Millisecond {
		limit = m.log + 1 // no event is that young
	}
	first, err := rd.seconds.firstStoredAt(m, limit, through)
	return max(after, first-1), err
}

// skipTo returns the next range (from, to] that may have events with the time t or a later one. It
// goes phase by phase, because events have later times than the events after them while the wall
// clock is wrong.
func (rd *readers) skipTo(t time.Time, after, through fanfare.Position) (from, to fanfare.Position, err error) {
	if t.IsZero() || after >= through {
		return after, through, nil
	}
	m := rd.now() // which has the phases of all events up to through
	for i := m.phaseOf(after + 1); i < len(m.phases); i++ {
		pos, err := rd.seconds.before(t.UnixMilli() - m.phases[i].high)
		if err != nil {
			return after, through, err
		}
		last := through
		if i+1 < len(m.phases) {
			last = min(last, max(m.phases[i+1].from, 1)-1)
		}
		if pos < last {
			return max(after, pos), last, nil
		}
		after = max(after, last)
	}
	return after, through, nil
}

// exactChannels returns the channels, each once, when all patterns are exact.
func exactChannels(patterns []fanfare.Pattern) ([]fanfare.Channel, bool) {
	channels := make([]fanfare.Channel, 0, len(patterns))
	for _, p := range patterns {
		c, ok := p.Channel()
		if !ok {
			return nil, false
		}
		known := false
		for _, other := range channels {
			known = known || other == c
		}
		if !known {
			channels = append(channels, c)
		}
	}
	return channels, true
}

// byIndex returns the channels of the patterns if their indexes are to be merged; false if the
// events are to be scanned.
func (rd *readers) byIndex(
	ctx context.Context, patterns []fanfare.Pattern, after, through fanfare.Position,
) (channels []fanfare.Channel, few bool, err error) {
	if channels, few = exactChannels(patterns); few {
		return channels, true, nil
	}
	after = max(after, rd.belowFirst())
	if uint64(through) <= uint64(after)+rd.pieces.short {
		return nil, false, nil
	}
	if channels, few, err = rd.membersOf(ctx, patterns); err != nil || !few {
		return nil, false, err
	}
	var wanted uint64
	for _, c := range channels {
		st, err := rd.channel(c)
		if err != nil {
			return nil, false, err
		}
		if st != nil {
			wanted += st.events()
		}
	}
	return channels, wanted*rd.pieces.denser < rd.runs.given(rd.belowFirst(), through), nil
}

// indexCursor walks one channel's index entries.
type indexCursor struct {
	st   *channelState
	it   *pebble.Iterator
	e    entry
	back bool
}

// step moves to the next entry, or, with first, to the first one. It returns false at the end.
func (c *indexCursor) step(first bool) (bool, error) {
	var ok bool
	switch {
	case first && c.back:
		ok = c.it.Last()
	case first:
		ok = c.it.First()
	case c.back:
		ok = c.it.Prev()
	default:
		ok = c.it.Next()
	}
	if !ok {
		return false, c.it.Error()
	}
	var err error
	c.e, err = readEntry(c.it.Key(), c.it.Value())
	return true, err
}

// merge walks the index entries of several channels in the order of their positions, or backwards.
type merge struct {
	log     *Log
	cursors []*indexCursor // a heap
	back    bool
	trimmed fanfare.Position // the highest trim mark of the channels
	read    uint64           // entries, so far
}

func (m *merge) Len() int { return len(m.cursors) }
func (m *merge) Less(i, j int) bool {
	return (m.cursors[i].e.pos < m.cursors[j].e.pos) != m.back
}
func (m *merge) Swap(i, j int) { m.cursors[i], m.cursors[j] = m.cursors[j], m.cursors[i] }
func (m *merge) Push(any)      { panic("pebblelog: a merge does not grow") }
func (m *merge) Pop() any {
	last := m.cursors[len(m.cursors)-1]
	m.cursors = m.cursors[:len(m.cursors)-1]
	return last
}

// newMerge opens a cursor for each channel, clipped at its trim mark. The caller closes the merge.
func (rd *readers) newMerge(channels []fanfare.Channel, after, through fanfare.Position, back bool) (*merge, error) {
	m := &merge{log: rd.log, back: back}
	for _, c := range channels {
		if err := rd.addCursor(m, c, after, through); err != nil {
			m.close()
			return nil, err
		}
	}
	heap.Init(m)
	return m, nil
}

func (rd *readers) addCursor(m *merge, c fanfare.Channel, after, through fanfare.Position) error {
	st, err := rd.channel(c)
	if err != nil {
		return err
	}
	if st == nil {
		m.trimmed = max(m.trimmed, rd.floorOf(c))
		return nil
	}
	mark, err := rd.trimMark(st)
	if err != nil {
		return err
	}
	m.trimmed = max(m.trimmed, mark)
	lower, upper := indexBounds(st.num.Load(), max(after, mark), through)
	it, err := rd.db.NewIter(between(lower, upper))
	if err != nil {
		return err
	}
	cursor := &indexCursor{st: st, it: it, back: m.back}
	ok, err := cursor.step(true)
	if err != nil || !ok {
		return errors.Join(err, it.Close())
	}
	m.read++
	m.cursors = append(m.cursors, cursor)
	return nil
}

// next moves past the entry at the top.
func (m *merge) next() error {
	top := m.cursors[0]
	ok, err := top.step(false)
	if err != nil {
		return err
	}
	if !ok {
		heap.Pop(m)
		return top.it.Close()
	}
	m.read++
	heap.Fix(m, 0)
	return nil
}

func (m *merge) close() {
	for _, c := range m.cursors {
		_ = c.it.Close()
	}
	m.cursors = nil
	m.log.stats.indexRead.Add(m.read)
}

// readMerged reads the events that the channels' index entries name, and no others.
func (rd *readers) readMerged(
	ctx context.Context, q fanfare.Query, channels []fanfare.Channel,
) (page fanfare.Page, err error) {
	m, err := rd.newMerge(channels, q.After, q.Through, false)
	if err != nil {
		return page, err
	}
	defer m.close()
	page.Trimmed = max(m.trimmed, rd.floors(q.Patterns))
	if m.Len() == 0 {
		page.Through = q.Through
		return page, nil
	}
	events, err := rd.db.NewIter(eventsBetween(m.cursors[0].e.pos-1, q.Through))
	if err != nil {
		return page, err
	}
	defer events.Close()
	sinceMs, bytes, passed := sinceOf(q.Since), 0, 0
	lives := lifetimes{catalog: rd.catalog}
	key := make([]byte, 0, 9)
	for ; m.Len() > 0; err = m.next() {
		if err != nil || ctx.Err() != nil {
			return page, errors.Join(err, ctx.Err())
		}
		top := m.cursors[0]
		pos := top.e.pos
		if top.e.ms < sinceMs || lives.expired(top.e.expires) {
			page.Through = pos
			if passed++; passed == rd.pieces.events {
				return page, nil
			}
			continue
		}
		if len(page.Events) >= q.Limit || bytes >= q.Bytes {
			return page, nil
		}
		key = appendKey(key[:0], keyEvent, uint64(pos))
		if !events.SeekGE(key) || lastNumber(events.Key()) != uint64(pos) {
			if err := events.Error(); err != nil {
				return page, err
			}
			if top.e.expires == 0 {
				page.Trimmed = max(page.Trimmed, pos) // the event was deleted after the index was read
			}
			page.Through = pos
			continue
		}
		rd.log.stats.eventsRead.Add(1)
		e, err := readEvent(pos, top.st.name, events.Value())
		if err != nil {
			return page, err
		}
		page.Events = append(page.Events, e)
		page.Through = pos
		bytes += len(e.Data)
	}
	if err == nil {
		page.Through = q.Through
	}
	return page, err
}

func sinceOf(t time.Time) int64 {
	if t.IsZero() {
		return -1 << 62
	}
	return t.UnixMilli()
}
