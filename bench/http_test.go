package bench

import (
	"context"
	"fmt"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare/internal/load"
	"github.com/fanfare-hub/fanfare/pebblelog"
	"github.com/fanfare-hub/fanfare/server"
)

// BenchmarkHTTPWriters is BenchmarkDurableWriters with the whole way of a publish around it. Each
// writer has a connection on which one request follows the other, each answered after its fsync.
// The client takes a part of the same machine, too.
func BenchmarkHTTPWriters(b *testing.B) {
	for _, writers := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			l := openLog(b, pebblelog.Options{Dir: b.TempDir()})
			s, err := server.New(server.Options{Log: l, Publish: server.PublishOptions{Detach: true}})
			if err != nil {
				b.Fatal(err)
			}
			web := httptest.NewServer(s)
			b.Cleanup(func() {
				web.Close()
				if err := s.Close(); err != nil {
					b.Error(err)
				}
			})
			db, err := pebble.Open(b.TempDir(), &pebble.Options{MemTableSize: 16 << 20, Logger: quiet{}})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			var key atomic.Uint64
			for b.Loop() {
				ours, theirs, ratio := medians(func() (float64, float64) {
					r, err := load.Run(context.Background(), load.FanOut,
						load.Options{Addr: web.Listener.Addr().String(), Publishers: writers, DataBytes: len(data),
							Wait: time.Second})
					if err != nil || r.Refused > 0 {
						b.Fatalf("%v: %+v", err, r)
					}
					return float64(r.Publishes) / r.Took.Seconds(), perSecond(b, writers, func(int) error {
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
