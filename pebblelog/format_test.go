package pebblelog

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
)

// TestFormat compares every key and value of a small log with the golden file that docs/format/pebblelog.md describes. A
// change here is a new format version.
func TestFormat(t *testing.T) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	l, err := Open(Options{Durability: DurabilityMemory, Now: func() time.Time { return now }, TrimInterval: time.Hour,
		Retention: []Rule{{Pattern: mustPattern(t, "**"), Count: 2}}})
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
		{Events: []fanfare.Event{event("a", "", ""), event("b/c", "", "ü\n")}, Key: fanfare.Key{Scope: "s", Text: "k", Fingerprint: [16]byte{7}, Note: "note"}},
		{Keep: []fanfare.Kept{{Name: "pc/1/2", Position: 300, Time: now, Expires: now.Add(time.Hour)}}},
	} {
		done := make(chan error, 1)
		l.Append(b, func(_ fanfare.Receipt, err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	var dump strings.Builder
	err = l.read(t.Context(), func(s *session) error {
		if err := s.sweep(); err != nil {
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
	const golden = "testdata/format-1.golden"
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

// TestOtherFormatIsRefused, and so is a store that is not ours; neither is changed.
func TestOtherFormatIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ key, value, want string }{
		"another version": {"f", "fanfare pebblelog 99", "use the version of fanfare that wrote it"},
		"not a log":       {"something", "else", "choose another data directory"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeStore(t, dir+"/log", c.key, c.value)
			for range 2 {
				_, err := Open(Options{Dir: dir})
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("%v, want %q", err, c.want)
				}
			}
		})
	}
}

func writeStore(t *testing.T, dir, key, value string) {
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
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
