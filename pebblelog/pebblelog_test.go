package pebblelog_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options(dir string, d pebblelog.Durability, keep logtest.Keep) pebblelog.Options {
	o := pebblelog.Options{Dir: dir, Durability: d}
	if keep != (logtest.Keep{}) {
		o.Retention = []fanfare.Rule{{Pattern: logtest.Patterns("**")[0], Count: keep.Count, Age: keep.Age,
			Bytes: keep.Bytes, Latest: keep.Latest}}
	}
	return o
}

func open(t *testing.T, o pebblelog.Options) *pebblelog.Log {
	t.Helper()
	l, err := pebblelog.Open(o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// TestConformance runs the suite for each durability on the machine's file system; in memory the
// same memory is reopened.
func TestConformance(t *testing.T) {
	for name, d := range map[string]pebblelog.Durability{
		"sync": pebblelog.DurabilitySync, "async": pebblelog.DurabilityAsync, "memory": pebblelog.DurabilityMemory,
	} {
		t.Run(name, func(t *testing.T) {
			logtest.Run(t, logtest.Engine{New: func(t *testing.T, keep logtest.Keep) func() logtest.Log {
				o := options(t.TempDir(), d, keep)
				if d == pebblelog.DurabilityMemory {
					o.FS = vfs.NewMem()
				}
				return func() logtest.Log { return open(t, o) }
			}})
		})
	}
}

func publish(l fanfare.Log, channel, data string) (fanfare.Position, error) {
	r, err := logtest.Append(l,
		&fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel(channel), Data: data}}})
	if err != nil {
		return 0, err
	}
	return r.Positions[0], nil
}
