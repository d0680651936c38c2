package pebblelog

import (
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// pieces are the limits of the work of one call. When there is more to do, the caller calls again,
// from the place where the last call has ended.
type pieces struct {
	events int // that a scan looks at; or index entries that a merge looks at
	bytes  int // of the values of these events
	names  int // of channels that a walk looks at
	marks  int // trim marks that a search reads

	few    int    // the most channels that are read by their indexes; more are read by position
	short  uint64 // the most positions that are scanned for any patterns
	denser uint64 // where more than one event in this many is of the patterns, a scan is faster than a merge
}

var defaultPieces = pieces{events: 4 << 10, bytes: 4 << 20, names: 4 << 10, marks: 512, few: 128, short: 512, denser: 4}

// scanner goes through events by position, and skips those that the patterns do not match. It does
// one piece of work, and is closed then.
type scanner struct {
	readers  *readers
	patterns []fanfare.Pattern
	bound    fanfare.Position // for events above this, trim marks do not matter and are not read
	enough   fanfare.Position // when set, the scan stops once trimmed is above it
	channels map[uint64]*met
	names    *pebble.Iterator // nil before the first channel is met
	trimmed  fanfare.Position // the highest trim mark that was read
}

// met is a channel that a scanner has come across.
type met struct {
	name   fanfare.Channel
	match  bool
	marked bool // mark has been read
	mark   fanfare.Position
}

func newScanner(rd *readers, patterns []fanfare.Pattern, bound fanfare.Position) *scanner {
	return &scanner{readers: rd, patterns: patterns, bound: bound, channels: map[uint64]*met{}}
}

func (sc *scanner) close() {
	if sc.names != nil {
		_ = sc.names.Close()
	}
}

// meet returns the channel of an event, and reads its trim mark if that matters to the event.
func (sc *scanner) meet(num uint64, pos fanfare.Position) (*met, error) {
	m := sc.channels[num]
	if m == nil {
		m = &met{}
		if err := sc.look(num, m); err != nil {
			return nil, err
		}
		sc.channels[num] = m
	}
	if m.match && !m.marked && pos <= sc.bound {
		st, err := sc.readers.channel(m.name)
		if err != nil {
			return nil, err
		}
		if st != nil {
			if m.mark, err = sc.readers.trimMark(st); err != nil {
				return nil, err
			}
		}
		m.marked = true
		sc.trimmed = max(sc.trimmed, m.mark)
	}
	return m, nil
}

// look finds a channel's name. Channels with numbers near each other often come together, so the
// iterator is mostly near the name.
func (sc *scanner) look(num uint64, m *met) (err error) {
	if sc.names == nil {
		sc.names, err = sc.readers.db.NewIter(ofKind(keyName))
		if err != nil {
			return err
		}
	}
	if !sc.names.SeekGE(keyOf(keyName, num)) || lastNumber(sc.names.Key()) != num {
		// The channel was forgotten after the scan had started: all its events are trimmed.
		m.match, m.marked, m.mark = false, true, 1<<64-1
		return sc.names.Error()
	}
	if m.name, err = fanfare.ParseChannel(string(sc.names.Value())); err != nil {
		return fmt.Errorf("name of channel %d: %w", num, errCorrupt)
	}
	for _, p := range sc.patterns {
		m.match = m.match || p.Match(m.name)
	}
	return nil
}

// wanted is called with an event that the patterns match and that no trim mark hides. The value is
// valid until it returns. When it returns false, the scan ends, and the event counts as not looked
// at.
type wanted func(pos fanfare.Position, m *met, value []byte) (more bool, err error)

// forward scans the events above after and up to through. It returns up to where all were looked
// at.
func (sc *scanner) forward(ctx context.Context, after, through fanfare.Position, f wanted) (fanfare.Position, error) {
	it, err := sc.events(after, through)
	if err != nil {
		return after, err
	}
	defer it.Close()
	end, err := sc.scan(ctx, it, it.First(), it.Next, f)
	if end > 0 || err != nil {
		return max(end, 1) - 1, err
	}
	return through, nil
}

// backward scans the events up to through and above after, the newest first. It returns above where
// all were looked at.
func (sc *scanner) backward(ctx context.Context, after, through fanfare.Position, f wanted) (fanfare.Position, error) {
	it, err := sc.events(after, through)
	if err != nil {
		return through, err
	}
	defer it.Close()
	end, err := sc.scan(ctx, it, it.Last(), it.Prev, f)
	if end > 0 || err != nil {
		return end, err
	}
	return after, nil
}

func (sc *scanner) events(after, through fanfare.Position) (*pebble.Iterator, error) {
	return sc.readers.db.NewIter(eventsBetween(after, through))
}

// scan returns the first event that it has not looked at; 0 when there is none.
func (sc *scanner) scan(
	ctx context.Context, it *pebble.Iterator, ok bool, step func() bool, f wanted,
) (fanfare.Position, error) {
	looked, bytes := 0, 0
	defer func() { sc.readers.log.stats.eventsRead.Add(uint64(looked)) }()
	for ; ok; ok = step() {
		pos := fanfare.Position(lastNumber(it.Key()))
		if looked == sc.readers.pieces.events || bytes >= sc.readers.pieces.bytes ||
			(looked%256 == 0 && ctx.Err() != nil) {
			return pos, ctx.Err()
		}
		looked++
		bytes += len(it.Value())
		num, err := eventChannel(it.Value())
		if err != nil {
			return pos, fmt.Errorf("event %v: %w", pos, err)
		}
		m, err := sc.meet(num, pos)
		if err != nil {
			return pos, err
		}
		if sc.enough > 0 && sc.trimmed > sc.enough {
			return pos, nil
		}
		if m.match && pos > m.mark {
			if more, err := f(pos, m, it.Value()); !more || err != nil {
				return pos, err
			}
		}
	}
	return 0, it.Error()
}

// scan reads the events of a query by position.
func (rd *readers) scan(ctx context.Context, q fanfare.Query) (page fanfare.Page, err error) {
	bound, err := rd.markBound(q.Patterns)
	if err != nil {
		return page, err
	}
	if bound > q.After {
		bound = q.Through // a subscriber that lags is told of the marks of all channels that it meets
	}
	sc := newScanner(rd, q.Patterns, bound)
	defer sc.close()
	if sc.trimmed, err = rd.certainMarks(q.Patterns); err != nil {
		return page, err
	}
	c := collector{q: q, sinceMs: sinceOf(q.Since), lives: lifetimes{catalog: rd.catalog}}
	if q.Newest {
		if c.view, err = rd.newView(q.Through); err != nil {
			return page, err
		}
		defer c.view.close()
		c.view.q.Through = q.Through
	}
	c.page.Through, err = sc.forward(ctx, q.After, q.Through, c.take)
	if c.page.Trimmed = sc.trimmed; q.Newest {
		c.page.Trimmed = rd.floors(q.Patterns) // every channel that was met has a newer event
	}
	return c.page, err
}

// collector takes the events of a scan into a page.
type collector struct {
	q       fanfare.Query
	sinceMs int64
	view    *view // with q.Newest
	lives   lifetimes
	page    fanfare.Page
	bytes   int
}

// take is a wanted.
func (c *collector) take(pos fanfare.Position, m *met, value []byte) (more bool, err error) {
	if len(c.page.Events) >= c.q.Limit || c.bytes >= c.q.Bytes {
		return false, nil
	}
	if expired, err := c.lives.expiredValue(value); expired || err != nil {
		return true, err
	}
	if c.view != nil {
		num, err := eventChannel(value)
		if err != nil {
			return false, err
		}
		newer, err := c.view.replaced(num, pos)
		if newer {
			c.page.Replaced++
		}
		if newer || err != nil {
			return true, err
		}
	}
	e, err := readEvent(pos, m.name, value)
	if err == nil && e.Time.UnixMilli() >= c.sinceMs {
		c.page.Events = append(c.page.Events, e)
		c.bytes += len(e.Data)
	}
	return true, err
}
