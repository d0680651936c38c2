package pebblelog_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

func publishN(t *testing.T, l *pebblelog.Log, channel string, from, to int) (at []fanfare.Position) {
	t.Helper()
	for i := from; i < to; i++ {
		p, err := publish(l, channel, fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, p)
	}
	return at
}

func readAll(t *testing.T, l *pebblelog.Log, pattern string) (events []fanfare.Event) {
	t.Helper()
	events, _, err := logtest.ReadAll(l, fanfare.Query{Patterns: logtest.Patterns(pattern)})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func verified(t *testing.T, dir string) pebblelog.Report {
	t.Helper()
	report, err := pebblelog.Verify(t.Context(), dir)
	if err != nil || report.Faults > 0 {
		t.Fatalf("verify %s: %+v, %v", dir, report, err)
	}
	return report
}

// TestBackupAndRestore: a backup of a busy log holds all that was acknowledged before it; restored,
// it tells those who have seen more that events are lost, and never gives a position twice.
func TestBackupAndRestore(t *testing.T) {
	dir := t.TempDir()
	l := open(t, pebblelog.Options{Dir: filepath.Join(dir, "data")})
	before := publishN(t, l, "a", 0, 50)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				_, _ = publish(l, "busy", fmt.Sprint(i))
			}
		}
	}()
	backup := filepath.Join(dir, "backups", "monday")
	durable, err := l.Backup(t.Context(), backup)
	if err != nil || durable < before[49] {
		t.Fatalf("%v, %v", durable, err)
	}
	close(stop)
	<-stopped
	if _, err := l.Backup(t.Context(), backup); fanfare.CodeOf(err) != fanfare.CodeConflict {
		t.Errorf("into a folder that exists: %v", err)
	}
	after := publishN(t, l, "a", 50, 60)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if r := verified(t, backup); r.Events < 50 || r.Channels == 0 || r.Newest < durable {
		t.Errorf("the backup: %+v", r)
	}
	restored := filepath.Join(dir, "restored")
	if err := pebblelog.Restore(backup, restored); err != nil {
		t.Fatal(err)
	}
	if err := pebblelog.Restore(backup, restored); fanfare.CodeOf(err) != fanfare.CodeConflict {
		t.Errorf("into a folder that is not empty: %v", err)
	}
	if err := pebblelog.Restore(filepath.Join(dir, "nothing"), filepath.Join(dir, "other")); err == nil {
		t.Error("nothing was restored")
	}
	l = open(t, pebblelog.Options{Dir: restored})
	if events := readAll(t, l, "a"); len(events) != 50 {
		t.Errorf("%d events of a, want 50", len(events))
	}
	for _, c := range []struct {
		after fanfare.Position
		want  fanfare.GapReason
	}{{before[20], ""}, {before[49], ""}, {after[9], fanfare.GapLost}} {
		loss, err := logtest.Missed(l, c.after, "a")
		if err != nil || loss.Reason != c.want {
			t.Errorf("after %v: %q, %v; want %q", c.after, loss.Reason, err, c.want)
		}
	}
	if p := publishN(t, l, "a", 60, 61)[0]; p <= after[9] {
		t.Errorf("position %v was given before: %v", p, after[9])
	}
}

// TestBackupThatFails, because its disk is full, is the backup's failure and not the log's.
func TestBackupThatFails(t *testing.T) {
	f := &faulty{file: func(path string) bool { return strings.Contains(path, "backup") }, ops: changes}
	l := open(t, pebblelog.Options{Dir: "/data", FS: errorfs.Wrap(vfs.NewMem(), f)})
	publishN(t, l, "a", 0, 10)
	f.on.Store(true)
	if _, err := l.Backup(t.Context(), "/backup"); err == nil || !strings.Contains(err.Error(), "injected") {
		t.Errorf("the backup: %v", err)
	}
	publishN(t, l, "a", 10, 20)
	if s := l.Stats(); s.Reopened > 0 || l.Status().Err != nil || len(readAll(t, l, "a")) != 20 {
		t.Errorf("%+v, %v", s, l.Status())
	}
	f.on.Store(false)
	if _, err := l.Backup(t.Context(), "/backup2"); err != nil {
		t.Error(err)
	}
}

// TestExportAndImport: positions, types, times, trim marks, runs, floors and kept positions are the
// same afterwards.
func TestExportAndImport(t *testing.T) {
	dir := t.TempDir()
	rule, err := fanfare.ParseRule("few/**=count:3")
	if err != nil {
		t.Fatal(err)
	}
	o := pebblelog.Options{Dir: filepath.Join(dir, "data"), Retention: append(fanfare.DefaultRetention(), rule),
		TrimInterval: 10 * time.Millisecond}
	l := open(t, o)
	few := publishN(t, l, "few/1", 0, 10)
	kind, _ := fanfare.ParseEventType("kind")
	odd := []fanfare.Event{{Channel: logtest.Channel("a/ü"), Type: kind, Data: "<b>\"\n\u2028\x00"},
		{Channel: logtest.Channel("a/2")}}
	at := time.UnixMilli(time.Now().UnixMilli()).UTC()
	kept := fanfare.Kept{Name: "pc/1/2", Position: few[3], Value: "\x00v\xff", Time: at, Expires: at.Add(time.Hour)}
	hour := []time.Duration{time.Hour}
	if _, err := logtest.Append(l, &fanfare.Batch{Events: odd, Keep: []fanfare.Kept{kept},
		TTL: append(hour, 0)}); err != nil {
		t.Fatal(err)
	}
	later, err := logtest.Append(l, &fanfare.Batch{Events: odd[:1], TTL: hour, DeliverAt: at.Add(time.Hour),
		Keys: []fanfare.Key{{Scope: "s", Text: "k"}}})
	if err != nil {
		t.Fatal(err)
	}
	wantLater, _, err := l.ScheduledAt(t.Context(), later.Scheduled)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); l.Stats().Trimmed < 7 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, o)
	publishN(t, l, "few/1", 10, 11) // in another run
	want := readAll(t, l, "**")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	n, err := pebblelog.Export(t.Context(), o.Dir, nil, &text, func(err error) { t.Error(err) })
	if err != nil || n < uint64(len(want)) {
		t.Fatalf("%d events, %v", n, err)
	}
	o.Dir = filepath.Join(dir, "imported")
	if m, err := pebblelog.Import(t.Context(), o.Dir, bytes.NewReader(text.Bytes())); err != nil || m != n {
		t.Fatalf("%d of %d events, %v", m, n, err)
	}
	verified(t, o.Dir)
	l = open(t, o)
	if diff := cmp.Diff(want, readAll(t, l, "**"),
		cmp.Comparer(func(a, b fanfare.Event) bool { return a == b })); diff != "" {
		t.Errorf("not the same events:\n%s", diff)
	}
	got, ok, err := l.Kept(t.Context(), "pc/1/2")
	if got.Age = 0; err != nil || !ok || got != kept {
		t.Errorf("kept %+v, %v, %v", got, ok, err)
	}
	if got, ok, err := l.ScheduledAt(t.Context(), later.Scheduled); err != nil || !ok || got != wantLater ||
		got.TTL != time.Hour || !got.DeliverAt.Equal(at.Add(time.Hour)) || got.Event.Data != odd[0].Data {
		t.Errorf("scheduled %+v, %v, %v; want %+v", got, ok, err, wantLater)
	}
	if again, err := logtest.Append(l, &fanfare.Batch{Events: odd[:1],
		DeliverAt: at.Add(time.Hour)}); err != nil || again.Scheduled <= later.Scheduled {
		t.Errorf("an id that is not new: %+v, %v", again, err)
	}
	for i, reason := range map[int]fanfare.GapReason{2: fanfare.GapTrimmed, 9: ""} {
		if loss, err := logtest.Missed(l, few[i], "few/1"); err != nil || loss.Reason != reason {
			t.Errorf("after few %d: %+v, %v", i, loss, err)
		}
	}
	events, _, err := logtest.ReadAll(l, fanfare.Query{Patterns: logtest.Patterns("**"), Since: at.Add(-time.Minute)})
	if err != nil || len(events) != len(want) {
		t.Errorf("by time: %d, %v", len(events), err)
	}
	if p := publishN(t, l, "few/1", 11, 12)[0]; p <= want[len(want)-1].Position {
		t.Errorf("position %v is not new", p)
	}

	// Only some channels, and what cannot be imported.
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var some bytes.Buffer
	if n, err := pebblelog.Export(t.Context(), o.Dir, logtest.Patterns("a/*"), &some, func(error) {}); err != nil ||
		n != 2 {
		t.Errorf("a/*: %d events, %v", n, err)
	}
	lines := strings.SplitAfter(strings.TrimSpace(text.String()), "\n")
	oneLater := scheduledLine(lines)
	for name, c := range map[string]struct{ text, want string }{
		"cut":         {strings.Join(lines[:len(lines)-1], ""), "cut short"},
		"half a line": {text.String()[:text.Len()/2], "line"},
		"no head":     {strings.Join(lines[1:], ""), "line 1"},
		"twice":       {strings.Join(lines[:len(lines)-1], "") + lines[len(lines)-2], "order"},
		"a line less": {strings.Join(append(append([]string{}, lines[:len(lines)-2]...), lines[len(lines)-1]), ""),
			"counts"},
		"not JSON":        {"hello\n", "line 1"},
		"scheduled twice": {strings.Replace(text.String(), oneLater, oneLater+oneLater, 1), "rise"},
	} {
		to := filepath.Join(dir, name)
		if _, err := pebblelog.Import(t.Context(), to, strings.NewReader(c.text)); err == nil ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if l, err := pebblelog.Open(pebblelog.Options{Dir: to}); err != nil {
			t.Errorf("%s: what is left is in the way: %v", name, err)
		} else {
			_ = l.Close()
		}
	}
}

// scheduledLine returns the first line of a scheduled event.
func scheduledLine(lines []string) string {
	return lines[slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, `"deliverAt":`) })]
}

// FuzzImport: whatever is imported, the outcome is an error and no log, or a log in which
// everything fits together.
func FuzzImport(f *testing.F) {
	head := `{"fanfare":"export 1","runs":[["0000000000100","00000000001ZZ"]],"gone":"0000000000000"}` + "\n"
	f.Add(head + `{"id":"0000000000101","channel":"a","event":"message",` +
		`"data":"x","time":"2026-11-22T10:00:00Z"}` + "\n" + `{"end":true,"events":1}`)
	f.Add(head + `{"channel":"a","trimmed":"0000000000105"}` + "\n" +
		`{"kept":"pc/1/2","position":"0000000000101","time":"2026-11-22T10:00:00Z",` +
		`"expires":"2026-11-23T10:00:00Z"}` + "\n" + `{"end":true}`)
	f.Fuzz(func(t *testing.T, text string) {
		dir := filepath.Join(t.TempDir(), "data")
		n, err := pebblelog.Import(t.Context(), dir, strings.NewReader(text))
		if err != nil {
			if _, err := os.Stat(filepath.Join(dir, "log")); err == nil {
				t.Error("something is left behind")
			}
			return
		}
		if r, err := pebblelog.Verify(t.Context(), dir); err != nil || r.Faults > 0 || r.Events > n {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// TestBackupKeepsTimes: what is scheduled, and when events expire, is in a backup that is made
// while events fall due; the restored log publishes the rest, and gives no id of a scheduled event
// again.
func TestBackupKeepsTimes(t *testing.T) {
	dir := t.TempDir()
	l := open(t, pebblelog.Options{Dir: filepath.Join(dir, "data")})
	hour := []time.Duration{time.Hour}
	event := func(data string) []fanfare.Event {
		return []fanfare.Event{{Channel: logtest.Channel("a"), Data: data}}
	}
	if _, err := logtest.Append(l, &fanfare.Batch{Events: event("now"), TTL: hour}); err != nil {
		t.Fatal(err)
	}
	var last fanfare.Receipt
	for i := range 200 {
		var err error
		if last, err = logtest.Append(l, &fanfare.Batch{Events: event(fmt.Sprint(i)), TTL: hour,
			DeliverIn: time.Duration(i+1) * 2 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
	}
	backup, restored := filepath.Join(dir, "backup"), filepath.Join(dir, "restored")
	if _, err := l.Backup(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	for i := range 5 { // after the backup
		var err error
		if last, err = logtest.Append(l, &fanfare.Batch{Events: event(fmt.Sprint("after ", i)), TTL: hour,
			DeliverIn: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	if r := verified(t, backup); r.Events+r.Scheduled != 201 {
		t.Errorf("%d events and %d scheduled, want 201 together", r.Events, r.Scheduled)
	}
	if err := pebblelog.Restore(backup, restored); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, pebblelog.Options{Dir: restored})
	var events []fanfare.Event
	for deadline := time.Now().Add(time.Minute); len(events) < 201 && time.Now().Before(deadline); {
		events = readAll(t, l, "a")
	}
	if len(events) != 201 {
		t.Errorf("%d events, want 201", len(events))
	}
	for i, e := range events {
		if want := fmt.Sprint(i - 1); (i > 0 && e.Data != want) || e.Expires.IsZero() {
			t.Errorf("event %d is %+v", i, e)
		}
	}
	r, err := logtest.Append(l, &fanfare.Batch{Events: event("x"), DeliverIn: time.Hour})
	if err != nil || r.Scheduled <= last.Scheduled {
		t.Errorf("%+v %v: the id was given before: %v", r, err, last.Scheduled)
	}
}
