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

// TestEveryCrashOpens cuts the power, or kills, between any two changes that a log makes to its
// disk, from its first opening to its close and over a second opening. The log that is left can be
// opened, holds all acknowledged events, and is not damaged: the TIP is never ahead of the disk.
func TestEveryCrashOpens(t *testing.T) {
	for _, durability := range []Durability{DurabilitySync, DurabilityAsync} {
		for _, keep := range []int{0, 50, 100} {
			if durability == DurabilityAsync && keep < 100 {
				continue // it may lose what the kernel forgets
			}
			t.Run(fmt.Sprint(durability, " ", keep), func(t *testing.T) {
				t.Parallel()
				crashes := takeCrashes(t, durability, keep)
				if len(crashes) < crashesAtFirst+20 {
					t.Errorf("only %d crashes", len(crashes))
				}
				for i, d := range crashes {
					if o := checkDamaged(t, d, true); o != "whole" || t.Failed() {
						t.Fatalf("crash %d of %d: %s", i, len(crashes), o)
					}
				}
			})
		}
	}
}

const crashesAtFirst = 50 // one after each of the first operations

// crasher is told of each operation before it is done.
type crasher struct {
	fs      *vfs.MemFS
	keep    int
	every   int
	mu      sync.Mutex
	n       int
	acked   map[string]fanfare.Position
	crashes []*disk
}

func (*crasher) String() string { return "crasher" }

func (c *crasher) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	structure := strings.Contains(op.Path, "MANIFEST") || strings.HasSuffix(op.Path, "/log")
	if c.n++; c.n < crashesAtFirst || structure || c.n%c.every == c.keep%c.every {
		acked := maps.Clone(c.acked) // before the clone: all of this must be in it
		clone := c.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.keep,
			RNG: rand.New(rand.NewPCG(uint64(c.n), 1))})
		c.crashes = append(c.crashes, &disk{FS: clone, dir: "data", acked: acked})
	}
	return nil
}

func takeCrashes(t *testing.T, durability Durability, keep int) []*disk {
	fs := vfs.NewCrashableMem()
	c := &crasher{fs: fs, keep: keep, every: crashEvery, acked: map[string]fanfare.Position{}}
	d := &disk{FS: errorfs.Wrap(fs, c), dir: "data"}
	for round := range 2 {
		o, _ := d.options()
		o.Durability = durability
		l := openTest(t, o)
		for i := range 6 {
			part := &disk{acked: map[string]fanfare.Position{}}
			part.fill(t, l, fmt.Sprint(round, " ", i), 3)
			c.mu.Lock()
			maps.Copy(c.acked, part.acked)
			c.mu.Unlock()
		}
		if round == 0 {
			quiet(t, l)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return c.crashes
}
