package pebblelog

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/fanfare-hub/fanfare"
)

// TestCrashUponCrash: what a crash has left is opened, and crashes again, often while it is being
// opened, a hundred times in a row. No crash is ever taken for damage. DurabilityAsync is tried
// with power cuts too, which take what its timer had not synced, and may take an earlier part and
// leave a later one.
func TestCrashUponCrash(t *testing.T) {
	for _, c := range []struct {
		name       string
		durability Durability
		cuts       []int // percentages of what is not synced that a crash leaves; 100 is kill -9
	}{
		{"sync", DurabilitySync, []int{0, 50, 100}},
		{"async, killed", DurabilityAsync, []int{100}},
		{"async, power cut", DurabilityAsync, []int{0, 50, 90, 100}},
	} {
		for seed := range crashChains {
			t.Run(fmt.Sprint(c.name, " ", seed), func(t *testing.T) {
				t.Parallel()
				chain := &crashChain{durability: c.durability, cuts: c.cuts, rng: rand.New(rand.NewPCG(seed, 2)),
					left: vfs.NewCrashableMem()}
				for round := range crashRounds {
					chain.round(t, round)
				}
			})
		}
	}
}

// crashChain is what is left after some crashes, and what is known to be stored there.
type crashChain struct {
	durability Durability
	cuts       []int
	rng        *rand.Rand
	left       *vfs.MemFS
	acked      map[string]fanfare.Position
	mayLose    bool // some of acked
}

// round opens what is left, looks at it, works with it, and has it crash somewhere.
func (c *crashChain) round(t *testing.T, round int) {
	keep := c.cuts[c.rng.IntN(len(c.cuts))]
	within := 120 // writing operations: as many as an opening has
	if c.rng.IntN(4) == 0 {
		within = 2000
	}
	crash := &nthCrash{fs: c.left, keep: keep, rng: rand.New(rand.NewPCG(c.rng.Uint64(), 1)),
		after: 1 + c.rng.IntN(within), acked: c.acked}
	d := &disk{FS: errorfs.Wrap(c.left, crash), dir: "data"}
	o, said := d.options()
	o.Durability = c.durability
	l, err := Open(o)
	if err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	defer l.Close()
	crash.begin(c.check(t, l, said))
	for i := range c.rng.IntN(5) {
		part := &disk{acked: map[string]fanfare.Position{}}
		part.fill(t, l, fmt.Sprint(round, " ", i), 1+c.rng.IntN(3))
		crash.store(part.acked)
		if c.durability == DurabilityAsync && c.rng.IntN(2) == 0 { // as its timer does
			if err := l.session.syncWritten(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if c.rng.IntN(2) == 0 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c.left, c.acked = crash.take()
	c.mayLose = c.durability == DurabilityAsync && keep < 100 || c.mayLose && !crash.opened
}

// check returns what of acked is there.
func (c *crashChain) check(t *testing.T, l *Log, said *records) map[string]fanfare.Position {
	t.Helper()
	got, err := allOf(l)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]fanfare.Position{}
	for data, pos := range c.acked {
		if got[data] == pos {
			there[data] = pos
		}
	}
	if text := said.String(); !c.mayLose && (len(there) < len(c.acked) || strings.Contains(text, "level=ERROR")) {
		t.Fatalf("%d of %d events are there, and the log says %s", len(there), len(c.acked), text)
	}
	return there
}

// nthCrash crashes at a chosen operation, and has the log go on: its later operations are
// forgotten.
type nthCrash struct {
	fs   *vfs.MemFS
	keep int
	rng  *rand.Rand

	mu     sync.Mutex
	after  int
	acked  map[string]fanfare.Position
	looked bool // acked has been looked at after the opening
	left   *vfs.MemFS
	knew   map[string]fanfare.Position // acked at the crash
	opened bool                        // looked at the crash
}

func (*nthCrash) String() string { return "crash" }

func (c *nthCrash) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.after--; c.after == 0 {
		c.crashLocked()
	}
	return nil
}

func (c *nthCrash) crashLocked() {
	c.opened = c.looked
	c.knew = maps.Clone(c.acked) // before the clone: all of this must be in it
	c.left = c.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.keep, RNG: c.rng})
}

// begin takes the events that are there after the opening. Events that an earlier crash took are
// not asked for again.
func (c *nthCrash) begin(there map[string]fanfare.Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked, c.looked = there, true
}

func (c *nthCrash) store(acked map[string]fanfare.Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.Copy(c.acked, acked)
}

// take returns what the crash has left, which happens now if it has not yet.
func (c *nthCrash) take() (*vfs.MemFS, map[string]fanfare.Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == nil {
		c.crashLocked()
	}
	return c.left, c.knew
}
