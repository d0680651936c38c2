package pebblelog

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// The state of a channel is its newest event. It is found by the channel's last index entry, so a
// channel costs the same however many events it has.

// Channels implements fanfare.Log.
func (l *Log) Channels(ctx context.Context, q fanfare.ChannelQuery) (page fanfare.ChannelPage, err error) {
	durable := fanfare.Position(l.durable.Load())
	if q.Through == 0 || q.Through > durable {
		q.Through = durable
	}
	setDefault(&q.Limit, defaultReadLimit)
	setDefault(&q.Bytes, defaultReadBytes)
	err = l.read(ctx, func(s *session) error {
		page, err = s.readers.current(ctx, q, durable)
		return err
	})
	return page, err
}

// current looks at a piece of the channels, by name.
func (rd *readers) current(
	ctx context.Context, q fanfare.ChannelQuery, durable fanfare.Position,
) (fanfare.ChannelPage, error) {
	v, err := rd.newView(durable)
	if err != nil {
		return fanfare.ChannelPage{}, err
	}
	defer v.close()
	v.q, v.page.Through = q, q.Through
	from := textKey(keyChannel, q.From)
	for i, p := range q.Patterns {
		if first := textKey(keyChannel, p.LiteralPrefix()); i == 0 || string(first) < v.first {
			v.first = string(first)
		}
	}
	if !q.Events && !q.Counts {
		return v.positions(ctx, max2(from, v.first))
	}
	var failed error
	steps := rd.pieces.names
	next, err := rd.eachMember(ctx, q.Patterns, max2(from, v.first), &steps, func(c fanfare.Channel, num uint64) bool {
		if len(v.page.Channels) == q.Limit || v.bytes >= q.Bytes {
			return false
		}
		failed = v.look(c, num)
		return failed == nil
	})
	if err = errors.Join(err, failed); err != nil {
		return fanfare.ChannelPage{}, err
	}
	if next != nil {
		v.page.Next = string(next[1:])
	}
	return v.page, nil
}

// member is a channel that a pattern matches.
type member struct {
	name fanfare.Channel
	num  uint64
}

// positions looks at a piece of the channels, and does not read their events. It goes to them in
// the order of their numbers, in which the index has them: then the store reads each block of its
// index of tables once. In the order of the names it reads one for nearly every channel.
func (v *view) positions(ctx context.Context, from []byte) (fanfare.ChannelPage, error) {
	steps := v.pieces.names
	var members []member
	next, err := v.eachMember(ctx, v.q.Patterns, from, &steps, func(c fanfare.Channel, num uint64) bool {
		if len(members) == v.q.Limit {
			return false
		}
		members = append(members, member{c, num})
		return true
	})
	if err != nil {
		return fanfare.ChannelPage{}, err
	}
	slices.SortFunc(members, func(a, b member) int { return cmp.Compare(a.num, b.num) })
	for i, m := range members {
		if i%256 == 0 && ctx.Err() != nil {
			return fanfare.ChannelPage{}, ctx.Err()
		}
		if err := v.look(m.name, m.num); err != nil {
			return fanfare.ChannelPage{}, err
		}
	}
	slices.SortFunc(v.page.Channels, func(a, b fanfare.ChannelState) int {
		return cmp.Compare(a.Latest.Channel.String(), b.Latest.Channel.String())
	})
	if next != nil {
		v.page.Next = string(next[1:])
	}
	return v.page, nil
}

func max2(key []byte, other string) []byte {
	if string(key) < other {
		return []byte(other)
	}
	return key
}

// view shows the newest events of channels. It is for one goroutine.
type view struct {
	*readers
	q       fanfare.ChannelQuery
	first   string // the first key of a name that the patterns can match
	durable fanfare.Position
	bounds  bounds
	index   *pebble.Iterator
	events  *pebble.Iterator
	page    fanfare.ChannelPage
	bytes   int
	last    map[uint64]fanfare.Position // the newest events of channels, by their numbers
	lives   lifetimes
	counted int // entries that were looked at to count events
}

func (rd *readers) newView(durable fanfare.Position) (v *view, err error) {
	v = &view{readers: rd, durable: durable, bounds: rd.bounds(), lives: lifetimes{catalog: rd.catalog}}
	if v.index, err = rd.db.NewIter(ofKind(keyIndex)); err != nil {
		return nil, err
	}
	if v.events, err = rd.db.NewIter(ofKind(keyEvent)); err != nil {
		v.close()
		return nil, err
	}
	return v, nil
}

func (v *view) close() {
	for _, it := range []*pebble.Iterator{v.index, v.events} {
		if it != nil {
			_ = it.Close()
		}
	}
}

// look adds a channel's state to the page, if the channel has a visible event.
func (v *view) look(c fanfare.Channel, num uint64) error {
	last, ok, err := v.entryUpTo(num, v.q.Through)
	if err != nil || !ok {
		return err
	}
	e, ok, err := v.living(num, last)
	if err != nil || !ok {
		return err
	}
	state := fanfare.ChannelState{Latest: fanfare.Event{Position: e.pos, Channel: c, Time: time.UnixMilli(e.ms).UTC()}}
	var seen bool
	if v.q.Counts || v.q.Through < v.durable || e.pos != last.pos {
		seen, err = v.count(&state, num, e, last)
	} else {
		seen, err = v.shown(c, num, e)
	}
	if err != nil || !seen {
		return err
	}
	if v.q.Events {
		if !v.events.SeekGE(keyOf(keyEvent, uint64(e.pos))) || lastNumber(v.events.Key()) != uint64(e.pos) {
			return v.events.Error() // the event was deleted after the index was read
		}
		v.log.stats.eventsRead.Add(1)
		if state.Latest, err = readEvent(e.pos, c, v.events.Value()); err != nil {
			return err
		}
		v.bytes += len(state.Latest.Data)
	}
	v.page.Channels = append(v.page.Channels, state)
	return nil
}

// count counts the visible events of a channel up to its last entry, and tells whether there are
// any; e is the newest that has not expired.
func (v *view) count(state *fanfare.ChannelState, num uint64, e, last entry) (seen bool, err error) {
	st, err := v.channel(state.Latest.Channel)
	if err != nil || st == nil {
		return false, err
	}
	mark, err := v.trimMark(st)
	if err != nil || mark >= e.pos {
		return false, err
	}
	st.mu.Lock()
	from := st.mark
	st.mu.Unlock()
	if last.holed {
		state.Count, state.Bytes, err = v.countLiving(num, from, last)
	} else {
		state.Count, state.Bytes = e.seq-min(from.seq, e.seq), sizeBetween(from.bytes, e.bytes)
	}
	return true, err
}

// countLiving counts the events between a trim mark and a channel's last entry that have not
// expired. It looks at some thousand entries for a page, and counts all others, also those that
// have expired or were deleted.
func (v *view) countLiving(num uint64, mark, last entry) (count, bytes uint64, err error) {
	lower, upper := indexBounds(num, mark.pos, last.pos)
	it, err := v.db.NewIter(between(lower, upper))
	if err != nil {
		return 0, 0, err
	}
	defer it.Close()
	for ok := it.Last(); ok; ok = it.Prev() {
		e, err := readEntry(it.Key(), it.Value())
		if err != nil {
			return 0, 0, err
		}
		v.log.stats.indexRead.Add(1)
		if !e.holed || v.counted >= v.pieces.events {
			return count + e.seq - min(mark.seq, e.seq), bytes + sizeBetween(mark.bytes, e.bytes), nil
		}
		v.counted++
		if !v.lives.expired(e.expires) {
			count++
			bytes += e.size
		}
	}
	return count, bytes, it.Error()
}

// shown tells whether a channel's newest event is visible. Limits of count and of bytes leave that
// event, so only an age, the size of the log, or the known trim mark can hide it. shown does not
// load the channel's state, because there may be a million channels.
func (v *view) shown(c fanfare.Channel, num uint64, e entry) (bool, error) {
	if e.pos <= v.bounds.floor {
		return false, nil
	}
	if r := v.rules.Load().of(c); !r.Latest && v.bounds.old(e, r.Rule) {
		return false, nil
	}
	if st := v.channels.find(c, false); st != nil {
		if err := v.load(st); err != nil {
			return false, err
		}
		st.mu.Lock()
		defer st.mu.Unlock()
		return st.mark.pos < e.pos, nil
	}
	mark, err := v.loadMark(num)
	return mark.pos < e.pos, err
}

// readAt reads the events at some positions. Each was its channel's newest, and was visible, when
// the positions were found, so readAt does not look at the trim marks again.
func (rd *readers) readAt(ctx context.Context, q fanfare.Query) (page fanfare.Page, err error) {
	v, err := rd.newView(q.Through)
	if err != nil {
		return page, err
	}
	defer v.close()
	sc := newScanner(rd, q.Patterns, 0)
	defer sc.close()
	bytes := 0
	for i, pos := range q.At {
		if i%256 == 0 && ctx.Err() != nil {
			return page, ctx.Err()
		}
		if len(page.Events) >= q.Limit || bytes >= q.Bytes {
			return page, nil
		}
		page.Through = pos
		if !v.events.SeekGE(keyOf(keyEvent, uint64(pos))) || lastNumber(v.events.Key()) != uint64(pos) {
			if err := v.events.Error(); err != nil {
				return page, err
			}
			continue // the event was trimmed meanwhile
		}
		rd.log.stats.eventsRead.Add(1)
		num, err := eventChannel(v.events.Value())
		if err != nil {
			return page, err
		}
		m, err := sc.meet(num, pos)
		if err != nil {
			return page, err
		}
		if !m.match || pos <= v.bounds.floor {
			continue
		}
		event, err := readEvent(pos, m.name, v.events.Value())
		if err != nil {
			return page, err
		}
		page.Events = append(page.Events, event)
		bytes += len(event.Data)
	}
	page.Through = q.Through
	return page, nil
}

// rising returns those of some sorted positions that lie above after, up to through.
func rising(at []fanfare.Position, after, through fanfare.Position) []fanfare.Position {
	from, _ := slices.BinarySearch(at, after+1)
	to, _ := slices.BinarySearch(at, through+1)
	return at[from:max(from, to)]
}

// living returns a channel's newest entry whose event has not expired, from e on backwards.
func (v *view) living(num uint64, e entry) (entry, bool, error) {
	if !v.lives.expired(e.expires) {
		return e, true, nil
	}
	for v.index.Prev() && channelOfIndex(v.index.Key()) == num {
		e, err := readEntry(v.index.Key(), v.index.Value())
		if err != nil {
			return e, false, err
		}
		v.log.stats.indexRead.Add(1)
		if !v.lives.expired(e.expires) {
			return e, true, nil
		}
	}
	return e, false, v.index.Error()
}

// entryUpTo returns a channel's last index entry up to a position.
func (v *view) entryUpTo(num uint64, through fanfare.Position) (e entry, ok bool, err error) {
	if !v.index.SeekLT(keyOf(keyIndex, num, uint64(through)+1)) || channelOfIndex(v.index.Key()) != num {
		return e, false, v.index.Error()
	}
	v.log.stats.indexRead.Add(1)
	e, err = readEntry(v.index.Key(), v.index.Value())
	return e, err == nil, err
}

// replaced tells whether a channel has a newer event than the one at a position.
func (v *view) replaced(num uint64, pos fanfare.Position) (bool, error) {
	last, known := v.last[num]
	if !known {
		e, ok, err := v.entryUpTo(num, v.q.Through)
		if err == nil && ok {
			e, _, err = v.living(num, e)
		}
		if err != nil {
			return false, err
		}
		if v.last == nil {
			v.last = map[uint64]fanfare.Position{}
		}
		last, v.last[num] = e.pos, e.pos
	}
	return last > pos, nil
}
