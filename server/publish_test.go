package server_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare/server"
)

type historyPage struct {
	Events []struct{ ID, Channel, Event, Data, Time string }
	Next   string
	Gap    *gap
}

func (f *fixture) history(query string) (page historyPage) {
	f.t.Helper()
	a := f.call("GET", "/v1/history?"+query, "")
	if a.status != 200 {
		f.t.Fatalf("history %s: %+v", query, a)
	}
	if err := json.Unmarshal([]byte(a.body), &page); err != nil {
		f.t.Fatal(err)
	}
	return page
}

func (f *fixture) dataOf(channel string) (data []string) {
	f.t.Helper()
	for _, e := range f.history("limit=1000&channel=" + channel).Events {
		data = append(data, e.Data)
	}
	return data
}

func TestPublishForms(t *testing.T) {
	f := start(t, server.Options{})
	for _, c := range []struct {
		path, body, contentType string
		channel, event, data    string
	}{
		{"/v1/events", `{"channel":"a","data":"text"}`, "application/json", "a", "message", "text"},
		{"/v1/events", `{"channel":"a","data":"text"}`, "application/x-www-form-urlencoded", "a", "message", "text"},
		{"/v1/events", ` {"data" : {"b": [1, 2 ],"a":"<&>"}, "event":"k", "channel":"a"}`, "", "a", "k",
			`{"b":[1,2],"a":"<&>"}`},
		{"/v1/events", `{"channel":"a","data":null}`, "", "a", "message", "null"},
		{"/v1/events", `{"channel":"a","data":1.50,"event":"message"}`, "", "a", "message", "1.50"},
		{"/v1/events", `{"channel":"a","data":"","event":""}`, "", "a", "message", ""},
		{"/v1/events", `{"channel":"a","data":{"x":1,"x":2}}`, "", "a", "message", `{"x":1,"x":2}`},
		{"/v1/events", `{"channel":"a","data":"\ud800 lone"}`, "", "a", "message", "\ufffd lone"},
		{"/v1/channels/a", "raw \r\n\x00 body", "", "a", "message", "raw \r\n\x00 body"},
		{"/v1/channels/a", "", "", "a", "message", ""},
		{"/v1/channels/a?event=k", "x", "application/x-www-form-urlencoded", "a", "k", "x"},
		{"/v1/channels/a//b/../c/", "x", "", "a//b/../c/", "message", "x"},
		{"/v1/channels//", "x", "", "/", "message", "x"},
		{"/v1/channels/https://e.com/a", "x", "", "https://e.com/a", "message", "x"},
		{"/v1/channels/a%2Fb%252F%20%C3%BC", "x", "", "a/b%2F ü", "message", "x"},
	} {
		var header []string
		if c.contentType != "" {
			header = append(header, "Content-Type: "+c.contentType)
		}
		a := f.call("POST", c.path, c.body, header...)
		id := a.json("id")
		if a.status != 201 || !regexp.MustCompile("^"+positionText+"$").MatchString(id) ||
			a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %+v", c.path, c.body, a)
			continue
		}
		page := f.history("channel=" + escape(c.channel) + "&after=" + plus(id, -1))
		if len(page.Events) != 1 || page.Next != "" || page.Gap != nil {
			t.Errorf("%s %s: %+v", c.path, c.body, page)
			continue
		}
		e := page.Events[0]
		if e.ID != id || e.Channel != c.channel || e.Event != c.event || e.Data != c.data {
			t.Errorf("%s %s: stored as %+v", c.path, c.body, e)
		}
		if at, err := time.Parse(time.RFC3339, e.Time); err != nil || time.Since(at) > time.Minute {
			t.Errorf("time %q: %v", e.Time, err)
		}
	}
}

func escape(s string) string {
	return strings.NewReplacer("/", "%2F", "%", "%25", " ", "%20").Replace(s)
}

func TestPublishRefusals(t *testing.T) {
	f := start(t, server.Options{Publish: server.PublishOptions{MaxEventBytes: 100, MaxRequestBytes: 100_000}})
	long := strings.Repeat("x", 101)
	for _, c := range []struct {
		path, body   string
		status       int
		code, detail string
	}{
		{"/v1/events", ``, 400, "invalid", "empty"},
		{"/v1/events", `{`, 400, "invalid", "JSON"},
		{"/v1/events", `{"channel":"a","data":1}}`, 400, "invalid", "JSON"},
		{"/v1/events", `{"channel":"a","data":1} x`, 400, "invalid", "JSON"},
		{"/v1/events", `"text"`, 400, "invalid", "object"},
		{"/v1/events", `{"data":1}`, 400, "invalid", "channel"},
		{"/v1/events", `{"channel":7,"data":1}`, 400, "invalid", "channel"},
		{"/v1/events", `{"channel":"","data":1}`, 400, "invalid", "channel"},
		{"/v1/events", `{"channel":"a/*","data":1}`, 400, "invalid", "'*'"},
		{"/v1/events", `{"channel":"a\u0000","data":1}`, 400, "invalid", "control"},
		{"/v1/events", `{"channel":"` + strings.Repeat("x", 513) + `","data":1}`, 400, "invalid", "512"},
		{"/v1/events", `{"channel":"$sys","data":1}`, 403, "forbidden", "'$'"},
		{"/v1/events", `{"channel":"a"}`, 400, "invalid", "data"},
		{"/v1/events", `{"channel":"a","data":1,"data":2}`, 400, "invalid", `"data"`},
		{"/v1/events", `{"channel":"a","data":1,"x":2,"x":3}`, 400, "invalid", `"x"`},
		{"/v1/events", `{"channel":"a","data":1,"event":"open"}`, 400, "invalid", "open"},
		{"/v1/events", `{"channel":"a","data":1,"event":"gap"}`, 400, "invalid", "gap"},
		{"/v1/events", `{"channel":"a","data":1,"event":3}`, 400, "invalid", "event"},
		{"/v1/events", `{"channel":"a","data":1,"event":"` + strings.Repeat("x", 129) + `"}`, 400, "invalid", "128"},
		{"/v1/events", `{"channel":"a","data":1,"idempotencyKey":""}`, 400, "invalid", "idempotencyKey"},
		{"/v1/events", `{"channel":"a","data":1,"idempotencyKey":"ü"}`, 400, "invalid", "ASCII"},
		{"/v1/events", `{"channel":"a","data":1,"idempotencyKey":"` + strings.Repeat("x", 129) + `"}`, 400, "invalid",
			"128"},
		{"/v1/events", `{"channel":"a","data":"` + long + `"}`, 413, "too_large", "--max-event-bytes"},
		{"/v1/events", strings.Repeat(" ", 100_001), 413, "too_large", "--max-request-bytes"},
		{"/v1/events", "{\"channel\":\"a\",\"data\":\"\xff\"}", 400, "invalid", "UTF-8"},
		{"/v1/events", `[]`, 400, "invalid", "empty"},
		{"/v1/events", `[{"channel":"a","data":1},{"channel":"a"}]`, 400, "invalid", "event 1 "},
		{"/v1/events", `[{"channel":"a","data":1},7]`, 400, "invalid", "object"},
		{"/v1/events", "[" + strings.Repeat(`{"channel":"a","data":1},`, 1000) + `{"channel":"a","data":1}]`, 413,
			"too_large", "1000"},
		{"/v1/events", strings.Repeat("[", 20_000), 400, "invalid", "JSON"},
		{"/v1/channels/a", long, 413, "too_large", "--max-event-bytes"},
		{"/v1/channels/a", "\xff", 400, "invalid", "UTF-8"},
		{"/v1/channels/", "x", 400, "invalid", "channel"},
		{"/v1/channels/a*", "x", 400, "invalid", "'*'"},
		{"/v1/channels/$x", "x", 403, "forbidden", "'$'"},
		{"/v1/channels/%FF", "x", 400, "invalid", "UTF-8"},
		{"/v1/channels/a%0A", "x", 400, "invalid", "control"},
		{"/v1/channels/a?event=error", "x", 400, "invalid", "error"},
		{"/v1/channels/a?event=a%0Ab", "x", 400, "invalid", "control"},
		{"/v1/nothing", "x", 404, "not_found", ""},
		{"/v1/channels", "x", 405, "method_not_allowed", ""},
		{"/v1/stores/1/pcs/2", "x", 404, "not_found", ""},
	} {
		f.call("POST", c.path, c.body).wantProblem(t, c.status, c.code, c.detail)
	}
	if a := f.call("POST", "/v1/channels/a", "x", "Idempotency-Key: "+strings.Repeat("k", 129)); a.status != 400 {
		t.Errorf("a long key: %+v", a)
	}
	if data := f.dataOf("a"); data != nil {
		t.Errorf("a refused batch stored %v", data)
	}
}

func TestMethods(t *testing.T) {
	f := start(t, server.Options{})
	for path, allow := range map[string]string{
		"/v1/events": "GET, HEAD, POST, OPTIONS", "/v1/history": "GET, HEAD, OPTIONS",
		"/v1/channels/a":           "POST, OPTIONS",
		"/v1/stores/event-sources": "GET, HEAD, OPTIONS", "/v1/stores/events": "POST, OPTIONS",
		"/v1/stores/1/events":       "POST, OPTIONS",
		"/v1/stores/1/pcs/2/events": "POST, OPTIONS", "/v1/health": "GET, HEAD, OPTIONS",
		"/livez": "GET, HEAD, OPTIONS", "/readyz": "GET, HEAD, OPTIONS", "/metrics": "GET, HEAD, OPTIONS",
	} {
		a := f.call("DELETE", path, "")
		a.wantProblem(t, 405, "method_not_allowed", allow)
		if a.header.Get("Allow") != allow {
			t.Errorf("%s: Allow %q, want %q", path, a.header.Get("Allow"), allow)
		}
		if a := f.call("OPTIONS", path, ""); a.status != 204 || a.header.Get("Allow") != allow || a.body != "" {
			t.Errorf("OPTIONS %s: %+v", path, a)
		}
	}
	for _, path := range []string{"/livez", "/readyz", "/v1/health", "/metrics", "/v1/history?channel=a",
		"/v1/events?channel=a"} {
		if a := f.call("HEAD", path, ""); a.status != 200 || a.body != "" {
			t.Errorf("HEAD %s: %+v", path, a)
		}
	}
	f.call("HEAD", "/v1/events", "")
	if n := f.srvStreams(); n != 0 {
		t.Errorf("HEAD left %d streams", n)
	}
}

func TestArrays(t *testing.T) {
	f := start(t, server.Options{})
	a := f.call("POST", "/v1/events",
		`[{"channel":"a","data":"1"},{"channel":"b","data":"2"},{"channel":"a","data":"3"}]`)
	var ids struct{ IDs []string }
	if err := json.Unmarshal([]byte(a.body), &ids); err != nil || a.status != 201 || len(ids.IDs) != 3 ||
		ids.IDs[2] != plus(ids.IDs[0], 2) {
		t.Fatalf("%+v", a)
	}
	if diff := cmp.Diff([]string{"1", "3"}, f.dataOf("a")); diff != "" {
		t.Error(diff)
	}
	full := "[" + strings.Repeat(`{"channel":"c","data":1},`, 999) + `{"channel":"c","data":1}]`
	if a := f.call("POST", "/v1/events", full); a.status != 201 || len(f.dataOf("c")) != 1000 {
		t.Errorf("1,000 events: %d", a.status)
	}
}

func TestIdempotency(t *testing.T) {
	f := start(t, server.Options{})
	key := "Idempotency-Key: k1"
	for name, c := range map[string]struct{ path, body, other string }{
		"channel": {"/v1/channels/a", "x", "y"},
		"object":  {"/v1/events", `{"channel":"b","data":"x"}`, `{"channel":"b","data":"y"}`},
		"array": {"/v1/events", `[{"channel":"c","data":"x"},{"channel":"c","data":"x"}]`,
			`[{"channel":"c","data":"x"}]`},
		"store": {"/v1/stores/1/events", `{"event":"REBOOT"}`, `{"event":"SHUTDOWN"}`},
	} {
		t.Run(name, func(t *testing.T) {
			first := f.call("POST", c.path, c.body, key)
			if first.status != 201 || first.header.Get("Idempotent-Replayed") != "" {
				t.Fatalf("%+v", first)
			}
			for range 2 {
				again := f.call("POST", c.path, c.body, key)
				if again.status != 200 || again.body != first.body ||
					again.header.Get("Idempotent-Replayed") != "true" {
					t.Errorf("a repeat: %+v, the first: %s", again, first.body)
				}
				f.call("POST", c.path, c.other, key).wantProblem(t, 409, "conflict", "k1")
				f.restart()
			}
		})
	}
	if n := len(f.dataOf("a")) + len(f.dataOf("b")) + len(f.dataOf("c")) + len(f.dataOf("stores/1")); n != 5 {
		t.Errorf("%d events are stored, want 5", n)
	}
	// The member is the same key as the header, and the scope is the channel.
	member := f.call("POST", "/v1/events", `{"channel":"b","data":"x","idempotencyKey":"k1"}`)
	if member.status != 200 {
		t.Errorf("the member for the header's key: %+v", member)
	}
	if a := f.call("POST", "/v1/channels/elsewhere", "x", key); a.status != 201 {
		t.Errorf("another channel: %+v", a)
	}
	if a := f.call("POST", "/v1/channels/b", "x", key); a.status != 200 {
		t.Errorf("the same event in another form: %+v", a)
	}
	f.call("POST", "/v1/events", `{"channel":"b","data":"x","idempotencyKey":"k2"}`, key).wantProblem(t, 400, "invalid",
		"differ")
	f.call("POST", "/v1/events", `{"channel":"b","data":"x"}`, key, "Content-Type: application/x-ndjson").wantProblem(t,
		400, "invalid", "NDJSON")
	mixed := f.call("POST", "/v1/events",
		`[{"channel":"b","data":"x","idempotencyKey":"k1"},{"channel":"b","data":"new"}]`)
	if mixed.status != 201 || !strings.Contains(mixed.body, member.json("id")) {
		t.Errorf("one known, one new: %+v", mixed)
	}
}

// TestRepeatWhileInFlight: many at once under one key store one event, and all hear of it.
func TestRepeatWhileInFlight(t *testing.T) {
	f := start(t, server.Options{})
	var wg sync.WaitGroup
	answers := make([]answer, 32)
	for i := range answers {
		wg.Go(func() { answers[i] = f.call("POST", "/v1/channels/a", "x", "Idempotency-Key: storm") })
	}
	wg.Wait()
	created := 0
	for _, a := range answers {
		if a.status == 201 {
			created++
		}
		if a.json("id") != answers[0].json("id") || a.json("id") == "" {
			t.Errorf("%+v, others got %s", a, answers[0].body)
		}
	}
	if created != 1 || len(f.dataOf("a")) != 1 {
		t.Errorf("%d created, %d stored", created, len(f.dataOf("a")))
	}
}

func TestHistory(t *testing.T) {
	f := start(t, server.Options{}, "short=count:3", "**=count:10000")
	ids := f.publish("a", "1", "2", "3", "4", "5")
	var got []string
	query, pages := "channel=a&limit=2", 0
	for next := ""; ; pages++ {
		page := f.history(query + next)
		for _, e := range page.Events {
			got = append(got, e.Data)
		}
		if page.Next == "" {
			break
		}
		next = "&after=" + page.Next
	}
	if diff := cmp.Diff([]string{"1", "2", "3", "4", "5"}, got); diff != "" || pages != 2 {
		t.Errorf("%d more pages: %s", pages, diff)
	}
	if page := f.history("channel=a&after=" + ids[4]); len(page.Events) != 0 || page.Gap != nil {
		t.Errorf("%+v", page)
	}
	if page := f.history("channel=none"); page.Events == nil || len(page.Events) != 0 {
		t.Errorf("an empty list is [], not null: %+v", page)
	}
	short := f.publish("short", "1", "2", "3", "4", "5")
	page := f.history("channel=short&after=" + short[0])
	if diff := cmp.Diff(&gap{short[0], short[2], "trimmed"}, page.Gap); diff != "" || len(page.Events) != 3 {
		t.Errorf("%+v: %s", page, diff)
	}
	if page := f.history("channel=short&after=" + short[1]); page.Gap != nil {
		t.Errorf("at the trim mark: %+v", page.Gap)
	}
	for query, detail := range map[string]string{
		"": "channel", "channel=a&channel=b": "channel", "channel=a/*": "'*'", "channel=a&after=garbage": "after",
		"channel=a&limit=0":    "limit",
		"channel=a&limit=1001": "1000", "channel=a&limit=x": "limit", "channel=%": "query",
	} {
		f.call("GET", "/v1/history?"+query, "").wantProblem(t, 400, "invalid", detail)
	}
}

// ndjson opens a full-duplex request: lines are sent and answers read in turns.
func (f *fixture) ndjson() (send func(string), next func() string, finish func()) {
	f.t.Helper()
	out, in := io.Pipe()
	req, err := http.NewRequest("POST", f.url("/v1/events"), out)
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/x-ndjson" {
		f.t.Fatalf("%+v", resp)
	}
	lines := bufio.NewReader(resp.Body)
	return func(s string) {
			if _, err := io.WriteString(in, s); err != nil {
				f.t.Fatal(err)
			}
		}, func() string {
			line, err := lines.ReadString('\n')
			if err != nil {
				return err.Error()
			}
			return strings.TrimSuffix(line, "\n")
		}, func() {
			_ = in.Close()
			_, _ = io.Copy(io.Discard, lines) // the end of the body is sent, before the connection may go
			_ = resp.Body.Close()
		}
}

func TestNDJSON(t *testing.T) {
	f := start(t, server.Options{Publish: server.PublishOptions{MaxRequestBytes: 300, MaxEventBytes: 100}})
	send, next, finish := f.ndjson()
	defer finish()
	id := regexp.MustCompile(`^{"id":"` + positionText + `"}$`)
	send(`{"channel":"a","data":"1"}` + "\n")
	if line := next(); !id.MatchString(line) { // while the body is open
		t.Fatalf("answer %q", line)
	}
	send(`{"channel":"a","data":"2"}` + "\r\n\n  \n" + `{"channel":"a"}` + "\n" + strings.Repeat("x", 1000) + "\n" +
		`{"channel":"$a","data":1}` + "\n")
	if line := next(); !id.MatchString(line) {
		t.Errorf("answer %q", line)
	}
	for _, want := range []struct {
		line   int
		status int
		detail string
	}{{5, 400, "data"}, {6, 413, "--max-request-bytes"}, {7, 403, "'$'"}} {
		var got struct {
			Line, Status        int
			Title, Code, Detail string
		}
		line := next()
		if err := json.Unmarshal([]byte(line), &got); err != nil || got.Line != want.line ||
			got.Status != want.status || !strings.Contains(got.Detail, want.detail) || got.Code == "" ||
			got.Title == "" {
			t.Errorf("%s: want %+v", line, want)
		}
	}
	keyed := `{"channel":"a","data":"3","idempotencyKey":"k"}` + "\n"
	send(keyed + keyed + `{"channel":"a","data":"4"}`)
	first := next()
	if second := next(); !id.MatchString(first) || first != second {
		t.Errorf("answers %q and %q to the same key", first, second)
	}
	finish() // the last line has no end; it counts
	for deadline := time.Now().Add(time.Minute); len(f.dataOf("a")) < 4 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	if diff := cmp.Diff([]string{"1", "2", "3", "4"}, f.dataOf("a")); diff != "" {
		t.Error(diff)
	}
}

func TestNDJSONManyLines(t *testing.T) {
	f := start(t, server.Options{})
	const n = 20_000
	var body strings.Builder
	for i := range n {
		fmt.Fprintf(&body, "{\"channel\":\"c%d\",\"data\":\"%d\"}\n", i%3, i)
	}
	a := f.call("POST", "/v1/events", body.String(), "Content-Type: application/x-ndjson; charset=utf-8")
	lines := strings.Split(a.body, "\n")
	if a.status != 200 || len(lines) != n {
		t.Fatalf("%d answers for %d lines", len(lines), n)
	}
	for i := 1; i < n; i++ {
		if lines[i] <= lines[i-1] {
			t.Fatalf("answer %d is %s after %s: answers come in the lines' order", i, lines[i], lines[i-1])
		}
	}
}

// slowDisk is how long a sync of the log takes.
type slowDisk time.Duration

func (slowDisk) String() string { return "slow disk" }

func (d slowDisk) MaybeError(op errorfs.Op) error {
	if op.Kind == errorfs.OpFileSyncData && strings.HasSuffix(op.Path, ".log") {
		time.Sleep(time.Duration(d))
	}
	return nil
}

// TestNDJSONWaitsForTheDisk: a body that comes faster than the log stores it is read more slowly,
// not refused.
func TestNDJSONWaitsForTheDisk(t *testing.T) {
	f := start(t, server.Options{})
	f.stop(0)
	f.lo.MaxQueueBytes = 6 << 20
	f.lo.FS = errorfs.Wrap(vfs.Default, slowDisk(100*time.Millisecond))
	f.up("127.0.0.1:0")
	line := `{"channel":"a","data":"` + strings.Repeat("x", 900_000) + `"}` + "\n"
	a := f.call("POST", "/v1/events", strings.Repeat(line, 60), "Content-Type: application/x-ndjson")
	if a.status != 200 || strings.Count(a.body, `{"id":"`) != 60 || strings.Contains(a.body, "overloaded") {
		t.Errorf("%d stored of 60: %.300s", strings.Count(a.body, `{"id":"`), a.body)
	}
}

// TestNDJSONAnswersNobodyReads: up to 1 MiB of answers is held; then the body is read no further,
// and nothing grows.
func TestNDJSONAnswersNobodyReads(t *testing.T) {
	f := start(t, server.Options{})
	conn, _ := f.dial("POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: " +
		"application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
	_ = conn.SetWriteDeadline(time.Now().Add(3 * time.Second))
	line := `{"channel":"a"}` + "\n" // its problem is longer than the line
	chunk := fmt.Sprintf("%x\r\n%s\r\n", 1000*len(line), strings.Repeat(line, 1000))
	sent := 0
	for ; sent < 5000; sent++ {
		if _, err := io.WriteString(conn, chunk); err != nil {
			break
		}
	}
	if sent == 5000 {
		t.Error("5 million bad lines were read though nobody reads their answers")
	}
	if a := f.call("POST", "/v1/channels/a", "others go on"); a.status != 201 {
		t.Errorf("%+v", a)
	}
	_ = conn.Close()
}

func TestNDJSONIdleAndDrain(t *testing.T) {
	f := start(t, server.Options{Publish: server.PublishOptions{IngestIdle: 50 * time.Millisecond}})
	_, next, finish := f.ndjson()
	if line := next(); !strings.Contains(line, "--ingest-idle") || !strings.Contains(line, `"line":1`) {
		t.Errorf("answer %q", line)
	}
	finish()
	g := start(t, server.Options{})
	send, next, finish := g.ndjson()
	send(`{"channel":"a","data":"1"}` + "\n")
	next()
	done := make(chan struct{})
	go func() { defer close(done); g.stop(0) }()
	if line := next(); !strings.Contains(line, "shutting down") {
		t.Errorf("answer %q", line)
	}
	finish()
	<-done
}

// TestStoringDoesNotDependOnTheClient: the body has come, the client goes before the answer.
func TestStoringDoesNotDependOnTheClient(t *testing.T) {
	f := start(t, server.Options{})
	for i := range 20 {
		const head = "POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
		conn, _ := f.dial(fmt.Sprintf("%s%02d", head, i))
		_ = conn.Close()
	}
	for deadline := time.Now().Add(time.Minute); len(f.dataOf("a")) < 20; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of 20 are stored", len(f.dataOf("a")))
		}
		time.Sleep(5 * time.Millisecond)
	}
	conn, r := f.dial("POST /v1/channels/cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf")
	_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	_, _ = io.Copy(io.Discard, r)
	if data := f.dataOf("cut"); data != nil {
		t.Errorf("half a body was stored: %v", data)
	}
}

func TestExpectContinue(t *testing.T) {
	f := start(t, server.Options{})
	for _, path := range []string{"/v1/channels/a", "/v1/events"} {
		conn, r := f.dial("POST " + path +
			" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nExpect: " +
			"100-continue\r\nContent-Length: 27\r\nConnection: close\r\n\r\n")
		readUntil(t, r, "HTTP/1.1 100 Continue\r\n\r\n")
		_, _ = io.WriteString(conn, `{"channel":"a","data":"12"}`)
		rest, err := io.ReadAll(r)
		if err != nil || !strings.Contains(string(rest), `{"id":"`) {
			t.Errorf("%s: %q, %v", path, rest, err)
		}
	}
}

// FuzzPublish: no body makes the hub panic or answer outside the contract, and what is refused
// stores nothing.
func FuzzPublish(f *testing.F) {
	for _, body := range []string{
		`{"channel":"a","data":"x"}`, `[{"channel":"a","data":{"b":[1,2]},"event":"k","idempotencyKey":"i"}]`, "\xff",
		`{"channel":"a","data":1,"data":2}`,
		"{\"channel\":\"a\",\"data\":1}\n{}\n", `[[[[`, `{"a":{"a":{"a":`, `{"channel":"\ud800","data":"\u0000"}`,
	} {
		f.Add(body, false)
		f.Add(body, true)
	}
	fix := startAny(f, server.Options{Publish: server.PublishOptions{MaxEventBytes: 1000, MaxRequestBytes: 5000}})
	f.Cleanup(func() { fix.t = f })
	f.Fuzz(func(t *testing.T, body string, lines bool) {
		fix.t = t
		before := fix.log.Stats().Events
		header := "Content-Type: application/json"
		if lines {
			header = "Content-Type: application/x-ndjson"
		}
		a := fix.call("POST", "/v1/events", body, header)
		stored := fix.log.Stats().Events - before
		switch {
		case a.status == 201, a.status == 200:
		case a.status == 400 || a.status == 403 || a.status == 409 || a.status == 413:
			a.wantProblem(t, a.status, a.json("code"), "")
			if stored != 0 {
				t.Errorf("%q was refused with %d and stored %d events", body, a.status, stored)
			}
		default:
			t.Errorf("%q: %+v", body, a)
		}
	})
}
