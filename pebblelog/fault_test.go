package pebblelog_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

// faulty is a file system in which operations on chosen files fail or wait while a switch is on.
type faulty struct {
	on   atomic.Bool
	wait atomic.Int64 // nanoseconds that a sync of a chosen file takes
	hits atomic.Int64
	file func(path string) bool
	ops  func(errorfs.OpKind) bool
}

func (f *faulty) String() string { return "faulty" }

func (f *faulty) MaybeError(op errorfs.Op) error {
	if !f.file(op.Path) || !f.ops(op.Kind) {
		return nil
	}
	if d := f.wait.Load(); d > 0 {
		f.hits.Add(1)
		time.Sleep(time.Duration(d)) // a slow disk
	}
	if f.on.Load() {
		f.hits.Add(1)
		return errors.New("injected: input/output error")
	}
	return nil
}

func writes(k errorfs.OpKind) bool {
	switch k {
	case errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo,
		errorfs.OpCreate, errorfs.OpFileFlush:
		return true
	}
	return false
}

func syncs(k errorfs.OpKind) bool {
	return k == errorfs.OpFileSync || k == errorfs.OpFileSyncData || k == errorfs.OpFileSyncTo
}

// changes is what a disk that became read-only refuses.
func changes(k errorfs.OpKind) bool {
	switch k {
	case errorfs.OpCreate, errorfs.OpRemove, errorfs.OpRename, errorfs.OpLink, errorfs.OpReuseForWrite:
		return true
	}
	return writes(k) || syncs(k)
}

func walFile(path string) bool { return strings.HasSuffix(path, ".log") }

// TestNothingIsVisibleBeforeItsFsync is P1: with an fsync of half a second, no read sees the event
// before it.
func TestNothingIsVisibleBeforeItsFsync(t *testing.T) {
	f := &faulty{file: walFile, ops: syncs}
	l := open(t, pebblelog.Options{Dir: "/data", FS: errorfs.Wrap(vfs.NewMem(), f)})
	before := l.Status().Durable
	var told atomic.Bool
	_, stop := l.Watch(watcher(func([]fanfare.Event, fanfare.Position) { told.Store(true) }))
	defer stop()
	f.wait.Store(int64(500 * time.Millisecond))
	done := make(chan error, 1)
	l.Append(&fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("a"), Data: "x"}}},
		func(_ fanfare.Receipt, err error) { done <- err })
	deadline := time.Now().Add(time.Minute)
	for f.hits.Load() == 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond) // until the fsync has begun: Pebble shows the event from here on
	}
	for range 20 {
		page, err := l.Read(context.Background(), fanfare.Query{Patterns: logtest.Patterns("a")})
		loss, lerr := logtest.Missed(l, before, "a")
		last, _ := logtest.Last(l, 1, "a")
		select {
		case <-done:
			t.Fatal("the fsync was too fast for the test")
		default:
		}
		if err != nil || lerr != nil || len(page.Events) != 0 || last != 0 || loss.Durable != before ||
			l.Status().Durable != before || told.Load() {
			t.Fatalf("seen before its fsync: %+v %+v %v %v %v", page, loss, last, err, lerr)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	page, err := l.Read(context.Background(), fanfare.Query{Patterns: logtest.Patterns("a")})
	if err != nil || len(page.Events) != 1 || !told.Load() {
		t.Fatalf("not seen after its acknowledgement: %+v, %v", page, err)
	}
	f.wait.Store(0)
}

type watcher func([]fanfare.Event, fanfare.Position)

func (w watcher) Committed(events []fanfare.Event, durable fanfare.Position) { w(events, durable) }
func (w watcher) Reopened(durable fanfare.Position)                          { w(nil, durable) }

// TestInjectedErrors fails each kind of file in turn: what was acknowledged stays, publishes get
// CodeUnavailable, and the log recovers by itself when the disk does.
func TestInjectedErrors(t *testing.T) {
	for name, c := range map[string]struct {
		file func(string) bool
		ops  func(errorfs.OpKind) bool
	}{
		"WAL sync":    {walFile, syncs},
		"WAL write":   {walFile, writes},
		"sstable":     {func(p string) bool { return strings.HasSuffix(p, ".sst") }, writes},
		"MANIFEST":    {func(p string) bool { return strings.Contains(p, "MANIFEST") }, writes},
		"all of them": {func(p string) bool { return strings.Contains(p, "/log/") }, writes},
		"read-only":   {func(p string) bool { return strings.Contains(p, "/log/") }, changes},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			injectErrors(t, &faulty{file: c.file, ops: c.ops})
		})
	}
}

func injectErrors(t *testing.T, f *faulty) {
	mem := vfs.NewMem()
	l := open(t, pebblelog.Options{
		Dir: "/data", FS: errorfs.Wrap(mem, f), SlowCommit: 5 * time.Second,
		MaxBytes: 64 << 20, // which is not reached; memtables are small beside it, and filled soon
	})
	acked := map[string]fanfare.Position{}
	send := func(data string) error {
		pos, err := publish(l, "a", data)
		if err == nil {
			acked[data] = pos
		} else if code := fanfare.CodeOf(err); code != fanfare.CodeUnavailable && code != fanfare.CodeOverloaded {
			t.Fatalf("%v has code %q, want unavailable", err, code)
		}
		return err
	}
	if err := send("before"); err != nil {
		t.Fatal(err)
	}
	f.on.Store(true)
	big := strings.Repeat("x", 512<<10) // fills memtables, so that sstables and the MANIFEST are written too
	deadline := time.Now().Add(time.Minute)
	for i := 0; f.hits.Load() == 0 && time.Now().Before(deadline); i++ {
		_ = send(fmt.Sprint("during ", i, big))
	}
	for i := range 5 {
		_ = send(fmt.Sprint("after the first error ", i))
	}
	if f.hits.Load() == 0 {
		t.Fatal("nothing was injected")
	}
	f.on.Store(false)
	for deadline := time.Now().Add(time.Minute); send("recovered") != nil; {
		if time.Now().After(deadline) {
			t.Fatalf("the log has not recovered: %v", l.Status().Err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := l.Status().Err; err != nil {
		t.Fatalf("after the recovery: %v", err)
	}
	checkAcked(t, l, acked)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	checkAcked(t, open(t, pebblelog.Options{Dir: "/data", FS: mem}), acked)
}

// TestDiskFull refuses publishes while the disk has less than the minimum, goes on reading, and
// takes publishes again by itself.
func TestDiskFull(t *testing.T) {
	mem := vfs.NewMem()
	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 30})
	l := open(t, pebblelog.Options{Dir: "/data", FS: mem, MinFreeBytes: 1 << 20})
	if _, err := publish(l, "a", "1"); err != nil {
		t.Fatal(err)
	}
	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1000})
	_, err := publish(l, "a", "2")
	if fanfare.CodeOf(err) != fanfare.CodeUnavailable || !strings.Contains(err.Error(), "1000 bytes are free") {
		t.Fatalf("on a full disk: %v", err)
	}
	if l.Status().Err == nil {
		t.Fatal("Status does not say that the disk is full")
	}
	if events, _, err := logtest.ReadAll(l, fanfare.Query{Patterns: logtest.Patterns("a")}); err != nil ||
		len(events) != 1 {
		t.Fatalf("reads must go on: %v, %v", events, err)
	}
	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 30})
	for deadline := time.Now().Add(time.Minute); l.Status().Err != nil; {
		if time.Now().After(deadline) {
			t.Fatalf("still full: %v", l.Status().Err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := publish(l, "a", "3"); err != nil {
		t.Fatal(err)
	}
}

// TestSlowCommit answers for a commit that takes longer than SlowCommit, and what it stored late is
// there.
func TestSlowCommit(t *testing.T) {
	f := &faulty{file: walFile, ops: syncs}
	l := open(t, pebblelog.Options{Dir: "/data", FS: errorfs.Wrap(vfs.NewMem(), f), SlowCommit: 200 * time.Millisecond})
	f.wait.Store(int64(1500 * time.Millisecond))
	began := time.Now()
	_, err := publish(l, "a", "late")
	if fanfare.CodeOf(err) != fanfare.CodeUnavailable || !strings.Contains(err.Error(), "slow") {
		t.Fatalf("a slow commit: %v", err)
	}
	if took := time.Since(began); took > 1300*time.Millisecond {
		t.Fatalf("answered after %v, which is when the disk did", took)
	}
	_, err = publish(l, "a", "refused")
	if fanfare.CodeOf(err) != fanfare.CodeUnavailable || l.Status().Err == nil {
		t.Fatalf("while the commit is slow: %v", err)
	}
	f.wait.Store(0)
	for deadline := time.Now().Add(time.Minute); l.Status().Err != nil; {
		if time.Now().After(deadline) {
			t.Fatalf("still slow: %v", l.Status().Err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := publish(l, "a", "again"); err != nil {
		t.Fatal(err)
	}
	events, _, err := logtest.ReadAll(l, fanfare.Query{Patterns: logtest.Patterns("a")})
	if err != nil || len(events) != 2 || events[0].Data != "late" || events[1].Data != "again" {
		t.Fatalf("%v, %v: want the late one and the new one, not the refused one", events, err)
	}
}

// TestReopenedIsTold: a group whose fsync failed may turn out to be stored; watchers are told to
// look.
func TestReopenedIsTold(t *testing.T) {
	f := &faulty{file: walFile, ops: syncs}
	l := open(t, pebblelog.Options{Dir: "/data", FS: errorfs.Wrap(vfs.NewMem(), f)})
	reopened := make(chan fanfare.Position, 1)
	_, stop := l.Watch(watcher(func(events []fanfare.Event, durable fanfare.Position) {
		if events == nil {
			reopened <- durable
		}
	}))
	defer stop()
	f.on.Store(true)
	if _, err := publish(l, "a", "x"); fanfare.CodeOf(err) != fanfare.CodeUnavailable {
		t.Fatalf("a failed fsync: %v", err)
	}
	f.on.Store(false)
	select {
	case durable := <-reopened:
		if events, _, err := logtest.ReadAll(l, fanfare.Query{Patterns: logtest.Patterns("a")}); err != nil ||
			len(events) > 1 || l.Status().Durable != durable {
			t.Fatalf("%v, %v, durable %v, told %v", events, err, l.Status().Durable, durable)
		}
	case <-time.After(time.Minute):
		t.Fatal("nobody was told that the log is open again")
	}
}

// TestRepeatsInOneGroup: many under one key that wait for the disk together are stored once.
func TestRepeatsInOneGroup(t *testing.T) {
	f := &faulty{file: walFile, ops: syncs}
	l := open(t, pebblelog.Options{Dir: "/data", FS: errorfs.Wrap(vfs.NewMem(), f)})
	f.wait.Store(int64(200 * time.Millisecond))
	results := make(chan fanfare.Receipt, 10)
	for i := range cap(results) {
		b := &fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("a"), Data: "x"}}}
		if i >= 4 { // the first fill the groups in flight
			b.Keys = []fanfare.Key{{Scope: "s", Text: "k", Fingerprint: [16]byte{1}}}
		}
		l.Append(b, func(r fanfare.Receipt, err error) {
			if err != nil {
				t.Error(err)
			}
			results <- r
		})
		if i < 4 {
			time.Sleep(20 * time.Millisecond) // so that the committer takes it
		}
	}
	replayed := 0
	for range cap(results) {
		if r := <-results; r.Replayed {
			replayed++
		}
	}
	f.wait.Store(0)
	if events, _, err := logtest.ReadAll(l, fanfare.Query{Patterns: logtest.Patterns("a")}); err != nil ||
		len(events) != 5 || replayed != 5 {
		t.Errorf("%d stored, %d replayed, %v; want 5 and 5", len(events), replayed, err)
	}
}

func TestQueueLimit(t *testing.T) {
	f := &faulty{file: walFile, ops: syncs}
	l := open(t, pebblelog.Options{Dir: "/data", FS: errorfs.Wrap(vfs.NewMem(), f), MaxQueueBytes: 4000})
	f.wait.Store(int64(300 * time.Millisecond))
	results := make(chan error, 200)
	for i := range cap(results) {
		l.Append(&fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("a"), Data: fmt.Sprint(i)}}},
			func(_ fanfare.Receipt, err error) { results <- err })
	}
	f.wait.Store(0)
	stored, refused := 0, 0
	for range cap(results) {
		switch err := <-results; fanfare.CodeOf(err) {
		case "":
			stored++
		case fanfare.CodeOverloaded:
			refused++
		default:
			t.Fatal(err)
		}
	}
	if stored == 0 || refused == 0 {
		t.Fatalf("%d stored, %d refused", stored, refused)
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	l := open(t, pebblelog.Options{Dir: dir})
	if _, err := pebblelog.Open(pebblelog.Options{Dir: dir}); err == nil ||
		!strings.Contains(err.Error(), "one process at a time") {
		t.Fatalf("a second log on the same directory: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := pebblelog.Open(pebblelog.Options{}); err == nil {
		t.Fatal("no directory, no error")
	}
}

// TestExactReadsTouchNoOtherChannel: a resume of 200 events on exact channels reads no other
// channel's events.
func TestExactReadsTouchNoOtherChannel(t *testing.T) {
	l := open(t, pebblelog.Options{Durability: pebblelog.DurabilityMemory})
	for i := range 200 {
		b := &fanfare.Batch{}
		for c := range 21 {
			b.Events = append(b.Events,
				fanfare.Event{Channel: logtest.Channel(fmt.Sprint("c", c)), Data: fmt.Sprint(i)})
		}
		if _, err := logtest.Append(l, b); err != nil {
			t.Fatal(err)
		}
	}
	before := l.Stats()
	events, _, err := logtest.ReadAll(l, fanfare.Query{Patterns: logtest.Patterns("c7")})
	if err != nil || len(events) != 200 {
		t.Fatalf("%d events, %v", len(events), err)
	}
	if read := l.Stats().EventsRead - before.EventsRead; read != 200 {
		t.Fatalf("%d events were read for 200", read)
	}
}

func TestParseRule(t *testing.T) {
	for _, text := range []string{"**=age:7d", "logs/**=count:1000,age:2d12h", "a=b=count:1", "$ack/*=age:1h",
		"x=bytes:5", "x=count:3,age:1h30m,bytes:10MiB"} {
		r, err := fanfare.ParseRule(text)
		if err != nil || (r.Count == 0 && r.Age == 0 && r.Bytes == 0) {
			t.Errorf("%s: %+v, %v", text, r, err)
		}
		if again, err := fanfare.ParseRule(r.String()); err != nil || again != r {
			t.Errorf("%s is written as %s: %v", text, r, err)
		}
	}
	for _, text := range []string{"", "a", "a=", "a=count:0", "a=count:x", "a=age:", "a=age:-1h", "a=bytes:0",
		"a=bytes:x", "a=bytes:1,bytes:2", "a=count:1,count:2", "*x=count:1", "=count:1", "a=age:1x"} {
		if r, err := fanfare.ParseRule(text); err == nil {
			t.Errorf("%q was taken as %+v", text, r)
		}
	}
}

// TestMostSpecificRuleWins, and a leading wildcard in a rule matches reserved channels.
func TestMostSpecificRuleWins(t *testing.T) {
	var rules []fanfare.Rule
	for _, text := range []string{"**=count:1", "a/**=count:2", "a/*=count:3", "a/b=count:4"} {
		r, err := fanfare.ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, r)
	}
	l := open(t, pebblelog.Options{Durability: pebblelog.DurabilityMemory, Retention: rules})
	for channel, want := range map[string]int{"x": 1, "$x/y": 1, "a/b/c": 2, "a/x": 3, "a/b": 4} {
		for i := range 6 {
			if _, err := publish(l, channel, fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		events, _, err := logtest.ReadAll(l, fanfare.Query{Patterns: logtest.Patterns(channel)})
		if err != nil || len(events) != want {
			t.Errorf("%s retains %d, %v; want %d", channel, len(events), err, want)
		}
	}
}

// TestSweepDeletes: what is clipped goes from the disk too, and the mark stays when the channel is
// empty.
func TestSweepDeletes(t *testing.T) {
	all := logtest.Patterns("**")[0]
	o := pebblelog.Options{Dir: t.TempDir(), TrimInterval: 10 * time.Millisecond,
		Retention: []fanfare.Rule{{Pattern: all, Count: 10}}}
	l := open(t, o)
	for i := range 1200 {
		if i%100 == 0 {
			b := &fanfare.Batch{}
			for j := range 100 {
				b.Events = append(b.Events,
					fanfare.Event{Channel: logtest.Channel(fmt.Sprint("c", j%2)), Data: fmt.Sprint(i + j)})
			}
			if _, err := logtest.Append(l, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	for deadline := time.Now().Add(time.Minute); l.Stats().Trimmed < 1180; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of 1180 deleted", l.Stats().Trimmed)
		}
		time.Sleep(10 * time.Millisecond)
	}
	before := l.Stats().EventsRead
	events, _, err := logtest.ReadAll(l, fanfare.Query{Patterns: logtest.Patterns("**")})
	if err != nil || len(events) != 20 || l.Stats().EventsRead-before != 20 {
		t.Fatalf("%d events, %d read, %v", len(events), l.Stats().EventsRead-before, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, o)
	loss, err := logtest.Missed(l, events[0].Position-100, "c0")
	if err != nil || loss.Reason != fanfare.GapTrimmed {
		t.Fatalf("after the reopen: %+v, %v", loss, err)
	}
}
