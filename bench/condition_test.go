package bench

import (
	"fmt"
	"testing"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/pebblelog"
)

// BenchmarkConditions compares publishes under a condition that is met with plain ones, by turns.
// The bar is a ratio of plain to conditional of at most 1.3.
func BenchmarkConditions(b *testing.B) {
	for _, writers := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			l := openLog(b, pebblelog.Options{Dir: b.TempDir()})
			latest := make([]fanfare.Position, writers)
			publish := func(conditional bool) float64 {
				return perSecond(b, writers, func(w int) error {
					channel := logtest.Channel(fmt.Sprint("c", w))
					batch := &fanfare.Batch{Events: []fanfare.Event{{Channel: channel, Data: data}}}
					if conditional {
						batch.If = []fanfare.Condition{fanfare.IfLatest(latest[w])}
					}
					r, err := logtest.Append(l, batch)
					if err == nil {
						latest[w] = r.Positions[0]
					}
					return err
				})
			}
			for b.Loop() {
				plain, conditional, ratio := medians(func() (float64, float64) { return publish(false), publish(true) })
				b.ReportMetric(plain, "plain/s")
				b.ReportMetric(conditional, "conditional/s")
				b.ReportMetric(ratio, "ratio")
			}
		})
	}
}
