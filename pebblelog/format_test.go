package pebblelog

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
)

// TestFormat compares every key and value of a small log with the golden file that
// docs/format/pebblelog.md describes. A change here is a new format version.
func TestFormat(t *testing.T) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	l, err := Open(Options{Durability: DurabilityMemory, Now: func() time.Time { return now }, TrimInterval: time.Hour,
		Retention: []fanfare.Rule{{Pattern: mustPattern(t, "**"), Count: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	event := func(channel, kind, data string) fanfare.Event {
		c, err := fanfare.ParseChannel(channel)
		if err != nil {
			t.Fatal(err)
		}
		k, err := fanfare.ParseEventType(kind)
		if err != nil {
			t.Fatal(err)
		}
		return fanfare.Event{Channel: c, Type: k, Data: data}
	}
	for _, b := range []*fanfare.Batch{
		{Events: []fanfare.Event{event("a", "", "one"), event("a", "kind", "two")}},
		{Events: []fanfare.Event{event("a", "", ""), event("b/c", "", "ü\n")},
			Key: fanfare.Key{Scope: "s", Text: "k", Fingerprint: [16]byte{7}, Note: "note"}},
		{Keep: []fanfare.Kept{{Name: "pc/1/2", Position: 300, Time: now, Expires: now.Add(time.Hour)},
			{Name: "pc/1/3", Position: 301, Value: "value", Lifetime: time.Hour}}},
		{Events: []fanfare.Event{event("b/c", "kind", "short")}, TTL: []time.Duration{time.Minute}},
		{Events: []fanfare.Event{event("b/c", "", "later")}, TTL: []time.Duration{time.Minute},
			DeliverAt: now.Add(time.Hour), Keys: []fanfare.Key{{Scope: "s", Text: "l", Fingerprint: [16]byte{8}}}},
	} {
		if _, err := logtest.Append(l, b); err != nil {
			t.Fatal(err)
		}
	}
	var dump strings.Builder
	err = l.read(t.Context(), func(s *session) error {
		if _, err := s.retention.sweep(); err != nil {
			return err
		}
		it, err := s.db.NewIter(nil)
		if err != nil {
			return err
		}
		defer it.Close()
		for ok := it.First(); ok; ok = it.Next() {
			fmt.Fprintf(&dump, "%q %q\n", it.Key(), it.Value())
		}
		return it.Error()
	})
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/format-3.golden"
	if os.Getenv("FANFARE_UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, []byte(dump.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), dump.String()); diff != "" {
		t.Errorf("the format has changed (-golden +now):\n%s", diff)
	}
}

func mustPattern(t *testing.T, text string) fanfare.Pattern {
	t.Helper()
	p, err := fanfare.ParsePattern(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// loadDump makes a log in memory of what an earlier version has written.
func loadDump(t *testing.T, name string) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewMem()
	if err := fs.MkdirAll("memory/log", 0o750); err != nil {
		t.Fatal(err)
	}
	db, err := pebble.Open("memory/log",
		&pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: quietLogger{}})
	if err != nil {
		t.Fatal(err)
	}
	dump, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(dump)), "\n") {
		var key, value string
		if _, err := fmt.Sscanf(line, "%q %q", &key, &value); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if err := db.Set([]byte(key), []byte(value), pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return fs
}

// aMonthAhead leaves what a clock did that was a month ahead for a moment.
func aMonthAhead(t *testing.T, fs vfs.FS, clock *testClock) {
	t.Helper()
	month := clock.now().Add(30 * 24 * time.Hour).Unix()
	db, err := pebble.Open("memory/log",
		&pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: quietLogger{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range [][2][]byte{
		{[]byte{keyJump}, binary.AppendUvarint(nil, uint64(month))},
		{keyOf(keySecond, uint64(month)), binary.AppendUvarint(nil, 0x1a202b2c50000002)},
	} {
		if err := db.Set(kv[0], kv[1], pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFormat2OfAWrongClock: what a wrong clock has left in the second→position table hides no gap.
func TestFormat2OfAWrongClock(t *testing.T) {
	clock := newTestClock()
	o := clock.options("**=age:1h")
	o.FS = loadDump(t, "testdata/format-2.golden")
	aMonthAhead(t, o.FS, clock)
	l := openTest(t, o)
	clock.pass(62 * time.Minute)
	if reason := reasonAfter(t, l, "**", 0x1a202b2c50000001); reason != fanfare.GapTrimmed {
		t.Errorf("a resume after what has gone: %q", reason)
	}
}

// TestFormat2IsTakenOver: a log that has no log time has the time of its newest event, and a clock
// that is ahead of it, as one that was wrong, is believed after an hour as ever. Its keys and its
// second→position table go on.
func TestFormat2IsTakenOver(t *testing.T) {
	for _, by := range []time.Duration{-time.Hour, time.Second, 48 * time.Hour} {
		clock := newTestClock() // of the time of the golden file
		o := clock.options("**=age:1h")
		o.FS = loadDump(t, "testdata/format-2.golden")
		aMonthAhead(t, o.FS, clock)
		clock.jump(by)
		c := &clockTest{T: t, clock: clock, o: o}
		c.log = openTest(t, o)
		want := []string{"two", "", "ü\n"}
		holds := func(when string, want ...string) {
			t.Helper()
			sweepNow(t, c.log)
			if got := dataOf(t, c.log, fanfare.Query{Patterns: patternsOf(t, "**")}); !slices.Equal(got, want) {
				t.Errorf("%v, %s: %q, want %q", by, when, got, want)
			}
		}
		holds("taken over", want...)
		if r, err := c.append(&fanfare.Batch{Key: fanfare.Key{Scope: "s", Text: "k", Fingerprint: [16]byte{7}}},
			""); err != nil || !r.Replayed || r.Note != "note" {
			t.Errorf("%v: a key of before: %+v, %v", by, r, err)
		}
		clock.pass(2 * time.Minute)
		put(t, c.log, "d", "new")
		holds("with a new one", append(want, "new")...)
		if got := dataOf(t, c.log, fanfare.Query{Patterns: patternsOf(t, "**"),
			Since: clock.now().Add(-time.Second)}); by >= 0 && !slices.Equal(got, []string{"new"}) {
			t.Errorf("%v: since a second ago: %q", by, got)
		}
		clock.pass(58*time.Minute + 30*time.Second)
		if by < 0 { // which of two times is right nobody knows: the earlier keeps things longer
			holds("an hour later", append(want, "new")...)
			clock.pass(time.Hour)
			put(t, c.log, "d", "new")
		}
		holds("in the end", "new")
		for _, pattern := range []string{"**", "a"} {
			if reason := reasonAfter(t, c.log, pattern, 0x1a202b2c50000001); reason != fanfare.GapTrimmed {
				t.Errorf("%v: a resume on %s after what has gone: %q", by, pattern, reason)
			}
		}
		if err := c.log.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFormat1IsTakenOver: a log that the first version wrote is read, and goes on in the new
// format.
func TestFormat1IsTakenOver(t *testing.T) {
	fs := loadDump(t, "testdata/format-1.golden")
	o := Options{Durability: DurabilityMemory, FS: fs,
		Retention: []fanfare.Rule{{Pattern: mustPattern(t, "**"), Bytes: 8}}}
	for round := range 2 {
		l, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		first := fanfare.Position(0x1a202b2c50000000) // of the run in the golden file
		page, err := l.Read(t.Context(), fanfare.Query{Patterns: []fanfare.Pattern{mustPattern(t, "a")}, After: first})
		if want := 2 - round; err != nil || len(page.Events) != want {
			t.Fatalf("round %d: %d events, %v; want %d", round, len(page.Events), err, want)
		}
		loss, err := logtest.Missed(l, first-1, "a")
		if err != nil || loss.Reason != fanfare.GapTrimmed {
			t.Fatalf("the old trim mark: %+v, %v", loss, err)
		}
		if round == 0 { // more than 8 bytes: the old events, whose size nobody knows, go
			c, _ := mustPattern(t, "a").Channel()
			b := &fanfare.Batch{Events: []fanfare.Event{{Channel: c, Data: "123456789"}}}
			if _, err := logtest.Append(l, b); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

type quietLogger struct{}

func (quietLogger) Infof(string, ...any)           {}
func (quietLogger) Errorf(string, ...any)          {}
func (quietLogger) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

// TestOtherFormatIsRefused, and so is a store that is not ours; neither is changed.
func TestOtherFormatIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		key, value, marker, want string
		tables                   bool
	}{
		"another version": {"f", "fanfare pebblelog 99", "", "use the version of fanfare that wrote it",
			false},
		"another version, in tables": {"f", "fanfare pebblelog 99", "", "use the version of fanfare that wrote it",
			true},
		"not a log":            {"something", "else", "", "choose another data directory", false},
		"not a log, in tables": {"something", "else", "", "choose another data directory", true},
		"another version of the store": {"f", formatVersion, "marker.format-version.000999.999",
			"use the version of fanfare that wrote it", true},
	} {
		t.Run(name, func(t *testing.T) {
			d := &disk{FS: vfs.Default, dir: t.TempDir()}
			writeStore(t, d.dir+"/log", c.key, c.value, c.tables)
			if c.marker != "" {
				d.write(t, c.marker, "")
			}
			before := d.files(t)
			for range 2 {
				_, err := Open(Options{Dir: d.dir})
				if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "damaged") {
					t.Fatalf("%v, want %q", err, c.want)
				}
			}
			if diff := changes(before, d.files(t)); diff != "" {
				t.Errorf("files are changed: %s", diff)
			}
		})
	}
}

func writeStore(t *testing.T, dir, key, value string, flush bool) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	db, err := pebble.Open(dir, &pebble.Options{FormatMajorVersion: pebble.FormatNewest})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Set([]byte(key), []byte(value), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if flush {
		if err := db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
