package pebblelog

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
)

var tipFields = cmp.AllowUnexported(tip{})

// TestTipFile: what is written is read, the newer of two slots counts, and damage to one leaves the
// other.
func TestTipFile(t *testing.T) {
	mem := vfs.NewMem()
	if err := mem.MkdirAll("log", 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := readTip(mem, "log"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	w := tipWriter{fs: mem, folder: "log"}
	older := tip{run: 1 << 60, durable: 1<<60 + 7, manifest: 12, manifestBytes: 345, wals: []uint64{11, 13}, lazy: true,
		synced: 1<<60 + 5}
	newer := tip{count: 1, run: 1 << 60, durable: 1<<60 + 8}
	for _, each := range []*tip{&older, &newer} {
		if err := w.write(each); err != nil {
			t.Fatal(err)
		}
		got, err := readTip(mem, "log")
		if diff := cmp.Diff(*each, got, tipFields); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	d := &disk{FS: mem}
	content := d.files(t)[tipFile]
	want := "fanfare tip 1\ncount 1\nrun 1000000000000\ndurable 1000000000007\nmanifest 12 345\n" +
		"synced 1000000000005\nwal 11\nwal 13\nsum 6c636198\n"
	if len(content) != 2*tipSlotBytes || strings.TrimRight(content[tipSlotBytes:], "\x00") != want {
		t.Errorf("%d bytes: %q, want %q", len(content), strings.TrimRight(content[tipSlotBytes:], "\x00"), want)
	}
	for i := range len(strings.TrimRight(content[:tipSlotBytes], "\x00")) {
		d.write(t, tipFile, content[:i]+string(content[i]^1)+content[i+1:])
		if got, err := readTip(mem, "log"); err != nil || got.count != older.count {
			t.Fatalf("byte %d of the newer slot: %+v, %v", i, got, err)
		}
	}
	d.write(t, tipFile, strings.Repeat("\x00", len(content)))
	if _, err := readTip(mem, "log"); !errors.Is(err, errCorrupt) {
		t.Errorf("zeros: %v", err)
	}
}

// TestTipHasRoom: as many WALs as there never are fit into a slot, the newest of them.
func TestTipHasRoom(t *testing.T) {
	full := tip{count: 1<<64 - 1, run: 1<<64 - 1, durable: 1<<64 - 1, manifest: 1<<64 - 1, manifestBytes: 1<<63 - 1,
		lazy: true, synced: 1<<64 - 1}
	for i := range 2 * tipMostWALs {
		full.wals = append(full.wals, 1<<63+uint64(i))
	}
	b := full.append(nil)
	got, err := parseTip(b)
	if err != nil || len(b) > tipSlotBytes || !slices.Equal(got.wals, full.wals[tipMostWALs:]) {
		t.Errorf("%d bytes, %d WALs, %v", len(b), len(got.wals), err)
	}
}

func FuzzTip(f *testing.F) {
	t := tip{count: 3, run: 1 << 60, durable: 1<<60 + 7, manifest: 12, manifestBytes: 345, wals: []uint64{11, 13}}
	f.Add(t.append(nil))
	t.lazy, t.synced = true, 1<<60+5
	f.Add(t.append(nil))
	f.Add([]byte(tipFormat + "\nsum 0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		one, err := parseTip(b)
		if err != nil {
			return
		}
		again, err := parseTip(one.append(nil))
		if err != nil || len(one.wals) <= tipMostWALs && !cmp.Equal(one, again, tipFields) {
			t.Errorf("%+v, then %+v, %v", one, again, err)
		}
	})
}

// TestTipThatCannotBeWritten does not stop the log; the operator hears of it once, and what the TIP
// says stays true.
func TestTipThatCannotBeWritten(t *testing.T) {
	mem := vfs.NewMem()
	d := &disk{dir: "data", acked: map[string]fanfare.Position{},
		FS: errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.HasSuffix(op.Path, "/"+tipFile) {
				return errors.New("injected")
			}
			return nil
		}))}
	o, said := d.options()
	l := openTest(t, o)
	d.fill(t, l, "x", 20)
	if n := strings.Count(said.String(), "level=WARN"); n != 1 || l.Stats().Reopened > 0 {
		t.Errorf("%d warnings, %+v: %s", n, l.Stats(), said)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	d.FS = mem
	if o := checkDamaged(t, d, true); o != "whole" {
		t.Errorf("the log is %s", o)
	}
}

// TestTipOfAFailedSession: what is left of a session that has failed does not write the file, which
// is its successor's.
func TestTipOfAFailedSession(t *testing.T) {
	d := &disk{FS: vfs.NewMem(), dir: "data"}
	o, _ := d.options()
	l := openTest(t, o)
	l.mu.Lock()
	s := l.session
	l.mu.Unlock()
	s.fail(errors.New("injected"))
	const late = 1 << 61
	s.tip.begin(late, false)
	if tip, err := readTip(d.FS, "data/log"); err != nil || tip.run == late {
		t.Errorf("%+v, %v", tip, err)
	}
}
