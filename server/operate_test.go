package server_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/stats"
	"github.com/fanfare-hub/fanfare/pebblelog"
	"github.com/fanfare-hub/fanfare/server"
	"github.com/fanfare-hub/fanfare/sse"
)

// logText collects log records.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (f *fixture) stats(query string) (s stats.Snapshot) {
	f.t.Helper()
	a := f.call("GET", "/v1/stats"+query, "")
	if err := json.Unmarshal([]byte(a.body), &s); a.status != 200 || err != nil {
		f.t.Fatalf("%+v, %v", a, err)
	}
	return s
}

// TestStats: what the page shows is what there is.
func TestStats(t *testing.T) {
	if eachKind(t, TestStats) {
		return
	}
	f := start(t, server.Options{Version: "v9"}, "**=age:7d", "few=count:2")
	ids := f.publish("few", "1", "2", "3")
	f.publish("a", "1")
	pc := f.pc("42", "7")
	c := f.stream("/v1/events?channel=few&channel=a/*&replay=all")
	c.any()
	c.any()
	c.any()
	if a := f.call("GET", "/v1/health?storeId=42&pcId=9", ""); a.status != 200 {
		t.Fatal(a)
	}
	var s stats.Snapshot
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		s = f.stats("")
		if len(s.Stores) == 1 && len(s.Stores[0].PCs) == 2 || time.Now().After(deadline) {
			break
		}
	}
	if s.Version != "v9" || !s.Ready || s.Streams.Open["native"] != 1 || s.Streams.Open["store"] != 1 ||
		s.Events.Published != 4 || s.Position < ids[2] {
		t.Errorf("%+v", s)
	}
	if len(s.Open) != 2 || s.Open[0].Adapter != "native" || strings.Join(s.Open[0].Channels, " ") != "few a/*" ||
		s.Open[0].Events != 2 || s.Open[0].Bytes == 0 {
		t.Errorf("the streams: %+v", s.Open)
	}
	if len(s.Stores) != 1 || len(s.Stores[0].PCs) != 2 || !s.Stores[0].PCs[0].Open || s.Stores[0].PCs[1].Open ||
		s.Stores[0].PCs[1].LastSeen.IsZero() {
		t.Errorf("the stores: %+v", s.Stores)
	}
	if s.Log == nil || s.Log.Oldest == nil || len(s.Log.Retention) != 2 || s.Log.Retention[1].Rule != "few=count:2" ||
		s.Log.Retention[1].Events != 2 {
		t.Errorf("the log: %+v", s.Log)
	}
	if s := f.stats("?streams=1"); len(s.Open) != 1 || len(s.Open[0].Channels) == 0 {
		t.Errorf("one stream: %+v", s.Open)
	}
	metrics := f.call("GET", "/metrics", "").body
	if !strings.Contains(metrics, "\nfanfare_events_replayed_total 2\n") ||
		strings.Contains(metrics, "\nfanfare_replayed_bytes_total 0\n") ||
		!strings.Contains(metrics, "\nfanfare_published_bytes_total 4\n") {
		t.Errorf("replays are not counted:\n%s", metrics)
	}
	f.call("GET", "/v1/stats?streams=1000", "").wantProblem(t, 400, "invalid", "streams")
	f.call("GET", "/v1/stats?interval=0", "").wantProblem(t, 400, "invalid", "interval")

	// As a stream.
	figures := f.open("/v1/stats?interval=1", "Accept: text/event-stream")
	if got := figures.resp.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/event-stream") {
		t.Fatal(got)
	}
	events, published := sse.NewDecoder(figures.body), f.stats("").Events.Published
	for range 2 {
		e, err := events.Next()
		if err != nil || e.Type != "stats" || json.Unmarshal([]byte(e.Data), &s) != nil ||
			s.Events.Published != published {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	pc.close()
	c.close()
}

// TestLagIsSeen: a stream that takes nothing stands behind, and the figures say so.
func TestLagIsSeen(t *testing.T) {
	if eachKind(t, TestLagIsSeen) {
		return
	}
	f := start(t, server.Options{})
	pc := f.open(pcPath("1", "1"))
	pc.until("CONNECTED\n\n")
	pc.stops()
	data := strings.Repeat("x", 500_000)
	for range 30 {
		f.publish("stores", data)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		s := f.stats("")
		if s.Events.SlowestLag > 0 && s.Open[0].Lag == s.Events.SlowestLag {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", s.Open)
		}
	}
}

func TestRetentionAndBackupOverHTTP(t *testing.T) {
	f := start(t, server.Options{})
	f.publish("a", "1", "2", "3")
	a := f.call("GET", "/v1/admin/retention?rule=a%3Dcount:1&rule=**%3Dage:1d", "")
	var answer struct{ Rules []stats.Rule }
	if err := json.Unmarshal([]byte(a.body), &answer); err != nil || len(answer.Rules) != 2 ||
		answer.Rules[0].RemovesEvents != 2 {
		t.Errorf("%+v, %v", a, err)
	}
	f.call("GET", "/v1/admin/retention?rule=x", "").wantProblem(t, 400, "invalid", "retention rule")
	if got := f.dataOf("a"); len(got) != 3 {
		t.Errorf("asking has removed something: %q", got)
	}
	dir := filepath.Join(t.TempDir(), "b")
	body := func(dir string) string { return fmt.Sprintf(`{"dir":%q}`, dir) }
	if a := f.call("POST", "/v1/admin/backup", body(dir)); a.status != 201 || a.json("position") == "" {
		t.Errorf("%+v", a)
	}
	if r, err := pebblelog.Verify(t.Context(), dir); err != nil || r.Events != 3 {
		t.Errorf("the backup: %+v, %v", r, err)
	}
	f.call("POST", "/v1/admin/backup", body(dir)).wantProblem(t, 409, "conflict", "exists")
	f.call("POST", "/v1/admin/backup", body("relative")).wantProblem(t, 400, "invalid", "absolute")
	f.call("POST", "/v1/admin/backup", body("/proc/none/of/this")).wantProblem(t, 400, "invalid", "cannot be made")
	f.call("POST", "/v1/admin/backup", "no").wantProblem(t, 400, "invalid", "JSON")
	f.call("POST", "/v1/admin/backup", body(filepath.Join(t.TempDir(), "c")),
		"Origin: https://evil.example").wantProblem(t, 403, "forbidden", "--cors-origin")
	f.call("GET", "/v1/admin/backup", "").wantProblem(t, 405, "method_not_allowed", "POST")
}

func TestLogLevelOverHTTP(t *testing.T) {
	var text logText
	level := new(slog.LevelVar)
	f := start(t, server.Options{LogLevel: level,
		Logger: slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: level}))})
	if a := f.call("GET", "/v1/admin/log-level", ""); a.json("level") != "info" {
		t.Errorf("%+v", a)
	}
	if a := f.call("POST", "/v1/admin/log-level", `{"level":"debug"}`); a.status != 200 ||
		level.Level() != slog.LevelDebug {
		t.Errorf("%+v, %v", a, level.Level())
	}
	f.call("POST", "/v1/admin/log-level", `{"level":"loud"}`).wantProblem(t, 400, "invalid",
		"debug, info, warn or error")
	other := start(t, server.Options{})
	other.call("GET", "/v1/admin/log-level", "").wantProblem(t, 404, "not_found", "cannot be changed")
}

// TestAuthFunc: with the program's own login every host is served, nobody gets in without it, and
// idempotency keys belong to who sends them.
func TestAuthFunc(t *testing.T) {
	f := start(t, withLogin(func(r *http.Request) (*fanfare.Principal, error) {
		switch token := r.Header.Get("Authorization"); token {
		case "ada", "bob":
			return &fanfare.Principal{Subject: token, Unlimited: true}, nil
		case "late":
			return nil, fanfare.Errorf(fanfare.CodeForbidden, "your account is closed")
		}
		return nil, errors.New("the password is hunter2")
	}))
	for _, path := range []string{"/v1/events?channel=a", "/v1/history?channel=a", "/v1/stats", "/metrics",
		"/v1/health?storeId=1&pcId=2"} {
		a := f.call("GET", path, "", "Host: push.example.com")
		a.wantProblem(t, 401, "unauthenticated", "not authenticated")
		if strings.Contains(a.body, "hunter2") {
			t.Errorf("%s shows the private error: %s", path, a.body)
		}
	}
	for _, path := range []string{"/livez", "/readyz", "/", "/v1/health", "/openapi.yaml"} {
		if a := f.call("GET", path, "", "Host: push.example.com"); a.status != 200 {
			t.Errorf("%s: %+v", path, a)
		}
	}
	f.call("POST", "/v1/channels/a", "x", "Authorization: late").wantProblem(t, 403, "forbidden", "closed")
	key := "Idempotency-Key: k"
	first := f.call("POST", "/v1/channels/a", "x", "Authorization: ada", "Host: push.example.com", key)
	again := f.call("POST", "/v1/channels/a", "x", "Authorization: ada", key)
	other := f.call("POST", "/v1/channels/a", "y", "Authorization: bob", key)
	if first.status != 201 || again.status != 200 || again.json("id") != first.json("id") || other.status != 201 {
		t.Errorf("%+v\n%+v\n%+v", first, again, other)
	}
}

func TestAllowedHosts(t *testing.T) {
	f := start(t, server.Options{Access: server.AccessOptions{Hosts: []string{"push.example.com"}}})
	if a := f.call("GET", "/v1/history?channel=a", "", "Host: push.example.com"); a.status != 200 {
		t.Errorf("%+v", a)
	}
	f.call("GET", "/", "", "Host: rebound.example.com").wantProblem(t, 403, "forbidden", "--allowed-host")
}

// TestAccessLog: one of AccessLog requests is logged, and never a query.
func TestAccessLog(t *testing.T) {
	if eachKind(t, TestAccessLog) {
		return
	}
	var text logText
	f := start(t, server.Options{AccessLog: 3, Logger: slog.New(slog.NewTextHandler(&text, nil))})
	for range 9 {
		f.call("GET", "/v1/history?channel=a&access_token=s3cr3t", "")
	}
	got := text.String()
	if n := strings.Count(got, "msg=request"); n != 3 || !strings.Contains(got, "path=/v1/history status=200") ||
		strings.Contains(got, "s3cr3t") {
		t.Errorf("%d records:\n%s", n, got)
	}
	f.srv.SetAccessLog(1)
	c := f.stream("/v1/events?channel=a")
	c.any()
	c.close()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(text.String(),
		"stream=true"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the stream is not logged:\n%s", text.String())
		}
	}
}

// TestEnvelope tells channel, type and time with each event, replayed and live.
func TestEnvelope(t *testing.T) {
	if eachKind(t, TestEnvelope) {
		return
	}
	f := start(t, server.Options{})
	f.call("POST", "/v1/events", `{"channel":"a/1","event":"kind","data":"two\nlines \"<"}`)
	c := f.stream("/v1/events?channel=a/*&replay=all&envelope=true&heartbeatEvent=false")
	for _, channel := range []string{"a/1", "a/2"} {
		if channel == "a/2" {
			f.call("POST", "/v1/events", `{"channel":"a/2","event":"kind","data":"two\nlines \"<"}`)
		}
		e := c.any()
		var got struct {
			Channel, Event, Data string
			Time                 time.Time
		}
		if err := json.Unmarshal([]byte(e.Data), &got); err != nil || e.Type != "message" || e.LastEventID == "" ||
			got.Channel != channel || got.Event != "kind" ||
			got.Data != "two\nlines \"<" || time.Since(got.Time) > time.Minute {
			t.Errorf("%+v: %+v, %v", e, got, err)
		}
	}
	f.call("GET", "/v1/events?channel=a&envelope=yes", "").wantProblem(t, 400, "invalid", "envelope")
}

// TestTimes: streams and history can begin at a time.
func TestTimes(t *testing.T) {
	if eachKind(t, TestTimes) {
		return
	}
	f := newFixture(t, server.Options{})
	pass := f.ownClock()
	f.begin()
	f.publish("a", "old")
	pass(10 * time.Millisecond)
	since := f.lo.Now()
	f.publish("a", "young")
	stamp := since.UTC().Format("2006-01-02T15:04:05.000Z")
	if page := f.history("channel=a&after=" + stamp); len(page.Events) != 1 || page.Events[0].Data != "young" ||
		page.Gap != nil {
		t.Errorf("%+v", page)
	}
	if page := f.history("channel=a&after=1h"); len(page.Events) != 2 {
		t.Errorf("%+v", page)
	}
	c := f.stream("/v1/events?channel=a&since=" + stamp)
	first := c.any()
	if e := c.any(); e.Data != "young" || first.LastEventID >= e.LastEventID {
		t.Errorf("%+v after %+v", e, first)
	}
	f.call("GET", "/v1/events?channel=a&since=soon", "").wantProblem(t, 400, "invalid", "since")
	f.call("GET", "/v1/events?channel=a&since=1h&replay=all", "").wantProblem(t, 400, "invalid", "replay and since")
	f.call("GET", "/v1/history?channel=a&after=soon", "").wantProblem(t, 400, "invalid", "after")
}

// TestPages: the page, the examples and the description are served with their types and a strict
// policy, and can be left out.
func TestPages(t *testing.T) {
	f := start(t, server.Options{})
	for path, kind := range map[string]string{
		"/": "text/html", "/console/app.js": "text/javascript", "/console/style.css": "text/css",
		"/examples/":        "text/html",
		"/examples/quotes/": "text/html", "/examples/quotes/app.js": "text/javascript",
	} {
		a := f.call("GET", path, "")
		if a.status != 200 || !strings.HasPrefix(a.header.Get("Content-Type"), kind) ||
			!strings.HasPrefix(a.header.Get("Content-Security-Policy"), "default-src 'none'") ||
			a.header.Get("X-Content-Type-Options") != "nosniff" || a.header.Get("Referrer-Policy") != "no-referrer" ||
			a.header.Get("Cross-Origin-Opener-Policy") != "same-origin" ||
			strings.Contains(a.header.Get("Content-Security-Policy"), "unsafe") ||
			!strings.Contains(a.header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
			t.Errorf("%s: %d %v", path, a.status, a.header)
		}
	}
	if a := f.call("GET", "/openapi.yaml", ""); a.status != 200 || !strings.HasPrefix(a.body, "openapi: 3.1") {
		t.Errorf("%+v", a)
	}
	for _, path := range []string{"/console/../../server.go", "/examples/examples.go", "/examples/quotes/main.go",
		"/console/", "/favicon.ico", "/console/%2e%2e/x.js"} {
		if a := f.call("GET", path, ""); a.status != 404 && path != "/console/" {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	without := start(t, server.Options{NoPage: true})
	without.call("GET", "/", "").wantProblem(t, 404, "not_found", "")
}
