package pebblelog

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
)

// grown makes a log of one or more runs. Each run writes some tables, which alone hold its events.
func grown(t *testing.T, runs, tables int) *disk {
	t.Helper()
	d := &disk{FS: vfs.NewMem(), dir: "data", acked: map[string]fanfare.Position{}}
	for round := range runs {
		o, _ := d.options()
		o.MaxBytes = 0
		l := openTest(t, o)
		for i := range tables {
			d.fill(t, l, fmt.Sprint(round, " ", i), 2)
			if err := l.session.db.Flush(); err != nil {
				t.Fatal(err)
			}
			quiet(t, l)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	found, err := judge(d.FS, d.dir)
	if err != nil {
		t.Fatal(err)
	}
	for name := range d.files(t) { // which the next opening deletes first
		if num, ok := fileNumber(strings.TrimSuffix(name, ".log")); ok && !slices.Contains(found.tip.wals, num) {
			if err := d.Remove(d.path(name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return d
}

// TestOlderManifest in force, whose tables and WAL are all there: it is refused.
func TestOlderManifest(t *testing.T) {
	d := grown(t, 2, 1)
	var manifests []string
	for name := range d.files(t) {
		if strings.HasPrefix(name, "MANIFEST-") {
			manifests = append(manifests, name)
		}
		if strings.HasPrefix(name, "marker.manifest.") {
			if err := d.Remove(d.path(name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	slices.Sort(manifests)
	if len(manifests) != 2 {
		t.Fatal(manifests)
	}
	d.write(t, "marker.manifest.000003."+manifests[0], "")
	twice := d.clone(t, vfs.NewMem(), "data") // the older one put back beside the newer one
	twice.write(t, "marker.manifest.000003."+manifests[1], "")
	if _, err := judge(twice.FS, twice.dir); err == nil ||
		!strings.Contains(err.Error(), "files of two logs, or of one log at two times") {
		t.Errorf("two markers: %v", err)
	}
	if _, err := judge(d.FS, d.dir); err == nil ||
		!strings.Contains(err.Error(), manifests[0]+" is in force, and "+manifests[1]+" was after it") {
		t.Errorf("%v", err)
	}
	if o := checkDamaged(t, d, false); o != "refused" {
		t.Errorf("it is %s", o)
	}
}

// TestDamagedSettings: Pebble's note of its settings holds no events. The refusal names it, and
// does what it says.
func TestDamagedSettings(t *testing.T) {
	d := grown(t, 1, 1)
	for name, content := range d.files(t) {
		if !strings.HasPrefix(name, "OPTIONS-") {
			continue
		}
		d.write(t, name, content[:len(content)/2])
		o, _ := d.options()
		if _, err := Open(o); err == nil || !strings.Contains(err.Error(), name+" cannot be read") ||
			!strings.Contains(err.Error(), "move it away") {
			t.Errorf("%v", err)
		}
		if err := d.Remove(d.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	if o := checkDamaged(t, d, true); o != "whole" {
		t.Errorf("without it the log is %s", o)
	}
}

// TestTipNamesARun that is missing: it is refused, whatever else there is.
func TestTipNamesARun(t *testing.T) {
	d := grown(t, 2, 1)
	folder := d.PathJoin(d.dir, "log")
	tip, err := readTip(d.FS, folder)
	if err != nil {
		t.Fatal(err)
	}
	tip.run += 1 << 30
	if err := saveTip(d.FS, folder, tip); err != nil {
		t.Fatal(err)
	}
	if _, err := judge(d.FS, d.dir); err == nil ||
		!strings.Contains(err.Error(), tip.run.String()+", which was the newest, is missing") {
		t.Errorf("%v", err)
	}
	if o := checkDamaged(t, d, false); o != "refused" {
		t.Errorf("it is %s", o)
	}
}

// TestDamageWithoutTIP: of a log of an earlier version it is known that the MANIFEST is cut, by the
// tables that it does not name any more; and a WAL that ends within a record is told of.
func TestDamageWithoutTIP(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"closed", "killed"} {
		whole := disks[how](t)
		if err := whole.Remove(whole.path(tipFile)); err != nil {
			t.Fatal(err)
		}
		if o := checkDamaged(t, whole.clone(t, vfs.NewMem(), "data"), true); o != "whole" {
			t.Errorf("%s: not damaged, and %s", how, o)
		}
		desc, err := pebble.Peek(whole.PathJoin(whole.dir, "log"), whole.FS)
		if err != nil {
			t.Fatal(err)
		}
		manifest, outcomes := whole.PathBase(desc.ManifestFilename), map[string]int{}
		for damage, change := range damages {
			if content, ok := change(whole, manifest, whole.files(t)[manifest]); ok {
				d := whole.clone(t, vfs.NewMem(), "data")
				d.write(t, manifest, content)
				o := checkDamaged(t, d, false)
				outcomes[o]++
				// It is whole while the WALs are there that the last record made obsolete.
				if o != "refused" && o != "whole" {
					t.Errorf("%s, %s %s: it is %s", how, manifest, damage, o)
				}
			}
		}
		if outcomes["refused"] < 4 {
			t.Errorf("%s: %v", how, outcomes)
		}
		if how == "closed" {
			continue // what is published last stands in a table
		}
		name := walName(whole.newestWAL(t))
		d := whole.clone(t, vfs.NewMem(), "data")
		content, _ := cutBy(strings.TrimRight(whole.files(t)[name], "\x00"), 7)
		d.write(t, name, content)
		o, said := d.options()
		openTest(t, o)
		if text := said.String(); !strings.Contains(text, "level=WARN") || !strings.Contains(text, "may be lost") {
			t.Errorf("%s: the end of %s is missing, and the log says %q", how, name, text)
		}
	}
}

// TestEarlierCopyOpens: a data directory of an earlier time, put back as a whole, is whole; and no
// position is given again.
func TestEarlierCopyOpens(t *testing.T) {
	d := &disk{FS: vfs.NewMem(), dir: "data"}
	l := filled(t, d, DurabilitySync)
	newest := fanfare.Position(l.durable.Load())
	old := d.older
	o, said := old.options()
	again := openTest(t, o)
	if said.String() != "" {
		t.Errorf("the log says %s", said)
	}
	if p := put(t, again, "c0", "new")[0]; p <= newest {
		t.Errorf("position %v is given, and %v had been", p, newest)
	}
	if reason := reasonAfter(t, again, "c0", newest); reason != fanfare.GapLost {
		t.Errorf("who has seen %v is told %q", newest, reason)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := verify(t.Context(), old.FS, old.dir); err != nil || r.Faults > 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestRestoreJudges: what is not whole is not restored, and what is restored is known to be whole.
func TestRestoreJudges(t *testing.T) {
	backup := disks["backup"](t)
	if err := restore(backup.FS, backup.dir, "restored"); err != nil {
		t.Fatal(err)
	}
	restored := &disk{FS: backup.FS, dir: "restored", acked: backup.acked}
	found, err := judge(backup.FS, "restored")
	if err != nil || !found.tipFound || found.tip.durable != found.last {
		t.Errorf("%+v, %v", found, err)
	}
	if o := checkDamaged(t, restored, true); o != "whole" {
		t.Errorf("the restored log is %s", o)
	}
	for name, content := range backup.files(t) {
		if !strings.HasPrefix(name, "MANIFEST") {
			continue
		}
		d := backup.clone(t, vfs.NewMem(), "data")
		d.write(t, name, content[:len(content)-7])
		if err := restore(d.FS, d.dir, "restored"); err == nil || !strings.Contains(err.Error(), "the log is damaged") {
			t.Errorf("restored: %v", err)
		}
		if _, err := d.Stat("restored"); err == nil {
			t.Error("something is left behind")
		}
	}
}

// TestTakenOver: a log that an earlier version wrote is opened, and from then on its end is known.
func TestTakenOver(t *testing.T) {
	for _, format := range []string{"1", "2"} {
		t.Run(format, func(t *testing.T) {
			d := &disk{FS: loadDump(t, "testdata/format-"+format+".golden"), dir: "memory",
				acked: map[string]fanfare.Position{}}
			now := time.Date(2026, 11, 22, 10, 0, 1, 0, time.UTC) // a moment after it was written
			for round := range 2 {
				o, said := d.options()
				o.Now = func() time.Time { return now }
				l := openTest(t, o)
				put(t, l, "a", fmt.Sprint(round))
				if said.String() != "" {
					t.Errorf("round %d: the log says %s", round, said)
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				found, err := judge(d.FS, d.dir)
				if err != nil || !found.tipFound || found.tip.durable != found.last || len(found.runs) != 2+round {
					t.Errorf("round %d: %+v, %v", round, found, err)
				}
			}
		})
	}
}
