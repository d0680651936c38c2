package pebblelog

import (
	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// bounds are the facts by which retention judges the events of all channels.
type bounds struct {
	floor fanfare.Position // events of all channels up to here are removed
	at    moment
}

// bounds returns the bounds of this moment. They are good for events that were durable before:
// later events may be of a phase that they do not have.
func (c *catalog) bounds() bounds {
	return bounds{floor: fanfare.Position(c.floor.Load()), at: c.now()}
}

// old tells whether a rule's age has passed since an event was stored.
func (b bounds) old(e entry, r fanfare.Rule) bool {
	return r.Age > 0 && b.at.stored(e.pos, e.ms) < b.at.ageLimit(r.Age.Milliseconds())
}

// extent is a channel's newest event, by its count and its bytes.
type extent struct{ seq, bytes uint64 }

// findMark walks through a channel's entries from a trim mark on. It returns the new trim mark by a
// rule, and the first event that the rule retains, if there is one.
func (c *catalog) findMark(
	num uint64, r fanfare.Rule, mark entry, last extent, b bounds,
) (newMark, oldest entry, found bool, err error) {
	durable := fanfare.Position(c.log.durable.Load())
	lower, upper := indexBounds(num, mark.pos, durable)
	it, err := c.db.NewIter(between(lower, upper))
	if err != nil {
		return mark, oldest, false, err
	}
	defer it.Close()
	limit := int64(-1 << 62)
	if r.Age > 0 {
		limit = b.at.ageLimit(r.Age.Milliseconds())
		before, err := c.seconds.before(limit)
		if err != nil {
			return mark, oldest, false, err
		}
		if r.Latest {
			if before, err = below(it, last, before); err != nil {
				return mark, oldest, false, err
			}
		}
		b.floor = max(b.floor, before)
	}
	ok := false
	if b.floor > mark.pos && it.SeekLT(keyOf(keyIndex, num, uint64(b.floor)+1)) {
		// The walk skips the entries up to the floor, of which there may be millions.
		if mark, err = readEntry(it.Key(), it.Value()); err != nil {
			return mark, oldest, false, err
		}
		ok = it.Next()
	} else {
		ok = it.First()
	}
	for ; ok; ok = it.Next() {
		e, err := readEntry(it.Key(), it.Value())
		if err != nil {
			return mark, oldest, false, err
		}
		if e.seq > last.seq {
			break // the event became durable after last was read
		}
		switch {
		case b.at.stored(e.pos, e.ms) < limit && !(r.Latest && e.seq == last.seq):
		case r.Count > 0 && last.seq-e.seq >= uint64(r.Count):
		case r.Bytes > 0 && e.seq != last.seq && sizeBetween(e.before(mark.bytes), last.bytes) > uint64(r.Bytes):
		default:
			return mark, e, true, it.Error()
		}
		mark = e
	}
	return mark, oldest, false, it.Error()
}

// below returns the position most, or one just below a channel's newest event, if that is lower.
func below(it *pebble.Iterator, last extent, most fanfare.Position) (fanfare.Position, error) {
	for ok := it.Last(); ok; ok = it.Prev() {
		e, err := readEntry(it.Key(), it.Value())
		if err != nil {
			return 0, err
		}
		if e.seq <= last.seq { // later events became durable after last was read
			return min(most, e.pos-1), nil
		}
	}
	return most, it.Error()
}

// sizeBetween returns the bytes of data between two sums. Entries of format 1 have no sums, and
// count as 0.
func sizeBetween(from, to uint64) uint64 {
	if from > to {
		return 0
	}
	return to - from
}

// trimMark moves the channel's trim mark past all events that its rule no longer retains, and
// returns it. It hides these events from readers at once. The mark moves in memory; the sweep
// stores it, and deletes the events later (deleteSome).
func (c *catalog) trimMark(st *channelState) (fanfare.Position, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if set := c.rules.Load(); st.set != set {
		st.set, st.rule, st.known = set, set.of(st.name), false
	}
	last := extent{st.lastSeq.Load(), st.lastBytes.Load()}
	b := c.bounds()
	if r := st.rule; st.known && st.oldest.pos > b.floor &&
		(!b.old(st.oldest, r.Rule) || (r.Latest && st.oldest.seq == last.seq)) &&
		(r.Count == 0 || last.seq-st.oldest.seq < uint64(r.Count)) &&
		(r.Bytes == 0 || st.oldest.seq == last.seq ||
			sizeBetween(st.oldest.before(st.mark.bytes), last.bytes) <= uint64(r.Bytes)) {
		return st.mark.pos, nil
	}
	mark, oldest, found, err := c.findMark(st.num.Load(), st.rule.Rule, st.mark, last, b)
	if err != nil {
		return 0, err
	}
	st.mark, st.oldest, st.known = mark, oldest, found
	if raise(&st.rule.high, mark.pos); c.rules.Load() != st.set {
		c.raiseHigh(st.name, mark.pos)
	}
	return mark.pos, nil
}

// floorOf returns the floor of a channel that the store does not know: events up to it may be
// missing.
func (c *catalog) floorOf(name fanfare.Channel) fanfare.Position {
	return fanfare.Position(c.rules.Load().of(name).floor.Load())
}

// raiseHigh raises the bound of a channel's rule. If the rules change meanwhile, it raises that of
// the new rule too.
func (c *catalog) raiseHigh(name fanfare.Channel, mark fanfare.Position) {
	for set := c.rules.Load(); ; {
		raise(&set.of(name).high, mark)
		now := c.rules.Load()
		if now == set {
			return
		}
		set = now
	}
}
