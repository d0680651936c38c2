package pebblelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// Rule says what is retained of each channel that Pattern matches; a leading wildcard matches reserved channels too.
// Of the rules that match a channel the one with the most specific pattern wins, whole.
type Rule struct {
	Pattern fanfare.Pattern
	Count   int           // the newest so many events of each channel; 0: any number
	Age     time.Duration // events younger than this; 0: of any age
}

// DefaultRetention keeps everything for seven days.
func DefaultRetention() []Rule {
	all, _ := fanfare.ParsePattern("**")
	return []Rule{{Pattern: all, Age: 7 * 24 * time.Hour}}
}

// ParseRule reads `PATTERN=count:N,age:D`, with at least one of the two. D is a Go duration, in which `d` stands for
// 24 hours.
func ParseRule(text string) (Rule, error) {
	at := strings.LastIndexByte(text, '=')
	if at < 0 {
		return Rule{}, fanfare.Invalid("retention rule %q: want PATTERN=count:N,age:D", text)
	}
	pattern, err := fanfare.ParsePattern(text[:at])
	if err != nil {
		return Rule{}, fmt.Errorf("retention rule %q: %w", text, err)
	}
	r := Rule{Pattern: pattern}
	for _, limit := range strings.Split(text[at+1:], ",") {
		name, value, _ := strings.Cut(limit, ":")
		switch strings.TrimSpace(name) {
		case "count":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || r.Count != 0 {
				return Rule{}, fanfare.Invalid("retention rule %q: count must be a whole number from 1, once", text)
			}
			r.Count = n
		case "age":
			d, err := ParseDuration(value)
			if err != nil || d < time.Millisecond || r.Age != 0 {
				return Rule{}, fanfare.Invalid("retention rule %q: age must be a time such as 90m or 7d, once", text)
			}
			r.Age = d
		default:
			return Rule{}, fanfare.Invalid("retention rule %q: %q is neither count nor age", text, limit)
		}
	}
	return r, nil
}

// ParseDuration is time.ParseDuration with `d` for 24 hours, as the first or only unit.
func ParseDuration(text string) (time.Duration, error) {
	days, rest, ok := strings.Cut(text, "d")
	if !ok {
		return time.ParseDuration(text)
	}
	n, err := strconv.ParseFloat(days, 64)
	if err != nil || n < 0 || n > 100_000 {
		return 0, fmt.Errorf("time %q: want a number of days before the d", text)
	}
	d := time.Duration(n * 24 * float64(time.Hour))
	if rest == "" {
		return d, nil
	}
	more, err := time.ParseDuration(rest)
	return d + more, err
}

func (l *Log) ruleOf(c fanfare.Channel) Rule {
	var best Rule
	found := false
	for _, r := range l.opts.Retention {
		if r.Pattern.MatchAll(c) && (!found || r.Pattern.MoreSpecific(best.Pattern)) {
			best, found = r, true
		}
	}
	return best
}

// sweepLoop deletes, in batches, what retention has clipped.
func (l *Log) sweepLoop() {
	for {
		timer := time.NewTimer(l.opts.TrimInterval)
		select {
		case <-timer.C:
		case <-l.stop:
			timer.Stop()
			return
		}
		err := l.read(stopContext{l.stop}, func(s *session) error { return s.sweep() })
		if err != nil && !errors.Is(err, errStopped) && l.Status().Err == nil {
			l.opts.Logger.Warn("retention could not delete", slog.Any("err", err))
		}
	}
}

// sweep goes through all channels.
func (s *session) sweep() error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyName}, UpperBound: []byte{keyName + 1}})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		select {
		case <-s.log.stop:
			return errStopped
		case <-s.dead:
			return errStopped
		default:
		}
		name, err := fanfare.ParseChannel(string(it.Value()))
		if err != nil {
			return errCorrupt
		}
		st, err := s.channel(name)
		if err != nil {
			return err
		}
		if st == nil {
			continue // numbered, but not durable yet
		}
		if err := s.deleteTrimmed(st); err != nil {
			return fmt.Errorf("channel %s: %w", name, err)
		}
	}
	return it.Error()
}

const deleteMost = 500 // events in one batch

// deleteTrimmed removes a channel's events up to its trim mark. The mark is stored with the first batch, and from then on
// says what was removed even when the channel is empty.
func (s *session) deleteTrimmed(st *channelState) error {
	if _, err := s.trimMark(st); err != nil {
		return err
	}
	st.mu.Lock()
	mark, stored := st.mark, st.stored
	st.mu.Unlock()
	for stored < mark.pos {
		next, err := s.deleteSome(st.num.Load(), stored, mark)
		if err != nil {
			return err
		}
		stored = next
	}
	st.mu.Lock()
	st.stored = stored
	st.mu.Unlock()
	return nil
}

func (s *session) deleteSome(num uint64, after fanfare.Position, mark entry) (fanfare.Position, error) {
	lower, upper := indexBounds(num, after, mark.pos)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return 0, err
	}
	defer it.Close()
	b := s.db.NewBatch()
	defer b.Close()
	if err := b.Set(keyOf(keyMark, num), binary.AppendUvarint(binary.AppendUvarint(nil, uint64(mark.pos)), mark.seq), nil); err != nil {
		return 0, err
	}
	n, through := 0, mark.pos
	for ok := it.First(); ok; ok = it.Next() {
		if n == deleteMost {
			break
		}
		pos := fanfare.Position(lastNumber(it.Key()))
		if err := b.Delete(keyOf(keyEvent, uint64(pos)), nil); err != nil {
			return 0, err
		}
		if err := b.Delete(append([]byte(nil), it.Key()...), nil); err != nil {
			return 0, err
		}
		through = pos
		n++
	}
	if n < deleteMost {
		through = mark.pos
	}
	if err := it.Error(); err != nil {
		return 0, err
	}
	if err := s.db.Apply(b, pebble.NoSync); err != nil {
		return 0, err
	}
	s.log.stats.trimmed.Add(uint64(n))
	return through, nil
}
