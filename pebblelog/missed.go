package pebblelog

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/fanfare-hub/fanfare"
)

// What a resume has missed is decided by the runs, and by the trim marks of its channels. Those of few channels are read. Where
// there may be very many, a bound that no mark is above decides most cases (markBound). Where it does not, the search is for one
// channel with a mark above the position, a witness: among the channels of the events since, or among all channels, whichever are
// fewer, a piece at a time.

// Missed implements fanfare.Log.
func (l *Log) Missed(ctx context.Context, a fanfare.Absence) (loss fanfare.Loss, err error) {
	err = l.read(ctx, func(s *session) error {
		loss = fanfare.Loss{Durable: fanfare.Position(l.durable.Load())}
		if exact, ok := exactChannels(a.Patterns); ok {
			return s.missedExact(exact, a, &loss)
		}
		return s.missedByPatterns(ctx, a, &loss)
	})
	return loss, err
}

func (s *session) missedExact(channels []fanfare.Channel, a fanfare.Absence, loss *fanfare.Loss) error {
	for _, c := range channels {
		mark, err := s.markOf(c)
		if err != nil {
			return err
		}
		loss.Trimmed = max(loss.Trimmed, mark)
	}
	loss.Reason = s.gapReason(a.After, loss.Durable, loss.Trimmed)
	return nil
}

func (s *session) missedByPatterns(ctx context.Context, a fanfare.Absence, loss *fanfare.Loss) (err error) {
	if loss.Trimmed, err = s.markBound(a.Patterns); err != nil {
		return err
	}
	loss.Reason = s.gapReason(a.After, loss.Durable, 0)
	if loss.Trimmed <= a.After {
		return nil
	}
	channels, few, err := s.membersOf(ctx, a.Patterns)
	if err != nil {
		return err
	}
	certain, err := s.certainMarks(a.Patterns)
	if err != nil {
		return err
	}
	if few {
		loss.Trimmed = certain
		return s.missedExact(channels, a, loss)
	}
	switch {
	case loss.Reason == fanfare.GapFuture, loss.Reason == fanfare.GapTrimmed:
		return nil
	case certain > a.After:
		loss.Reason = fanfare.GapTrimmed
		return nil
	}
	found, token, err := s.witness(ctx, a, loss.Durable)
	if loss.Token = token; found {
		loss.Reason = fanfare.GapTrimmed
	}
	return err
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

// given is how many positions above one and up to another were given: events, but for what retention has removed.
func (s *session) given(after, through fanfare.Position) (n uint64) {
	for i := len(s.runs); i >= 0; i-- {
		r := run{s.first, through}
		if i < len(s.runs) {
			r = s.runs[i]
		}
		if from, to := max(after, r.first-1), min(through, r.last); from < to {
			n += uint64(to - from)
		}
		if r.first <= after {
			break
		}
	}
	return n
}

// A token says how the search for a witness goes on: by events above a position, or by names from a key on, of the pattern with
// a number.
const (
	tokenEvents = "e %d"
	tokenNames  = "c %d %q"
)

// witness looks for a channel whose trim mark is above a position. token is not empty when the search has to go on from there.
func (s *session) witness(ctx context.Context, a fanfare.Absence, durable fanfare.Position) (found bool, token string, err error) {
	var at fanfare.Position
	var pattern int
	var name string
	if n, _ := fmt.Sscanf(a.Token, tokenEvents, &at); n == 1 {
		return s.witnessByEvent(ctx, a, at, durable)
	}
	if n, _ := fmt.Sscanf(a.Token, tokenNames, &pattern, &name); n == 2 {
		return s.witnessByName(ctx, a, pattern, name)
	}
	recent, err := s.marksAreRecent(a.Patterns, a.After)
	if err != nil {
		return false, "", err
	}
	if recent && s.given(a.After, durable) < s.newest.Load() {
		return s.witnessByEvent(ctx, a, a.After, durable)
	}
	return s.witnessByName(ctx, a, 0, "")
}

// marksAreRecent tells whether each trim mark above a position is of a channel that has an event above it: then limits of
// count or of bytes have moved the mark, which always leave the newest event.
func (s *session) marksAreRecent(patterns []fanfare.Pattern, after fanfare.Position) (bool, error) {
	set := s.rules.Load()
	if !set.swept.Load() {
		return false, nil // channels that were emptied under other rules may not be forgotten yet
	}
	gone, err := s.ageBound(set, patterns)
	return gone <= after, err
}

// witnessByEvent looks at the channels of a piece of the events above a position.
func (s *session) witnessByEvent(
	ctx context.Context, a fanfare.Absence, from, durable fanfare.Position,
) (found bool, token string, err error) {
	sc := newScanner(s, a.Patterns, durable)
	defer sc.close()
	sc.enough = a.After
	end, err := sc.forward(ctx, from, durable, func(fanfare.Position, *met, []byte) (bool, error) { return true, nil })
	if found = sc.trimmed > a.After; found || err != nil || end >= durable {
		return found, "", err
	}
	return false, fmt.Sprintf(tokenEvents, end), nil
}

// witnessByName looks at a piece of the channels, by name, one pattern after the other.
func (s *session) witnessByName(ctx context.Context, a fanfare.Absence, pattern int, name string) (found bool, token string, err error) {
	marks, steps := s.pieces.marks, s.pieces.names
	for ; pattern < len(a.Patterns); pattern, name = pattern+1, "" {
		p := a.Patterns[pattern]
		if name == "" {
			name = p.LiteralPrefix()
		}
		var failed error
		next, err := s.eachName(ctx, p, textKey(keyChannel, name), &steps, func(c fanfare.Channel) bool {
			if marks--; marks < 0 {
				return false
			}
			var mark fanfare.Position
			mark, failed = s.markOf(c)
			found = mark > a.After
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
