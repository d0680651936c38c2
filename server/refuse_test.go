package server_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/server"
)

// TestStoreRefusalsWait: the older Python client gets every refusal after a second or more, because
// it comes back at once.
func TestStoreRefusalsWait(t *testing.T) {
	if eachKind(t, TestStoreRefusalsWait) {
		return
	}
	log := &logText{}
	f := secured(t, server.Options{AccessLog: 1, Logger: slog.New(slog.NewTextHandler(log, nil)),
		Streams: server.StreamOptions{Max: 1}}, auth.Options{})
	open := start(t, server.Options{})
	pc := bearer(token("pc", time.Hour, "device", "stores/1/pcs/2", "subscribe", "a"))
	f.stream("/v1/events?channel=a", pc).any() // there is no room for another
	const stream, empty = "/v1/stores/event-sources?storeId=1&pcId=2", "Accept: text/event-stream"
	var all sync.WaitGroup
	for _, c := range []struct {
		f      *fixture
		path   string
		header []string
		status int
		body   string
	}{
		{f, stream, nil, 401, "token is needed"},
		{f, stream, []string{bearer("nonsense"), empty}, 401, "not valid"},
		{f, "/v1/stores/event-sources?storeId=1&pcId=3", []string{pc}, 403, "no right"},
		{f, "/v1/stores/event-sources?storeId=1", []string{pc}, 400, "pcId is missing"},
		{f, stream, []string{pc}, 503, "--max-streams"},
		{f, stream, []string{pc, empty}, 200, "retry: "},
		{open, stream, []string{"Host: evil.example", empty}, 403, "--allowed-host"},
	} {
		all.Go(func() {
			began := time.Now()
			a := c.f.call("GET", c.path, "", c.header...)
			if took := time.Since(began); a.status != c.status || !strings.Contains(a.body, c.body) ||
				took < time.Second {
				t.Errorf("%s %v: %d %q after %v", c.path, c.header, a.status, a.body, took)
			}
		})
	}
	all.Wait()
	admin := bearer(token("root", time.Hour, "admin", "**"))
	f.metric(t, "fanfare_refusals_paced_total 6", admin)
	f.metric(t, "fanfare_refusals_held 0", admin)
	f.metric(t, "fanfare_refusals_cut_total 0", admin)
	f.metric(t, "fanfare_streams_refused_total 2", admin)
	f.metric(t, `fanfare_requests_refused_total{code="unauthenticated"} 2`, admin)
	f.call("HEAD", stream, "")
	f.metric(t, "fanfare_refusals_paced_total 6", admin) // HEAD does not wait
	n := 0
	for deadline := time.Now().Add(time.Minute); n != 3 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		n = strings.Count(log.String(), "status=401") // a record comes behind its answer
	}
	if n != 3 || strings.Contains(log.String(), "path=/v1/stores/event-sources status=200 bytes=0 stream=true") {
		t.Errorf("%d records of a 401 in the access log\n%s", n, log.String())
	}
}

// TestNativeRefusalsWaitAfterTheFirst: five of an address, or IPv6 network, through trusted
// proxies, are answered at once.
func TestNativeRefusalsWaitAfterTheFirst(t *testing.T) {
	f := secured(t, server.Options{Access: server.AccessOptions{TrustedProxies: []string{"127.0.0.0/8"},
		ProxyHeader: "Forwarded"}}, auth.Options{})
	admin := []string{bearer(token("root", time.Hour, "admin", "**")), "Forwarded: for=127.0.0.1"}
	paced := func(n int) {
		t.Helper()
		f.metric(t, fmt.Sprint("fanfare_refusals_paced_total ", n), admin...)
	}
	refuse := func(n int, from, path string, status int) {
		t.Helper()
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				if a := f.call("GET", path, "", "Forwarded: for="+from); a.status != status {
					t.Errorf("%+v", a)
				}
			})
		}
		all.Wait()
	}
	refuse(5, `"[2001:db8:1:2::a]"`, "/v1/events?channel=a", 401)
	paced(0)
	refuse(2, `"[2001:db8:1:2::b]"`, "/v1/events", 400) // with any status
	paced(2)
	refuse(5, "203.0.113.7", "/v1/events?channel=a", 401)
	paced(2)
	// loopback and the proxy's own are counted as others are
	refuse(8, "127.0.0.1", "/v1/events?channel=a&ticket=x", 401)
	paced(5)
	// no stream
	f.call("GET", "/v1/history?channel=a", "", "Forwarded: for=127.0.0.1").wantProblem(t, 401, "unauthenticated", "")
	paced(5)
}

// TestRefusedPCsAreNoFlood: of many PCs of an address some wait, beyond --max-streams, and the
// others' connections are closed; when the hub drains those who wait are answered. (How many wait
// is in package stream's TestPacer, with a clock of its own.)
func TestRefusedPCsAreNoFlood(t *testing.T) {
	if eachKind(t, TestRefusedPCsAreNoFlood) {
		return
	}
	f := secured(t, server.Options{Streams: server.StreamOptions{Max: 1}}, auth.Options{})
	const request = "GET /v1/stores/event-sources?storeId=1&pcId=2 HTTP/1.1\r\nHost: x\r\n\r\n"
	admin := bearer(token("root", time.Hour, "admin", "**", "subscribe", "a"))
	results := make(chan string, 40)
	for range 40 {
		conn, r := f.dial(request)
		go func() {
			defer conn.Close()
			b, _ := io.ReadAll(r)
			results <- string(b)
		}()
	}
	f.stream("/v1/events?channel=a", admin).any() // there is room
	f.metric(t, `fanfare_requests_refused_total{code="unauthenticated"} 40`, admin)
	metrics := f.call("GET", "/metrics", "", admin).body
	f.stop(0)
	answered, closed := 0, 0
	for range 40 {
		switch text := <-results; {
		case text == "":
			closed++
		case strings.HasPrefix(text, "HTTP/1.1 401 ") && strings.Contains(text, "\r\nConnection: close\r\n") &&
			strings.HasSuffix(text, "}\n"):
			answered++
		default:
			t.Errorf("%q", text)
		}
	}
	for name, n := range map[string]int{"paced": answered, "cut": closed} {
		if want := fmt.Sprintf("\nfanfare_refusals_%s_total %d\n", name, n); answered < 32 ||
			!strings.Contains(metrics, want) {
			t.Errorf("%d answered, %d closed, and not %s", answered, closed, want)
		}
	}
}

var refusedLine = regexp.MustCompile(`^retry: (\d+)\n$`)

// TestRefusedStreamsEndTheirConnection: a client that reads until the connection ends does not
// hang, and the one line has no blank line behind it.
func TestRefusedStreamsEndTheirConnection(t *testing.T) {
	if eachKind(t, TestRefusedStreamsEndTheirConnection) {
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{Max: 1}})
	f.stream("/v1/events?channel=a").any()
	for _, version := range []string{"HTTP/1.1", "HTTP/1.0"} {
		for _, accept := range []string{"text/event-stream", "*/*"} {
			for _, path := range []string{"/v1/events?channel=a", "/v1/events",
				"/v1/stores/event-sources?storeId=1&pcId=2"} {
				_, r := f.dial("GET " + path + " " + version + "\r\nHost: localhost\r\nAccept: " + accept + "\r\n\r\n")
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Error(err)
				}
				if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
					t.Errorf("%s %s: %q %v behind the answer", version, path, rest, err)
				}
				empty := accept != "*/*" && path != "/v1/events"
				if !resp.Close || empty != refusedLine.Match(body) || empty && version == "HTTP/1.1" &&
					resp.ContentLength != -1 {
					t.Errorf("%s %s: %+v %q", version, path, resp, body)
				}
			}
		}
	}
}

// TestDrainSaysWhenToComeBack (P7): whoever is sent away while the hub drains, in whatever form, is
// told to come back when the window is over: before, they would be refused again.
func TestDrainSaysWhenToComeBack(t *testing.T) {
	if eachKind(t, TestDrainSaysWhenToComeBack) {
		return
	}
	f := start(t, server.Options{})
	var streams []*client
	for range 100 {
		streams = append(streams, f.stream("/v1/events?channel=a"))
	}
	const window = time.Minute
	drain, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	earliest := time.Now().Add(window) // of the window's end
	go func() { ended <- f.srv.Drain(drain, window) }()
	for f.call("GET", "/readyz", "").status == 200 {
	}
	latest := time.Now().Add(window)
	covers := func(what string, wait int, unit time.Duration) {
		t.Helper()
		now, lasts := time.Now(), time.Duration(wait)*unit
		if spread := 2*time.Second + window/2; now.Add(lasts).Before(earliest) ||
			now.Add(lasts).After(latest.Add(spread+30*time.Second)) {
			t.Errorf("%s: %d, %v of the window's end", what, wait, now.Add(lasts).Sub(earliest))
		}
	}
	a := f.call("GET", "/v1/events?channel=a", "", "Accept: text/event-stream")
	ms, _ := strconv.Atoi(strings.TrimPrefix(a.body, "retry: "))
	covers(a.body, ms, time.Millisecond)
	seconds, _ := strconv.Atoi(f.call("GET", "/v1/events?channel=a", "").header.Get("Retry-After"))
	covers("Retry-After", seconds, time.Second)
	first := make(chan *client, len(streams))
	for _, c := range streams {
		go func() {
			for range c.events {
			}
			first <- c
		}()
	}
	select {
	case c := <-first:
		covers("farewell", int(c.retry), time.Millisecond)
	case <-time.After(time.Minute):
		t.Error("no stream ends")
	}
	cancel()
	<-ended
}

// TestNoRoomForFigures: streams of figures are refused as others are.
func TestNoRoomForFigures(t *testing.T) {
	if eachKind(t, TestNoRoomForFigures) {
		return
	}
	f := start(t, server.Options{})
	for range 50 {
		f.stream("/v1/stats", "Accept: text/event-stream")
	}
	_, r := f.dial("GET /v1/stats HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
	b, err := io.ReadAll(r)
	if !regexp.MustCompile(`(?s)^HTTP/1.1 200 .*\r\nConnection: close\r\n.*\r\n\r\nc\r\nretry: \d{4}\n\r\n0\r\n\r\n$`).Match(b) || err != nil {
		t.Errorf("%q %v", b, err)
	}
}
