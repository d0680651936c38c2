package bench

import (
	"crypto/tls"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"
)

// BenchmarkHTTP2Streams is the memory that a stream over HTTP/2 costs the hub when each client has
// a connection of its own with one stream, 20 s after they were opened. The aim is 45 KB.
func BenchmarkHTTP2Streams(b *testing.B) {
	const streams = 2000
	binary := os.Getenv("FANFARE_BINARY") // another program, to compare
	if binary == "" {
		binary = buildHub(b)
	}
	for b.Loop() {
		h := startHub(b, binary, true, "--admin-addr", os.Getenv("FANFARE_ADMIN_ADDR")) // for profiles
		before := h.residentKB(b)
		var opening sync.WaitGroup
		slots := make(chan struct{}, 32)
		for range streams {
			slots <- struct{}{}
			opening.Go(func() {
				defer func() { <-slots }()
				transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.roots}, ForceAttemptHTTP2: true}
				resp, err := (&http.Client{Transport: transport}).Get("https://" + h.addr + "/v1/events?channel=a")
				if err != nil {
					b.Error(err)
					return
				}
				b.Cleanup(func() {
					_ = resp.Body.Close()
					transport.CloseIdleConnections()
				})
				if _, err := resp.Body.Read(make([]byte, 64)); err != nil || resp.ProtoMajor != 2 {
					b.Errorf("%s, %v", resp.Proto, err)
				}
			})
		}
		opening.Wait()
		time.Sleep(20 * time.Second)
		b.ReportMetric((h.residentKB(b)-before)/streams, "KB/stream")
		h.stop()
	}
}
