package pebblelog

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
)

// Export writes the log in a data directory that no hub uses, or in a backup, as lines of JSON. It
// writes all channels, or those that match one of the patterns, and returns the number of events
// that it has written. When it cannot read an event, it calls skipped and goes on without it.
func Export(
	ctx context.Context, dir string, patterns []fanfare.Pattern, w io.Writer, skipped func(error),
) (events uint64, err error) {
	return export(ctx, vfs.Default, dir, patterns, w, skipped)
}

func export(
	ctx context.Context, fs vfs.FS, dir string, patterns []fanfare.Pattern, w io.Writer, skipped func(error),
) (events uint64, err error) {
	s, err := openStore(fs, dir)
	if err != nil {
		return 0, err
	}
	defer s.close()
	for _, fault := range s.faults {
		skipped(errors.New(fault))
	}
	out := bufio.NewWriterSize(w, 1<<20)
	e := exporter{store: s, ctx: ctx, patterns: patterns, skipped: skipped, json: json.NewEncoder(out),
		names: map[uint64]fanfare.Channel{}, marks: map[uint64]fanfare.Position{}}
	e.json.SetEscapeHTML(false)
	for _, step := range []func() error{e.head, e.channels, e.kept, e.scheduled, e.events} {
		if err := step(); err != nil {
			return e.n, errors.Join(fmt.Errorf("export %s: %w", dir, err), out.Flush())
		}
	}
	if err := e.json.Encode(line{End: true, Events: e.n}); err != nil {
		return e.n, err
	}
	return e.n, out.Flush()
}

type exporter struct {
	*store
	ctx      context.Context
	patterns []fanfare.Pattern
	skipped  func(error)
	json     *json.Encoder
	names    map[uint64]fanfare.Channel // of the channels that are wanted
	marks    map[uint64]fanfare.Position
	n        uint64
}

func (e *exporter) head() error {
	l := line{Format: exportFormat, Gone: e.gone.String(), Floors: map[string]string{}}
	for _, r := range e.runs {
		l.Runs = append(l.Runs, [2]string{r.first.String(), r.last.String()})
	}
	err := e.each(keyFloor, func(key, value []byte) error {
		floor, err := readPosition(value)
		if err == nil && floor > 0 {
			l.Floors[string(key[1:])] = floor.String()
		}
		return err
	})
	if err != nil {
		return err
	}
	clock, ok, err := e.clock()
	if err != nil {
		e.skipped(fmt.Errorf("clock: %w", err))
	} else if ok {
		l.Clock = clock.line()
	}
	if w, err := e.waiting(); err != nil {
		e.skipped(fmt.Errorf("scheduled events: %w", err))
	} else if w.highest > 0 {
		l.LastID = fanfare.ScheduledID(w.highest).String()
	}
	return e.json.Encode(l)
}

func (e *exporter) channels() error {
	err := e.each(keyName, func(key, value []byte) error {
		c, err := fanfare.ParseChannel(string(value))
		if err != nil {
			e.skipped(fmt.Errorf("channel number %d: %w", lastNumber(key), err))
			return nil
		}
		wanted := len(e.patterns) == 0
		for _, p := range e.patterns {
			wanted = wanted || p.MatchAll(c)
		}
		if wanted {
			e.names[lastNumber(key)] = c
		}
		return nil
	})
	if err != nil {
		return err
	}
	return e.each(keyMark, func(key, value []byte) error {
		mark, err := readMark(value)
		num := lastNumber(key)
		c, ok := e.names[num]
		if err != nil || !ok {
			return err
		}
		e.marks[num] = mark.pos
		return e.json.Encode(line{Channel: c.String(), Trimmed: mark.pos.String()})
	})
}

func (e *exporter) kept() error {
	if len(e.patterns) > 0 {
		return nil // they belong to no channel
	}
	return e.each(keyKept, func(key, value []byte) error {
		k, err := readKept(string(key[1:]), value, time.Time{})
		if err != nil {
			e.skipped(fmt.Errorf("kept position %q: %w", key[1:], err))
			return nil
		}
		return e.json.Encode(line{Kept: k.Name, Position: k.Position.String(), Value: []byte(k.Value), Time: &k.Time,
			Expires: &k.Expires})
	})
}

func (e *exporter) scheduled() error {
	return e.each(keyWaiting, func(key, value []byte) error {
		id := fanfare.ScheduledID(lastNumber(key))
		s, err := readScheduled(value)
		if err != nil {
			e.skipped(fmt.Errorf("scheduled event %v: %w", id, err))
			return nil
		}
		if len(e.patterns) > 0 && !matchesAny(e.patterns, s.event.Channel) {
			return nil
		}
		at := time.UnixMilli(s.at).UTC()
		l := line{Scheduled: id.String(), DeliverAt: &at, Channel: s.event.Channel.String(),
			Event: s.event.Type.String(), Data: &s.event.Data}
		if s.with > 0 {
			l.With = s.with.String()
		}
		if s.ttl > 0 {
			l.TTL = (time.Duration(s.ttl) * time.Millisecond).String()
		}
		return e.json.Encode(l)
	})
}

func (e *exporter) events() error {
	return e.each(keyEvent, func(key, value []byte) error {
		pos := fanfare.Position(lastNumber(key))
		num, err := eventChannel(value)
		if err != nil {
			e.skipped(fmt.Errorf("event %v: %w", pos, err))
			return nil
		}
		c, ok := e.names[num]
		if !ok || pos <= e.gone || pos <= e.marks[num] {
			return nil
		}
		event, err := readEvent(pos, c, value)
		if err != nil {
			e.skipped(err)
			return nil
		}
		if e.n++; e.n%4096 == 0 && e.ctx.Err() != nil {
			return e.ctx.Err()
		}
		l := line{ID: pos.String(), Channel: c.String(), Event: event.Type.String(), Data: &event.Data,
			Time: &event.Time}
		if !event.Expires.IsZero() {
			l.Expires = &event.Expires
		}
		return e.json.Encode(l)
	})
}
