package bench

import (
	"context"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/load"
	"github.com/fanfare-hub/fanfare/pebblelog"
	"github.com/fanfare-hub/fanfare/server"
)

func openServer(b *testing.B, o pebblelog.Options) *server.Server {
	b.Helper()
	s, err := server.New(server.Options{Log: openLog(b, o), Publish: server.PublishOptions{Detach: true}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

// BenchmarkProgramPublishes compares publishes by the program itself with those over HTTP, each
// acknowledged after its fsync. The bar is a ratio of 1.5 with 128 goroutines.
func BenchmarkProgramPublishes(b *testing.B) {
	const writers = 128
	s := openServer(b, pebblelog.Options{Dir: b.TempDir()})
	web := httptest.NewServer(s)
	defer web.Close()
	names := make([]string, writers)
	for w := range names {
		names[w] = fmt.Sprint("c", w)
	}
	for b.Loop() {
		ours, theirs, ratio := medians(func() (float64, float64) {
			r, err := load.Run(context.Background(), load.FanOut, load.Options{Addr: web.Listener.Addr().String(),
				Publishers: writers, DataBytes: len(data), Wait: time.Second})
			if err != nil || r.Refused > 0 {
				b.Fatalf("%v: %+v", err, r)
			}
			return perSecond(b, writers, func(w int) error {
				_, err := s.Publish(context.Background(), fanfare.Message{Channel: names[w], Data: data})
				return err
			}), float64(r.Publishes) / r.Took.Seconds()
		})
		b.ReportMetric(ours, "publishes/s")
		b.ReportMetric(theirs, "HTTP/s")
		b.ReportMetric(ratio, "ratio")
	}
}

// BenchmarkProgramListens is how many events one loop of the program hears that are in memory, and
// in the log. The bar is 1,000,000 from memory.
func BenchmarkProgramListens(b *testing.B) {
	const events = 200_000
	for name, tail := range map[string]int{"memory": 256 << 20, "log": 1} {
		b.Run(name, func(b *testing.B) {
			log := openLog(b, pebblelog.Options{Durability: pebblelog.DurabilityMemory})
			s, err := server.New(server.Options{Log: log, Streams: server.StreamOptions{TailBytes: tail}})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			before := publish(b, s, "a", 1)
			// A subscriber that listens while the events come has the hub keep them in memory.
			heard := make(chan struct{})
			ctx, cancel := context.WithCancel(context.Background())
			go func() {
				defer close(heard)
				for range s.Subscribe(ctx, fanfare.Subscription{Patterns: []string{"a"}, After: before}) {
				}
			}()
			last := publish(b, s, "a", events)
			b.ResetTimer()
			n := 0
			for b.Loop() {
				for d, err := range s.Subscribe(context.Background(),
					fanfare.Subscription{Patterns: []string{"a"}, After: before}) {
					if err != nil {
						b.Fatal(err)
					}
					if n++; d.Event.Position == last {
						break
					}
				}
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
			b.StopTimer()
			cancel()
			<-heard
		})
	}
}

func publish(b *testing.B, s *server.Server, channel string, n int) (last fanfare.Position) {
	b.Helper()
	for n > 0 {
		list := make([]fanfare.Message, min(n, 1000))
		for i := range list {
			list[i] = fanfare.Message{Channel: channel, Data: data}
		}
		receipt, err := s.Publish(context.Background(), list...)
		if err != nil {
			b.Fatal(err)
		}
		n -= len(list)
		last = receipt.Positions[len(list)-1]
	}
	return last
}
