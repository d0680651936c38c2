package bench

import (
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

// BenchmarkPlainPublish is what a publish costs that asks for nothing more: processor time, which
// other programs on the machine hardly change, and allocations. It is for comparing two commits by
// turns: copy this file into the other one.
func BenchmarkPlainPublish(b *testing.B) {
	const events, inFlight, channels = 300_000, 256, 1000
	for b.Loop() {
		l := openLog(b, pebblelog.Options{Durability: pebblelog.DurabilityMemory})
		names := make([]fanfare.Channel, channels)
		for i := range names {
			names[i] = logtest.Channel(fmt.Sprint("c", i))
		}
		slots := make(chan struct{}, inFlight)
		publish := func(n int) {
			for i := range n {
				slots <- struct{}{}
				l.Append(&fanfare.Batch{Events: []fanfare.Event{{Channel: names[i%channels], Data: data}}},
					func(fanfare.Receipt, error) { <-slots })
			}
			for range inFlight {
				slots <- struct{}{}
			}
			for range inFlight {
				<-slots
			}
		}
		publish(events / 10)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		used := processorTime(b)
		publish(events)
		used = processorTime(b) - used
		runtime.ReadMemStats(&after)
		b.ReportMetric(used/events, "cpu-ns/publish")
		b.ReportMetric(float64(after.Mallocs-before.Mallocs)/events, "allocs/publish")
		b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/events, "B/publish")
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// processorTime is what this process has used, in nanoseconds.
func processorTime(b *testing.B) float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano() + u.Stime.Nano())
}
