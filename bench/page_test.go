package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/pebblelog"
	"github.com/fanfare-hub/fanfare/server"
)

// BenchmarkPage is how smoothly the page shows live events in Chromium: events that come at 1,000 a
// second on 50 channels, a replay of 20,000 while those come, and the newest of each channel. The
// bars at 1,000 a second are 50 frames a second, and no task over 50 ms.
func BenchmarkPage(b *testing.B) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		b.Skip("no Chromium; e2e/setup installs it")
	}
	if _, err := os.Stat("../e2e/node_modules/playwright-core"); err != nil {
		b.Skip("no playwright-core; e2e/setup installs it")
	}
	for name, replay := range map[string]string{"live": "", "replay": "all", "each": "latest"} {
		b.Run(name, func(b *testing.B) {
			s := openServer(b, pebblelog.Options{Dir: b.TempDir()})
			web := httptest.NewServer(s)
			defer web.Close()
			for i := range 40 {
				publishQuotes(b, s, i*500, 500)
			}
			stop, stopped := make(chan struct{}), sync.WaitGroup{}
			stopped.Go(func() {
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				for i := 0; ; i += 10 {
					select {
					case <-tick.C:
						publishQuotes(b, s, i, 10)
					case <-stop:
						return
					}
				}
			})
			defer stopped.Wait()
			defer close(stop)
			for b.Loop() {
				out, err := exec.Command("node", "frames.mjs", chromium, web.URL, replay, "10").Output()
				var got struct{ Frames, Longest, Events float64 }
				if err == nil {
					err = json.Unmarshal(out, &got)
				}
				if err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				b.ReportMetric(got.Frames, "frames/s")
				b.ReportMetric(got.Longest, "ms-longest-task")
				b.ReportMetric(got.Events, "events/s")
			}
		})
	}
}

func publishQuotes(b *testing.B, s *server.Server, from, n int) {
	messages := make([]fanfare.Message, n)
	for i := range messages {
		messages[i] = fanfare.Message{
			Channel: fmt.Sprintf("quotes/GEN%02d", (from+i)%50),
			Data:    fmt.Sprintf(`{"symbol":"GEN%02d","price":%d.25,"change":{"day":-0.5,"week":1.75}}`, (from+i)%50, from+i),
		}
	}
	if _, err := s.Publish(context.Background(), messages...); err != nil {
		b.Error(err)
	}
}
