package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// TestOperate goes the whole way of an operator: what retention holds, a backup of the running hub,
// its check, the restore, an export and an import; and every event is there at the end.
func TestOperate(t *testing.T) {
	url, hub := hubFor(t, "--retention", "few=count:2")
	dir := t.TempDir()
	for _, data := range []string{"1", "2", "3"} {
		result(t, "", "publish", "few", data, "--url", url)
		result(t, "", "publish", "a", data, "--url", url)
	}
	ok := func(want string, args ...string) string {
		t.Helper()
		out, errOut, code := result(t, "", args...)
		if code != 0 || !strings.Contains(out+errOut, want) {
			t.Fatalf("%v: %d %q %q, want %q", args, code, out, errOut, want)
		}
		return out
	}
	refused := func(code int, want string, args ...string) {
		t.Helper()
		out, errOut, got := result(t, "", args...)
		if got != code || !strings.Contains(errOut, want) {
			t.Errorf("%v: %d %q %q, want %d and %q", args, got, out, errOut, code, want)
		}
	}
	ok("few=count:2  1 ", "retention", "--url", url)
	ok("a=count:1  1         3       3 ", "retention", "--url", url, "--retention", "a=count:1")
	if out := ok("", "retention", "--url", url, "--retention", "a=count:1", "--json"); !json.Valid([]byte(out)) {
		t.Errorf("not JSON: %s", out)
	}
	refused(2, "--retention", "retention", "--url", url, "--retention", "a")
	if out := ok("", "history", "a", "--url", url, "--since", "10m"); strings.Count(out, "\n") != 3 {
		t.Errorf("the last ten minutes: %q", out)
	}
	if out := ok("", "latest", "*", "--url", url); !strings.HasPrefix(out, "a\t") || strings.Count(out, "\n") != 2 ||
		!strings.HasSuffix(strings.TrimSpace(out), "3") {
		t.Errorf("the newest of each: %q", out)
	}
	refused(2, "both given", "history", "a", "--url", url, "--since", "10m", "--after", "1h")

	backup := filepath.Join(dir, "backup")
	ok("holds the log up to", "backup", backup, "--url", url)
	refused(1, "exists", "backup", backup, "--url", url)
	if err := os.Symlink(dataOf(hub), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, inside := range []string{dataOf(hub), dataOf(hub) + "/backup",
		dir + "/../" + filepath.Base(dir) + "/link/backup"} {
		refused(1, "lies in the data directory", "backup", inside, "--url", url)
	}
	refused(1, "in use", "verify", "--data", dataOf(hub))
	ok("events in 2 channels", "verify", "--data", backup) // the one that was clipped may be deleted or not
	restored := filepath.Join(dir, "restored")
	ok("events in 2 channels", "restore", backup, "--data", restored)
	refused(1, "not empty", "restore", backup, "--data", restored)
	file := filepath.Join(dir, "export.ndjson")
	ok("events exported, 0 left out", "export", "--data", restored, "-o", file)
	refused(1, "exists", "export", "--data", restored, "-o", file)
	none := filepath.Join(dir, "none.ndjson")
	refused(1, "no log", "export", "--data", filepath.Join(dir, "nothing"), "-o", none)
	if _, err := os.Stat(none); err == nil {
		t.Error("an export of nothing leaves a file")
	}
	imported := filepath.Join(dir, "imported")
	ok("events imported", "import", file, "--data", imported)
	refused(1, "not empty", "import", file, "--data", imported)
	refused(1, "line 1", "import", "operate_test.go", "--data", filepath.Join(dir, "x"))
	ok("events in 2 channels", "verify", "--data", imported)
	want := ok("", "history", "a", "--url", url)
	for _, data := range []string{restored, imported} {
		again := begin(t, nil, "serve", "--addr", "127.0.0.1:0", "--data", data, "--drain-window", "10ms",
			"--retention", "few=count:2")
		at := again.out.until(t, `(http://127\.0\.0\.1:\d+)`)
		if got := ok("", "history", "a", "--url", at); got != want {
			t.Errorf("%s holds %q, want %q", data, got, want)
		}
		if err := again.end(t); err != nil {
			t.Error(err)
		}
	}
}

// dataOf is the data directory that the hub said it uses.
func dataOf(hub *command) string {
	_, rest, _ := strings.Cut(hub.out.String(), "its log is in ")
	dir, _, _ := strings.Cut(rest, ", durability")
	return dir
}

// TestConfig shows what is in force and where it comes from, and no secret.
func TestConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fanfare.yaml")
	if err := os.WriteFile(file,
		[]byte("data: /srv/f\ndrain-window: 9s\nretention: ['a=count:1', 'b=age:1d']\ntrace-header: "+
			"['Authorization=Bearer s3cr3t']\ntrace-endpoint: http://127.0.0.1:4318\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FANFARE_DRAIN_WINDOW", "7s")
	out, errOut, code := result(t, "", "config", "--config", file, "--heartbeat", "3s")
	if code != 0 || strings.Contains(out+errOut, "s3cr3t") {
		t.Fatalf("%d %s %s", code, out, errOut)
	}
	lines := map[string][]string{}
	for _, line := range strings.Split(out, "\n") {
		if name, rest, ok := strings.Cut(line, " "); ok {
			lines[name] = strings.Fields(rest)
		}
	}
	for name, want := range map[string]string{
		"heartbeat": "3s flag", "drain-window": "7s variable FANFARE_DRAIN_WINDOW", "data": "/srv/f file " +
			file, "addr": "127.0.0.1:8082 default",
		"retention": "a=count:1; b=age:1d file " + file, "trace-header": "*** file " +
			file, "max-log-bytes": "10737418240 default",
	} {
		if got := strings.Join(lines[name], " "); got != want {
			t.Errorf("%s: %q, want %q\n%s", name, got, want, out)
		}
	}
	t.Setenv("FANFARE_CONFIG", file)
	if out, _, _ := result(t, "", "config"); !strings.Contains(out, "/srv/f") {
		t.Errorf("the file that FANFARE_CONFIG names: %s", out)
	}
}

// TestSettingsThatCannotBe: each is refused in a sentence that names it.
func TestSettingsThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		want string
		args []string
	}{
		{"--max-log-bytes 1048576 is less than --max-event-bytes",
			[]string{"--max-log-bytes", "1MiB", "--max-event-bytes", "2MiB"}},
		{"--max-log-bytes must be at least 1MiB", []string{"--max-log-bytes", "1KiB", "--max-event-bytes", "1KiB"}},
		{"are both 127.0.0.1:9", []string{"--addr", "127.0.0.1:9", "--admin-addr", "127.0.0.1:9"}},
		{"there is nowhere to send it", []string{"--trace-header", "a=b"}},
		{"--trace-sample", []string{"--trace-sample", "2"}},
		{"--trace-endpoint must be a URL", []string{"--trace-endpoint", "nowhere"}},
		{"given twice", []string{"--retention", "a=count:1", "--retention", "a=age:1d"}},
		{"none of count, age, bytes and latest", []string{"--retention", "a=size:1"}},
		{"log-format", []string{"--log-format", "xml"}},
		{"no such file", []string{"--config", "/nowhere/fanfare.yaml"}},
		{"--admin-addr", []string{"--admin-addr", "nowhere:-1"}},
	} {
		_, errOut, code := result(t, "",
			append([]string{"serve", "--addr", "127.0.0.1:0", "--data", t.TempDir()}, c.args...)...)
		if code == 0 || !strings.Contains(errOut, c.want) || strings.Contains(errOut, "goroutine") {
			t.Errorf("%v: %d %q, want %q", c.args, code, errOut, c.want)
		}
	}
}

// TestReload: SIGHUP takes over what can change, says what cannot, and changes nothing when
// something is wrong.
func TestReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fanfare.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log-level: info\n")
	url, hub := hubFor(t, "--config", file, "--log-format", "json")
	for _, data := range []string{"1", "2", "3"} {
		result(t, "", "publish", "a", data, "--url", url)
	}
	count := func() int {
		out, _, _ := result(t, "", "history", "a", "--url", url)
		return strings.Count(out, "\n")
	}
	hangUp := func(says string) {
		t.Helper()
		hangUpSelf(t)
		hub.err.until(t, says)
	}
	write("retention: nonsense\n")
	hangUp(`"level":"ERROR","msg":"reload: the settings are wrong; nothing was changed"`)
	write("no-such: 1\n")
	hangUp(`unknown key`)
	if count() != 3 {
		t.Errorf("a wrong file has changed something")
	}
	write("retention: 'a=count:1'\nlog-level: debug\nmax-log-bytes: 1GiB\naccess-log: 1\nheartbeat: " +
		"3s\nmax-streams: 7\n")
	hangUp(`"changed":\["access-log","log-level","max-log-bytes","retention"\]`)
	hub.err.until(t, `"msg":"these settings have changed too, and need a restart","settings":\["heartbeat","max-streams"\]`)
	if count() != 1 {
		t.Errorf("%d events are left, want 1", count())
	}
	hub.err.until(t, `"msg":"request","method":"GET","path":"/v1/history","status":200`)
	resp, err := http.Get(url + "/v1/admin/log-level")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if !strings.Contains(string(body), "debug") {
		t.Errorf("the level is %s", body)
	}
	within(t, url, "fanfare_log_max_bytes 1.073741824e+09")
}

// TestAdminAddr has metrics, readiness and profiles apart from everybody's listener.
func TestAdminAddr(t *testing.T) {
	url, hub := hubFor(t, "--admin-addr", "127.0.0.1:0")
	admin := hub.out.until(t, `For operators: (http://127\.0\.0\.1:\d+)`)
	get := func(url, host string) int {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s for %q: %v", url, host, resp.Header)
		}
		return resp.StatusCode
	}
	for _, c := range []struct {
		url, host string
		want      int
	}{
		{admin + "/metrics", "prometheus.example.com", 200}, {admin + "/readyz", "", 200}, {admin + "/livez", "", 200},
		{admin + "/debug/pprof/", "", 200}, {admin + "/debug/pprof/heap", "localhost",
			200}, {admin + "/debug/pprof/heap", "rebound.example.com", 403},
		{admin + "/v1/events?channel=a", "", 404}, {admin + "/", "", 404},
		{admin + "/debug/pprof/nothing", "", 404}, {admin + "/debug/pprof", "", 200}, {admin + "/debug/pprof/cmdline",
			"localhost.", 200}, {url + "/debug/pprof/", "", 404},
	} {
		if got := get(c.url, c.host); got != c.want {
			t.Errorf("%s for %q: %d, want %d", c.url, c.host, got, c.want)
		}
	}
}

// TestTraces: a publish, its commit and its first delivery reach a collector as one trace, below
// the publisher's own, and the event keeps the traceparent.
func TestTraces(t *testing.T) {
	var mu sync.Mutex
	spans := map[string]*otlp.Span{}
	auth := ""
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var got collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &got); err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		mu.Lock()
		defer mu.Unlock()
		auth = r.Header.Get("X-Token")
		for _, resource := range got.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				for _, span := range scope.Spans {
					spans[span.Name] = span
				}
			}
		}
	}))
	defer web.Close()
	url, hub := hubFor(t, "--trace-endpoint", web.URL, "--trace-header", "X-Token=t0k", "--trace-sample", "0")
	sub := begin(t, nil, "subscribe", "a", "--url", url)
	within(t, url, `fanfare_streams_open{adapter="native"} 1`)
	post := func(traceparent string) {
		req, err := http.NewRequest(http.MethodPost, url+"/v1/channels/a", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Traceparent", traceparent)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	post("00-11111111111111111111111111111111-2222222222222222-00") // its sender does not sample it
	post("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	sub.out.until(t, "x\nx\n")
	out, _, _ := result(t, "", "history", "a", "--json", "--url", url)
	if strings.Count(out, "traceparent") != 1 ||
		!strings.Contains(out, `"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-`) {
		t.Errorf("history: %s", out)
	}
	if err := sub.end(t); err != nil {
		t.Error(err)
	}
	if err := hub.end(t); err != nil { // which sends the last spans
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	publish := spans["publish"]
	if len(spans) != 3 || publish == nil || spans["commit"] == nil || spans["first delivery"] == nil || auth != "t0k" {
		t.Fatalf("spans %v, token %q", spans, auth)
	}
	for name, span := range spans {
		want := string(publish.SpanId)
		if name == "publish" {
			want = "\x00\xf0\x67\xaa\x0b\xa9\x02\xb7"
		}
		if string(span.ParentSpanId) != want || string(span.TraceId) != string(publish.TraceId) ||
			span.EndTimeUnixNano < span.StartTimeUnixNano ||
			time.Since(time.Unix(0, int64(span.StartTimeUnixNano))) > time.Minute {
			t.Errorf("%s: %v", name, span)
		}
	}
}
