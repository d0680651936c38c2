package pebblelog

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// Each run has a record of the run before it, as that run was when the new one began. So the judge
// sees when a log has lost a run, or the end of a run, in its middle: the next run's record
// differs. For the newest run the TIP takes the place of that record.

// before is a run's record of the run before it. A zero run says that there was none.
type before struct {
	run
	known bool // false when an early version of fanfare began the run, and wrote no such record
}

// putRun adds the records of a run.
func putRun(b *pebble.Batch, r run, earlier []run) error {
	var prev run
	if len(earlier) > 0 {
		prev = earlier[len(earlier)-1]
	}
	if err := b.Set(keyOf(keyRun, uint64(r.first)), keyOf(keyRun, uint64(r.last))[1:], nil); err != nil {
		return err
	}
	return b.Set(keyOf(keyBefore, uint64(r.first)), keyOf(keyBefore, uint64(prev.first), uint64(prev.last))[1:], nil)
}

// readRun reads the record of a run.
func readRun(key, value []byte) (run, error) {
	if len(key) != 9 || len(value) != 8 {
		return run{}, errCorrupt
	}
	return run{fanfare.Position(lastNumber(key)), fanfare.Position(binary.BigEndian.Uint64(value))}, nil
}

// readBefore reads the record of the run before the one that begins at first.
func readBefore(key, value []byte) (first fanfare.Position, b before, err error) {
	if len(key) != 9 || len(value) != 16 {
		return 0, b, errCorrupt
	}
	b.first = fanfare.Position(binary.BigEndian.Uint64(value))
	b.last = fanfare.Position(binary.BigEndian.Uint64(value[8:]))
	b.known = true
	return fanfare.Position(lastNumber(key)), b, nil
}

// checkChain checks that runs, which are in order, follow each other. It returns the first fault,
// or "".
func checkChain(runs []run, befores map[fanfare.Position]before) string {
	left := len(befores)
	var prev run
	for _, r := range runs {
		b := befores[r.first]
		if b.known {
			left--
		}
		switch {
		case !b.known, b.run == prev:
		case b.first == prev.first:
			return fmt.Sprintf("the run from %v ended at %v, by what the next one says, and ends at %v", prev.first,
				b.last, prev.last)
		case b.first == 0:
			return fmt.Sprintf("the run from %v was the first, by what it says, and one from %v comes before it",
				r.first, prev.first)
		default:
			return fmt.Sprintf("the run from %v is missing: the one from %v came after it", b.first, r.first)
		}
		prev = r
	}
	if left > 0 {
		return "there is a run that says what came before it, and is missing itself"
	}
	return ""
}
