package pebblelog

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
)

// Import makes a log from the lines of Export, in a data directory that does not exist yet or is
// empty. Events keep their positions, so that clients carry on where they were. It returns the
// number of events. When it fails, the directory holds no log.
func Import(ctx context.Context, dir string, r io.Reader) (events uint64, err error) {
	fs := vfs.Default
	lock, err := newPlace(fs, dir)
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	db, err := pebble.Open(fs.PathJoin(dir, "log"),
		&pebble.Options{FS: fs, Logger: silent{}, FormatMajorVersion: pebble.FormatNewest, MemTableSize: memTable})
	if err != nil {
		return 0, err
	}
	im := importer{db: db, ctx: ctx, channels: map[string]*imported{}}
	im.waiting.first.at = notDue
	err = im.read(r)
	err = errors.Join(err, db.Close())
	if err == nil {
		err = errors.Join(sealTip(fs, dir), markPlace(fs, dir))
	}
	if err != nil {
		_ = fs.RemoveAll(fs.PathJoin(dir, "log"))
		_ = fs.Remove(fs.PathJoin(dir, formatFile))
		return 0, err
	}
	return im.events, nil
}

// imported is a channel of the new log.
type imported struct {
	num, seq, bytes uint64
	mark            fanfare.Position
	holed           bool // it has had an event with an expiry
}

type importer struct {
	db       *pebble.DB
	b        *pebble.Batch
	ctx      context.Context
	channels map[string]*imported
	runs     []run
	run      int
	last     fanfare.Position
	second   int64
	clock    clockState // without phases in an export of an earlier version
	waiting  waiting
	events   uint64
	ended    bool

	scheduledID fanfare.ScheduledID // of the last scheduled event
}

func (im *importer) read(r io.Reader) error {
	im.b = im.db.NewBatch()
	in := bufio.NewReaderSize(r, 1<<20)
	for n := 1; ; n++ {
		text, err := in.ReadBytes('\n')
		if len(strings.TrimSpace(string(text))) > 0 {
			if err := im.line(n, text); err != nil {
				return fmt.Errorf("line %d: %w", n, err)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if im.b.Len() > 4<<20 {
			if err := errors.Join(im.db.Apply(im.b, pebble.NoSync), im.ctx.Err()); err != nil {
				return err
			}
			im.b = im.db.NewBatch()
		}
	}
	if !im.ended {
		return fanfare.Invalid("the export is cut short: its last line, with `end`, is missing")
	}
	if err := im.b.Set([]byte{keyHighest}, im.waiting.append(nil), nil); err != nil {
		return err
	}
	// The format comes last, so that an import that was broken off is no log.
	if err := im.b.Set([]byte{keyFormat}, []byte(formatVersion), nil); err != nil {
		return err
	}
	if err := im.b.Set([]byte{keyNext}, binary.BigEndian.AppendUint64(nil, uint64(len(im.channels))+1),
		nil); err != nil {
		return err
	}
	if err := im.db.Apply(im.b, pebble.Sync); err != nil {
		return err
	}
	return im.db.Flush()
}

func (im *importer) line(n int, text []byte) error {
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return fanfare.Invalid("not a line of an export: %v", err)
	}
	switch {
	case n == 1 && l.Format != exportFormat:
		return fanfare.Invalid(
			"this is no export of a fanfare log, or one of another version: want a first line with %q", exportFormat)
	case n == 1:
		return im.head(l)
	case im.ended:
		return fanfare.Invalid("there is more after the end")
	case l.End:
		if im.ended = l.Events == im.events; !im.ended {
			return fanfare.Invalid("the end counts %d events, but %d came", l.Events, im.events)
		}
		return nil
	case l.Kept != "":
		return im.kept(l)
	case l.Scheduled != "":
		return im.scheduled(l)
	case l.ID != "":
		return im.event(l)
	case l.Trimmed != "":
		return im.trimmed(l)
	}
	return fanfare.Invalid("a line of no known kind")
}

func (im *importer) head(l line) error {
	for _, r := range l.Runs {
		first, err := fanfare.ParsePosition(r[0])
		if err != nil {
			return err
		}
		last, err := fanfare.ParsePosition(r[1])
		if err != nil {
			return err
		}
		if n := len(im.runs); last+1 < first || n > 0 && first <= im.runs[n-1].last {
			return fanfare.Invalid("the runs are not in order: %v to %v", first, last)
		}
		if err := putRun(im.b, run{first, last}, im.runs); err != nil {
			return err
		}
		im.runs = append(im.runs, run{first, last})
	}
	gone, err := fanfare.ParsePosition(l.Gone)
	if err != nil {
		return err
	}
	if err := im.b.Set([]byte{keyGone}, binary.AppendUvarint(nil, uint64(gone)), nil); err != nil {
		return err
	}
	if l.Clock != nil {
		if im.clock, err = l.Clock.state(); err != nil {
			return err
		}
		if err := saveClock(im.b, im.clock.moment(), true); err != nil {
			return err
		}
	}
	if l.LastID != "" {
		id, err := fanfare.ParseScheduledID(l.LastID)
		if err != nil {
			return err
		}
		im.waiting.highest = uint64(id)
	}
	for rule, text := range l.Floors {
		floor, err := fanfare.ParsePosition(text)
		if err != nil {
			return err
		}
		if err := im.b.Set(textKey(keyFloor, rule), binary.AppendUvarint(nil, uint64(floor)), nil); err != nil {
			return err
		}
	}
	return nil
}

func (im *importer) channel(name string) (*imported, error) {
	if c := im.channels[name]; c != nil {
		return c, nil
	}
	if _, err := fanfare.ParseChannel(name); err != nil {
		return nil, err
	}
	c := &imported{num: uint64(len(im.channels)) + 1}
	im.channels[name] = c
	if err := im.b.Set(textKey(keyChannel, name), binary.BigEndian.AppendUint64(nil, c.num), nil); err != nil {
		return nil, err
	}
	return c, im.b.Set(keyOf(keyName, c.num), []byte(name), nil)
}

func (im *importer) trimmed(l line) error {
	pos, err := fanfare.ParsePosition(l.Trimmed)
	if err != nil {
		return err
	}
	c, err := im.channel(l.Channel)
	if err != nil {
		return err
	}
	c.mark = pos
	return im.b.Set(keyOf(keyMark, c.num), appendMark(nil, entry{pos: pos}), nil)
}

func (im *importer) kept(l line) error {
	pos, err := fanfare.ParsePosition(l.Position)
	if err != nil {
		return err
	}
	if l.Time == nil || l.Expires == nil {
		return fanfare.Invalid("a kept position needs time and expires")
	}
	k := kept{Kept: fanfare.Kept{Name: l.Kept, Position: pos, Value: string(l.Value), Time: *l.Time,
		Expires: *l.Expires}, storedMs: l.Time.UnixMilli()}
	return im.b.Set(textKey(keyKept, k.Name), k.append(nil), nil)
}

func (im *importer) scheduled(l line) error {
	id, err := fanfare.ParseScheduledID(l.Scheduled)
	if err != nil {
		return err
	}
	if id <= im.scheduledID {
		return fanfare.Invalid("scheduled event %v stands behind %v, but ids rise", id, im.scheduledID)
	}
	im.scheduledID = id
	s := &scheduled{}
	var errs [3]error
	s.event.Channel, errs[0] = fanfare.ParseChannel(l.Channel)
	s.event.Type, errs[1] = fanfare.ParseEventType(l.Event)
	if l.TTL != "" {
		var ttl time.Duration
		ttl, errs[2] = time.ParseDuration(l.TTL)
		s.ttl = ttl.Milliseconds()
	}
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	if l.Data == nil || l.DeliverAt == nil || s.ttl < 0 {
		return fanfare.Invalid("a scheduled event needs data and deliverAt, and a ttl that is not negative")
	}
	s.event.Data, s.at = *l.Data, max(l.DeliverAt.UnixMilli(), 1)
	if l.With != "" {
		if s.with, err = fanfare.ParsePosition(l.With); err != nil {
			return err
		}
	}
	im.waiting.highest = max(im.waiting.highest, uint64(id))
	im.waiting.count++
	im.waiting.bytes += s.bytes()
	if at := (place{s.at, uint64(id)}); im.waiting.count == 1 || at.before(im.waiting.first) {
		im.waiting.first = at
	}
	return errors.Join(im.b.Set(keyOf(keyWaiting, uint64(id)), s.append(nil), nil),
		im.b.Set(keyOf(keyDue, uint64(s.at), uint64(id)), nil, nil),
		im.b.Set(waitsIn(s.event.Channel, uint64(id)), nil, nil))
}

func (im *importer) event(l line) error {
	pos, err := fanfare.ParsePosition(l.ID)
	if err != nil {
		return err
	}
	kind, err := fanfare.ParseEventType(l.Event)
	if err != nil {
		return err
	}
	c, err := im.channel(l.Channel)
	if err != nil {
		return err
	}
	for im.run < len(im.runs) && im.runs[im.run].last < pos {
		im.run++
	}
	switch {
	case l.Data == nil || l.Time == nil:
		return fanfare.Invalid("an event needs data and time")
	case pos <= im.last:
		return fanfare.Invalid("event %v comes after %v: events stand in the order of their ids", pos, im.last)
	case pos <= c.mark:
		return fanfare.Invalid("event %v of channel %s was trimmed", pos, l.Channel)
	case im.run == len(im.runs) || pos < im.runs[im.run].first:
		return fanfare.Invalid("event %v has a position that was never given: it lies in no run of the first line", pos)
	}
	im.last = pos
	im.events++
	ms := l.Time.UnixMilli()
	c.seq++
	c.bytes += uint64(len(*l.Data))
	stored := ms
	if im.clock.phases != nil {
		stored = im.clock.moment().stored(pos, ms)
	}
	if second := stored / 1000; second > im.second {
		im.second = second
		if err := im.b.Set(keyOf(keySecond, uint64(second)), binary.AppendUvarint(nil, uint64(pos)), nil); err != nil {
			return err
		}
	}
	event := fanfare.Event{Type: kind, Data: *l.Data}
	e := entry{pos: pos, seq: c.seq, ms: ms, bytes: c.bytes, size: uint64(len(*l.Data))}
	if l.Expires != nil {
		e.expires = max(l.Expires.UnixMilli(), 1)
		c.holed = true
		if err := im.b.Set(keyOf(keyExpiry, uint64(e.expires), c.num, uint64(pos)), nil, nil); err != nil {
			return err
		}
	}
	e.holed = c.holed
	value := appendEvent(nil, c.num, c.seq, ms, e.expires, &event)
	if err := im.b.Set(keyOf(keyEvent, uint64(pos)), value, nil); err != nil {
		return err
	}
	return im.b.Set(keyOf(keyIndex, c.num, uint64(pos)), appendEntry(nil, e), nil)
}
