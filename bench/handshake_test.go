package bench

import (
	"bufio"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkHandshakes is how many streams a second clients can open over TLS 1.3, and the hub's
// processor time for each: 16 clients open a stream on a new connection, read its first event,
// close the connection and begin again. FANFARE_BEFORE names another program, to compare: the two
// take turns. The bar is that they open as many.
func BenchmarkHandshakes(b *testing.B) {
	now, before := buildHub(b), os.Getenv("FANFARE_BEFORE")
	for b.Loop() {
		var opened, cpu, rates, costs []float64
		for range pairs {
			rate, cost := openInALoop(b, now)
			opened, cpu = append(opened, rate), append(cpu, cost)
			if before != "" {
				rateBefore, costBefore := openInALoop(b, before)
				rates, costs = append(rates, rate/rateBefore), append(costs, cost/costBefore)
			}
		}
		for unit, list := range map[string][]float64{"opened/s": opened, "µs/opened": cpu,
			"opened:before": rates, "µs:before": costs} {
			if slices.Sort(list); len(list) > 0 {
				b.ReportMetric(list[len(list)/2], unit)
			}
		}
	}
}

// openInALoop returns how many streams were opened in a second, and the hub's microseconds for one.
func openInALoop(b *testing.B, binary string) (rate, cpu float64) {
	b.Helper()
	const clients, lasts = 16, 5 * time.Second
	h := startHub(b, binary, true)
	defer h.stop()
	var opened atomic.Int64
	var running sync.WaitGroup
	began, before := time.Now(), h.cpu(b)
	for range clients {
		running.Go(func() {
			for time.Since(began) < lasts {
				if err := h.openOnce(); err != nil {
					b.Error(err)
					return
				}
				opened.Add(1)
			}
		})
	}
	running.Wait()
	n := float64(opened.Load())
	return n / time.Since(began).Seconds(), float64((h.cpu(b) - before).Microseconds()) / n
}

// openOnce opens a stream, reads its first event, and closes the connection.
func (h *hubProcess) openOnce() error {
	conn, err := h.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /v1/events?channel=a HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return err
	}
	_, err = bufio.NewReaderSize(conn, 512).ReadString('}')
	return err
}
