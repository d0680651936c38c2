package pebblelog

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
)

// TestChain: runs follow each other as they say.
func TestChain(t *testing.T) {
	a, b, c := run{100, 149}, run{200, 199}, run{300, 310}
	known := func(r run) before { return before{r, true} }
	for name, x := range map[string]struct {
		runs    []run
		befores map[fanfare.Position]before
		want    string // empty: it is whole
	}{
		"whole": {[]run{a, b, c},
			map[fanfare.Position]before{100: known(run{}), 200: known(a), 300: known(b)}, ""},
		"nothing":               {nil, nil, ""},
		"of an earlier version": {[]run{a, b, c}, nil, ""},
		"taken over":            {[]run{a, b, c}, map[fanfare.Position]before{300: known(b)}, ""},
		"an earlier version between": {[]run{a, b, c}, map[fanfare.Position]before{100: known(run{}), 300: known(b)},
			""},
		"the middle missing": {[]run{a, c}, map[fanfare.Position]before{100: known(run{}), 300: known(b)},
			"the run from " + b.first.String() + " is missing"},
		"the first missing": {[]run{b, c}, map[fanfare.Position]before{200: known(a), 300: known(b)},
			"the run from " + a.first.String() + " is missing"},
		"shorter than it was": {[]run{{100, 120}, b},
			map[fanfare.Position]before{100: known(run{}), 200: known(a)}, "ended at " + a.last.String()},
		"another's run before it": {[]run{a, b}, map[fanfare.Position]before{100: known(run{}), 200: known(run{})},
			"was the first"},
		"a name without its run": {[]run{a}, map[fanfare.Position]before{100: known(run{}), 200: known(a)},
			"missing itself"},
	} {
		if got := checkChain(x.runs, x.befores); (got == "") != (x.want == "") || !strings.Contains(got, x.want) {
			t.Errorf("%s: %q, want %q", name, got, x.want)
		}
	}
}

// TestBrokenChainIsRefused: what is missing inside a store whose files are all whole is missed too.
func TestBrokenChainIsRefused(t *testing.T) {
	d := &disk{FS: vfs.NewMem(), dir: "data", acked: map[string]fanfare.Position{}}
	for i := range 3 {
		o, _ := d.options()
		l := openTest(t, o)
		d.fill(t, l, fmt.Sprint(i), 1)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	found, err := judge(d.FS, d.dir)
	if err != nil || len(found.runs) != 3 {
		t.Fatalf("%+v, %v", found, err)
	}
	runs := found.runs
	for name, x := range map[string]struct {
		change func(b *pebble.Batch) error
		want   string
	}{
		"nothing": {func(b *pebble.Batch) error { return b.Set(keyOf(keyMark, 99), nil, nil) }, ""},
		"a run": {func(b *pebble.Batch) error { return b.Delete(keyOf(keyRun, uint64(runs[1].first)), nil) },
			"is missing"},
		"the newest run": {func(b *pebble.Batch) error { return b.Delete(keyOf(keyRun, uint64(runs[2].first)), nil) },
			"missing"},
		"some of a run": {func(b *pebble.Batch) error {
			return b.Set(keyOf(keyRun, uint64(runs[1].first)), keyOf(0, uint64(runs[1].last)-1)[1:], nil)
		}, "ended at"},
		"a record is damaged": {func(b *pebble.Batch) error {
			return b.Set(keyOf(keyBefore, uint64(runs[1].first)),
				[]byte("x"), nil)
		}, "record of a run"},
		"the format": {func(b *pebble.Batch) error { return b.Delete([]byte{keyFormat}, nil) },
			"holds no log"},
	} {
		t.Run(name, func(t *testing.T) {
			d := d.clone(t, vfs.NewMem(), "data")
			db, err := pebble.Open("data/log",
				&pebble.Options{FS: d.FS, FormatMajorVersion: pebble.FormatNewest, Logger: quietLogger{}})
			if err != nil {
				t.Fatal(err)
			}
			b := db.NewBatch()
			if err := x.change(b); err != nil {
				t.Fatal(err)
			}
			if err := db.Apply(b, pebble.Sync); err != nil {
				t.Fatal(err)
			}
			if err := db.Flush(); err != nil { // a deletion in a WAL says nothing to the judge: nobody makes one
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if x.want == "" {
				if _, err := judge(d.FS, d.dir); err != nil {
					t.Error(err)
				}
				return
			}
			_, err = judge(d.FS, d.dir)
			if err == nil || !strings.Contains(err.Error(), x.want) {
				t.Errorf("%v, want %q", err, x.want)
			}
			if o := checkDamaged(t, d, false); o != "refused" {
				t.Errorf("it is %s", o)
			}
		})
	}
}
