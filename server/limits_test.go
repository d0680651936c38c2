package server_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/server"
)

// TestStreamLimits (P6): per address, through a trusted proxy's word; per subject; per channel; new
// ones a second. A client that accepts a stream gets an empty one that says when to come back,
// other clients 503, and each refusal has its counter.
func TestStreamLimits(t *testing.T) {
	if eachKind(t, TestStreamLimits) {
		return
	}
	root := bearer(token("root", time.Hour, "admin", "**", "subscribe", "**"))
	ada := bearer(token("ada", time.Hour, "subscribe", "**"))
	hear := bearer(token("", time.Hour, "subscribe", "**"))
	for name, c := range map[string]struct {
		o      server.Options
		two    [][]string // headers of two streams that fit
		paths  [2]string
		third  []string
		path   string
		other  []string // headers of one that fits still
		reason string
		flag   string
	}{
		"address": {
			o: server.Options{Streams: server.StreamOptions{MaxPerAddress: 2},
				Access: server.AccessOptions{TrustedProxies: []string{"127.0.0.1", "10.0.0.0/8"}}},
			two: [][]string{{hear, "X-Forwarded-For: 203.0.113.7"},
				{hear, "X-Forwarded-For: 198.51.100.1, 203.0.113.7, 10.1.2.3"}},
			paths: [2]string{"a", "b"}, third: []string{hear, "X-Forwarded-For: 8.8.8.8, 203.0.113.7"}, path: "c",
			other: []string{hear,
				"X-Forwarded-For: 203.0.113.8"}, reason: "max_streams_per_address", flag: "--max-streams-per-address",
		},
		"network": {
			o: server.Options{Streams: server.StreamOptions{MaxPerAddress: 2},
				Access: server.AccessOptions{TrustedProxies: []string{"127.0.0.0/8"}, ProxyHeader: "Forwarded"}},
			two: [][]string{{hear, `Forwarded: for="[2001:db8:1:2::a]:4711";proto=https`, "X-Forwarded-For: 9.9.9.9"},
				{hear, `Forwarded: for=9.9.9.9, FOR="[2001:db8:1:2::b]"`}},
			paths: [2]string{"a", "b"}, third: []string{hear, `Forwarded: proto=http;for="[2001:db8:1:2:ffff::]"`},
			path:  "c",
			other: []string{hear, `Forwarded: for="[2001:db8:1:3::a]"`}, reason: "max_streams_per_address",
			flag: "--max-streams-per-address",
		},
		"subject": {
			o:   server.Options{Streams: server.StreamOptions{MaxPerSubject: 2}},
			two: [][]string{{ada}, {ada}}, paths: [2]string{"a",
				"b"}, third: []string{ada}, path: "c", other: []string{root},
			reason: "max_streams_per_subject", flag: "--max-streams-per-subject",
		},
		"channel": {
			o:   server.Options{Streams: server.StreamOptions{MaxPerChannel: 2}},
			two: [][]string{{ada}, {root}}, paths: [2]string{"a&channel=x&channel=x",
				"b&channel=x"}, third: []string{root}, path: "c&channel=x", other: []string{root},
			reason: "max_streams_per_channel", flag: "--max-streams-per-channel",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := secured(t, c.o, auth.Options{})
			one := f.stream("/v1/events?channel="+c.paths[0], c.two[0]...)
			one.any()
			f.stream("/v1/events?channel="+c.paths[1], c.two[1]...).any()
			f.call("GET", "/v1/events?channel="+c.path, "", c.third...).wantProblem(t, 503, "overloaded", c.flag)
			a := f.call("GET", "/v1/events?channel="+c.path, "", append(c.third, "Accept: text/event-stream")...)
			if ms, err := strconv.Atoi(strings.TrimPrefix(a.body, "retry: ")); a.status != 200 || err != nil ||
				ms < 1000 {
				t.Errorf("%+v", a)
			}
			f.metric(t, `fanfare_refusals_total{reason="`+c.reason+`"} 2`, root, "X-Forwarded-For: 127.0.0.1")
			f.stream("/v1/events?channel=z", c.other...).any()
			one.close()
			// a place is free again
			f.metric(t, `fanfare_streams_open{adapter="native"} 2`, root, "X-Forwarded-For: 127.0.0.1")
			f.stream("/v1/events?channel="+c.path, c.third...).any()
		})
	}
}

// TestNewStreamsASecond: a herd that comes at once is let in at the rate.
func TestNewStreamsASecond(t *testing.T) {
	f := start(t, server.Options{Streams: server.StreamOptions{MaxNewPerSecond: 5}})
	began := time.Now()
	var opened, refused atomic.Int64
	var all sync.WaitGroup
	for range 60 {
		all.Go(func() {
			conn, r := f.dial("GET /v1/events?channel=a HTTP/1.1\r\nHost: localhost\r\n\r\n")
			defer conn.Close()
			line, _ := r.ReadString('\n')
			switch {
			case strings.Contains(line, "200"):
				opened.Add(1)
			case strings.Contains(line, "503"):
				refused.Add(1)
			}
		})
	}
	all.Wait()
	if most := 5 + 5*time.Since(began).Seconds() + 1; float64(opened.Load()) > most || opened.Load() < 5 ||
		opened.Load()+refused.Load() != 60 {
		t.Errorf("%d opened, %d refused, at most %v", opened.Load(), refused.Load(), most)
	}
	f.metric(t, fmt.Sprintf(`fanfare_refusals_total{reason="stream_rate"} %d`, refused.Load()))
}

// TestWhoIsNotCounted: loopback, a trusted proxy's own address, and a header from somebody who is
// not trusted.
func TestWhoIsNotCounted(t *testing.T) {
	if eachKind(t, TestWhoIsNotCounted) {
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{MaxPerAddress: 1}})
	for range 3 {
		f.stream("/v1/events?channel=a", "X-Forwarded-For: 203.0.113.7").any() // loopback, and nobody is trusted
	}
	f = start(t, server.Options{Streams: server.StreamOptions{MaxPerAddress: 1},
		Access: server.AccessOptions{TrustedProxies: []string{"127.0.0.0/8", "10.0.0.0/8"}}})
	for _, header := range []string{"X-Forwarded-For: 10.0.0.9", "X-Forwarded-For: 127.0.0.1",
		"X-Forwarded-For: unknown", "X-Forwarded-For: 203.0.113.7, _hidden", "X-Nothing: x"} {
		for range 3 {
			f.stream("/v1/events?channel=a", header).any()
		}
	}
}

// TestPublishRates: 429 with what is left and when to come back, for each principal by itself; a
// flood of one does not touch another.
func TestPublishRates(t *testing.T) {
	f := secured(t, server.Options{Publish: server.PublishOptions{Rate: 1, BytesRate: 1000, Burst: 20}}, auth.Options{})
	ada, bob := bearer(token("ada", time.Hour, "publish", "**", "admin", "**")), bearer(token("bob", time.Hour,
		"publish", "**"))
	first := f.call("POST", "/v1/channels/a", "x", ada)
	if first.status != 201 || first.header.Get("RateLimit") == "" || first.header.Get("RateLimit-Policy") == "" {
		t.Errorf("%+v", first)
	}
	began := time.Now()
	var stored, refused atomic.Int64
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			a := f.call("POST", "/v1/channels/a", "x", ada)
			switch a.status {
			case 201:
				stored.Add(1)
			case 429:
				refused.Add(1)
				a.wantProblem(t, 429, "rate_limited", "--publish-rate")
				if !strings.HasPrefix(a.header.Get("RateLimit"), `"events";r=0;t=`) ||
					a.header.Get("RateLimit-Policy") != `"events";q=20;w=20` || a.header.Get("Retry-After") != "1" {
					t.Errorf("%v", a.header)
				}
			default:
				t.Errorf("%+v", a)
			}
		})
	}
	all.Wait()
	if most := 20 + time.Since(began).Seconds() + 1; float64(stored.Load()) > most ||
		stored.Load()+refused.Load() != 200 {
		t.Errorf("%d stored, %d refused, at most %v", stored.Load(), refused.Load(), most)
	}
	if a := f.call("POST", "/v1/channels/a", "x", bob); a.status != 201 {
		t.Errorf("bob pays for ada: %+v", a)
	}
	f.metric(t, fmt.Sprintf(`fanfare_refusals_total{reason="publish_rate"} %d`, refused.Load()), ada)
	// An array counts its events, and its bytes.
	kim := bearer(token("kim", time.Hour, "publish", "**"))
	if a := f.call("POST", "/v1/events",
		"["+strings.Repeat(`{"channel":"a","data":"x"},`, 19)+`{"channel":"a","data":"x"}]`, kim); a.status != 201 {
		t.Errorf("%+v", a)
	}
	f.call("POST", "/v1/stores/1/events", `{"event":"REBOOT"}`, kim).wantProblem(t, 429, "rate_limited",
		"--publish-rate")
	eve := bearer(token("eve", time.Hour, "publish", "**"))
	if a := f.call("POST", "/v1/channels/a", strings.Repeat("x", 19_000), eve); a.status != 201 {
		t.Errorf("%+v", a)
	}
	f.call("POST", "/v1/channels/a", strings.Repeat("x", 19_000), eve).wantProblem(t, 429, "rate_limited",
		"--publish-bytes-rate")
	if a := f.call("POST", "/v1/channels/a", "small", eve); a.status != 201 {
		t.Errorf("what was refused for its bytes took a place among the events: %+v", a)
	}
}

// TestNDJSONIsSlowedDown: lines beyond the rate wait; none is lost, none refused.
func TestNDJSONIsSlowedDown(t *testing.T) {
	f := start(t, server.Options{Publish: server.PublishOptions{Rate: 100}})
	began := time.Now()
	a := f.call("POST", "/v1/events", strings.Repeat(`{"channel":"a","data":"x"}`+"\n", 150),
		"Content-Type: application/x-ndjson")
	if n := strings.Count(a.body, `"id"`); n != 150 {
		t.Errorf("%d stored: %s", n, a.body)
	}
	if took := time.Since(began); took < 400*time.Millisecond {
		t.Errorf("150 lines at 100 a second took %s", took)
	}
}

// TestReplaysTakeTurns: while a herd of one owner's streams catches up, another's single stream
// does not wait for the herd.
func TestReplaysTakeTurns(t *testing.T) {
	if eachKind(t, TestReplaysTakeTurns) {
		return
	}
	f := secured(t, server.Options{Streams: server.StreamOptions{MaxReplays: 1}}, auth.Options{})
	pub := bearer(token("pub", time.Hour, "publish", "**", "admin", "**"))
	for range 20 {
		if a := f.call("POST", "/v1/events", "["+strings.Repeat(`{"channel":"a","data":"`+strings.Repeat("x",
			500)+`"},`, 99)+`{"channel":"a","data":"end"}]`, pub); a.status != 201 {
			t.Fatal(a)
		}
	}
	herd, single := bearer(token("herd", time.Hour, "subscribe", "a")), bearer(token("single", time.Hour, "subscribe",
		"a"))
	var done atomic.Int64
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			c := f.stream("/v1/events?channel=a&replay=all", herd)
			for n := 0; n < 20; {
				if c.next().Data == "end" {
					n++
				}
			}
			done.Add(1)
		})
	}
	c := f.stream("/v1/events?channel=a&replay=100", single)
	for c.next().Data != "end" {
	}
	ahead := done.Load()
	all.Wait()
	if ahead > 25 {
		t.Errorf("%d of 50 of the herd were served before the single one", ahead)
	}
	body := f.call("GET", "/metrics", "", pub).body
	// Attached streams have a turn only while they read: that may be too short for another to come.
	waits := f.kind.attached || f.kind.tls || f.kind.h2 || !strings.Contains(body, "fanfare_replays_waited_total 0\n")
	if !waits || !strings.Contains(body, "fanfare_replays_waiting 0\n") {
		t.Errorf("nobody had to wait, or somebody waits still: %q",
			regexp.MustCompile(`(?m)^fanfare_replays_wait.*$`).FindAllString(body, -1))
	}
}

// TestWaitingClientsThatGo: who gives up while waiting to read the log leaves no error in the log,
// and no place is lost.
func TestWaitingClientsThatGo(t *testing.T) {
	if eachKind(t, TestWaitingClientsThatGo) {
		return
	}
	log := &lockedBuffer{}
	f := start(t, server.Options{Logger: slog.New(slog.NewTextHandler(log, nil)),
		Streams: server.StreamOptions{MaxReplays: 1}})
	for range 10 {
		if a := f.call("POST", "/v1/events", "["+strings.Repeat(`{"channel":"a","data":"`+strings.Repeat("x",
			2000)+`"},`, 499)+`{"channel":"a","data":"end"}]`); a.status != 201 {
			t.Fatal(a)
		}
	}
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			path := []string{"/v1/history?limit=1000&channel=a", "/v1/events?channel=a&replay=all"}[i%2]
			w := f.open(path)
			if i%3 == 0 {
				_, _ = w.body.ReadByte()
			}
			_ = w.tcp.Close()
		})
	}
	all.Wait()
	c := f.stream("/v1/events?channel=a&replay=1")
	c.want("end")
	f.metric(t, "fanfare_replays_waiting 0")
	f.metric(t, `fanfare_streams_open{adapter="native"} 1`)
	if strings.Contains(log.String(), "internal error") {
		t.Errorf("%.2000s", log)
	}
}

// TestSlowRequestsAreCut: a header, a body, that does not come in time. The times are the
// http.Server's, as the command sets them.
func TestSlowRequestsAreCut(t *testing.T) {
	oneKind(t, "the streams in it only have to be there; TestStreamsOutliveTimeouts is for each kind")
	hub := start(t, server.Options{})
	web := httptest.NewUnstartedServer(hub.srv)
	web.Config.ReadHeaderTimeout, web.Config.ReadTimeout = 200*time.Millisecond, 3*time.Second
	web.Start()
	t.Cleanup(web.Close)
	f := newFixture(t, server.Options{})
	f.web = web
	for _, request := range []string{"", "POST", "POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nX: "} {
		conn, _ := f.dial(request)
		if b, err := io.ReadAll(conn); err != nil || strings.Contains(string(b), "200") {
			t.Errorf("%q: %q %v", request, b, err)
		}
	}
	_, r := f.dial("POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nx")
	b, _ := io.ReadAll(r)
	if !strings.HasPrefix(string(b), "HTTP/1.1 400") || !strings.Contains(string(b), "--body-timeout") ||
		!strings.Contains(string(b), "Connection: close") {
		t.Errorf("%s", b)
	}
	// A stream outlives them.
	c := f.stream("/v1/events?channel=a&heartbeat=1")
	c.any()
	time.Sleep(3200 * time.Millisecond)
	f.publish("a", "still there")
	c.want("still there")
}

// TestStreamsOutliveTimeouts: the server's limits on time are for requests, and for answers.
func TestStreamsOutliveTimeouts(t *testing.T) {
	if eachKind(t, TestStreamsOutliveTimeouts) {
		return
	}
	f := startWithin(t, 3*time.Second, server.Options{})
	c := f.stream("/v1/events?channel=a")
	c.any()
	figures := f.stream("/v1/stats?interval=1", "Accept: text/event-stream")
	figures.any()
	time.Sleep(3500 * time.Millisecond)
	f.publish("a", "still there")
	c.want("still there")
	figures.any()
}

// TestQuietStreams: a deadline of a write that was in time does not end a stream on which nothing
// happens for longer, nor an NDJSON body between two lines.
func TestQuietStreams(t *testing.T) {
	if eachKind(t, TestQuietStreams) {
		return
	}
	f := startWithin(t, 3*time.Second,
		server.Options{Streams: server.StreamOptions{StallLimit: 3 * time.Second, Heartbeat: time.Minute}})
	c := f.stream("/v1/events?channel=a")
	c.any()
	body, lines := io.Pipe()
	post, _ := http.NewRequest("POST", f.url("/v1/events"), body)
	post.Header.Set("Content-Type", "application/x-ndjson")
	go func() {
		for _, data := range []string{"one", "two"} {
			_, _ = io.WriteString(lines, `{"channel":"a","data":"`+data+`"}`+"\n")
			time.Sleep(3500 * time.Millisecond)
		}
		_ = lines.Close()
	}()
	resp, err := f.http.Do(post)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || strings.Count(string(b), `"id"`) != 2 {
		t.Errorf("%s %v", b, err)
	}
	c.want("one", "two")
}
