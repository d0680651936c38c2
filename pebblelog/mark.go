package pebblelog

import (
	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// bounds is what retention needs to know to judge an event, but for its channel.
type bounds struct {
	floor fanfare.Position // everything up to here is gone, whatever its channel
	at    moment
}

// bounds judge events that were durable before it was called: those that came since may be of a
// phase that it does not know.
func (c *catalog) bounds() bounds {
	return bounds{floor: fanfare.Position(c.floor.Load()), at: c.now()}
}

// old tells whether a rule's age has passed since an event was stored.
func (b bounds) old(e entry, r fanfare.Rule) bool {
	return r.Age > 0 && b.at.stored(e.pos, e.ms) < b.at.cut(r.Age.Milliseconds())
}

// extent is a channel's newest event, by its count and its bytes.
type extent struct{ seq, bytes uint64 }

// findMark walks a channel's entries from a trim mark on, and returns the mark that a rule asks
// for, and the first event that is retained, if there is one.
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
	cut := int64(-1 << 62)
	if r.Age > 0 {
		cut = b.at.cut(r.Age.Milliseconds())
		before, err := c.seconds.before(cut)
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
		// Not one by one: there may be millions.
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
			break // durable since last was read
		}
		switch {
		case b.at.stored(e.pos, e.ms) < cut && !(r.Latest && e.seq == last.seq):
		case r.Count > 0 && last.seq-e.seq >= uint64(r.Count):
		case r.Bytes > 0 && e.seq != last.seq && sizeBetween(e.before(mark.bytes), last.bytes) > uint64(r.Bytes):
		default:
			return mark, e, true, it.Error()
		}
		mark = e
	}
	return mark, oldest, false, it.Error()
}

// below returns a position that is below a channel's newest event, and not above another one.
func below(it *pebble.Iterator, last extent, most fanfare.Position) (fanfare.Position, error) {
	for ok := it.Last(); ok; ok = it.Prev() {
		e, err := readEntry(it.Key(), it.Value())
		if err != nil {
			return 0, err
		}
		if e.seq <= last.seq { // what follows has become durable since last was read
			return min(most, e.pos-1), nil
		}
	}
	return most, it.Error()
}

// sizeBetween is how many bytes of data lie between two sums. Entries of format 1 have none and
// count as nothing.
func sizeBetween(from, to uint64) uint64 {
	if from > to {
		return 0
	}
	return to - from
}

// trimMark moves the channel's trim mark past all that its rule no longer retains, and returns it.
// Readers clip there at once. It moves in memory; the sweep stores it, and deletes later
// (deleteSome).
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

// floorOf is below what events of a channel may be missing of which nothing is stored.
func (c *catalog) floorOf(name fanfare.Channel) fanfare.Position {
	return fanfare.Position(c.rules.Load().of(name).floor.Load())
}

// raiseHigh raises the bound of a channel's rule, also when the rules change meanwhile.
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
