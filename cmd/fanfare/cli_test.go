package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// buffer is an output that can be read while a command writes.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// until waits for text that matches, and returns its first group.
func (b *buffer) until(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if m := re.FindStringSubmatch(b.String()); m != nil {
			return m[len(m)-1]
		}
	}
	t.Fatalf("nothing matches %s in %q", pattern, b)
	return ""
}

// command is a command that runs.
type command struct {
	out, err buffer
	stop     context.CancelFunc
	done     chan error
}

func begin(t *testing.T, in io.Reader, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &command{stop: cancel, done: make(chan error, 1)}
	go func() { c.done <- run(ctx, args, in, &c.out, &c.err) }()
	t.Cleanup(func() { c.end(t); http.DefaultClient.CloseIdleConnections() })
	return c
}

// end stops a command and returns its error.
func (c *command) end(t *testing.T) error {
	t.Helper()
	c.stop()
	select {
	case err := <-c.done:
		c.done <- err
		return err
	case <-time.After(time.Minute):
		t.Fatal("the command does not end")
		return nil
	}
}

// wait waits for a command's end, and returns its error.
func (c *command) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-c.done:
		c.done <- err
		return err
	case <-time.After(2 * time.Minute):
		t.Fatal("the command does not end")
		return nil
	}
}

// result runs a command to its end.
func result(t *testing.T, in string, args ...string) (out, errOut string, code int) {
	t.Helper()
	var o, e buffer
	err := run(context.Background(), args, strings.NewReader(in), &o, &e)
	if text := message(err); text != "" {
		_, _ = e.Write([]byte("fanfare: " + text + "\n"))
	}
	return o.String(), e.String(), exitCode(err)
}

func hubFor(t *testing.T, args ...string) (url string, hub *command) {
	t.Helper()
	hub = begin(t, strings.NewReader(""),
		append([]string{"serve", "--addr", "127.0.0.1:0", "--data", t.TempDir(), "--drain-window", "10ms"}, args...)...)
	return hub.out.until(t, `(https?://127\.0\.0\.1:\d+)`), hub
}

// publishesLater has events published later, looks at them and cancels one.
func publishesLater(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{{"--at", "03:00"}, {"--in", "2d"}, {"--at", "2099-01-01 00:00"}, {"--in", "0.5s"}} {
		id, errOut, code := result(t, "", append([]string{"publish", "later/1", "x y", "--ttl", "1h"}, args...)...)
		if args[1] == "2099-01-01 00:00" {
			if code != 1 || !strings.Contains(errOut, "365d") {
				t.Errorf("%v: %q %q %d", args, id, errOut, code)
			}
		} else if code != 0 || len(id) != 14 {
			t.Errorf("%v: %q %q %d", args, id, errOut, code)
		}
	}
	var list []string
	for len(list) != 2 { // the third is published by itself
		out, errOut, code := result(t, "", "scheduled", "later/*")
		if list = strings.Split(strings.TrimSpace(out), "\n"); code != 0 || len(list) > 3 {
			t.Fatalf("%q %q %d", out, errOut, code)
		}
	}
	if fields := strings.Split(list[0], "\t"); len(fields) != 5 || fields[2] != "later/1" || fields[4] != "x y" {
		t.Errorf("%q", list)
	}
	if out, _, code := result(t, "", "scheduled", "--json"); code != 0 || !strings.Contains(out, `"ttl":"1h0m0s"`) {
		t.Errorf("%q %d", out, code)
	}
	for i, want := range []int{0, 1} {
		if out, errOut, code := result(t, "", "scheduled", "--cancel", list[0][:13]); code != want {
			t.Errorf("cancel %d: %q %q %d", i, out, errOut, code)
		}
	}
	if out, _, code := result(t, "", "scheduled"); code != 0 || strings.TrimSpace(out) != list[1] {
		t.Errorf("after a cancel: %q %d", out, code)
	}
}

// commandsAnswered sends commands, answers them, and looks at the exit codes.
func commandsAnswered(t *testing.T) {
	t.Helper()
	for answer, want := range map[string]int{"done": exitOK, "failed": exitFailed, "received": exitUnknown,
		"": exitUnknown} {
		wait, pc := "60s", "pc-"+answer
		if answer == "received" || answer == "" {
			wait = "500ms"
		}
		waiting := begin(t, nil, "send", "9", pc, "o1", "REBOOT", "--wait", wait, "--expires", "1h")
		var list string
		for strings.Count(list, "\t") < 3 {
			list, _, _ = result(t, "", "commands", "9", pc, "--state", "pending")
		}
		reference, _, _ := strings.Cut(list, "\t")
		if answer != "" {
			if out, errOut, code := result(t, "", "ack", "9", pc, reference, answer, "--result", "[1]", "--error",
				"x"); code != 0 ||
				!strings.Contains(out, `"result":[1]`) {
				t.Errorf("ack: %q %q %d", out, errOut, code)
			}
		}
		if code := exitCode(waiting.wait(t)); code != want {
			t.Errorf("%s: the exit code is %d, want %d", answer, code, want)
		}
		if answer == "" {
			if _, errOut, code := result(t, "", "commands", "9", pc, "--cancel", reference); code != 0 {
				t.Errorf("cancel: %q %d", errOut, code)
			}
			if out, _, _ := result(t, "", "commands", "9", pc, "--json"); !strings.Contains(out, `"state":"cancelled"`) {
				t.Errorf("%q", out)
			}
		}
	}
	if _, errOut, code := result(t, "", "send", "9", "pc", "o", "X", "--wait", "60s", "--expires",
		"1s"); code != exitExpired {
		t.Errorf("expired: %q %d", errOut, code)
	}
	if _, errOut, code := result(t, "", "ack", "9", "pc", "x", "done", "--result", "{"); code != exitUsage {
		t.Errorf("a result that is no JSON: %q %d", errOut, code)
	}
}

func TestNextTimeOfDay(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err)
	}
	for _, c := range []struct{ now, at, want string }{
		{"2026-11-26T02:59:00+01:00", "03:00", "2026-11-26T03:00:00+01:00"},
		{"2026-11-26T03:00:00+01:00", "03:00", "2026-11-27T03:00:00+01:00"},
		{"2026-12-31T23:00:00+01:00", "03:00", "2027-01-01T03:00:00+01:00"},
		{"2026-10-24T12:00:00+02:00", "03:00", "2026-10-25T03:00:00+01:00"}, // the clocks go back in between
		{"2026-11-26T02:59:00+01:00", "2026-11-30 04:30", "2026-11-30T04:30:00+01:00"},
		{"2026-11-26T02:59:00+01:00", "2026-11-30T04:30:00Z", "2026-11-30T04:30:00Z"},
	} {
		now, err := time.Parse(time.RFC3339, c.now)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := deliverAt(c.at, 0, now.In(berlin)); err != nil || got != c.want {
			t.Errorf("at %s, %s is %s, %v; want %s", c.now, c.at, got, err, c.want)
		}
	}
}

func TestPublishSubscribeHistorySend(t *testing.T) {
	url, hub := hubFor(t)
	t.Setenv("FANFARE_URL", url)
	sub := begin(t, nil, "subscribe", "greetings", "logs/*")
	all := begin(t, nil, "subscribe", "stores/**", "--json")
	within(t, url, `fanfare_streams_open{adapter="native"} 2`)
	id, errOut, code := result(t, "", "publish", "greetings", "hello")
	if code != 0 || errOut != "" || len(id) != 14 {
		t.Fatalf("publish: %q %q %d", id, errOut, code)
	}
	if out, _, code := result(t, "from\nstandard input", "publish", "greetings"); code != 0 || out <= id {
		t.Errorf("publish of standard input: %q %d", out, code)
	}
	if out, _, code := result(t, "", "publish", "greetings", "", "--event", "empty", "--key", "k"); code != 0 ||
		out == "" {
		t.Errorf("publish of nothing: %q %d", out, code)
	}
	again1, _, _ := result(t, "", "publish", "greetings", "", "--event", "empty", "--key", "k")
	again2, _, _ := result(t, "", "publish", "greetings", "", "--event", "empty", "--key", "k")
	if again1 != again2 {
		t.Errorf("the same key published twice: %q %q", again1, again2)
	}
	if _, errOut, code := result(t, "", "publish", "greetings", "x", "--if-latest", "none"); code != 1 ||
		!strings.Contains(errOut, strings.TrimSpace(again1)) {
		t.Errorf("publish --if-latest none: %q %d", errOut, code)
	}
	out, errOut, code := result(t, "", "publish", "other", "x", "--if-latest", "none")
	if code != 0 || len(out) != 14 {
		t.Fatalf("publish --if-latest none: %q %q %d", out, errOut, code)
	}
	next, errOut, code := result(t, "", "publish", "other", "y", "--if-latest", out[:13])
	if code != 0 || next <= out {
		t.Errorf("publish --if-latest ID: %q %q %d", next, errOut, code)
	}
	publishesLater(t)
	commandsAnswered(t)
	if _, errOut, code := result(t, "one\ntwo\r\n\nfour", "publish", "logs/web 1", "-"); code != 0 ||
		!strings.Contains(errOut, "4 lines published") {
		t.Errorf("publish of lines: %q %d", errOut, code)
	}
	sub.out.until(t, `^greetings\thello\ngreetings\tfrom\nstandard input\ngreetings\t\nlogs/web 1\tone\nlogs/web 1\ttwo\nlogs/web 1\t\nlogs/web 1\tfour\n$`)

	if out, _, code := result(t, "", "send", "42", "7", "o1", "REBOOT"); code != 0 ||
		!regexp.MustCompile(`^\w{13} \w{13}\n$`).MatchString(out) {
		t.Errorf("send: %q %d", out, code)
	}
	line := all.out.until(t, `({.*})\n`)
	var e struct{ ID, Event, Data string }
	if err := json.Unmarshal([]byte(line), &e); err != nil || e.Event != "sse" || !strings.Contains(e.Data, "REBOOT") {
		t.Errorf("subscribe --json: %s", line)
	}

	if out, _, code := result(t, "", "history", "greetings", "--limit", "2"); code != 0 ||
		strings.Count(out, "\n") != 2 || !strings.Contains(out, `from\nstandard input`) {
		t.Errorf("history: %q %d", out, code)
	}
	if out, _, _ := result(t, "", "history", "greetings", "--after", strings.TrimSpace(id),
		"--json"); strings.Count(out, "\n") != 2 {
		t.Errorf("history --after: %q", out)
	}
	last := begin(t, nil, "subscribe", "greetings", "--since", "1", "--json")
	last.out.until(t, `"event":"empty"`)
	since := begin(t, nil, "subscribe", "greetings", "--since", strings.TrimSpace(id))
	since.out.until(t, "standard input\n\n$")
	gap := begin(t, nil, "subscribe", "greetings", "--since", "0000000000001")
	gap.err.until(t, `warning: events are missing:.*"trimmed"`)
	for _, c := range []*command{sub, all, last, since, gap} {
		if err := c.end(t); err != nil {
			t.Errorf("an interrupted subscribe: %v", err)
		}
	}
	if err := hub.end(t); err != nil {
		t.Error(err)
	}
}

// TestBadLinesAreLeftOut: one line that the hub refuses does not take the others with it.
func TestBadLinesAreLeftOut(t *testing.T) {
	url, _ := hubFor(t, "--max-event-bytes", "10")
	_, errOut, code := result(t, "one\nmuch too long a line\nthree\n", "publish", "a", "-", "--url", url)
	if code != 1 || !strings.Contains(errOut, "line 2 is left out") || !strings.Contains(errOut, "--max-event-bytes") ||
		!strings.Contains(errOut, "2 lines published") {
		t.Errorf("%d %q", code, errOut)
	}
	if out, _, _ := result(t, "", "history", "a", "--url",
		url); !regexp.MustCompile(`\tone\n.*\tthree\n$`).MatchString(out) {
		t.Errorf("stored: %q", out)
	}
	// An error that all lines have ends the command, and is said once.
	for channel, want := range map[string]string{"a*": "'*'", "$x": "'$'"} {
		_, errOut, code := result(t, "one\ntwo\nthree\n", "publish", channel, "-", "--url", url)
		if code != 1 || strings.Count(errOut, want) != 1 || strings.Contains(errOut, "left out") {
			t.Errorf("%s: %d %q", channel, code, errOut)
		}
	}
}

// within waits until a hub's metrics say something.
func within(t *testing.T, url, line string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		resp, err := http.Get(url + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if strings.Contains(string(b), line+"\n") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %q", line)
		}
	}
}

// TestSubscribeReconnects across a restart of the hub, and loses and repeats nothing.
func TestSubscribeReconnects(t *testing.T) {
	data := t.TempDir()
	hub := begin(t, nil, "serve", "--addr", "127.0.0.1:0", "--data", data, "--drain-window", "10ms")
	url := hub.out.until(t, `(https?://127\.0\.0\.1:\d+)`)
	sub := begin(t, nil, "subscribe", "a", "--url", url)
	within(t, url, `fanfare_streams_open{adapter="native"} 1`)
	result(t, "", "publish", "a", "1", "--url", url)
	sub.out.until(t, "1\n")
	if err := hub.end(t); err != nil {
		t.Fatal(err)
	}
	begin(t, nil, "serve", "--addr", strings.TrimPrefix(url, "http://"), "--data", data).out.until(t, "listens")
	result(t, "", "publish", "a", "2", "--url", url)
	sub.out.until(t, "^1\n2\n$")
}

func TestExitCodes(t *testing.T) {
	url, _ := hubFor(t, "--max-event-bytes", "10")
	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"version"}, 0, "fanfare "},
		{[]string{"--help"}, 0, "publish"},
		{[]string{"publish", "--help"}, 0, "journalctl -f | fanfare publish logs/web1 -"},
		{[]string{"subscribe", "--help"}, 0, "Example: "}, {[]string{"serve", "--help"}, 0,
			"Example: "}, {[]string{"send", "--help"}, 0, "Examples:"},
		{[]string{"history", "--help"}, 0, "Example: "}, {[]string{"version", "--help"}, 0, "Example: "},
		{[]string{}, 2, "--help"}, {[]string{"nothing"}, 2, "nothing"}, {[]string{"publish"}, 2, "channel"},
		{[]string{"publish", "a*", "x", "--url", url}, 1, "'*'"},
		{[]string{"publish", "a", "more than ten bytes", "--url", url}, 1, "--max-event-bytes"},
		{[]string{"publish", "a", "x", "--url", "nonsense"}, 2, "--url"},
		{[]string{"publish", "a", "x", "--if-latest", "x", "--url", url}, 1, "If-Match"},
		{[]string{"publish", "a", "-", "--if-latest", "none", "--url", url}, 2, "--if-latest"},
		{[]string{"publish", "a", "-", "--at", "03:00", "--url", url}, 2, "--at"},
		{[]string{"publish", "a", "x", "--at", "25:00", "--url", url}, 2, "--at"},
		{[]string{"publish", "a", "x", "--at", "03:00", "--in", "1h", "--url", url}, 2, "--at"},
		{[]string{"publish", "a", "x", "--ttl", "0", "--url", url}, 1, "ttl"},
		{[]string{"scheduled", "a", "--cancel", "x", "--url", url}, 2, "--cancel"},
		{[]string{"scheduled", "--cancel", "x", "--url", url}, 1, "scheduled"},
		{[]string{"publish", "a", "x", "--url", "http://127.0.0.1:1", "--retry-for", "0s"}, 3, "refused"},
		{[]string{"subscribe", "a*", "--url", url}, 1, "'*'"},
		{[]string{"subscribe", "a", "--since", "-1", "--url", url}, 2, "since"},
		{[]string{"subscribe", "a", "--since", "yesterday", "--url", url}, 1, "since must be a time"},
		{[]string{"subscribe", "a", "--url", "http://127.0.0.1:1"}, 3, "refused"},
		{[]string{"history", "a/*", "--url", url}, 1, "'*'"},
		{[]string{"send", "4/2", "7", "o", "REBOOT", "--url", url}, 1, "storeId"},
	} {
		out, errOut, code := result(t, "", c.args...)
		if code != c.code || !strings.Contains(out+errOut, c.text) || strings.Contains(errOut, "goroutine") {
			t.Errorf("%v: %d %q %q, want %d and %q", c.args, code, out, errOut, c.code, c.text)
		}
	}
}

func TestSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fanfare.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("max-event-bytes: 5\nretention:\n  - 'a=count:1'\n  - 'b=count:2,age:1d'\nheartbeat: 1s\nstream-lifetime: " +
		"2m\nmax-streams-per-address: off\ncontent-type-charset: false\n")
	t.Setenv("FANFARE_PORT", "tcp://10.0.0.1:80")
	t.Setenv("FANFARE_HEARTBEAT", "2s")
	url, hub := hubFor(t, "--config", file)
	hub.err.until(t, "FANFARE_PORT")
	if strings.Contains(hub.err.String(), "FANFARE_HEARTBEAT") {
		t.Errorf("a variable that is a setting was warned of: %s", hub.err.String())
	}
	resp, err := http.Post(url+"/v1/channels/a", "text/plain", strings.NewReader("123456"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("max-event-bytes of the file is not in force: %d", resp.StatusCode)
	}
	resp, err = http.Head(url + "/v1/events?channel=a")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content-type-charset of the file is not in force: %s", got)
	}
	for text, want := range map[string]string{"no-such-key: 1\n": "no-such-key", "heartbeat: [1": "settings file",
		"max-event-bytes: lots\n": "max-event-bytes"} {
		write(text)
		if _, errOut, code := result(t, "", "serve", "--config", file, "--data", t.TempDir(), "--addr",
			"127.0.0.1:0"); code != 2 || !strings.Contains(errOut, want) {
			t.Errorf("%q: %d %q", text, code, errOut)
		}
	}
	t.Setenv("FANFARE_MAX_EVENT_BYTES", "lots")
	if _, errOut, code := result(t, "", "serve"); code != 2 || !strings.Contains(errOut, "lots") {
		t.Errorf("a bad variable: %d %q", code, errOut)
	}
}

// TestEverySettingIsInTheManual compares docs/guide/settings.md with the struct that flags,
// variables and the file come from.
func TestEverySettingIsInTheManual(t *testing.T) {
	manual, err := os.ReadFile("../../docs/guide/settings.md")
	if err != nil {
		t.Fatal(err)
	}
	out, _, _ := result(t, "", "serve", "--help")
	flags := regexp.MustCompile(`--(?:\[no-\])?([a-z0-9-]+)`).FindAllStringSubmatch(out, -1)
	if len(flags) < 60 {
		t.Errorf("only %d flags were looked at", len(flags))
	}
	for _, m := range flags {
		if m[1] != "help" && !strings.Contains(string(manual), "`--"+m[1]+"`") {
			t.Errorf("docs/guide/settings.md does not mention --%s", m[1])
		}
	}
}

// TestErrorsNameFlags: what the hub answers and logs names a setting as the operator gave it, by
// its flag.
func TestErrorsNameFlags(t *testing.T) {
	help, _, _ := result(t, "", "serve", "--help")
	if len(fanfare.Settings()) < 20 {
		t.Errorf("only %d settings are named", len(fanfare.Settings()))
	}
	for _, s := range fanfare.Settings() {
		if !regexp.MustCompile(`(?m)\s` + flagOf(s) + `[=\s]`).MatchString(help) {
			t.Errorf("errors name the setting %s, and there is no flag %s", s, flagOf(s))
		}
	}
	url, hub := hubFor(t, "--max-event-bytes", "10")
	req, _ := http.NewRequest("POST", url+"/v1/channels/a", strings.NewReader("x"))
	req.Header.Set("Origin", "https://evil.example")
	foreign, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	large, err := http.Post(url+"/v1/channels/a", "text/plain", strings.NewReader("more than ten bytes"))
	if err != nil {
		t.Fatal(err)
	}
	for want, resp := range map[string]*http.Response{
		`"the body is larger than 10 bytes (--max-event-bytes)"`:                                               large,
		`"pages of the origin \"https://evil.example\" may not change anything here: list it (--cors-origin)"`: foreign,
	} {
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s %v, want %s", body, err, want)
		}
	}
	hub.err.until(t, `(setting=--cors-origin)`)
	full := &fanfare.Error{Code: fanfare.CodeOverloaded, Detail: "full", Setting: fanfare.SettingMaxStreams}
	if text := message(fmt.Errorf("open: %w", full)); text != "open: full (--max-streams)" {
		t.Errorf("the command's own errors: %q", text)
	}
}

// TestHistoryFollowsPages: the hub cuts pages by their bytes, and the command goes on until there
// is no next one.
func TestHistoryFollowsPages(t *testing.T) {
	url, _ := hubFor(t)
	for i := range 5 {
		resp, err := http.Post(url+"/v1/channels/a", "text/plain",
			strings.NewReader(fmt.Sprint(i)+strings.Repeat("x", 700_000)))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	for limit, want := range map[string]string{"0": "01234", "2": "01", "5": "01234", "9": "01234"} {
		out, errOut, code := result(t, "", "history", "a", "--limit", limit, "--url", url)
		got := ""
		for _, line := range strings.Split(strings.TrimSuffix(out, "\n"), "\n") {
			fields := strings.Split(line, "\t")
			got += fields[len(fields)-1][:1]
		}
		if code != 0 || got != want {
			t.Errorf("--limit %s: events %q, want %q; %d %s", limit, got, want, code, errOut)
		}
	}
}

// TestInflightSettings: a budget that is too small is refused with both settings' names, and the
// default follows the larger bodies.
func TestInflightSettings(t *testing.T) {
	_, errOut, code := result(t, "", "serve", "--max-inflight-bytes", "63MiB", "--data", t.TempDir(), "--addr",
		"127.0.0.1:0")
	if code != 2 || !strings.Contains(errOut, "--max-inflight-bytes") ||
		!strings.Contains(errOut, "--max-request-bytes") {
		t.Errorf("%d %q", code, errOut)
	}
	for args, want := range map[string]string{"": "four times", "--max-inflight-bytes=64MiB": "67108864"} {
		if out, _, code := result(t, "", append([]string{"config"}, strings.Fields(args)...)...); code != 0 ||
			!regexp.MustCompile(`max-inflight-bytes .*`+want).MatchString(out) {
			t.Errorf("config %s: %d %s", args, code, out)
		}
	}
	for flags, want := range map[string]string{
		"": "268435456", "--max-request-bytes=100MiB": "419430400", "--max-inflight-bytes=64MiB": "67108864",
		"--max-request-bytes=1MiB --max-inflight-bytes=4MiB": "4194304",
	} {
		url, _ := hubFor(t, strings.Fields(flags)...)
		resp, err := http.Get(url + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		var got float64
		for line := range strings.SplitSeq(string(b), "\n") {
			if text, ok := strings.CutPrefix(line, "fanfare_inflight_max_bytes "); ok {
				_, _ = fmt.Sscan(text, &got)
			}
		}
		if err != nil || fmt.Sprintf("%.0f", got) != want {
			t.Errorf("%s: %.0f, want %s: %v", flags, got, want, err)
		}
	}
}
