package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/wire"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// 200 bytes of data, as in the field's comparisons.
var data = string(make([]byte, 200))

const pairs = 5

// median of what f returns for each pair.
func medians(f func() (a, b float64)) (a, b, ratio float64) {
	var as, bs, ratios []float64
	for range pairs {
		x, y := f()
		as, bs, ratios = append(as, x), append(bs, y), append(ratios, x/y)
	}
	for _, v := range [][]float64{as, bs, ratios} {
		slices.Sort(v)
	}
	return as[pairs/2], bs[pairs/2], ratios[pairs/2]
}

// perSecond runs f again and again in writers goroutines for a second. It returns the number of
// calls that returned per second.
func perSecond(b *testing.B, writers int, f func(w int) error) float64 {
	b.Helper()
	var n atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for w := range writers {
		wg.Go(func() {
			for time.Since(began) < time.Second {
				if err := f(w); err != nil {
					b.Error(err)
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(began).Seconds()
}

// BenchmarkDurableWriters compares publishes, each acknowledged after its fsync, with Pebble's own
// synced Commit. The bar is a ratio of 0.5 with 128 writers.
func BenchmarkDurableWriters(b *testing.B) {
	for _, writers := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			l := openLog(b, pebblelog.Options{Dir: b.TempDir()})
			db, err := pebble.Open(b.TempDir(), &pebble.Options{MemTableSize: 16 << 20, Logger: quiet{}})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			channels := make([]fanfare.Channel, writers)
			for w := range channels {
				channels[w] = logtest.Channel(fmt.Sprint("c", w))
			}
			var key atomic.Uint64
			for b.Loop() {
				ours, theirs, ratio := medians(func() (float64, float64) {
					return perSecond(b, writers, func(w int) error {
							_, err := logtest.Append(l,
								&fanfare.Batch{Events: []fanfare.Event{{Channel: channels[w], Data: data}}})
							return err
						}), perSecond(b, writers, func(int) error {
							return db.Set(fmt.Appendf(nil, "e%016x", key.Add(1)), []byte(data), pebble.Sync)
						})
				})
				b.ReportMetric(ours, "publishes/s")
				b.ReportMetric(theirs, "pebble/s")
				b.ReportMetric(ratio, "ratio")
			}
		})
	}
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(f string, args ...any) {
	panic(fmt.Sprintf(f, args...))
}

func openLog(b *testing.B, o pebblelog.Options) *pebblelog.Log {
	b.Helper()
	l, err := pebblelog.Open(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	})
	return l
}

type nobody struct{}

func (nobody) Wake()         {}
func (nobody) Owner() string { return "" }

// listened is a log, and a hub with a subscriber on each of some channels.
type listened struct {
	log      *pebblelog.Log
	hub      *hub.Hub
	channels []fanfare.Channel
	subs     []*hub.Subscriber
}

func listen(b *testing.B, channels, subscribersEach int) *listened {
	b.Helper()
	l := &listened{log: openLog(b, pebblelog.Options{Durability: pebblelog.DurabilityMemory})}
	l.hub = hub.New(hub.Options{Log: l.log, Encode: wire.Encode})
	b.Cleanup(l.hub.Close)
	for i := range channels {
		c := logtest.Channel(fmt.Sprint("listened/", i))
		l.channels = append(l.channels, c)
		for range subscribersEach {
			s, err := l.hub.Subscribe([]fanfare.Pattern{fanfare.ExactPattern(c)}, hub.Start{}, nobody{})
			if err != nil {
				b.Fatal(err)
			}
			l.subs = append(l.subs, s)
		}
	}
	return l
}

// publishOne takes turns over the first 100 channels, so that both sides touch as many.
func (l *listened) publishEach(n int) time.Duration {
	const inFlight = 64
	slots := make(chan struct{}, inFlight)
	began := time.Now()
	for i := range n {
		slots <- struct{}{}
		l.log.Append(&fanfare.Batch{Events: []fanfare.Event{{Channel: l.channels[i%100], Data: data}}},
			func(fanfare.Receipt, error) { <-slots })
	}
	for range inFlight {
		slots <- struct{}{}
	}
	return time.Since(began)
}

// BenchmarkPublishAmong compares a publish to one of 10,000 listened-to channels with one to one of
// 100: log and hub, no sockets. The bar is a ratio of 1.1.
func BenchmarkPublishAmong(b *testing.B) {
	many, few := listen(b, 10_000, 1), listen(b, 100, 1)
	const n = 200_000
	many.publishEach(n)
	few.publishEach(n)
	for b.Loop() {
		a, c, ratio := medians(func() (float64, float64) {
			// In turns of a hundredth, so that whatever else the machine does hits both.
			var x, y time.Duration
			for range 100 {
				x += many.publishEach(n / 100)
				y += few.publishEach(n / 100)
			}
			return float64(x.Nanoseconds()) / n, float64(y.Nanoseconds()) / n
		})
		b.ReportMetric(a, "ns/publish-10000")
		b.ReportMetric(c, "ns/publish-100")
		b.ReportMetric(ratio, "ratio")
	}
}

// BenchmarkFanOut is what a commit costs the log's goroutine for each subscriber that it wakes.
func BenchmarkFanOut(b *testing.B) {
	for _, subscribers := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprintf("subscribers=%d", subscribers), func(b *testing.B) {
			l := listen(b, 1, subscribers)
			events := []fanfare.Event{{Channel: l.channels[0], Data: data, Position: l.hub.Durable()}}
			var turn hub.Turn
			for b.Loop() {
				for range 100 {
					events[0].Position++
					l.hub.Committed(events, events[0].Position)
					for _, s := range l.subs {
						if !s.Next(&turn) || len(turn.Frames) != 1 {
							b.Fatalf("%d frames", len(turn.Frames))
						}
						s.Advance(turn.Through, turn.More)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100/float64(subscribers), "ns/delivery")
		})
	}
}

// BenchmarkResume resumes 200 missed events of one exact channel among 100; read counts the events
// that the log touched.
func BenchmarkResume(b *testing.B) {
	l := openLog(b, pebblelog.Options{Durability: pebblelog.DurabilityMemory})
	h := hub.New(hub.Options{Log: l, Encode: wire.Encode})
	defer h.Close()
	after := h.Durable()
	for range 200 {
		batch := &fanfare.Batch{}
		for c := range 100 {
			batch.Events = append(batch.Events, fanfare.Event{Channel: logtest.Channel(fmt.Sprint("c", c)), Data: data})
		}
		if _, err := logtest.Append(l, batch); err != nil {
			b.Fatal(err)
		}
	}
	before := l.Stats().EventsRead
	n := 0
	for b.Loop() {
		s, err := h.Subscribe(logtest.Patterns("c42"), hub.Start{From: hub.FromAfter, After: after}, nobody{})
		if err != nil {
			b.Fatal(err)
		}
		var turn hub.Turn
		for got := 0; got < 200; got += len(turn.Frames) {
			if !s.Next(&turn) {
				if err := s.Read(context.Background(), &turn); err != nil {
					b.Fatal(err)
				}
			}
			s.Advance(turn.Through, turn.More)
		}
		s.Close()
		n++
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(n)/200, "µs/event")
	b.ReportMetric(float64(l.Stats().EventsRead-before)/float64(n), "read/resume")
}
