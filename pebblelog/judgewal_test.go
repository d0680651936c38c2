package pebblelog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"

	"github.com/fanfare-hub/fanfare"
)

// TestMissingWAL: of several WALs each that was written to is missed; without a TIP, if another one
// was after it.
func TestMissingWAL(t *testing.T) {
	t.Parallel()
	tried := 0
	for _, whole := range takeCrashes(t, DurabilitySync, 100) {
		found, err := judge(whole.FS, whole.dir)
		if err != nil || len(whole.acked) == 0 || len(found.tip.wals) < 2 || tried > 40 {
			continue
		}
		written := batchesOf(t, whole)
		for i, num := range found.tip.wals {
			followed := slices.ContainsFunc(found.tip.wals[i+1:], func(n uint64) bool { return written[n] > 0 })
			for _, tip := range []bool{true, false} {
				d := whole.clone(t, vfs.NewMem(), "data")
				if err := d.Remove(d.path(walName(num))); err != nil {
					t.Fatal(err)
				}
				if !tip {
					if err := d.Remove(d.path(tipFile)); err != nil {
						t.Fatal(err)
					}
				}
				mustKnow := written[num] > 0 && (tip || followed)
				if _, err = judge(d.FS, d.dir); err == nil && mustKnow {
					t.Errorf("%d of %v is missing (%v), with a TIP: %v, and the judge does not know", num,
						found.tip.wals, written, tip)
				}
				if mustKnow {
					tried++
				}
			}
		}
	}
	if tried < 8 {
		t.Errorf("only %d WALs were removed", tried)
	}
}

// batchesOf counts what stands in each WAL.
func batchesOf(t *testing.T, d *disk) map[uint64]int {
	t.Helper()
	all, err := wal.Scan(wal.Dir{FS: d.FS, Dirname: d.PathJoin(d.dir, "log")})
	if err != nil {
		t.Fatal(err)
	}
	n := map[uint64]int{}
	for _, w := range all {
		r := w.OpenForRead()
		for _, _, err := r.NextRecord(); err == nil; _, _, err = r.NextRecord() {
			n[uint64(w.Num)]++
		}
		_ = r.Close()
	}
	return n
}

// TestCutManifest: wherever the MANIFEST is cut, and whether there is a TIP or not, the log is
// refused.
func TestCutManifest(t *testing.T) {
	t.Parallel()
	unnamed := 0
	for tables := 1; tables <= 3; tables++ {
		whole := grown(t, 1, tables)
		desc, err := pebble.Peek(whole.PathJoin(whole.dir, "log"), whole.FS)
		if err != nil {
			t.Fatal(err)
		}
		name := whole.PathBase(desc.ManifestFilename)
		content := whole.files(t)[name]
		for cut := 1; cut < len(content); cut += cutEvery {
			for _, tip := range []bool{true, false} {
				d := whole.clone(t, vfs.NewMem(), "data")
				d.write(t, name, content[:len(content)-cut])
				if !tip {
					if err := d.Remove(d.path(tipFile)); err != nil {
						t.Fatal(err)
					}
				}
				found, err := judge(d.FS, d.dir)
				if err == nil || tip && !strings.Contains(err.Error(), name+" is whole up to byte") {
					t.Errorf("%d tables, cut by %d, with a TIP %v: %v", tables, cut, tip, err)
				} else if strings.Contains(strings.Join(found.faults,
					"\n"), "is named nowhere, and holds events up to") {
					unnamed++
				}
				if o := checkDamaged(t, d, false); o != "refused" {
					t.Errorf("%d tables, cut by %d, with a TIP %v: it is %s", tables, cut, tip, o)
				}
			}
		}
	}
	if unnamed == 0 && cutEvery < 10 {
		t.Error("no table gave a cut MANIFEST away")
	}
}

// TestManifestIsMeasured: the TIP and the judge count alike how long a MANIFEST is, also where a
// record crosses a block of 32 KiB.
func TestManifestIsMeasured(t *testing.T) {
	mem := vfs.NewMem()
	if err := mem.MkdirAll("data/log", 0o750); err != nil {
		t.Fatal(err)
	}
	tips := newTipFS(mem, "data/log", tip{}, func(err error) { t.Error(err) })
	defer tips.close()
	f, err := tips.Create("data/log/MANIFEST-000001", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	w := record.NewWriter(f)
	rng := rand.New(rand.NewPCG(1, 1))
	left := 32 << 10 // of the block
	for i := range 400 {
		size := 1 + rng.IntN(2000)
		if near := left - 7 - rng.IntN(24); near > 0 && near < 3000 { // so that a block's last bytes are of all kinds
			size = near
		}
		r, err := w.Next()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Write(bytes.Repeat([]byte{255}, size)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Flush(), f.Sync()); err != nil {
			t.Fatal(err)
		}
		j := judging{fs: mem, dir: "data", folder: "data/log", manifest: manifest{name: "MANIFEST-000001"}}
		if err := j.readManifest(); err != nil {
			t.Fatal(err)
		}
		if noted := tips.synced[1]; j.manifest.whole != noted {
			t.Fatalf("record %d: %d bytes are noted, and %d are whole", i, noted, j.manifest.whole)
		}
		left = int(32<<10 - j.manifest.whole%(32<<10))
	}
}

// TestWALDamagedInItsMiddle: what follows damage could be saved, so the log is refused. Where
// nothing follows, it is opened.
func TestWALDamagedInItsMiddle(t *testing.T) {
	d := &disk{FS: vfs.NewMem(), dir: "data", acked: map[string]fanfare.Position{}}
	o, _ := d.options()
	l := openTest(t, o)
	d.fill(t, l, "big", 2)
	last := ""
	for i := range 10 {
		last = fmt.Sprintf("small event %d", i)
		d.acked[last] = put(t, l, "c0", last)[0]
	}
	quiet(t, l)
	name := walName(d.clone(t, vfs.NewMem(), "data").newestWAL(t))
	content := d.files(t)[name]
	for what, x := range map[string]struct {
		at   int
		want string
	}{
		"the first of the small ones": {strings.Index(content, "small event 0"), "refused"},
		"one before the last":         {strings.Index(content, "small event 8"), "refused"},
		"a big one":                   {strings.Index(content, "big 1 7 ") + 500, "refused"},
		"the last":                    {strings.Index(content, last), "lost"},
	} {
		c := d.clone(t, vfs.NewMem(), "data")
		c.write(t, name, content[:x.at]+string(content[x.at]^1)+content[x.at+1:])
		if o := checkDamaged(t, c, false); o != x.want {
			t.Errorf("%s is damaged: the log is %s, want %s", what, o, x.want)
		}
	}
}

// TestWALSyncedByTimer: what the timer had not synced may be damaged by a power cut anywhere, and
// the log opens up to there. Damage to what it had synced is refused.
func TestWALSyncedByTimer(t *testing.T) {
	d := &disk{FS: vfs.NewMem(), dir: "data", acked: map[string]fanfare.Position{}}
	o, _ := d.options()
	o.Durability = DurabilityAsync
	l := openTest(t, o)
	for i := range 10 {
		data := fmt.Sprintf("small event %d %s", i, strings.Repeat("x", 10_000))
		d.acked[data] = put(t, l, "c0", data)[0]
	}
	left := d.clone(t, vfs.NewMem(), "data")
	name, folder := walName(left.newestWAL(t)), "data/log"
	content := left.files(t)[name]
	tip, err := readTip(left.FS, folder)
	if err != nil || !tip.lazy {
		t.Fatalf("%+v, %v", tip, err)
	}
	for what, x := range map[string]struct {
		unsynced fanfare.Position // the number of events at the end
		lazy     bool
		want     string
	}{
		"nothing was synced":                 {10, true, "lost"},
		"all before the damage was synced":   {6, true, "lost"},
		"what is damaged was synced":         {5, true, "refused"},
		"all was synced":                     {0, true, "refused"},
		"each group was synced, by no timer": {6, false, "refused"},
	} {
		c := left.clone(t, vfs.NewMem(), "data")
		tip := tip
		tip.synced, tip.lazy = tip.durable-x.unsynced, x.lazy
		if err := saveTip(c.FS, folder, tip); err != nil {
			t.Fatal(err)
		}
		at := strings.Index(content, "small event 4")
		c.write(t, name, content[:at]+strings.Repeat("\x00", 4096)+content[at+4096:])
		if o := checkDamaged(t, c, false); o != x.want {
			t.Errorf("%s: the log is %s, want %s", what, o, x.want)
		}
	}
}

func (d *disk) newestWAL(t *testing.T) uint64 {
	t.Helper()
	found, err := judge(d.FS, d.dir)
	if err != nil {
		t.Fatal(err)
	}
	return found.tip.wals[len(found.tip.wals)-1]
}

// TestLostPositionsAreNotGivenAgain, however wrong the clock is after the loss.
func TestLostPositionsAreNotGivenAgain(t *testing.T) {
	fs := vfs.NewMem()
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	o := Options{Dir: "data", FS: fs, Now: func() time.Time { return now }}
	l := openTest(t, o)
	put(t, l, "a", "kept")
	lost := put(t, l, "a", "lost")[0]
	quiet(t, l)
	d := (&disk{FS: fs, dir: "data"}).clone(t, vfs.NewMem(), "data")
	name := walName(d.newestWAL(t))
	content := d.files(t)[name]
	d.write(t, name, content[:strings.Index(content, "lost")])
	tip, err := readTip(d.FS, "data/log")
	if err != nil {
		t.Fatal(err)
	}
	lost += 5 * perMillisecond // as if more had been lost than a run leaves room for
	tip.durable = lost
	if err := saveTip(d.FS, "data/log", tip); err != nil {
		t.Fatal(err)
	}
	o.FS, now = d.FS, now.Add(-24*time.Hour)
	l = openTest(t, o)
	if data := dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "**")}); !slices.Equal(data, []string{"kept"}) {
		t.Errorf("%q", data)
	}
	if p := put(t, l, "a", "new")[0]; p <= lost {
		t.Errorf("position %v is given, and %v had been", p, lost)
	}
	if n := l.Stats().Lost; n != 1+5*perMillisecond {
		t.Errorf("%d are counted as lost", n)
	}
}
