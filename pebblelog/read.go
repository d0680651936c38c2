package pebblelog

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
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
	scanMost         = 16 << 10 // events that one Read looks at, however few match
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
		through := q.Through
		if q.After, q.Through, err = s.skipTo(q.Since, q.After, through); err != nil {
			return err
		}
		if q.After >= through {
			page.Through = through
			return nil
		}
		if exact, ok := exactChannels(q.Patterns); ok {
			page, err = s.readExact(ctx, q, exact)
		} else {
			page, err = s.scan(ctx, q)
		}
		return err
	})
	if err != nil {
		return fanfare.Page{}, err
	}
	return page, nil
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

// indexCursor walks one channel's index entries.
type indexCursor struct {
	st   *channelState
	it   *pebble.Iterator
	e    entry
	back bool
}

// step moves to the next entry, the first one when first is set; false at the end.
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
	cursors []*indexCursor // a heap
	back    bool
	trimmed fanfare.Position
	read    uint64
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
func (s *session) newMerge(channels []fanfare.Channel, after, through fanfare.Position, back bool) (*merge, error) {
	m := &merge{back: back}
	for _, c := range channels {
		if err := s.addCursor(m, c, after, through); err != nil {
			m.close()
			return nil, err
		}
	}
	heap.Init(m)
	return m, nil
}

func (s *session) addCursor(m *merge, c fanfare.Channel, after, through fanfare.Position) error {
	st, err := s.channel(c)
	if err != nil {
		return err
	}
	if st == nil {
		m.trimmed = max(m.trimmed, s.floorOf(c))
		return nil
	}
	mark, err := s.trimMark(st)
	if err != nil {
		return err
	}
	m.trimmed = max(m.trimmed, mark)
	lower, upper := indexBounds(st.num.Load(), max(after, mark), through)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
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
}

// readExact reads only the events of the channels: their index entries say where.
func (s *session) readExact(ctx context.Context, q fanfare.Query, channels []fanfare.Channel) (page fanfare.Page, err error) {
	m, err := s.newMerge(channels, q.After, q.Through, false)
	if err != nil {
		return page, err
	}
	defer func() { m.close(); s.log.stats.indexRead.Add(m.read) }()
	page.Trimmed = m.trimmed
	if m.Len() == 0 {
		page.Through = q.Through
		return page, nil
	}
	events, err := s.db.NewIter(&pebble.IterOptions{LowerBound: keyOf(keyEvent, uint64(m.cursors[0].e.pos)), UpperBound: keyOf(keyEvent, uint64(q.Through)+1)})
	if err != nil {
		return page, err
	}
	defer events.Close()
	sinceMs, bytes := sinceOf(q.Since), 0
	key := make([]byte, 0, 9)
	for ; m.Len() > 0; err = m.next() {
		if err != nil || ctx.Err() != nil {
			return page, errors.Join(err, ctx.Err())
		}
		top := m.cursors[0]
		pos := top.e.pos
		if top.e.ms < sinceMs {
			page.Through = pos
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
			page.Trimmed = max(page.Trimmed, pos) // deleted since the index was read
			page.Through = pos
			continue
		}
		s.log.stats.eventsRead.Add(1)
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

// met is a channel that a scan has come across.
type met struct {
	name  fanfare.Channel
	match bool
	mark  fanfare.Position
}

// scanner tells of each channel number whether the patterns want it.
type scanner struct {
	s        *session
	patterns []fanfare.Pattern
	channels map[uint64]*met
	trimmed  fanfare.Position
}

func newScanner(s *session, patterns []fanfare.Pattern) *scanner {
	sc := &scanner{s: s, patterns: patterns, channels: map[uint64]*met{}}
	for _, p := range patterns {
		s.rules.Load().overlapping(p, func(r *liveRule) { sc.trimmed = max(sc.trimmed, fanfare.Position(r.floor.Load())) })
	}
	return sc
}

func (sc *scanner) meet(num uint64) (*met, error) {
	if m := sc.channels[num]; m != nil {
		return m, nil
	}
	name, err := sc.s.nameOf(num)
	if isNotFound(err) {
		// The channel has been forgotten since the scan began: all of it is trimmed.
		m := &met{mark: 1<<64 - 1}
		sc.channels[num] = m
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	m := &met{name: name}
	for _, p := range sc.patterns {
		m.match = m.match || p.Match(name)
	}
	if m.match {
		st, err := sc.s.channel(name)
		if err != nil {
			return nil, err
		}
		if st != nil {
			if m.mark, err = sc.s.trimMark(st); err != nil {
				return nil, err
			}
		}
		sc.trimmed = max(sc.trimmed, m.mark)
	}
	sc.channels[num] = m
	return m, nil
}

// scan reads by position and skips what the patterns do not want.
func (s *session) scan(ctx context.Context, q fanfare.Query) (page fanfare.Page, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: keyOf(keyEvent, uint64(q.After)+1), UpperBound: keyOf(keyEvent, uint64(q.Through)+1)})
	if err != nil {
		return page, err
	}
	defer it.Close()
	sc := newScanner(s, q.Patterns)
	sinceMs, bytes, looked := sinceOf(q.Since), 0, 0
	defer func() { s.log.stats.eventsRead.Add(uint64(looked)) }()
	for ok := it.First(); ok; ok = it.Next() {
		pos := fanfare.Position(lastNumber(it.Key()))
		if looked++; looked > scanMost || (looked%1024 == 0 && ctx.Err() != nil) {
			page.Trimmed = sc.trimmed
			return page, ctx.Err()
		}
		num, err := eventChannel(it.Value())
		if err != nil {
			return page, fmt.Errorf("event %v: %w", pos, err)
		}
		m, err := sc.meet(num)
		if err != nil {
			return page, err
		}
		if m.match && pos > m.mark {
			if len(page.Events) >= q.Limit || bytes >= q.Bytes {
				page.Trimmed = sc.trimmed
				return page, nil
			}
			e, err := readEvent(pos, m.name, it.Value())
			if err != nil {
				return page, err
			}
			if e.Time.UnixMilli() >= sinceMs {
				page.Events = append(page.Events, e)
				bytes += len(e.Data)
			}
		}
		page.Through = pos
	}
	page.Trimmed = sc.trimmed
	if err := it.Error(); err != nil {
		return page, err
	}
	page.Through = q.Through
	return page, nil
}
