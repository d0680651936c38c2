package pebblelog_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

// TestScheduleAcrossFailures: the disk fails and recovers while events fall due and expire: each
// scheduled event that was acknowledged is published once, and the log is whole.
func TestScheduleAcrossFailures(t *testing.T) {
	f := &faulty{file: walFile, ops: writes}
	dir := t.TempDir()
	l := open(t, pebblelog.Options{Dir: dir, FS: errorfs.Wrap(vfs.Default, f), TrimInterval: time.Millisecond})
	acked := map[string]bool{}
	for round := range 6 {
		for i := range 60 {
			f.on.Store(i >= 40) // the disk fails for the last third, while the first ones fall due
			data := fmt.Sprint(round, "/", i)
			b := &fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel(fmt.Sprint("c/", i%5)), Data: data}},
				DeliverIn: time.Duration(1+i%20) * time.Millisecond}
			short := &fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("short"), Data: "x"}},
				TTL: []time.Duration{time.Millisecond}}
			if _, err := logtest.Append(l, b); err == nil {
				acked[data] = true
			}
			_, _ = logtest.Append(l, short)
		}
		f.on.Store(false)
		for deadline := time.Now().Add(time.Minute); ; {
			if _, err := logtest.Append(l, &fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("works"),
				Data: "x"}}}); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the log does not come back")
			}
			time.Sleep(time.Millisecond)
		}
	}
	if len(acked) < 6*40-6 || f.hits.Load() == 0 {
		t.Errorf("%d events were acknowledged, %d writes failed", len(acked), f.hits.Load())
	}
	for deadline := time.Now().Add(time.Minute); l.Stats().Scheduled > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d events still wait", l.Stats().Scheduled)
		}
	}
	if _, err := logtest.Append(l, &fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("works"),
		Data: "last"}}}); err != nil { // then all before it is durable
		t.Fatal(err)
	}
	events, _, err := logtest.ReadAll(l, fanfare.Query{Patterns: logtest.Patterns("c/*")})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range events {
		if seen[e.Data] {
			t.Errorf("%s was published twice", e.Data)
		}
		seen[e.Data] = true
	}
	for data := range acked {
		if !seen[data] {
			t.Errorf("%s was never published", data)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if report, err := pebblelog.Verify(t.Context(), dir); err != nil || report.Faults > 0 {
		t.Errorf("%v %v", report.First, err)
	}
}
