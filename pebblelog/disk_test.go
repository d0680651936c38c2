package pebblelog

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
)

// noise returns n texts of 200 bytes that hardly compress.
func noise(n int) []string {
	r := rand.New(rand.NewPCG(1, 2))
	list := make([]string, n)
	for i := range list {
		b := make([]byte, 200)
		for j := range b {
			b[j] = byte('!' + r.IntN(90))
		}
		list[i] = string(b)
	}
	return list
}

// publishMany publishes n events of 200 bytes, `each` of them in a publish, round robin over 50
// channels, and waits for all.
func publishMany(t testing.TB, l *Log, n, each int) {
	t.Helper()
	data := noise(211)
	var failed atomic.Value
	room := make(chan struct{}, 64)
	for i := 0; i < n; i += each {
		b := &fanfare.Batch{}
		for j := i; j < min(i+each, n); j++ {
			c, err := fanfare.ParseChannel(fmt.Sprint("c/", j%50))
			if err != nil {
				t.Fatal(err)
			}
			b.Events = append(b.Events, fanfare.Event{Channel: c, Data: data[j%len(data)]})
		}
		room <- struct{}{}
		l.Append(b, func(_ fanfare.Receipt, err error) {
			if err != nil {
				failed.Store(err)
			}
			<-room
		})
	}
	for range cap(room) {
		room <- struct{}{}
	}
	if err := failed.Load(); err != nil {
		t.Fatal(err)
	}
}

// settleNow takes the steps to rest that the log takes by itself some seconds after the last
// publish.
func settleNow(t *testing.T, l *Log) {
	t.Helper()
	sweepNow(t, l)
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) { // Pebble runs on real time
		done := false
		err := l.read(t.Context(), func(s *session) (err error) {
			s.limiter.mu.Lock()
			defer s.limiter.mu.Unlock()
			done, err = s.limiter.settle(l.upkeep.measure())
			done = done && !s.limiter.tidied
			s.fs.follow(spareLeast)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the log does not come to rest")
		}
	}
}

// onDisk is what the files below a folder take, by blocks, found by other code than the log's.
func onDisk(t *testing.T, dir string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && !d.IsDir() {
			sum += blocks(info)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a table may go meanwhile
		t.Fatal(err)
	}
	return sum
}

func retained(t *testing.T, l *Log) (sum int64) {
	t.Helper()
	reports, err := l.Retention(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reports {
		sum += int64(r.Bytes)
	}
	return sum
}

// TestDiskTakesLittle: a log at rest takes at most twice what it retains and 100 MB, also when it
// was published in many small pieces, and when most of it has been removed. Before, 15 MB took 517
// MB, since each WAL was set aside at 71 MB.
func TestDiskTakesLittle(t *testing.T) {
	for _, c := range []struct {
		name   string
		rule   string
		events int
		each   int
		more   int64
	}{
		{"singly", "**=age:7d", 75_000, 1, 100e6},
		{"in batches", "**=age:7d", 75_000, 500, 100e6},
		{"trimmed", "**=count:200", manyTrimmed, 500, moreTrimmed},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			rule, err := fanfare.ParseRule(c.rule)
			if err != nil {
				t.Fatal(err)
			}
			l := openTest(t, Options{
				Dir: dir, Durability: DurabilityAsync, Retention: []fanfare.Rule{rule}, TrimInterval: time.Hour,
			})
			publishMany(t, l, c.events, c.each)
			settleNow(t, l)
			payload := retained(t, l)
			// Pebble removes obsolete tables in the background.
			waitUntil(t, "the disk to be given back", func() bool { return onDisk(t, dir) <= 2*payload+c.more })
		})
	}
}

// TestFiguresAreBlocks: Stats says what the files take, with the room that is allocated beyond
// their ends.
func TestFiguresAreBlocks(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, Options{Dir: dir, Durability: DurabilityAsync})
	put(t, l, "a", "x")
	l.upkeep.measure()
	st := l.Stats()
	if own := onDisk(t, filepath.Join(dir, "log")); st.DiskBytes != own {
		t.Errorf("the figure is %d bytes, the files take %d", st.DiskBytes, own)
	}
	if st.SetAsideBytes <= 0 || st.SetAsideBytes > walStepLeast {
		t.Errorf("%d bytes are set aside beyond one event, want some, and at most %d", st.SetAsideBytes, walStepLeast)
	}
	if st.DiskBytes < st.SetAsideBytes {
		t.Errorf("%d bytes on disk, of them %d set aside", st.DiskBytes, st.SetAsideBytes)
	}
}

func walFilesOf(t *testing.T, dir string) (names []string, sum int64) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "log", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			sum += blocks(info)
		}
	}
	return names, sum
}

// TestSpareFollowsUse: one old WAL is kept to be written over, it goes when it is larger than what
// is published calls for, and a disk without room gets everything back.
func TestSpareFollowsUse(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, Options{ // memtables of 4 MiB; nobody else asks for room
		Dir: dir, Durability: DurabilityAsync, MaxBytes: 64 << 20, MinFreeBytes: -1, TrimInterval: time.Hour,
	})
	fs := publishUntilSpare(t, l, 1<<20)
	kept := spareOf(fs)
	if info, err := os.Stat(kept.name); err != nil || blocks(info) != kept.bytes {
		t.Fatalf("the spare is %+v: %v", kept, err)
	}
	if names, _ := walFilesOf(t, dir); len(names) > 4 {
		t.Errorf("%d WAL files: %v", len(names), names)
	}
	if err := l.read(t.Context(), func(s *session) error { return s.db.Flush() }); err != nil { // which begins a WAL
		t.Fatal(err)
	}
	if _, err := os.Stat(kept.name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the spare was not written over: %v", err)
	}
	put(t, l, "c/0", "x")
	if rest := fs.setAsideBytes() - spareOf(fs).bytes; rest < kept.bytes/2 {
		t.Errorf("the rest of the open WAL is %d bytes, it was to be written over one of %d", rest, kept.bytes)
	}
	fs.follow(1 << 20)
	if n := fs.setAsideBytes(); n > 1<<20+walStep {
		t.Errorf("%d bytes are set aside when 1 MiB may be", n)
	}
	put(t, l, "c/0", "y")
	if !fs.yield(true) {
		t.Error("nothing was given back")
	}
	put(t, l, "c/0", "y")
	written := int64(0)
	fs.wals.mu.Lock()
	for f := range fs.wals.growing {
		written += f.at
	}
	fs.wals.mu.Unlock()
	if _, sum := walFilesOf(t, dir); fs.setAsideBytes() > 0 || sum > written+256<<10 {
		t.Errorf("the WALs take %d bytes for %d written, and %d are set aside, after all was given back",
			sum, written, fs.setAsideBytes())
	}
}

func spareOf(fs *sessionFS) spare {
	fs.wals.mu.Lock()
	defer fs.wals.mu.Unlock()
	return fs.wals.spare
}

// publishUntilSpare publishes until an obsolete WAL of at least that size is kept.
func publishUntilSpare(t *testing.T, l *Log, least int64) *sessionFS {
	t.Helper()
	fs := l.current().fs
	waitUntil(t, "a spare", func() bool {
		if spareOf(fs).bytes >= least {
			return true
		}
		publishMany(t, l, 5000, 100)
		return false
	})
	return fs
}

func waitUntil(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for ", what)
		}
	}
}

// TestWALIsWhole (P1): what was acknowledged is in the files while old WALs are written over and
// room is given back under the writers' hands. The copy is what kill -9 would leave.
func TestWALIsWhole(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, Options{Dir: dir, Durability: DurabilitySync, MaxBytes: 64 << 20, TrimInterval: time.Hour})
	s := l.current()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for on := true; ; on = !on {
			select {
			case <-stop:
				return
			default:
				s.fs.follow(0)
				s.fs.yield(on)
			}
		}
	}()
	var wg sync.WaitGroup
	const writers, each = 8, 1500
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				c, err := fanfare.ParseChannel(fmt.Sprint("w/", w))
				if err != nil {
					t.Error(err)
					return
				}
				e := fanfare.Event{Channel: c, Data: fmt.Sprint(i, strings.Repeat("x", 1000))}
				if _, err := logtest.Append(l, &fanfare.Batch{Events: []fanfare.Event{e}}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	<-stopped
	if l.Stats().Reopened > 0 {
		t.Fatal("the log failed")
	}
	killed := filepath.Join(t.TempDir(), "killed")
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	copied := openTest(t, Options{Dir: killed})
	for w := range writers {
		data := dataOf(t, copied, fanfare.Query{Patterns: patternsOf(t, fmt.Sprint("w/", w))})
		if len(data) != each {
			t.Fatalf("writer %d: %d of %d events are left", w, len(data), each)
		}
		for i, d := range data {
			if !strings.HasPrefix(d, fmt.Sprint(i, "x")) {
				t.Fatalf("writer %d: event %d is %.20s", w, i, d)
			}
		}
	}
}

// reuseFS counts files that are written over.
type reuseFS struct {
	vfs.FS
	reused *atomic.Int64
}

func (fs reuseFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	fs.reused.Add(1)
	return fs.FS.ReuseForWrite(oldname, newname, c)
}

// TestSpareAcrossCrashes (P1): a power cut that forgets all, half or none of what was not synced
// finds no event of an older WAL in one that was written over it, and misses none that was
// acknowledged.
func TestSpareAcrossCrashes(t *testing.T) {
	for _, keep := range []int{0, 50, 100} {
		t.Run(fmt.Sprint(keep), func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			n, reused := 0, atomic.Int64{}
			for range 4 {
				// Memtables of 1 MiB.
				l := openTest(t, Options{Dir: "/data", FS: reuseFS{mem, &reused}, MaxBytes: 16 << 20,
					TrimInterval: time.Hour})
				for range 40 {
					var batch []string
					for range 100 {
						batch = append(batch, fmt.Sprint(n, strings.Repeat("y", 500)))
						n++
					}
					put(t, l, "a", batch...)
				}
				mem = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: keep,
					RNG: rand.New(rand.NewPCG(rand.Uint64(), 1))})
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if reused.Load() == 0 {
				t.Error("no WAL was written over: the test tests nothing")
			}
			l := openTest(t, Options{Dir: "/data", FS: mem, MaxBytes: 16 << 20, TrimInterval: time.Hour})
			data := dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "a")})
			for i, d := range data {
				if !strings.HasPrefix(d, fmt.Sprint(n-len(data)+i, "y")) {
					t.Fatalf("event %d of %d is %.20s", i, len(data), d)
				}
			}
			if len(data) < n/4 {
				t.Fatalf("%d of %d events are left", len(data), n)
			}
		})
	}
}

// tryPut publishes one event.
func tryPut(l *Log, channel, data string) error { return tryPutMany(l, channel, []string{data}) }

func tryPutMany(l *Log, channel string, data []string) error {
	c, err := fanfare.ParseChannel(channel)
	if err != nil {
		return err
	}
	b := &fanfare.Batch{}
	for _, d := range data {
		b.Events = append(b.Events, fanfare.Event{Channel: c, Data: d})
	}
	_, err = logtest.Append(l, b)
	return err
}

// TestDiskTooSmall: a record at the start says that a disk can never have the least free, or that
// the log cannot reach its limit on it. The first still serves what it holds. Memtables follow the
// room.
func TestDiskTooSmall(t *testing.T) {
	mem := vfs.NewMem()
	mem.TestingSetDiskUsage(vfs.DiskUsage{TotalBytes: 60 << 20, AvailBytes: 40 << 20, UsedBytes: 20 << 20})
	var text strings.Builder
	said := slog.New(slog.NewTextHandler(&text, nil))
	l := openTest(t, Options{Dir: "/data", FS: mem, Logger: said})
	if err := tryPut(l, "a", "x"); fanfare.CodeOf(err) != fanfare.CodeUnavailable ||
		!strings.Contains(err.Error(), "min-free-bytes") {
		t.Errorf("a publish on a disk of 60 MiB with a minimum of 64 MiB: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), fmt.Sprintf("disk=%d minimum=%d", 60<<20, 64<<20)) {
		t.Errorf("a disk of 60 MiB with a minimum of 64 MiB: %s", text.String())
	}
	text.Reset()
	mem.TestingSetDiskUsage(vfs.DiskUsage{TotalBytes: 100 << 20, AvailBytes: 80 << 20, UsedBytes: 20 << 20})
	l = openTest(t, Options{Dir: "/data2", FS: mem, MaxBytes: 10 << 30, Logger: said})
	put(t, l, "a", "x")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "setting=max-log-bytes") ||
		!strings.Contains(text.String(), fmt.Sprint("room=", 16<<20)) {
		t.Errorf("a disk of 100 MiB with a limit of 10 GiB: %s", text.String())
	}
	if got, want := memTableBytes(l.upkeep.most), uint64(36<<20/12); got != want {
		t.Errorf("a memtable of %d bytes on a disk with room for 36 MiB, want %d", got, want)
	}
}

// TestFullBeforeAnybodyPublishes: a log that is opened on a full disk says so, an idle one does
// when others fill the disk, and one that has failed as well. Room is set aside only while the disk
// has some.
func TestFullBeforeAnybodyPublishes(t *testing.T) {
	mem := vfs.NewMem()
	full, free := vfs.DiskUsage{AvailBytes: 1000}, vfs.DiskUsage{AvailBytes: 1 << 30}
	mem.TestingSetDiskUsage(full)
	l := openTest(t, Options{Dir: "/data", FS: mem, MinFreeBytes: 1 << 20, TrimInterval: 10 * time.Millisecond})
	err := l.Status().Err
	if fanfare.CodeOf(err) != fanfare.CodeUnavailable || !strings.Contains(err.Error(), "1000 bytes are free") {
		t.Errorf("opened on a full disk: %v", err)
	}
	for _, c := range []struct {
		usage vfs.DiskUsage
		full  bool
	}{{free, false}, {full, true}, {free, false}} {
		mem.TestingSetDiskUsage(c.usage)
		waitUntil(t, fmt.Sprint("full: ", c.full), func() bool { return (l.Status().Err != nil) == c.full })
		if yielded := l.current().fs.wals.yielded.Load(); yielded != c.full {
			t.Errorf("full: %v, and room may be set aside: %v", c.full, !yielded)
		}
	}
	put(t, l, "a", "x")
	mem.TestingSetDiskUsage(full)
	l.current().fail(errors.New("no space left on device"))
	waitUntil(t, "the reason", func() bool { return strings.Contains(l.Status().Err.Error(), "1000 bytes are free") })
	if err := tryPut(l, "a", "refused"); err == nil || !strings.Contains(err.Error(), "1000 bytes are free") {
		t.Errorf("a publish while the log waits for room: %v", err)
	}
	mem.TestingSetDiskUsage(free)
	waitUntil(t, "the log to be open again", func() bool { return l.Status().Err == nil })
	put(t, l, "a", "x")
}

// TestLimitHoldsAgainstFastPublishers: publishers that are faster than the oldest events can go
// wait for room, so that the files never take much more than the limit. Nothing is refused, and the
// waits are counted.
func TestLimitHoldsAgainstFastPublishers(t *testing.T) {
	const most = 16 << 20
	dir := t.TempDir()
	l := openTest(t, Options{Dir: dir, Durability: DurabilityAsync, MaxBytes: most,
		TrimInterval: 20 * time.Millisecond})
	stop, peak := make(chan struct{}), make(chan int64)
	go func() {
		highest := int64(0)
		for {
			select {
			case <-stop:
				peak <- highest
				return
			case <-time.After(5 * time.Millisecond):
				highest = max(highest, onDisk(t, dir))
			}
		}
	}()
	publishMany(t, l, tooFast, 500)
	close(stop)
	if got := <-peak; got > 4*most { // a compaction has old and new tables on disk for a while
		t.Errorf("the files took %d bytes, the limit is %d", got, most)
	}
	if l.Stats().LimitWaits == 0 {
		t.Error("nobody waited: the test tests nothing")
	}
	waitUntil(t, "the files to be within the limit",
		func() bool { l.upkeep.measure(); return l.Stats().DiskBytes <= most })
	if events := len(dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "c/0")})); events < 200 {
		t.Errorf("only %d events of a channel are left", events)
	}
}

// TestSetAsideFollowsUse: the room that is set aside is what two minutes at the present rate need,
// at least spareLeast, and at most an eighth of a limit; a hub is at rest when less than 1 MiB was
// published in five seconds.
func TestSetAsideFollowsUse(t *testing.T) {
	var u use
	now := time.Unix(1_000_000, 0)
	wal, payload := uint64(0), uint64(0)
	run := func(seconds int, each uint64) {
		for range seconds {
			now = now.Add(time.Second)
			wal, payload = wal+2*each, payload+each
			u.sample(now, wal, payload)
			u.sample(now.Add(time.Millisecond), wal+1<<30, payload) // too early
		}
	}
	check := func(what string, aside int64, rest bool) {
		t.Helper()
		if got := u.setAside(0); got != aside {
			t.Errorf("%s: %d bytes may be set aside, want %d", what, got, aside)
		}
		if got, want := u.setAside(64<<20), min(aside, 8<<20); got != want {
			t.Errorf("%s, with a limit of 64 MiB: %d bytes may be set aside, want %d", what, got, want)
		}
		if got := u.atRest(); got != rest {
			t.Errorf("%s: at rest: %v", what, got)
		}
	}
	check("at the start", spareLeast, false)
	run(useSpan+1, 100<<10)
	check("at 100 KiB a second", 12*10*200<<10, true)
	run(useSpan, 1<<20)
	check("at 1 MiB a second", 12*10*2<<20, false)
	run(restSpan+1, 0)
	check("soon after", 12*4*2<<20, true)
	run(useSpan, 0)
	check("later", spareLeast, true)
	wal = 0
	run(1, 0)
	check("after the store was opened again", spareLeast, true)
}
