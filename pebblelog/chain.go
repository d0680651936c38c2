package pebblelog

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// Each run names the one before it, with the last position that that had when this one began. So a
// log that has lost a run, or some of one, in its middle is known to have: what follows names it.
// What follows the newest run is the TIP.

// before is the run before another, as that one remembers it. The zero value says that it was the
// first.
type before struct {
	run
	known bool // false when a version of fanfare began the run that did not write this yet
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

func readRun(key, value []byte) (run, error) {
	if len(key) != 9 || len(value) != 8 {
		return run{}, errCorrupt
	}
	return run{fanfare.Position(lastNumber(key)), fanfare.Position(binary.BigEndian.Uint64(value))}, nil
}

func readBefore(key, value []byte) (first fanfare.Position, b before, err error) {
	if len(key) != 9 || len(value) != 16 {
		return 0, b, errCorrupt
	}
	b.first = fanfare.Position(binary.BigEndian.Uint64(value))
	b.last = fanfare.Position(binary.BigEndian.Uint64(value[8:]))
	b.known = true
	return fanfare.Position(lastNumber(key)), b, nil
}

// checkChain says where runs, which are in order, do not follow each other; empty when they do.
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
