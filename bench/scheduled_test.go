package bench

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

// BenchmarkScheduled schedules a million events, opens the log again, and lets all of them fall due
// at once. The bars: MB-held, which is the heap beyond that of an empty log, is at most 20, and
// s-open-longer, the time of the opening beyond that of an empty log, at most 1.
func BenchmarkScheduled(b *testing.B) {
	const events = 1_000_000
	dir, empty := b.TempDir(), b.TempDir()
	var ahead atomic.Int64
	options := func(dir string) pebblelog.Options {
		return pebblelog.Options{Dir: dir, Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }}
	}
	for b.Loop() {
		l := openLog(b, options(dir))
		began := time.Now()
		schedule(b, l, events)
		b.ReportMetric(events/time.Since(began).Seconds(), "scheduled/s")
		closeLog(b, l)
		closeLog(b, openLog(b, options(empty)))

		held, opened := [2]float64{}, [2]float64{}
		for i, dir := range []string{empty, dir} {
			before, began := heap(), time.Now()
			l = openLog(b, options(dir))
			opened[i] = time.Since(began).Seconds()
			held[i] = heap() - before
			if i == 0 {
				closeLog(b, l)
			}
		}
		b.ReportMetric(held[1]-held[0], "MB-held")
		b.ReportMetric(opened[1]-opened[0], "s-open-longer")

		began = time.Now()
		ahead.Store(int64(25 * time.Hour)) // it is believed at the next opening
		closeLog(b, l)
		l = openLog(b, options(dir))
		for l.Stats().Scheduled > 0 {
			time.Sleep(10 * time.Millisecond)
		}
		b.ReportMetric(events/time.Since(began).Seconds(), "fell-due/s")
		closeLog(b, l)
	}
}

// schedule schedules events for tomorrow, many at a time.
func schedule(b *testing.B, l *pebblelog.Log, events int) {
	var waits sync.WaitGroup
	slots := make(chan struct{}, 8192)
	at := l.Now().Add(24 * time.Hour)
	for i := range events {
		slots <- struct{}{}
		waits.Add(1)
		l.Append(&fanfare.Batch{DeliverAt: at.Add(time.Duration(i) * time.Millisecond), Events: []fanfare.Event{
			{Channel: logtest.Channel(fmt.Sprint("stores/", i%5000)), Data: fmt.Sprint("command ", i)}}},
			func(_ fanfare.Receipt, err error) {
				if err != nil {
					b.Error(err)
				}
				<-slots
				waits.Done()
			})
	}
	waits.Wait()
}

func closeLog(b *testing.B, l *pebblelog.Log) {
	b.Helper()
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}

// heap is how many MB of the heap are in use.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}
