package pebblelog

import (
	"context"
	"errors"
	"fmt"

	"github.com/fanfare-hub/fanfare"
)

// The runs, and the trim marks of its channels, decide whether a resume has missed events. The trim
// marks of few channels are read. Of very many channels an upper limit of the marks decides most
// cases (markBound). In the other cases the log searches for a witness: one channel with a mark
// above the position. It searches the channels of the later events, or all channels, if these are
// fewer, a piece at a time.

// Missed implements fanfare.Log.
func (l *Log) Missed(ctx context.Context, a fanfare.Absence) (loss fanfare.Loss, err error) {
	err = l.read(ctx, func(s *session) error {
		loss = fanfare.Loss{Durable: fanfare.Position(l.durable.Load())}
		if exact, ok := exactChannels(a.Patterns); ok {
			return s.readers.missedExact(exact, a, 0, &loss)
		}
		return s.readers.missedByPatterns(ctx, a, &loss)
	})
	return loss, err
}

// missedExact looks at the trim marks of some channels. gone is a mark below which events are
// missing in any case.
func (rd *readers) missedExact(
	channels []fanfare.Channel, a fanfare.Absence, gone fanfare.Position, loss *fanfare.Loss,
) error {
	loss.Trimmed = gone
	for _, c := range channels {
		mark, err := rd.markOf(c)
		if err != nil {
			return err
		}
		loss.Trimmed = max(loss.Trimmed, mark)
		missed, err := rd.misses(c, mark, a)
		if err != nil {
			return err
		}
		if missed {
			gone = max(gone, mark)
		}
	}
	loss.Reason = rd.runs.gapReason(a.After, loss.Durable, gone)
	return nil
}

// misses tells whether a channel's trim mark means that a subscriber has missed an event.
func (rd *readers) misses(c fanfare.Channel, mark fanfare.Position, a fanfare.Absence) (bool, error) {
	if mark <= a.After || !a.Newest {
		return mark > a.After, nil
	}
	st, err := rd.channel(c)
	if err != nil || st == nil {
		return true, err
	}
	return st.events() == 0, nil
}

func (rd *readers) missedByPatterns(ctx context.Context, a fanfare.Absence, loss *fanfare.Loss) (err error) {
	if loss.Trimmed, err = rd.markBound(a.Patterns); err != nil {
		return err
	}
	loss.Reason = rd.runs.gapReason(a.After, loss.Durable, 0)
	if loss.Trimmed <= a.After {
		return nil
	}
	channels, few, err := rd.membersOf(ctx, a.Patterns)
	if err != nil {
		return err
	}
	certain := rd.floors(a.Patterns)
	if !a.Newest {
		if certain, err = rd.certainMarks(a.Patterns); err != nil {
			return err
		}
	}
	if few {
		return rd.missedExact(channels, a, certain, loss)
	}
	switch {
	case loss.Reason == fanfare.GapFuture, loss.Reason == fanfare.GapTrimmed:
		return nil
	case certain > a.After:
		loss.Reason = fanfare.GapTrimmed
		return nil
	}
	found, token, err := rd.witness(ctx, a, loss.Durable)
	if loss.Token = token; found {
		loss.Reason = fanfare.GapTrimmed
	}
	return err
}

// A token says where the search for a witness goes on: by events above a position, or by names from
// a key on, which are those of one pattern, given by its index.
const (
	tokenEvents = "e %d"
	tokenNames  = "c %d %q"
)

// witness looks for a channel whose trim mark is above a position. token is not empty when the
// search has to go on from there.
func (rd *readers) witness(
	ctx context.Context, a fanfare.Absence, durable fanfare.Position,
) (found bool, token string, err error) {
	var at fanfare.Position
	var pattern int
	var name string
	if n, _ := fmt.Sscanf(a.Token, tokenEvents, &at); n == 1 {
		return rd.witnessByEvent(ctx, a, at, durable)
	}
	if n, _ := fmt.Sscanf(a.Token, tokenNames, &pattern, &name); n == 2 {
		return rd.witnessByName(ctx, a, pattern, name)
	}
	recent, err := rd.marksAreRecent(a.Patterns, a.After)
	if err != nil {
		return false, "", err
	}
	if recent && a.Newest {
		return false, "", nil // each channel with such a mark holds something newer
	}
	if recent && rd.runs.given(a.After, durable) < rd.newest.Load() {
		return rd.witnessByEvent(ctx, a, a.After, durable)
	}
	return rd.witnessByName(ctx, a, 0, "")
}

// marksAreRecent tells whether each trim mark above a position is of a channel that has an event
// above it: then limits of count or of bytes have moved the mark, which always leave the newest
// event.
func (rd *readers) marksAreRecent(patterns []fanfare.Pattern, after fanfare.Position) (bool, error) {
	set := rd.rules.Load()
	if !set.swept.Load() {
		return false, nil // channels that were emptied under other rules may not be forgotten yet
	}
	gone, err := rd.ageBound(set, patterns)
	return gone <= after, err
}

// witnessByEvent looks at the channels of a piece of the events above a position.
func (rd *readers) witnessByEvent(
	ctx context.Context, a fanfare.Absence, from, durable fanfare.Position,
) (found bool, token string, err error) {
	sc := newScanner(rd, a.Patterns, durable)
	defer sc.close()
	sc.enough = a.After
	end, err := sc.forward(ctx, from, durable, func(fanfare.Position, *met, []byte) (bool, error) { return true, nil })
	if found = sc.trimmed > a.After; found || err != nil || end >= durable {
		return found, "", err
	}
	return false, fmt.Sprintf(tokenEvents, end), nil
}

// witnessByName looks at a piece of the channels, by name, one pattern after the other.
func (rd *readers) witnessByName(
	ctx context.Context, a fanfare.Absence, pattern int, name string,
) (found bool, token string, err error) {
	marks, steps := rd.pieces.marks, rd.pieces.names
	for ; pattern < len(a.Patterns); pattern, name = pattern+1, "" {
		p := a.Patterns[pattern]
		if name == "" {
			name = p.LiteralPrefix()
		}
		var failed error
		next, err := rd.eachName(ctx, p, textKey(keyChannel, name), &steps, func(c fanfare.Channel) bool {
			if marks--; marks < 0 {
				return false
			}
			var mark fanfare.Position
			if mark, failed = rd.markOf(c); failed == nil {
				found, failed = rd.misses(c, mark, a)
			}
			return !found && failed == nil
		})
		if err = errors.Join(err, failed); err != nil || found {
			return found, "", err
		}
		if next != nil {
			return false, fmt.Sprintf(tokenNames, pattern, next[1:]), nil
		}
	}
	return false, "", nil
}
