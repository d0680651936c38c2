package bench

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

// texts are 200 bytes each that do not compress to nothing.
func texts(n int) []string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789-_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	r := rand.New(rand.NewPCG(1, 2))
	list := make([]string, n)
	for i := range list {
		b := make([]byte, 200)
		for j := range b {
			b[j] = letters[r.IntN(len(letters))]
		}
		list[i] = string(b)
	}
	return list
}

// fill appends n events, round robin over the channels, a thousand at a time with some batches on
// their way.
func fill(b *testing.B, l *pebblelog.Log, channels, n int) {
	b.Helper()
	names := make([]fanfare.Channel, channels)
	for i := range names {
		names[i] = logtest.Channel(fmt.Sprintf("stores/%d/pcs/%d", i/10, i%10))
	}
	data := texts(997)
	room := make(chan struct{}, 8)
	failed := make(chan error, 1)
	for i := 0; i < n; i += 1000 {
		batch := &fanfare.Batch{}
		for j := i; j < min(i+1000, n); j++ {
			batch.Events = append(batch.Events, fanfare.Event{Channel: names[j%channels], Data: data[j%len(data)]})
		}
		room <- struct{}{}
		l.Append(batch, func(_ fanfare.Receipt, err error) {
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

// BenchmarkWriteAmplification is bytes written to files, by commits, flushes and compactions, over
// bytes of payload, while retention removes as much as is published. The bar is 6.
func BenchmarkWriteAmplification(b *testing.B) {
	for _, c := range []struct {
		name     string
		rule     string
		max      int64
		channels int
	}{
		{"age", "**=age:5s", 0, 1000},
		{"count", "**=count:200", 0, 1000},
		{"bytes", "**=bytes:40KiB", 0, 1000},
		{"size", "**=age:7d", 256 << 20, 1000},
		{"channels=20000", "**=count:20", 0, 20_000},
	} {
		b.Run(c.name, func(b *testing.B) {
			rule, err := fanfare.ParseRule(c.rule)
			if err != nil {
				b.Fatal(err)
			}
			l := openLog(b, pebblelog.Options{
				Dir: b.TempDir(), Durability: pebblelog.DurabilityAsync, Retention: []fanfare.Rule{rule},
				MaxBytes:     c.max,
				TrimInterval: time.Second,
			})
			fill(b, l, c.channels, 2_000_000) // until as much goes as comes
			for b.Loop() {
				before := settled(l)
				began := time.Now()
				fill(b, l, c.channels, 3_000_000)
				busy := time.Since(began)
				after := settled(l)
				b.ReportMetric(float64(after.WrittenBytes-before.WrittenBytes)/(3_000_000*200), "written/payload")
				b.ReportMetric(float64(after.DiskBytes)/(1<<20), "MiB-on-disk")
				b.ReportMetric(float64(3_000_000)/busy.Seconds(), "events/s")
			}
		})
	}
}

// settled waits until nothing is written any more: what compactions still owe counts too.
func settled(l *pebblelog.Log) fanfare.LogStats {
	for last := l.Stats(); ; {
		time.Sleep(3 * time.Second)
		now := l.Stats()
		if now.WrittenBytes-last.WrittenBytes < 1<<20 {
			return now
		}
		last = now
	}
}

// BenchmarkOpen opens a log of ten million events. The bar is 2 s.
func BenchmarkOpen(b *testing.B) {
	o := pebblelog.Options{Dir: b.TempDir(), Durability: pebblelog.DurabilityAsync}
	l, err := pebblelog.Open(o)
	if err != nil {
		b.Fatal(err)
	}
	fill(b, l, 1000, 10_000_000)
	// As kill -9 leaves it: the copy has a WAL to be read.
	killed := pebblelog.Options{Dir: filepath.Join(b.TempDir(), "killed")}
	settled(l)
	if err := os.CopyFS(killed.Dir, os.DirFS(o.Dir)); err != nil {
		b.Fatal(err)
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	opened := func(o pebblelog.Options) float64 {
		began := time.Now()
		l, err := pebblelog.Open(o)
		if err != nil {
			b.Fatal(err)
		}
		took := time.Since(began)
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
		return float64(took.Milliseconds())
	}
	for b.Loop() {
		b.ReportMetric(opened(killed), "ms-to-open-after-kill")
		b.ReportMetric(max(opened(o), opened(o), opened(o)), "ms-to-open")
	}
}
