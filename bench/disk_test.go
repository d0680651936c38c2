//go:build unix

package bench

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

// BenchmarkDisk is how much the log's files take on disk, by blocks, 30 s after the last of a
// number of publishes. The bar is twice the payload that is retained and 100 MB more: of-bar is at
// most 1.
func BenchmarkDisk(b *testing.B) {
	for _, size := range []struct {
		name   string
		events int
	}{{"15MB", 75_000}, {"200MB", 1_000_000}, {"2GB", 10_000_000}} {
		for _, kind := range []struct {
			name string
			rule string
			fill func(b *testing.B, l *pebblelog.Log, channels, n int)
		}{
			{"single", "**=age:7d", fillSingly},
			{"batch", "**=age:7d", fill},
			{"single-trimmed", "**=count:75", fillSingly},
			{"batch-trimmed", "**=count:75", fill},
		} {
			b.Run(size.name+"/"+kind.name, func(b *testing.B) {
				for b.Loop() {
					benchDisk(b, kind.rule, func(l *pebblelog.Log) { kind.fill(b, l, 1000, size.events) })
				}
			})
		}
	}
}

func benchDisk(b *testing.B, text string, publish func(*pebblelog.Log)) {
	b.Helper()
	rule, err := fanfare.ParseRule(text)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	l := openLog(b, pebblelog.Options{Dir: dir, Retention: []fanfare.Rule{rule}})
	began := time.Now()
	publish(l)
	took := time.Since(began)
	most := allocated(b, dir)
	time.Sleep(30 * time.Second)
	taken := allocated(b, dir)
	reports, err := l.Retention(context.Background(), nil)
	if err != nil {
		b.Fatal(err)
	}
	payload := int64(0)
	for _, r := range reports {
		payload += int64(r.Bytes)
	}
	const mb = 1e6
	b.ReportMetric(float64(l.Stats().Events)/took.Seconds(), "events/s")
	b.ReportMetric(float64(payload)/mb, "MB-retained")
	b.ReportMetric(float64(most)/mb, "MB-at-the-end")
	b.ReportMetric(float64(taken)/mb, "MB-on-disk")
	b.ReportMetric(float64(l.Stats().DiskBytes)/mb, "MB-by-stats")
	b.ReportMetric(float64(taken)/float64(2*payload+100*mb), "of-bar")
}

// allocated is what the files below a folder take, by blocks.
func allocated(tb testing.TB, dir string) (sum int64) {
	tb.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // what the log has just removed takes nothing
		}
		var st syscall.Stat_t
		if syscall.Lstat(path, &st) == nil {
			sum += st.Blocks * 512
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return sum
}

// fillSingly appends n events, each a publish of its own, 128 of them at once on their way.
func fillSingly(b *testing.B, l *pebblelog.Log, channels, n int) {
	b.Helper()
	names := make([]fanfare.Channel, channels)
	for i := range names {
		names[i] = logtest.Channel(fmt.Sprintf("stores/%d/pcs/%d", i/10, i%10))
	}
	data := texts(997)
	failed := make(chan error, 1)
	room := make(chan struct{}, 128)
	for i := range n {
		room <- struct{}{}
		l.Append(&fanfare.Batch{Events: []fanfare.Event{{Channel: names[i%channels], Data: data[i%len(data)]}}},
			func(_ fanfare.Receipt, err error) {
				<-room
				if err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			})
	}
	for range cap(room) {
		room <- struct{}{}
	}
	select {
	case err := <-failed:
		b.Fatal(err)
	default:
	}
}

// BenchmarkLimit is how much the files take at most while publishers are faster than the oldest
// events can go, and 15 s after the last publish, when they must be within the limit.
func BenchmarkLimit(b *testing.B) {
	for _, most := range []int64{32 << 20, 256 << 20} {
		for _, kind := range []struct {
			name string
			fill func(b *testing.B, l *pebblelog.Log, channels, n int)
		}{{"single", fillSingly}, {"batch", fill}} {
			b.Run(fmt.Sprintf("%dMiB/%s", most>>20, kind.name), func(b *testing.B) {
				for b.Loop() {
					benchLimit(b, most, func(l *pebblelog.Log, n int) { kind.fill(b, l, 1000, n) })
				}
			})
		}
	}
}

func benchLimit(b *testing.B, most int64, publish func(*pebblelog.Log, int)) {
	b.Helper()
	dir := b.TempDir()
	l := openLog(b, pebblelog.Options{Dir: dir, MaxBytes: most})
	peak := highest(b, dir)
	began, n := time.Now(), 0
	for ; time.Since(began) < 20*time.Second; n += 100_000 {
		publish(l, 100_000)
	}
	took := time.Since(began)
	b.ReportMetric(float64(n)/took.Seconds(), "events/s")
	b.ReportMetric(float64(peak())/(1<<20), "MiB-peak")
	time.Sleep(15 * time.Second)
	b.ReportMetric(float64(allocated(b, dir))/(1<<20), "MiB-after")
}

// highest watches what a folder takes, until the function it returns is called, which gives the
// highest figure.
func highest(b *testing.B, dir string) func() int64 {
	stop, done := make(chan struct{}), make(chan int64)
	go func() {
		peak := int64(0)
		for {
			select {
			case <-stop:
				done <- peak
				return
			case <-time.After(20 * time.Millisecond):
				peak = max(peak, allocated(b, dir))
			}
		}
	}()
	return func() int64 { close(stop); return <-done }
}
