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

// exportFormat is the first line's member `fanfare`; docs/format/export.md describes the lines.
const exportFormat = "export 1"

// line is one line of an export: the head, a trim mark, a kept position, an event, or the end.
type line struct {
	Format string            `json:"fanfare,omitempty"`
	Runs   [][2]string       `json:"runs,omitempty"`   // of the head: first and last position of each
	Gone   string            `json:"gone,omitempty"`   // of the head: everything up to here was removed
	Floors map[string]string `json:"floors,omitempty"` // of the head: by rule, below what events of forgotten channels may be missing
	Clock  *lineClock        `json:"clock,omitempty"`  // of the head: how old events are

	Trimmed string `json:"trimmed,omitempty"` // of Channel: this event and all before it were removed

	Kept     string     `json:"kept,omitempty"`
	Value    []byte     `json:"value,omitempty"` // of a kept position
	Position string     `json:"position,omitempty"`
	Expires  *time.Time `json:"expires,omitempty"`

	ID      string  `json:"id,omitempty"`
	Channel string  `json:"channel,omitempty"`
	Event   string  `json:"event,omitempty"`
	Data    *string `json:"data,omitempty"`

	Time *time.Time `json:"time,omitempty"` // of an event or a kept position

	End    bool   `json:"end,omitempty"`
	Events uint64 `json:"events,omitempty"` // of the end: how many came before
}

// lineClock is the clockState of an export, in milliseconds.
type lineClock struct {
	Log      int64       `json:"log"`
	Believed int64       `json:"believed"`
	Phases   []linePhase `json:"phases"`
}

type linePhase struct {
	From     string `json:"from"`
	Start    int64  `json:"start"`
	Low      int64  `json:"low"`
	High     int64  `json:"high"`
	Believed int64  `json:"believed,omitempty"`
	Opened   bool   `json:"opened,omitempty"`
}

func (c clockState) line() *lineClock {
	l := &lineClock{Log: c.log, Believed: c.believed}
	for _, p := range c.phases {
		l.Phases = append(l.Phases, linePhase{p.from.String(), p.start, p.low, p.high, p.believed, p.opened})
	}
	return l
}

func (l *lineClock) state() (c clockState, err error) {
	c.log, c.believed = l.Log, l.Believed
	for _, p := range l.Phases {
		from, err := fanfare.ParsePosition(p.From)
		if err != nil {
			return c, err
		}
		c.phases = append(c.phases, phase{from, p.Start, p.Low, p.High, p.Believed, p.Opened})
	}
	if !c.sound() {
		return c, fanfare.Invalid("clock: the phases are not in order")
	}
	return c, nil
}

// Export writes the log in a data directory that no hub uses, or of a backup, as lines of JSON: all of it, or the channels
// that match one of the patterns. It returns how many events it wrote. It writes what it can: an event that cannot be read
// is told to skipped and left out.
func Export(ctx context.Context, dir string, patterns []fanfare.Pattern, w io.Writer, skipped func(error)) (events uint64, err error) {
	return export(ctx, vfs.Default, dir, patterns, w, skipped)
}

func export(ctx context.Context, fs vfs.FS, dir string, patterns []fanfare.Pattern, w io.Writer, skipped func(error)) (events uint64, err error) {
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
	for _, step := range []func() error{e.head, e.channels, e.kept, e.events} {
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
		return e.json.Encode(line{Kept: k.Name, Position: k.Position.String(), Value: []byte(k.Value), Time: &k.Time, Expires: &k.Expires})
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
		return e.json.Encode(line{ID: pos.String(), Channel: c.String(), Event: event.Type.String(), Data: &event.Data, Time: &event.Time})
	})
}

// Import makes a log of what Export wrote, in a data directory that does not exist yet or is empty. Events keep their
// positions, so clients carry on where they were. It returns how many events there were. When it fails, the directory holds
// no log.
func Import(ctx context.Context, dir string, r io.Reader) (events uint64, err error) {
	fs := vfs.Default
	lock, err := newPlace(fs, dir)
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	db, err := pebble.Open(fs.PathJoin(dir, "log"), &pebble.Options{FS: fs, Logger: silent{}, FormatMajorVersion: pebble.FormatNewest, MemTableSize: memTable})
	if err != nil {
		return 0, err
	}
	im := importer{db: db, ctx: ctx, channels: map[string]*imported{}}
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

type imported struct {
	num, seq, bytes uint64
	mark            fanfare.Position
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
	events   uint64
	ended    bool
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
	// The format comes last: what was not imported to the end is no log.
	if err := im.b.Set([]byte{keyFormat}, []byte(formatVersion), nil); err != nil {
		return err
	}
	if err := im.b.Set([]byte{keyNext}, binary.BigEndian.AppendUint64(nil, uint64(len(im.channels))+1), nil); err != nil {
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
		return fanfare.Invalid("this is no export of a fanfare log, or one of another version: want a first line with %q", exportFormat)
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
	k := kept{Kept: fanfare.Kept{Name: l.Kept, Position: pos, Value: string(l.Value), Time: *l.Time, Expires: *l.Expires}, storedMs: l.Time.UnixMilli()}
	return im.b.Set(textKey(keyKept, k.Name), k.append(nil), nil)
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
	e := fanfare.Event{Type: kind, Data: *l.Data}
	if err := im.b.Set(keyOf(keyEvent, uint64(pos)), appendEvent(nil, c.num, c.seq, ms, &e), nil); err != nil {
		return err
	}
	return im.b.Set(keyOf(keyIndex, c.num, uint64(pos)), appendEntry(nil, c.seq, ms, c.bytes), nil)
}
