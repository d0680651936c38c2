package pebblelog

import (
	"context"
	"errors"
	"sort"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// Locate implements fanfare.Log.
func (l *Log) Locate(ctx context.Context, p fanfare.Place) (loc fanfare.Location, err error) {
	err = l.read(ctx, func(s *session) error {
		loc = fanfare.Location{Durable: fanfare.Position(l.durable.Load())}
		loc.First = loc.Durable + 1
		after := p.After
		exact, isExact := exactChannels(p.Patterns)
		if loc.Trimmed, err = s.highestMark(p.Patterns, exact, isExact, after); err != nil {
			return err
		}
		loc.Reason = s.gapReason(after, loc.Durable, loc.Trimmed)
		if loc.Reason == fanfare.GapFuture {
			after = 0
		}
		if after, err = s.skipAge(p.Age, after, loc.Durable); err != nil {
			return err
		}
		loc.Disordered = !p.Since.IsZero() && (s.jumped > 0 || s.log.clock.look().disordered(after))
		switch {
		case p.Last > 0 && isExact:
			return s.lastExact(ctx, exact, p.Last, &loc)
		case p.Last > 0:
			return s.lastScan(ctx, p.Patterns, p.Last, &loc)
		}
		return s.locateFirst(ctx, exact, isExact, after, p, &loc)
	})
	return loc, err
}

// skipAge returns the position before the first that was stored at most so long ago.
func (s *session) skipAge(age time.Duration, after, durable fanfare.Position) (fanfare.Position, error) {
	if age <= 0 {
		return after, nil
	}
	m := s.log.clock.look()
	cut := m.cutAtOnce(age.Milliseconds())
	if age < time.Millisecond {
		cut = m.log + 1 // nothing is that young
	}
	first, err := s.firstStoredAt(m, cut, durable)
	return max(after, first-1), err
}

// locateFirst finds the first event of a place after a position.
func (s *session) locateFirst(ctx context.Context, exact []fanfare.Channel, isExact bool, after fanfare.Position, p fanfare.Place, loc *fanfare.Location) error {
	for after < loc.Durable && loc.First > loc.Durable {
		from, to, err := s.skipTo(p.Since, after, loc.Durable)
		if err == nil && isExact {
			err = s.firstExact(ctx, exact, from, to, p, loc)
		} else if err == nil {
			err = s.firstScan(ctx, from, to, p, loc)
		}
		if err != nil {
			return err
		}
		after = to
	}
	return nil
}

// gapReason says whether events after a position may be missing (P4).
func (s *session) gapReason(after, durable, trimmed fanfare.Position) fanfare.GapReason {
	runs := append(s.runs[:len(s.runs):len(s.runs)], run{s.first, max(durable, s.first-1)})
	i := sort.Search(len(runs), func(i int) bool { return runs[i].first-1 > after }) - 1 // the run at or below it
	switch {
	case after > durable:
		return fanfare.GapFuture
	case i < 0 || after < trimmed:
		return fanfare.GapTrimmed
	case after > runs[i].last:
		return fanfare.GapLost
	}
	return ""
}

// highestMark returns the highest trim mark of the channels, or, when that is at most after, a bound that is so too.
func (s *session) highestMark(patterns []fanfare.Pattern, exact []fanfare.Channel, isExact bool, after fanfare.Position) (highest fanfare.Position, err error) {
	add := func(c fanfare.Channel) error {
		st, err := s.channel(c)
		if err != nil {
			return err
		}
		if st == nil {
			highest = max(highest, s.floorOf(c))
			return nil
		}
		mark, err := s.trimMark(st)
		highest = max(highest, mark)
		return err
	}
	if isExact {
		for _, c := range exact {
			if err := add(c); err != nil {
				return 0, err
			}
		}
		return highest, nil
	}
	bound, ok, err := s.markBound(patterns)
	if err != nil || (ok && bound <= after) {
		return bound, err
	}
	for _, p := range patterns {
		s.rules.Load().overlapping(p, func(r *liveRule) { highest = max(highest, fanfare.Position(r.floor.Load())) })
		if err := s.eachChannel(p, add); err != nil {
			return 0, err
		}
	}
	return highest, nil
}

// markBound returns a position that no trim mark of the patterns' channels is above, without looking at the channels: there
// may be very many. There is none where a rule goes by count or bytes, because such marks follow the newest events.
func (s *session) markBound(patterns []fanfare.Pattern) (bound fanfare.Position, ok bool, err error) {
	b := s.bounds()
	bound, ok = b.floor, true
	for _, p := range patterns {
		s.rules.Load().overlapping(p, func(r *liveRule) {
			ok = ok && r.Count == 0 && r.Bytes == 0
			bound = max(bound, fanfare.Position(r.high.Load()))
			if r.Age > 0 && err == nil {
				var old fanfare.Position
				old, err = s.notBefore(b.at.cut(r.Age.Milliseconds()))
				bound = max(bound, old)
			}
		})
	}
	return bound, ok, err
}

// eachChannel calls f for every channel in the log that p matches.
func (s *session) eachChannel(p fanfare.Pattern, f func(fanfare.Channel) error) error {
	if c, ok := p.Channel(); ok {
		return f(c)
	}
	prefix := p.LiteralPrefix()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: textKey(keyChannel, prefix), UpperBound: []byte{keyChannel + 1}})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		name := string(it.Key()[1:])
		if len(name) < len(prefix) || name[:len(prefix)] != prefix {
			break
		}
		c, err := fanfare.ParseChannel(name)
		if err != nil {
			return errCorrupt
		}
		if p.Match(c) {
			if err := f(c); err != nil {
				return err
			}
		}
	}
	return it.Error()
}

func (s *session) firstExact(ctx context.Context, channels []fanfare.Channel, after, through fanfare.Position, p fanfare.Place, loc *fanfare.Location) error {
	m, err := s.newMerge(channels, after, through, false)
	if err != nil {
		return err
	}
	defer func() { m.close(); s.log.stats.indexRead.Add(m.read) }()
	sinceMs := sinceOf(p.Since)
	for n := 0; m.Len() > 0; n++ {
		if top := m.cursors[0].e; top.ms >= sinceMs {
			loc.First = top.pos
			return nil
		}
		if err := m.next(); err != nil {
			return err
		}
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

func (s *session) firstScan(ctx context.Context, after, through fanfare.Position, p fanfare.Place, loc *fanfare.Location) error {
	for after < through {
		page, err := s.scan(ctx, fanfare.Query{Patterns: p.Patterns, After: after, Through: through, Since: p.Since, Limit: 1, Bytes: 1})
		if err != nil {
			return err
		}
		if len(page.Events) > 0 {
			loc.First = page.Events[0].Position
			return nil
		}
		after = page.Through
	}
	return nil
}

func (s *session) lastExact(ctx context.Context, channels []fanfare.Channel, n int, loc *fanfare.Location) error {
	m, err := s.newMerge(channels, 0, loc.Durable, true)
	if err != nil {
		return err
	}
	defer func() { m.close(); s.log.stats.indexRead.Add(m.read) }()
	for ; n > 0 && m.Len() > 0; n-- {
		loc.First = m.cursors[0].e.pos
		if err := errors.Join(m.next(), ctx.Err()); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) lastScan(ctx context.Context, patterns []fanfare.Pattern, n int, loc *fanfare.Location) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: keyOf(keyEvent), UpperBound: keyOf(keyEvent, uint64(loc.Durable)+1)})
	if err != nil {
		return err
	}
	defer it.Close()
	sc := newScanner(s, patterns)
	looked := 0
	defer func() { s.log.stats.eventsRead.Add(uint64(looked)) }()
	for ok := it.Last(); ok && n > 0; ok = it.Prev() {
		if looked++; looked%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		num, err := eventChannel(it.Value())
		if err != nil {
			return err
		}
		m, err := sc.meet(num)
		if err != nil {
			return err
		}
		if pos := fanfare.Position(lastNumber(it.Key())); m.match && pos > m.mark {
			loc.First = pos
			n--
		}
	}
	return it.Error()
}
