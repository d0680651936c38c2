package server_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/server"
	"github.com/fanfare-hub/fanfare/sse"
)

func TestDelivery(t *testing.T) {
	if eachKind(t, TestDelivery) {
		return
	}
	f := start(t, server.Options{})
	c := f.stream("/v1/events?channel=a&channel=b/*&channel=a")
	first := c.any()
	if first.Type != "heartbeat" || first.LastEventID == "" || !strings.Contains(first.Data, `"time"`) {
		t.Fatalf("first event %+v", first)
	}
	ids := f.publish("a", "one", "two\nlines\r\nand\rmore", "")
	f.publish("other", "not heard")
	ids = append(ids, f.publish("b/1?event=kind", "three")...)
	for i, want := range []sse.Event{
		{Type: "message", Data: "one"}, {Type: "message", Data: "two\nlines\nand\nmore"}, {Type: "message",
			Data: ""}, {Type: "kind", Data: "three"},
	} {
		want.LastEventID = ids[i]
		if got := c.any(); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	c.quiet()
	if c.retry < 1000 || c.retry > 10000 {
		t.Errorf("retry: %d", c.retry)
	}
}

func TestStreamParameters(t *testing.T) {
	if eachKind(t, TestStreamParameters) {
		return
	}
	f := start(t, server.Options{})
	many := strings.Repeat("&channel=x", 101)[1:]
	for query, detail := range map[string]string{
		"": "channel", "channel=": "channel", "channel=a*": "'*'", "channel=**/a": "'**'", many: "100",
		"channel=a%0Ab":         "control",
		"channel=a&heartbeat=0": "heartbeat", "channel=a&heartbeat=61": "60", "channel=a&heartbeat=x": "heartbeat",
		"channel=a&heartbeat=":           "heartbeat",
		"channel=a&heartbeatEvent=maybe": "heartbeatEvent", "channel=a&replay=-1": "replay",
		"channel=a&replay=100001": "100000", "channel=a&replay=x": "replay",
		"channel=%zz": "query",
	} {
		f.call("GET", "/v1/events?"+query, "").wantProblem(t, 400, "invalid", detail)
	}
	for query, detail := range map[string]string{
		"": "storeId", "storeId=1": "pcId", "pcId=1": "storeId", "storeId=a/b&pcId=1": "storeId",
		"storeId=1&pcId=": "pcId",
		"storeId=1&pcId=" + strings.Repeat("x",
			65): "64", "storeId=*&pcId=1": "storeId", "storeId=1&pcId=%C3%BC": "pcId",
		"storeId=1&pcId=2&heartbeat=99": "heartbeat",
	} {
		f.call("GET", "/v1/stores/event-sources?"+query, "").wantProblem(t, 400, "invalid", detail)
	}
	hundred := strings.Repeat("&channel=x", 100)[1:]
	f.stream("/v1/events?" + hundred).close()
}

func TestIdleSigns(t *testing.T) {
	if eachKind(t, TestIdleSigns) {
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{Heartbeat: 30 * time.Millisecond}})
	comments := f.stream("/v1/events?channel=a")
	events := f.stream("/v1/events?channel=a&heartbeatEvent=true")
	store := f.stream("/v1/stores/event-sources?storeId=1&pcId=2")
	quiet := f.stream("/v1/stores/event-sources?storeId=1&pcId=2&heartbeatEvent=false")
	slow := f.stream("/v1/events?channel=a&heartbeatEvent=true&heartbeat=60")
	if e := store.any(); e.Data != "CONNECTED" || e.Type != "sse" {
		t.Errorf("first %+v", e)
	}
	if e := quiet.any(); e.Data != "CONNECTED" {
		t.Errorf("heartbeatEvent=false leaves CONNECTED: %+v", e)
	}
	begin := events.any().LastEventID
	ids := f.publish("elsewhere", "x") // an idle stream's position moves on with the log
	deadline := time.Now().Add(time.Minute)
	for e := events.any(); e.LastEventID != ids[0]; e = events.any() {
		if e.Type != "heartbeat" || e.LastEventID < begin || time.Now().After(deadline) {
			t.Fatalf("heartbeat %+v, want the id to reach %s", e, ids[0])
		}
	}
	if e := store.any(); e.Type != "heartbeat" {
		t.Errorf("an idle store stream sends %+v", e)
	}
	comments.any()
	for name, c := range map[string]*client{"comments": comments, "quiet": quiet} {
		c.comments(2)
		if n := len(c.events); n != 0 {
			t.Errorf("%s: %d events while idle", name, n)
		}
		c.close()
		if strings.Contains(c.raw.String(), ":\n\n") {
			t.Errorf("%s: a blank line after a comment makes phantom events: %q", name, c.raw.String())
		}
	}
	if n := len(slow.events); n != 1 {
		t.Errorf("heartbeat=60: %d events", n)
	}
}

func TestNoFirstEvent(t *testing.T) {
	if eachKind(t, TestNoFirstEvent) {
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{Heartbeat: 20 * time.Millisecond,
		Lifetime: 5 * time.Second}})
	c := f.stream("/v1/events?channel=a&heartbeatEvent=false")
	f.publish("a", "x")
	f.publish("other", "moves the position")
	events := c.rest()
	if len(events) != 1 || events[0].Data != "x" {
		t.Errorf("%+v", events)
	}
	if !regexp.MustCompile(`^:\n(:\n)*retry: \d+\n(:\n)*id: `).MatchString(c.raw.String()) {
		t.Errorf("retry leads the first event: %q", c.raw.String())
	}
	gap := f.stream("/v1/events?channel=a&heartbeatEvent=false", "Last-Event-ID: junk")
	if e := gap.any(); e.Type != "gap" {
		t.Errorf("%+v", e)
	}
	gap.want("x")
}

func TestPositionSources(t *testing.T) {
	if eachKind(t, TestPositionSources) {
		return
	}
	f := start(t, server.Options{})
	ids := f.publish("a", "1", "2", "3")
	for _, c := range []struct {
		query  string
		header string
		want   []string
	}{
		{"", ids[0], []string{"2", "3"}},
		{"&lastEventId=" + ids[1], "", []string{"3"}},
		{"&last_event_id=" + ids[1], "", []string{"3"}},
		{"&lastEventID=" + ids[1], "", []string{"3"}},
		{"&lastEventId=&last_event_id=" + ids[1], "", []string{"3"}},
		{"&lastEventId=" + ids[0], ids[1], []string{"3"}},
		{"&lastEventId=" + ids[0] + "&lastEventId=" + ids[1], "", []string{"2", "3"}},
		{"&replay=all", ids[1], []string{"3"}},
		{"&replay=all", "", []string{"1", "2", "3"}},
		{"&replay=2", "", []string{"2", "3"}},
		{"&replay=0", "", nil},
		{"&replay=1&lastEventId=conn", "", []string{"3"}},
		{"&lastEventId=conn", "", nil},
		{"", "conn", nil},
		{"", "", nil},
	} {
		var header []string
		if c.header != "" {
			header = []string{"Last-Event-ID: " + c.header}
		}
		s := f.stream("/v1/events?channel=a"+c.query, header...)
		if e := s.any(); e.Type != "heartbeat" || (len(c.want) > 0 && e.LastEventID >= ids[2]) ||
			(c.want == nil && e.LastEventID != ids[2]) {
			t.Errorf("%+v: first %+v", c, e)
		}
		s.want(c.want...)
		s.quiet()
		s.close()
	}
}

type gap struct{ Requested, Oldest, Reason string }

func wantGap(t *testing.T, e sse.Event, want gap) {
	t.Helper()
	var got gap
	if e.Type != "gap" || json.Unmarshal([]byte(e.Data), &got) != nil {
		t.Fatalf("no gap: %+v", e)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("gap (-want +got):\n%s", diff)
	}
	before, err := fanfare.ParsePosition(got.Oldest)
	if err != nil || (before-1).String() != e.LastEventID {
		t.Errorf("the gap's id is %s, want the number before %s", e.LastEventID, got.Oldest)
	}
}

func plus(id string, n int) string {
	p, _ := fanfare.ParsePosition(id)
	return fanfare.Position(int(p) + n).String()
}

// TestGaps is P4 over HTTP, with several channels.
func TestGaps(t *testing.T) {
	if eachKind(t, TestGaps) {
		return
	}
	f := start(t, server.Options{}, "short=count:2", "**=count:1000")
	a := f.publish("short", "s1", "s2", "s3", "s4")
	b := f.publish("long", "l1", "l2")
	f.restart()
	after := f.publish("long", "l3")
	both := "/v1/events?channel=short&channel=long"
	for name, c := range map[string]struct {
		path, id string
		first    string
		want     *gap
		data     []string
	}{
		"trimmed": {both, a[0], a[0], &gap{a[0], a[2], "trimmed"},
			[]string{"s3", "s4", "l1", "l2", "l3"}},
		"at the trim mark":        {both, a[1], a[1], nil, []string{"s3", "s4", "l1", "l2", "l3"}},
		"trimmed, the other only": {"/v1/events?channel=long", a[0], a[0], nil, []string{"l1", "l2", "l3"}},
		"trimmed, by pattern": {"/v1/events?channel=*", a[0], a[0], &gap{a[0], a[2], "trimmed"},
			[]string{"s3", "s4", "l1", "l2", "l3"}},
		"below the log": {both, "0000000000001", "0000000000001", &gap{"0000000000001", a[2], "trimmed"},
			[]string{"s3", "s4", "l1", "l2", "l3"}},
		"zero": {"/v1/events?channel=long", "0000000000000", "0000000000000",
			&gap{"0000000000000", b[0], "trimmed"}, []string{"l1", "l2", "l3"}},
		"lost": {both, plus(b[1], 5), plus(b[1], 5), &gap{plus(b[1], 5), after[0], "lost"},
			[]string{"l3"}},
		"end of a run": {both, b[1], b[1], nil, []string{"l3"}},
		"before a run": {both, plus(after[0], -1), plus(after[0], -1), nil, []string{"l3"}},
		"future": {both, plus(after[0], 9), plus(after[0], 9), &gap{plus(after[0], 9), a[2], "future"},
			[]string{"s3", "s4", "l1", "l2", "l3"}},
		"future, nothing there": {"/v1/events?channel=none", plus(after[0], 9), plus(after[0], 9),
			&gap{plus(after[0], 9), plus(after[0], 1), "future"}, nil},
		"unknown": {both, "garbage", "0000000000000", &gap{"garbage", a[2], "unknown"},
			[]string{"s3", "s4", "l1", "l2", "l3"}},
		"long garbage": {"/v1/events?channel=none", strings.Repeat("ü", 100), "0000000000000",
			&gap{strings.Repeat("ü", 64), plus(after[0], 1), "unknown"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := f.stream(c.path, "Last-Event-ID: "+c.id)
			defer s.close()
			if e := s.any(); e.Type != "heartbeat" || e.LastEventID != c.first {
				t.Errorf("first %+v, want id %s", e, c.first)
			}
			if c.want != nil {
				wantGap(t, s.any(), *c.want)
			}
			s.want(c.data...)
			s.quiet()
		})
	}
	s := f.stream(both, "Last-Event-ID: "+plus(after[0], 9))
	s.any()
	s.any()
	s.want("s3", "s4", "l1", "l2", "l3")
	f.publish("long", "live after a gap")
	s.want("live after a gap")
}

// TestRestartThenResume is P3 after a restart, before any new publish, over one and several
// channels and patterns.
func TestRestartThenResume(t *testing.T) {
	if eachKind(t, TestRestartThenResume) {
		return
	}
	f := start(t, server.Options{})
	ids := f.publish("a", "1", "2", "3")
	fresh := f.stream("/v1/events?channel=a").any().LastEventID
	f.restart()
	for _, query := range []string{"channel=a", "channel=a&channel=b", "channel=*", "channel=**&channel=a"} {
		s := f.stream("/v1/events?"+query, "Last-Event-ID: "+ids[0])
		if e := s.any(); e.LastEventID != ids[0] || e.Type != "heartbeat" {
			t.Errorf("%s: %+v", query, e)
		}
		s.want("2", "3")
		s.close()
	}
	s := f.stream("/v1/events?channel=a", "Last-Event-ID: "+fresh)
	f.publish("a", "4")
	s.want("4")
}

// TestSeamOverHTTP resumes at random positions hundreds of times while publishers run flat out.
func TestSeamOverHTTP(t *testing.T) {
	if eachKind(t, TestSeamOverHTTP) {
		return
	}
	f := start(t, server.Options{})
	stop := make(chan struct{})
	var publishers sync.WaitGroup
	var mu sync.Mutex
	var log []string // ids in the order of their publish answers; sorted text is log order
	for p := range 4 {
		publishers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				a := f.call("POST", fmt.Sprintf("/v1/channels/c/%d", (p+i)%3), fmt.Sprintf("%d.%d", p, i))
				mu.Lock()
				log = append(log, a.json("id"))
				mu.Unlock()
			}
		})
	}
	stored := func() int { mu.Lock(); defer mu.Unlock(); return len(log) }
	for stored() < 10 { // something to resume into
		time.Sleep(time.Millisecond)
	}
	var readers sync.WaitGroup
	for _, query := range []string{"channel=c/0&channel=c/1&channel=c/2", "channel=c/*", "channel=c/**&channel=c/1"} {
		for range 2 {
			readers.Go(func() {
				var last string
				for round := range 40 {
					var header []string
					if round > 0 {
						mu.Lock()
						last = log[rand.IntN(len(log))]
						mu.Unlock()
						header = []string{"Last-Event-ID: " + last}
					}
					s := f.stream("/v1/events?"+query, header...)
					p, _ := fanfare.ParsePosition(s.any().LastEventID)
					for range 10 + rand.IntN(50) {
						e := s.next()
						q, err := fanfare.ParsePosition(e.LastEventID)
						if err != nil || q != p+1 { // all events are on these channels: positions have no hole
							t.Errorf("%s: %v after %v, %+v", query, q, p, e)
							break
						}
						p = q
					}
					s.close()
				}
			})
		}
	}
	readers.Wait()
	close(stop)
	publishers.Wait()
}

func TestLifetimeEndsBetweenEvents(t *testing.T) {
	if eachKind(t, TestLifetimeEndsBetweenEvents) {
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{Lifetime: 5 * time.Second},
		Stores: server.StoreOptions{Lifetime: 200 * time.Millisecond}})
	began := time.Now()
	c := f.stream("/v1/events?channel=a")
	begin := c.any().LastEventID
	ids := f.publish("other", "moves the position")
	events := c.rest()
	if c.err != io.EOF {
		t.Errorf("the stream ended with %v, want the last chunk", c.err)
	}
	if took := time.Since(began); took < 4400*time.Millisecond {
		t.Errorf("ended after %v", took)
	}
	if len(events) != 1 || events[0].Type != "heartbeat" || events[0].LastEventID != ids[0] || begin == ids[0] {
		t.Errorf("farewell %+v, want a heartbeat at %s", events, ids[0])
	}
	still := f.stream("/v1/events?channel=a")
	still.any()
	if events := still.rest(); len(events) != 0 {
		t.Errorf("farewell of a position that was told: %+v", events)
	}
	s := f.stream("/v1/stores/event-sources?storeId=1&pcId=2&heartbeatEvent=false")
	if events := s.rest(); len(events) != 1 || s.err != io.EOF {
		t.Errorf("store stream: %+v, %v", events, s.err)
	}
}

// TestDrain is P7: refused are new streams and not publishes, and every stream ends between events,
// told when to come back.
func TestDrain(t *testing.T) {
	if eachKind(t, TestDrain) {
		return
	}
	f := start(t, server.Options{})
	var clients []*client
	for i := range 20 {
		path := "/v1/events?channel=a"
		if i%2 == 1 {
			path = fmt.Sprintf("/v1/stores/event-sources?storeId=1&pcId=%d", i)
		}
		if i >= 16 {
			path += "&heartbeatEvent=false"
		}
		c := f.stream(path)
		clients = append(clients, c)
	}
	ids := f.publish("a", "x")
	done := make(chan error, 1)
	const window = 600 * time.Millisecond
	began := time.Now()
	go func() { done <- f.srv.Drain(context.Background(), window) }()
	for f.call("GET", "/readyz", "").status == 200 {
	}
	f.call("GET", "/readyz", "").wantProblem(t, 503, "unavailable", "shutting down")
	if a := f.call("GET", "/livez", ""); a.status != 200 {
		t.Errorf("livez while draining: %+v", a)
	}
	refused := f.call("GET", "/v1/events?channel=a", "", "Accept: text/event-stream")
	if refused.status != 200 || !regexp.MustCompile(`^retry: \d+$`).MatchString(refused.body) ||
		refused.header.Get("Content-Type") != "text/event-stream; charset=utf-8" {
		t.Errorf("a new EventSource while draining: %+v", refused)
	}
	f.call("GET", "/v1/events?channel=a", "").wantProblem(t, 503, "unavailable", "shutting down")
	f.call("GET", "/v1/stores/event-sources?storeId=1&pcId=1", "").wantProblem(t, 503, "unavailable", "shutting down")
	if a := f.call("POST", "/v1/channels/b", "still taken"); a.status != 201 {
		t.Errorf("publish while draining: %+v", a)
	}
	for i, c := range clients {
		c.rest()
		wire := c.raw.String()
		farewell := regexp.MustCompile(`\nretry: (\d+)\nid: (\S+)\nevent: heartbeat\ndata: \{"time":"([^"]+)"\}\n\n$`).FindStringSubmatch(wire)
		if c.err != io.EOF || (farewell != nil) != (i < 16) || (i < 16 && strings.Count(wire, "retry: ") != 2) {
			t.Errorf("client %d: %v, %q", i, c.err, wire)
		}
		if farewell == nil {
			continue
		}
		ms, _ := strconv.Atoi(farewell[1])
		at, _ := time.Parse(time.RFC3339, farewell[3])
		back := at.Add(time.Duration(ms+1) * time.Millisecond) // the time is cut to milliseconds
		if farewell[2] != ids[0] || back.Before(began.Add(window)) {
			t.Errorf("client %d: farewell at %s, %v of the window; want %s, and to come back after it", i, farewell[2],
				back.Sub(began), ids[0])
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestNoRoom is P6: who cannot be taken is told so, in the form its kind of client understands.
func TestNoRoom(t *testing.T) {
	if eachKind(t, TestNoRoom) {
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{Max: 1}})
	c := f.stream("/v1/events?channel=a")
	a := f.call("GET", "/v1/events?channel=a", "", "Accept: text/html, text/event-stream;q=0.9")
	if a.status != 200 || !strings.HasPrefix(a.body, "retry: ") {
		t.Errorf("%+v", a)
	}
	f.call("GET", "/v1/events?channel=a", "", "Accept: */*").wantProblem(t, 503, "overloaded", "--max-streams")
	f.call("GET", "/v1/events?channel=a", "", "Accept: text/event-stream;q=0").wantProblem(t, 503, "overloaded",
		"--max-streams")
	began := time.Now()
	f.call("GET", "/v1/stores/event-sources?storeId=1&pcId=1", "").wantProblem(t, 503, "overloaded", "--max-streams")
	if took := time.Since(began); took < time.Second || took > 30*time.Second {
		t.Errorf("an older client, which comes back at once, is told after %v, want 1 to 3 s on an idle machine", took)
	}
	c.close()
	f.untilStreams(0) // the slot of a client that has gone is freed
	f.stream("/v1/events?channel=a").any()
}

// untilStreams waits until n streams are open.
func (f *fixture) untilStreams(n int) {
	f.t.Helper()
	for deadline := time.Now().Add(time.Minute); f.srvStreams() != n; {
		if time.Now().After(deadline) {
			f.t.Fatalf("%d streams are open, want %d", f.srvStreams(), n)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestDeliveriesAreCounted (P6): each event that a stream is sent, once, and which of them were
// read from the log.
func TestDeliveriesAreCounted(t *testing.T) {
	if eachKind(t, TestDeliveriesAreCounted) {
		return
	}
	f := start(t, server.Options{})
	f.publish("a", "1", "2", "3")
	c := f.stream("/v1/events?channel=a&replay=all")
	c.want("1", "2", "3")
	f.publish("a", "4", "5")
	c.want("4", "5")
	f.metric(t, "fanfare_events_delivered_total 5")
	f.metric(t, "fanfare_events_replayed_total 3")
	f.metric(t, "fanfare_publish_seconds_count 5")
}

// TestRefusalsAndEndsAreCounted is P6: every refusal and every cut has a name and a counter.
func TestRefusalsAndEndsAreCounted(t *testing.T) {
	if eachKind(t, TestRefusalsAndEndsAreCounted) {
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{Max: 3, Lifetime: 300 * time.Millisecond},
		Publish: server.PublishOptions{MaxEventBytes: 10}, Stores: server.StoreOptions{Lifetime: -1}})
	for range 2 {
		f.call("GET", "/v1/events", "").wantProblem(t, 400, "invalid", "channel")
	}
	f.call("POST", "/v1/channels/$x", "x").wantProblem(t, 403, "forbidden", "'$'")
	f.call("GET", "/nothing", "").wantProblem(t, 404, "not_found", "")
	f.call("DELETE", "/livez", "").wantProblem(t, 405, "method_not_allowed", "")
	f.call("POST", "/v1/channels/a", "x", "Idempotency-Key: k")
	f.call("POST", "/v1/channels/a", "y", "Idempotency-Key: k").wantProblem(t, 409, "conflict", "k")
	f.call("POST", "/v1/channels/a", "eleven bytes").wantProblem(t, 413, "too_large", "10")
	f.call("POST", "/v1/events", "{}\n{}\n{}\n", "Content-Type: application/x-ndjson") // lines count, too

	f.stream("/v1/events?channel=a").rest() // its lifetime
	f.untilStreams(0)
	gone, held := f.pc("1", "1"), f.pc("1", "3")
	third := f.open(pcPath("1", "2"))
	third.until("CONNECTED\n\n")
	f.call("GET", "/v1/events?channel=a", "").wantProblem(t, 503, "overloaded", "--max-streams")
	if a := f.call("GET", "/v1/events?channel=a", "", "Accept: text/event-stream"); !strings.HasPrefix(a.body,
		"retry: ") {
		t.Errorf("%+v", a)
	}
	gone.close()
	third.close()
	f.untilStreams(1)
	metrics := f.call("GET", "/metrics", "").body
	for name, want := range map[string]int{
		`requests_refused_total{code="invalid"}`: 2 + 3, `requests_refused_total{code="forbidden"}`: 1,
		`requests_refused_total{code="not_found"}`:          1,
		`requests_refused_total{code="method_not_allowed"}`: 1, `requests_refused_total{code="conflict"}`: 1,
		`requests_refused_total{code="too_large"}`:  1,
		`requests_refused_total{code="overloaded"}`: 2, `requests_refused_total{code="unavailable"}`: 0,
		`streams_refused_total`: 2, `streams_opened_total{adapter="native"}`: 1,
		`streams_opened_total{adapter="store"}`: 3, `streams_open{adapter="native"}`: 0,
		`streams_open{adapter="store"}`:          1,
		`streams_ended_total{reason="lifetime"}`: 1, `streams_ended_total{reason="gone"}`: 2,
		`streams_ended_total{reason="flood"}`:   0,
		`streams_ended_total{reason="stalled"}`: 0, `streams_ended_total{reason="drain"}`: 0,
	} {
		if !strings.Contains(metrics, fmt.Sprintf("\nfanfare_%s %d\n", name, want)) {
			t.Errorf("%s: want %d, have %s", name, want,
				regexp.MustCompile(`(?m)^fanfare_`+regexp.QuoteMeta(name)+`.*$`).FindString(metrics))
		}
	}
	held.close()
}

// TestRoomPerAddress is P6 for one address; loopback is not counted.
func TestRoomPerAddress(t *testing.T) {
	f := start(t, server.Options{Streams: server.StreamOptions{MaxPerAddress: 2},
		Access: server.AccessOptions{Hosts: []string{"example.com"}}})
	far := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = r.URL.Query().Get("from") + ":1234"
		f.srv.ServeHTTP(w, r)
	}))
	defer far.Close()
	get := func(from string) *http.Response {
		resp, err := http.Get(far.URL + "/v1/events?channel=a&from=" + from)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		return resp
	}
	first := get("203.0.113.7")
	if get("203.0.113.7").StatusCode != 200 || get("203.0.113.8").StatusCode != 200 {
		t.Error("refused while there was room")
	}
	if third := get("203.0.113.7"); third.StatusCode != 503 || third.Header.Get("Retry-After") == "" {
		t.Errorf("a third stream of one address: %d", third.StatusCode)
	}
	for range 3 {
		if get("127.0.0.1").StatusCode != 200 {
			t.Error("loopback is counted")
		}
	}
	_ = first.Body.Close()
	f.untilStreams(5)
	if again := get("203.0.113.7"); again.StatusCode != 200 {
		t.Errorf("after one has gone: %d", again.StatusCode)
	}
}

// srvStreams reads the open streams from the metrics.
func (f *fixture) srvStreams() int {
	f.t.Helper()
	var n int
	all := regexp.MustCompile(`(?m)^fanfare_streams_open\{.*\} (\d+)$`).FindAllStringSubmatch(f.call("GET", "/metrics",
		"").body, -1)
	if len(all) == 0 {
		f.t.Fatal("no fanfare_streams_open in /metrics")
	}
	for _, m := range all {
		var one int
		_, _ = fmt.Sscan(m[1], &one)
		n += one
	}
	return n
}

// TestDeadReaders is P5: hundreds of subscribers that never read beside one that does. They have
// connections of their own; see TestStalledStreamBesideOthers for those of one connection.
func TestDeadReaders(t *testing.T) {
	if eachKind(t, TestDeadReaders) {
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{StallLimit: 2 * time.Second}})
	const dead = 200
	for range dead {
		f.open("/v1/events?channel=a").stops()
	}
	healthy := f.stream("/v1/events?channel=a")
	healthy.any()
	f.untilStreams(dead + 1)
	data := strings.Repeat("x", 64<<10)
	var ids []string
	for range 40 {
		ids = append(ids, f.publish("a", data)...)
	}
	for _, id := range ids {
		if e := healthy.next(); e.LastEventID != id {
			t.Fatalf("got %s, want %s", e.LastEventID, id)
		}
	}
	f.untilStreams(1)
	if m := f.call("GET", "/metrics", "").body; !strings.Contains(m,
		fmt.Sprintf(`fanfare_streams_ended_total{reason="stalled"} %d`, dead)) {
		t.Errorf("the cuts have no counter: %s",
			regexp.MustCompile(`(?m)^fanfare_streams_ended.*$`).FindAllString(m, -1))
	}
	f.publish("a", "still fine")
	healthy.want("still fine")
}

// TestSlowIsNotStalled: a peer that takes a little now and then keeps its stream.
func TestSlowIsNotStalled(t *testing.T) {
	if eachKind(t, TestSlowIsNotStalled) {
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{StallLimit: 4 * time.Second},
		Publish: server.PublishOptions{MaxEventBytes: 4 << 20}})
	w := f.open("/v1/events?channel=a")
	w.until("\n\n")
	w.stops()
	f.publish("a", strings.Repeat("x", 3<<20))
	buf := make([]byte, 64<<10)
	for range 12 { // longer than the stall limit
		time.Sleep(500 * time.Millisecond)
		w.goesOn()
		_, err := io.ReadFull(w.body, buf)
		w.stops()
		if err != nil {
			t.Fatalf("cut while reading: %v", err)
		}
	}
	if f.srvStreams() != 1 {
		t.Error("the stream was ended")
	}
}

func TestHalfClosedPeerKeepsHearing(t *testing.T) {
	if eachKind(t, TestHalfClosedPeerKeepsHearing) {
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{Heartbeat: 100 * time.Millisecond}})
	f.http1("half of a stream is closed as soon as its request has been sent")
	conn, r := f.dial("GET /v1/events?channel=a HTTP/1.1\r\nHost: localhost\r\n\r\n")
	readUntil(t, r, "\n\n\r\n")
	if secure, ok := conn.(*tls.Conn); ok {
		if err := secure.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	if err := tcpOf(conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(600 * time.Millisecond) // the hub has looked twice whether the peer is there
	f.publish("a", "hello")
	readUntil(t, r, "data: hello\n\n")
}

func TestClosedPeerFreesItsSlot(t *testing.T) {
	if eachKind(t, TestClosedPeerFreesItsSlot) {
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{Heartbeat: time.Hour}}) // no heartbeat will tell
	for _, leave := range []func(*wired){func(w *wired) { _ = w.tcp.Close() }, (*wired).reset,
		func(w *wired) { w.quit() }} {
		w := f.open("/v1/events?channel=a")
		w.until("\n\n")
		leave(w)
		f.untilStreams(0)
	}
}

func TestFloodingPeerIsCut(t *testing.T) {
	if eachKind(t, TestFloodingPeerIsCut) {
		return
	}
	f := start(t, server.Options{})
	f.http1("bytes after a request")
	conn, r := f.dial("GET /v1/events?channel=a HTTP/1.1\r\nHost: localhost\r\n\r\nbytes in the same packet")
	readUntil(t, r, "\n\n\r\n")
	f.publish("a", "hello")
	readUntil(t, r, "data: hello\n\n")
	junk := make([]byte, 16<<10)
	for range 100 {
		if _, err := conn.Write(junk); err != nil {
			break
		}
	}
	for deadline := time.Now().Add(time.Minute); f.srvStreams() != 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a peer that floods was not cut")
		}
	}
	f.metric(t, `fanfare_streams_ended_total{reason="flood"} 1`)
}

func TestTwoHubsInOneProcess(t *testing.T) {
	oneKind(t, "what it looks at is the same on each")
	one := start(t, server.Options{Publish: server.PublishOptions{MaxEventBytes: 10},
		Streams: server.StreamOptions{Lifetime: 100 * time.Millisecond}})
	two := start(t, server.Options{Streams: server.StreamOptions{BareContentType: true}})
	one.call("POST", "/v1/channels/a", "eleven bytes").wantProblem(t, 413, "too_large", "10")
	two.publish("a", "eleven bytes")
	c1, c2 := one.stream("/v1/events?channel=a"), two.stream("/v1/events?channel=a")
	two.publish("a", "x")
	c2.want("x")
	c1.rest()
	if got := c2.resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type %q", got)
	}
	if len(one.call("GET", "/v1/history?channel=a", "").body) > 20 {
		t.Error("one hub has the other's events")
	}
}

// TestStreamsGoOnWhileTheLogIsFull: publishes are refused with the reason, streams stay, and all
// recovers by itself.
func TestUnreadyLog(t *testing.T) {
	if eachKind(t, TestUnreadyLog) {
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{Heartbeat: 30 * time.Millisecond}})
	f.stop(0)
	f.lo.MinFreeBytes = 1 << 62 // no disk has as much
	f.up("127.0.0.1:0")
	c := f.stream("/v1/events?channel=a&heartbeatEvent=true")
	c.any()
	f.call("POST", "/v1/channels/a", "x").wantProblem(t, 503, "unavailable", "--min-free-bytes")
	f.call("GET", "/readyz", "").wantProblem(t, 503, "unavailable", "bytes are free")
	f.call("GET", "/v1/health", "").wantProblem(t, 503, "unavailable", "bytes are free")
	if e := c.any(); e.Type != "heartbeat" {
		t.Errorf("the stream: %+v", e)
	}
}
