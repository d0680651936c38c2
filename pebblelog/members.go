package pebblelog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/fanfare-hub/fanfare"
)

// The members of a pattern are the channels that it matches. A pattern with few members is read by
// their indexes, without a look at any other channel's event. So the log keeps the members of each
// pattern that a reader has asked for lately.
//
// A walk over the names of channels finds the members. It leaps over names that cannot match
// (leap). A reader does only a piece of the walk at a time, so that it does not wait while a
// million names are looked at; until the walk has ended, the pattern is read by position. Channels
// that were numbered since the walk started are found by their numbers, which count up. Each of
// them is looked at once.
//
// The list is complete up to the durable position: a channel's name is in the store before
// catalog.newest moves, and newest moves before the channel's first event is durable. A forgotten
// channel stays in the list until the next sweep that forgets channels; a reader finds no event of
// it.

// patternsMost is the number of patterns whose members are kept.
const patternsMost = 256

// members are the channels of a pattern as far as they are known. A value never changes; the next
// piece of a walk makes a new one.
type members struct {
	list []fanfare.Channel
	many bool   // there are more than pieces.few: the list is empty
	next []byte // the walk goes on at this key of a name; nil when it has ended
	born uint64 // channels with this number or a higher one have not been looked at by their numbers
}

// memberSet holds the newest members of one pattern. When two readers walk at once, both find the
// same members, and those of the later one stay.
type memberSet struct{ v atomic.Pointer[members] }

// memberSets is a cache of patternsMost sets. Its methods may be called from any goroutine.
type memberSets struct {
	mu        sync.Mutex // guards the field below
	byPattern map[fanfare.Pattern]*memberSet
}

// of returns the set of a pattern, and makes it if need be.
func (c *memberSets) of(p fanfare.Pattern) *memberSet {
	c.mu.Lock()
	defer c.mu.Unlock()
	set := c.byPattern[p]
	if set != nil {
		return set
	}
	if c.byPattern == nil {
		c.byPattern = map[fanfare.Pattern]*memberSet{}
	}
	for other := range c.byPattern {
		if len(c.byPattern) < patternsMost {
			break
		}
		delete(c.byPattern, other) // any one; if a reader still asks for it, it is found again
	}
	set = &memberSet{}
	c.byPattern[p] = set
	return set
}

// forget drops the complete sets. It is called when channels were forgotten: a pattern that had too
// many members may have few by now.
func (c *memberSets) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, set := range c.byPattern {
		if m := set.v.Load(); m != nil && m.next == nil {
			delete(c.byPattern, p)
		}
	}
}

// membersOf returns all channels that the patterns match, each once; false when they are too many,
// or not known yet.
func (rd *readers) membersOf(
	ctx context.Context, patterns []fanfare.Pattern,
) (channels []fanfare.Channel, few bool, err error) {
	w := walk{readers: rd, ctx: ctx, steps: rd.pieces.names}
	if len(patterns) == 1 {
		return w.find(patterns[0])
	}
	seen := map[fanfare.Channel]bool{}
	few = true
	for _, p := range patterns {
		list, known, err := w.find(p)
		if err != nil {
			return nil, false, err
		}
		few = few && known // if not, the walks of the other patterns go on, so that the next call finds more
		for _, c := range list {
			if few && !seen[c] {
				seen[c] = true
				channels = append(channels, c)
			}
		}
		few = few && len(channels) <= rd.pieces.few
	}
	return channels, few, nil
}

// walk is one piece of the walks over names for one reader.
type walk struct {
	*readers
	ctx   context.Context
	steps int // names that it may still look at
}

// find returns the members of a pattern; false when there are too many, or when the piece has ended
// before the walk.
func (w *walk) find(p fanfare.Pattern) ([]fanfare.Channel, bool, error) {
	if c, ok := p.Channel(); ok {
		return []fanfare.Channel{c}, true, nil
	}
	set := w.members.of(p)
	newest := w.newest.Load()
	m := set.v.Load()
	if m == nil {
		m = &members{next: textKey(keyChannel, p.LiteralPrefix()), born: newest}
	}
	if !m.many && (m.next != nil || m.born < newest) {
		grown := &members{list: m.list[:len(m.list):len(m.list)], next: m.next, born: m.born}
		if err := errors.Join(w.names(p, grown), w.numbers(p, grown, newest)); err != nil {
			return nil, false, err
		}
		m = grown
		set.v.Store(m)
	}
	return m.list, !m.many && m.next == nil && m.born >= newest, nil
}

// names walks over the names from m.next on.
func (w *walk) names(p fanfare.Pattern, m *members) (err error) {
	if m.next == nil {
		return nil
	}
	m.next, err = w.eachName(w.ctx, p, m.next, &w.steps, func(c fanfare.Channel) bool {
		m.add(c, w.pieces.few)
		return !m.many
	})
	if m.many {
		m.next = nil
	}
	return err
}

// numbers looks at the channels that were numbered since the walk started.
func (w *walk) numbers(p fanfare.Pattern, m *members, newest uint64) error {
	if m.many || m.born >= newest || w.steps <= 0 {
		return nil
	}
	it, err := w.db.NewIter(between(keyOf(keyName, m.born), keyOf(keyName, newest)))
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if w.steps <= 0 {
			m.born = lastNumber(it.Key())
			return nil
		}
		if w.steps--; w.steps%256 == 0 && w.ctx.Err() != nil {
			return w.ctx.Err()
		}
		c, err := fanfare.ParseChannel(string(it.Value()))
		if err != nil {
			return errCorrupt
		}
		if p.Match(c) {
			m.add(c, w.pieces.few)
		}
	}
	m.born = newest
	return it.Error()
}

// add adds a channel to the list, unless it is there already: a channel that was forgotten and came
// back has a new number.
func (m *members) add(c fanfare.Channel, few int) {
	if m.many || slices.Contains(m.list, c) {
		return
	}
	if m.list = append(m.list, c); len(m.list) > few {
		m.list, m.many = nil, true
	}
}

// eachName calls f for the channels that a pattern matches, in the order of their names, from a key
// on. It stops when f returns false, or when the steps are used up, of which each name that is
// looked at takes one. It returns the key to go on from; nil when there are no more names.
func (rd *readers) eachName(
	ctx context.Context, p fanfare.Pattern, from []byte, steps *int, f func(fanfare.Channel) bool,
) (next []byte, err error) {
	return rd.eachMember(ctx, []fanfare.Pattern{p}, from, steps, func(c fanfare.Channel, _ uint64) bool { return f(c) })
}

// eachMember is eachName for the channels that any of some patterns matches, with their numbers.
func (rd *readers) eachMember(
	ctx context.Context, patterns []fanfare.Pattern, from []byte, steps *int, f func(fanfare.Channel, uint64) bool,
) (next []byte, err error) {
	var end []byte
	for _, p := range patterns {
		if e := namesEnd(p); bytes.Compare(e, end) > 0 {
			end = e
		}
	}
	it, err := rd.db.NewIter(between(from, end))
	if err != nil {
		return nil, err
	}
	defer it.Close()
	for ok := it.First(); ok; {
		if *steps <= 0 {
			return bytes.Clone(it.Key()), nil
		}
		if *steps--; *steps%256 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		name := string(it.Key()[1:])
		c, err := fanfare.ParseChannel(name)
		if err != nil || len(it.Value()) != 8 {
			return nil, errCorrupt
		}
		if matchesAny(patterns, c) && !f(c, binary.BigEndian.Uint64(it.Value())) {
			return bytes.Clone(it.Key()), nil
		}
		to := leapAny(patterns, name)
		if ok = it.Next() && to != ""; ok && string(it.Key()[1:]) < to {
			*steps--
			ok = it.SeekGE(textKey(keyChannel, to))
		}
	}
	return nil, it.Error()
}

func matchesAny(patterns []fanfare.Pattern, c fanfare.Channel) bool {
	return slices.ContainsFunc(patterns, func(p fanfare.Pattern) bool { return p.Match(c) })
}

// leapAny is leap over the names that none of the patterns matches.
func leapAny(patterns []fanfare.Pattern, name string) (to string) {
	for _, p := range patterns {
		if next := leap(p.String(), name); next != "" && (to == "" || next < to) {
			to = next
		}
	}
	return to
}

// namesEnd returns the key that follows the keys of all names with the pattern's literal prefix.
func namesEnd(p fanfare.Pattern) []byte {
	end := textKey(keyChannel, p.LiteralPrefix())
	for i := len(end) - 1; i > 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return []byte{keyChannel + 1}
}

// leap returns a text above name such that no name between the two matches the pattern; "" when no
// name above name matches. Names are ordered by their bytes, so names with the same first segments
// stand together.
func leap(pattern, name string) string {
	if pattern[0] == '*' && name[0] == '$' {
		return "%" // '$' + 1: a leading wildcard matches no reserved channel
	}
	for at := 0; ; {
		want, patternRest, deeper := strings.Cut(pattern, "/")
		have, _, longer := strings.Cut(name[at:], "/")
		switch {
		case want == "**":
			return name + "\x00"
		case want == "*" && !deeper && longer:
			return pastPrefix(name[:at+len(have)+1])
		case want == "*" && (!deeper || !longer):
			return name + "\x00" // not name + "/": names with a byte below '/' stand before those
		case want != "*":
			target := name[:at] + want
			if deeper {
				target += "/"
			}
			if name < target {
				return target
			}
			if want != have || !deeper || !longer {
				return pastPrefix(name[:at])
			}
		}
		at += len(have) + 1
		pattern = patternRest
	}
}

// pastPrefix returns the first text above all texts with a prefix that ends with '/'; "" for an
// empty prefix.
func pastPrefix(prefix string) string {
	if prefix == "" {
		return ""
	}
	return prefix[:len(prefix)-1] + "0" // '/' + 1
}
