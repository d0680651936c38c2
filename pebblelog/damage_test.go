package pebblelog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
)

// disk is a log's directory on some file system, what it is like, and what was acknowledged there.
type disk struct {
	vfs.FS
	dir   string
	acked map[string]fanfare.Position // by data
	older *disk                       // the same log, earlier
}

// clone copies a directory as it is at the moment, which is what kill -9 leaves.
func (d *disk) clone(t *testing.T, fs vfs.FS, dir string) *disk {
	t.Helper()
	if ok, err := vfs.Clone(d.FS, fs, d.dir, dir); !ok || err != nil {
		t.Fatal(ok, err)
	}
	return &disk{FS: fs, dir: dir, acked: maps.Clone(d.acked), older: d.older}
}

// files reads everything in the folder log.
func (d *disk) files(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	names, err := d.List(d.PathJoin(d.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		f, err := d.Open(d.path(name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		files[name] = string(b)
	}
	return files
}

func (d *disk) path(name string) string { return d.PathJoin(d.dir, "log", name) }

func (d *disk) write(t *testing.T, name, content string) {
	t.Helper()
	f, err := d.Create(d.path(name), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// fill publishes, so that there are tables and a WAL.
func (d *disk) fill(t *testing.T, l *Log, name string, batches int) {
	t.Helper()
	for i := range batches {
		b := &fanfare.Batch{}
		for j := range 50 {
			c, _ := fanfare.ParseChannel(fmt.Sprint("c", j%3))
			b.Events = append(b.Events, fanfare.Event{Channel: c,
				Data: fmt.Sprint(name, " ", i, " ", j, " ", strings.Repeat("0123456789abcdef", 64))})
		}
		r, err := logtest.Append(l, b)
		if err != nil {
			t.Fatal(err)
		}
		for j, e := range b.Events {
			d.acked[e.Data] = r.Positions[j]
		}
	}
}

// quiet waits until the store has nothing to do, and has its TIP synced, as a second does.
func quiet(t *testing.T, l *Log) {
	t.Helper()
	l.mu.Lock()
	s := l.session
	l.mu.Unlock()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		m := s.db.Metrics()
		if m.Flush.NumInProgress == 0 && m.Compact.NumInProgress == 0 && m.MemTable.Count == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the store is not quiet")
		}
	}
	s.tip.sync()
}

// records keeps what a log says at level Warn and above.
type records struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func (d *disk) options() (Options, *records) {
	r := &records{}
	logger := slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return Options{Dir: d.dir, FS: d.FS, MaxBytes: 16 << 20, Logger: logger, MinFreeBytes: -1}, r // small tables
}

// filled makes a log of two runs; the end of the second is what the caller wants.
func filled(t *testing.T, d *disk, durability Durability) *Log {
	t.Helper()
	d.acked = map[string]fanfare.Position{}
	o, _ := d.options()
	o.Durability = durability
	l := openTest(t, o)
	d.fill(t, l, "one", 25)
	quiet(t, l)
	d.older = d.clone(t, vfs.NewMem(), "older")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openTest(t, o)
	d.fill(t, l, "two", 25)
	quiet(t, l)
	return l
}

// disks are the ways in which a log is left.
var disks = map[string]func(t *testing.T) *disk{
	"closed": func(t *testing.T) *disk {
		d := &disk{FS: vfs.Default, dir: t.TempDir()}
		if err := filled(t, d, DurabilitySync).Close(); err != nil {
			t.Fatal(err)
		}
		return d
	},
	"closed, all in tables": func(t *testing.T) *disk { // as a log is that had much to write when it was closed
		d := &disk{FS: vfs.NewMem(), dir: "data"}
		l := filled(t, d, DurabilitySync)
		if err := l.session.db.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return d
	},
	"closed, tidied up": func(t *testing.T) *disk {
		d := &disk{FS: vfs.NewMem(), dir: "data"}
		l := filled(t, d, DurabilitySync)
		if err := l.session.db.Compact(t.Context(), []byte{0}, []byte{255}, false); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return d
	},
	"killed": func(t *testing.T) *disk {
		d := &disk{FS: vfs.Default, dir: t.TempDir()}
		filled(t, d, DurabilitySync)
		return d.clone(t, vfs.Default, t.TempDir()+"/data")
	},
	"killed, async": func(t *testing.T) *disk {
		d := &disk{FS: vfs.NewMem(), dir: "data"}
		filled(t, d, DurabilityAsync)
		return d.clone(t, vfs.NewMem(), "data")
	},
	"power cut":                              func(t *testing.T) *disk { return powerCut(t, 0) },
	"power cut, some of what was not synced": func(t *testing.T) *disk { return powerCut(t, 50) },
	"backup": func(t *testing.T) *disk {
		d := &disk{FS: vfs.NewMem(), dir: "data"}
		l := filled(t, d, DurabilitySync)
		if _, err := l.Backup(t.Context(), "backup"); err != nil {
			t.Fatal(err)
		}
		return (&disk{FS: d.FS, dir: "backup", acked: d.acked, older: d.older}).clone(t, vfs.NewMem(), "data")
	},
}

func powerCut(t *testing.T, keep int) *disk {
	fs := vfs.NewCrashableMem()
	d := &disk{FS: fs, dir: "data"}
	filled(t, d, DurabilitySync)
	d.FS = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: keep, RNG: rand.New(rand.NewPCG(1, 1))})
	return d
}

// damages are what can happen to a file; "" says that it cannot happen to this one.
var damages = map[string]func(d *disk, name, content string) (string, bool){
	"cut by 1":       func(_ *disk, _, content string) (string, bool) { return cutBy(content, 1) },
	"cut by 7":       func(_ *disk, _, content string) (string, bool) { return cutBy(content, 7) },
	"cut by half":    func(_ *disk, _, content string) (string, bool) { return cutBy(content, (len(content)+1)/2) },
	"cut to nothing": func(_ *disk, _, content string) (string, bool) { return cutBy(content, len(content)) },
	"used part cut by 7": func(_ *disk, _, content string) (string, bool) {
		used := strings.TrimRight(content, "\x00")
		if len(used) == len(content) {
			return "", false
		}
		return cutBy(used, 7)
	},
	"tail zeroed": func(_ *disk, _, content string) (string, bool) {
		used := len(strings.TrimRight(content, "\x00"))
		return content[:used/2] + strings.Repeat("\x00", len(content)-used/2), used > 0
	},
	"zeroed": func(_ *disk, _, content string) (string, bool) {
		return strings.Repeat("\x00", len(content)), len(content) > 0
	},
	"a bit off": func(_ *disk, _, content string) (string, bool) {
		used := len(strings.TrimRight(content, "\x00"))
		if used == 0 {
			return "", false
		}
		return content[:used/2] + string(content[used/2]^0x10) + content[used/2+1:], true
	},
}

func cutBy(content string, n int) (string, bool) {
	return content[:max(len(content)-n, 0)], len(content) >= n && n > 0
}

// TestDamage damages every file of a log, however it was left. There are three good outcomes: it
// opens with everything that was acknowledged; it opens and has said at once what is lost, and
// clients are told; it is refused, and not one byte has changed. `fanfare verify` knows whenever
// something is lost.
func TestDamage(t *testing.T) {
	for how, leave := range disks {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			whole := leave(t)
			intact := whole.clone(t, vfs.NewMem(), "data")
			if o := checkDamaged(t, intact, true); o != "whole" {
				t.Fatalf("not damaged, and %s", o)
			}
			outcomes, n := map[string]int{}, 0
			each := func(what string, damage func(t *testing.T, d *disk)) {
				if n++; n%damageEvery != 0 {
					return
				}
				t.Run(what, func(t *testing.T) {
					d := whole.clone(t, vfs.NewMem(), "data")
					if whole.FS == vfs.Default {
						d = whole.clone(t, vfs.Default, t.TempDir()+"/data")
					}
					damage(t, d)
					o := checkDamaged(t, d, false)
					outcomes[o]++
					if o == "lost" && !strings.Contains(what, ".log ") {
						t.Error("events are lost that are still there: it was to be refused")
					}
				})
			}
			files := whole.files(t)
			for _, name := range slices.Sorted(maps.Keys(files)) {
				each(name+" missing", func(t *testing.T, d *disk) {
					if err := d.Remove(d.path(name)); err != nil {
						t.Fatal(err)
					}
				})
				for how, damage := range damages {
					if content, ok := damage(whole, name, files[name]); ok {
						each(name+" "+how, func(t *testing.T, d *disk) { d.write(t, name, content) })
					}
				}
				if old, ok := whole.older.files(t)[name]; ok && old != files[name] {
					each(name+" as it was", func(t *testing.T, d *disk) { d.write(t, name, old) })
				}
			}
			eachOlder(t, whole, files, each)
			t.Log(outcomes)
			if damageEvery > 1 {
				return
			}
			if outcomes["refused"] == 0 || outcomes["whole"] == 0 || outcomes["lost"] == 0 &&
				!strings.HasPrefix(how, "closed") {
				t.Errorf("the test does too little: %v", outcomes)
			}
		})
	}
}

// eachOlder has a log go back in time by more than one file.
func eachOlder(t *testing.T, whole *disk, files map[string]string, each func(string, func(*testing.T, *disk))) {
	old := whole.older.files(t)
	put := func(t *testing.T, d *disk, only func(name string) bool) {
		for name, content := range old {
			if only(name) {
				d.write(t, name, content)
			}
		}
	}
	manifests := func(name string) bool { return strings.Contains(name, "MANIFEST") }
	each("an older MANIFEST in force", func(t *testing.T, d *disk) {
		for name := range files {
			if strings.HasPrefix(name, "marker.manifest") {
				_ = d.Remove(d.path(name))
			}
		}
		put(t, d, manifests)
	})
	each("the older files beside the newer ones",
		func(t *testing.T, d *disk) { put(t, d, func(string) bool { return true }) })
	each("the older files but for the TIP", func(t *testing.T, d *disk) {
		for name := range files {
			if name != tipFile {
				_ = d.Remove(d.path(name))
			}
		}
		put(t, d, func(name string) bool { return name != tipFile })
	})
	each("no WAL", func(t *testing.T, d *disk) {
		for name := range files {
			if path.Ext(name) == ".log" {
				_ = d.Remove(d.path(name))
			}
		}
	})
	each("the folder missing", func(t *testing.T, d *disk) {
		if err := d.RemoveAll(d.PathJoin(d.dir, "log")); err != nil {
			t.Fatal(err)
		}
	})
}

// checkDamaged opens a log that may be damaged, and says what came of it.
func checkDamaged(t *testing.T, d *disk, intact bool) (outcome string) {
	t.Helper()
	gone := false
	if _, err := d.Stat(d.PathJoin(d.dir, "log")); err != nil {
		gone = true
	}
	var before map[string]string
	if !gone {
		before = d.files(t)
	}
	report, verr := verify(t.Context(), d.FS, d.dir)
	known := verr != nil || report.Faults > 0
	if intact && known && len(d.acked) > 0 {
		t.Errorf("verify: %+v, %v", report, verr)
	}
	unchanged := func(by string) {
		if gone {
			if _, err := d.Stat(d.PathJoin(d.dir, "log")); err == nil {
				t.Errorf("%s has made the folder", by)
			}
		} else if diff := changes(before, d.files(t)); diff != "" {
			t.Errorf("%s has changed files: %s", by, diff)
		}
	}
	unchanged("verify")
	o, said := d.options()
	l, err := Open(o)
	if err != nil {
		unchanged("the refused open")
		if intact {
			t.Error(err)
		}
		checkRefusal(t, d, err)
		if !known {
			t.Errorf("verify finds nothing, but the log is refused: %v", err)
		}
		return "refused"
	}
	defer l.Close()
	events, err := allOf(l)
	if err != nil {
		if !known {
			t.Errorf("verify finds nothing, but reading says %v", err)
		}
		return "unreadable"
	}
	missing := fanfare.Position(0)
	for data, pos := range d.acked {
		if events[data] != pos {
			missing = max(missing, pos)
		}
	}
	if missing == 0 {
		if text := said.String(); intact &&
			(strings.Contains(text, "level=ERROR") || strings.Contains(text, "may be lost")) {
			t.Errorf("nothing is lost, and the log says %s", text)
		}
		return "whole"
	}
	if !strings.Contains(said.String(), "level=ERROR") ||
		!strings.Contains(said.String(), "lost_through="+missing.String()) || l.Stats().Lost == 0 {
		t.Errorf("%d of %d events are there, and the log says only: %s", len(events), len(d.acked), said)
	}
	if !known {
		t.Errorf("%d of %d events are there, and verify does not know", len(events), len(d.acked))
	}
	if reason := reasonAfter(t, l, "**", missing); reason != fanfare.GapLost {
		t.Errorf("who has seen %v is told %q", missing, reason)
	}
	if next := put(t, l, "c0", "new")[0]; next <= missing {
		t.Errorf("position %v is given, and %v had been", next, missing)
	}
	return "lost"
}

// checkRefusal: the error says what to do, and what it says is true.
func checkRefusal(t *testing.T, d *disk, refusal error) {
	t.Helper()
	text := refusal.Error()
	for _, want := range []string{"the log is damaged: ", "nothing was changed", "fanfare restore"} {
		if !strings.Contains(text, want) {
			t.Errorf("the refusal does not say %q: %s", want, text)
		}
	}
	if !strings.Contains(text, "fanfare export") {
		return
	}
	for _, command := range []string{"fanfare verify --data " + d.dir + " ", "fanfare export --data " + d.dir + " "} {
		if !strings.Contains(text, command) {
			t.Errorf("the refusal does not name the folder in %q: %s", command, text)
		}
	}
	left := 0
	n, err := export(context.Background(), d.FS, d.dir, nil, io.Discard, func(error) { left++ })
	if (err == nil && left == 0) || n == 0 {
		t.Errorf("the refusal says that events can be exported; %d were, %d things were left out, %v", n, left, err)
	}
}

func allOf(l *Log) (events map[string]fanfare.Position, err error) {
	events = map[string]fanfare.Position{}
	p, _ := fanfare.ParsePattern("**")
	for q := (fanfare.Query{Patterns: []fanfare.Pattern{p}}); ; {
		page, err := l.Read(context.Background(), q)
		if err != nil {
			return nil, err
		}
		for _, e := range page.Events {
			events[e.Data] = e.Position
		}
		if q.After = page.Through; q.After >= fanfare.Position(l.durable.Load()) {
			return events, nil
		}
	}
}

// changes names the files that differ.
func changes(before, after map[string]string) string {
	sizes := func(files map[string]string) map[string]string {
		short := map[string]string{}
		for name, content := range files {
			if before[name] != after[name] || len(before) != len(after) {
				short[name] = fmt.Sprint(len(content), " bytes")
			}
		}
		return short
	}
	return cmp.Diff(sizes(before), sizes(after))
}
