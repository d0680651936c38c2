package pebblelog

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/fanfare-hub/fanfare"
)

// A log of an earlier version has no TIP. If its MANIFEST has lost its end, that may still show:
// the folder holds tables that the MANIFEST named once, and no longer names. Other tables without a
// name were left by a crash, or are about to be deleted, and hold no new events.

// findUnnamed finds the tables that the MANIFEST does not name.
func (j *judging) findUnnamed(db *pebble.DB) error {
	levels, err := db.SSTables()
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for _, tables := range levels {
		for _, t := range tables {
			named[fmt.Sprintf("%06d.sst", uint64(t.BackingSSTNum))] = true
		}
	}
	j.unnamed = slices.DeleteFunc(j.tables, func(name string) bool { return named[name] })
	return nil
}

// judgeUnnamed refuses a log that ends before the newest event of a table without a name.
func (j *judging) judgeUnnamed() {
	for _, name := range j.unnamed {
		var newest fanfare.Position
		err := guarded(func() (err error) {
			newest, err = j.newestIn(name)
			return err
		})
		if err == nil && newest > j.last { // after an error: the table was never finished
			j.fault("%s is named nowhere, and holds events up to %v: the log ends at %v", name, newest, j.last)
			return
		}
	}
}

// newestIn finds the newest event of a table.
func (j *judging) newestIn(name string) (fanfare.Position, error) {
	f, err := j.fs.Open(j.fs.PathJoin(j.folder, name))
	if err != nil {
		return 0, err
	}
	table, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return 0, closing(f, err)
	}
	o := &pebble.Options{FS: j.fs}
	o.EnsureDefaults()
	r, err := sstable.NewReader(context.Background(), table, o.MakeReaderOptions())
	if err != nil {
		return 0, closing(table, err)
	}
	defer r.Close()
	lower, upper := []byte{keyEvent}, []byte{keyEvent + 1}
	it, err := r.NewIter(sstable.NoTransforms, lower, upper, sstable.AssertNoBlobHandles)
	if err != nil {
		return 0, err
	}
	defer it.Close()
	last := it.SeekLT(upper, 0)
	if last == nil || len(last.K.UserKey) != 9 {
		return 0, it.Error()
	}
	return fanfare.Position(lastNumber(last.K.UserKey)), nil
}

// closing closes c after an error, and returns the error.
func closing(c io.Closer, err error) error {
	_ = c.Close()
	return err
}
