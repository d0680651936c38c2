package pebblelog_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

// crashing is a log whose Close is a power cut: what was not synced is kept with a probability in
// percent.
type crashing struct {
	*pebblelog.Log
	fs   **vfs.MemFS
	keep int
}

func (c crashing) Close() error {
	*c.fs = crash(*c.fs, c.keep)
	return c.Log.Close()
}

func crash(fs *vfs.MemFS, keep int) *vfs.MemFS {
	return fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: keep, RNG: rand.New(rand.NewPCG(rand.Uint64(), 1))})
}

// TestConformanceAcrossCrashes is P1: what was acknowledged with sync survives a crash that forgets
// all, half, or none of what was not synced. With async it must survive where the kernel survives,
// which is what keeping all means.
func TestConformanceAcrossCrashes(t *testing.T) {
	for _, c := range []struct {
		name string
		d    pebblelog.Durability
		keep int
	}{
		{"sync/0", pebblelog.DurabilitySync, 0}, {"sync/50", pebblelog.DurabilitySync, 50}, {"sync/100",
			pebblelog.DurabilitySync, 100},
		{"async/100", pebblelog.DurabilityAsync, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			logtest.Run(t, logtest.Engine{New: func(t *testing.T, keep logtest.Keep) func() logtest.Log {
				fs := vfs.NewCrashableMem()
				return func() logtest.Log {
					o := options("/data", c.d, keep)
					o.FS = fs
					return crashing{open(t, o), &fs, c.keep}
				}
			}})
		})
	}
}

// TestCrashUnderLoad crashes while writers run: after the reopen everything acknowledged is there,
// each once, and whoever saw a position can resume from it without a gap.
func TestCrashUnderLoad(t *testing.T) {
	for _, keep := range []int{0, 50, 100} {
		t.Run(fmt.Sprint(keep), func(t *testing.T) {
			fs := vfs.NewCrashableMem()
			acked := map[string]fanfare.Position{}
			var mu sync.Mutex
			for round := range 5 {
				l := open(t, pebblelog.Options{Dir: "/data", FS: fs})
				checkAcked(t, l, acked)
				var wg sync.WaitGroup
				for w := range 8 {
					wg.Go(func() {
						for i := range 200 {
							data := fmt.Sprint(round, "/", w, "/", i)
							pos, err := publish(l, fmt.Sprint("c", w%3), data)
							if err != nil {
								return // the log is closing
							}
							mu.Lock()
							acked[data] = pos
							mu.Unlock()
						}
					})
				}
				time.Sleep(time.Duration(2+rand.IntN(10)) * time.Millisecond) // somewhere in the middle
				// All events of acked were acknowledged before the crash.
				mu.Lock()
				before := make(map[string]fanfare.Position, len(acked))
				for k, v := range acked {
					before[k] = v
				}
				seen := l.Status().Durable
				mu.Unlock()
				fs = crash(fs, keep)
				_ = l.Close()
				wg.Wait()
				acked = before
				next := open(t, pebblelog.Options{Dir: "/data", FS: fs})
				loss, err := logtest.Missed(next, seen, "c0")
				if err != nil || loss.Reason != "" {
					t.Fatalf("resume at %v, which was seen before the crash: %+v, %v", seen, loss, err)
				}
				if err := next.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func checkAcked(t *testing.T, l *pebblelog.Log, acked map[string]fanfare.Position) {
	t.Helper()
	events, _, err := logtest.ReadAll(l, fanfare.Query{Patterns: logtest.Patterns("**")})
	if err != nil {
		t.Fatal(err)
	}
	stored := map[string]fanfare.Position{}
	for _, e := range events {
		if at, twice := stored[e.Data]; twice {
			t.Fatalf("%q stands at %v and %v", e.Data, at, e.Position)
		}
		stored[e.Data] = e.Position
	}
	for data, pos := range acked {
		if stored[data] != pos {
			t.Fatalf("%q was acknowledged at %v and stands at %v", data, pos, stored[data])
		}
	}
}

// TestLostTail: async loses its tail in a power cut; who had seen more is told, and no number is
// given twice.
func TestLostTail(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := open(t, pebblelog.Options{Dir: "/data", FS: fs, Durability: pebblelog.DurabilityAsync})
	first, err := publish(l, "a", "kept")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil { // syncs
		t.Fatal(err)
	}
	l = open(t, pebblelog.Options{Dir: "/data", FS: fs, Durability: pebblelog.DurabilityAsync})
	var lost []fanfare.Position
	for range 3 {
		pos, err := publish(l, "a", "lost")
		if err != nil {
			t.Fatal(err)
		}
		lost = append(lost, pos)
	}
	fs = crash(fs, 0)
	_ = l.Close()
	l = open(t, pebblelog.Options{Dir: "/data", FS: fs, Durability: pebblelog.DurabilityAsync})
	next, err := publish(l, "a", "after")
	if err != nil {
		t.Fatal(err)
	}
	if next <= lost[2] {
		t.Fatalf("position %v after %v was given: a number was given twice", next, lost[2])
	}
	for _, c := range []struct {
		after fanfare.Position
		want  fanfare.GapReason
	}{{first, ""}, {lost[0] - 1, ""}, {lost[0], fanfare.GapLost}, {lost[2], fanfare.GapLost}, {next - 1, ""}} {
		loss, err := logtest.Missed(l, c.after, "a")
		if err != nil || loss.Reason != c.want {
			t.Errorf("after %v: %+v, %v; want reason %q", c.after, loss, err, c.want)
		}
		if events, _, err := logtest.ReadAll(l,
			fanfare.Query{Patterns: logtest.Patterns("a"), After: c.after}); err != nil || events[0].Position != next {
			t.Errorf("after %v: %v, %v; want %v first", c.after, events, err, next)
		}
	}
}

// TestAsyncSyncsWithinASecond, or soon after: async loses no more to a power cut than the last
// moment.
func TestAsyncSyncsWithinASecond(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := open(t, pebblelog.Options{Dir: "/data", FS: fs, Durability: pebblelog.DurabilityAsync})
	pos, err := publish(l, "a", "x")
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		after := open(t, pebblelog.Options{Dir: "/data", FS: crash(fs, 0)})
		events, _, err := logtest.ReadAll(after, fanfare.Query{Patterns: logtest.Patterns("a")})
		if err != nil {
			t.Fatal(err)
		}
		if err := after.Close(); err != nil {
			t.Fatal(err)
		}
		if len(events) == 1 && events[0].Position == pos {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("an event of async is never synced")
		}
	}
}
