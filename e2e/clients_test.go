package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// python finds an interpreter with requests, and the variable that says where to import from.
func python(t *testing.T) (interpreter, path string) {
	t.Helper()
	venv, err := filepath.Abs(".venv/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	if exec.Command(venv, "-c", "import requests, sseclient").Run() == nil {
		return venv, "PYTHONPATH="
	}
	if exec.Command("/usr/bin/python3", "-c", "import requests").Run() == nil {
		t.Log("falling back to Debian's requests and a reader that works as sseclient-py does")
		return "/usr/bin/python3", "PYTHONPATH=fallback"
	}
	t.Skip("SKIPPED: no Python with requests; e2e/setup says why")
	return "", ""
}

// TestStorePC runs the class that store PCs run today: 1,000 commands at random times over many
// clean ends, and a restart of the hub between two streams; each is handled, none is lost, none
// comes twice.
func TestStorePC(t *testing.T) {
	t.Run("open", func(t *testing.T) { storePC(t, "", "", 1000) })
	// With the token that its issuer gives it anyway, on a hub that asks for it.
	t.Run("with rights", func(t *testing.T) {
		secret := newSecret(t)
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256,
			jwt.MapClaims{"sub": "till-7", "storeId": 42, "pcId": "7", "exp": time.Now().Add(time.Hour).Unix()}).
			SignedString([]byte(strings.TrimSpace(read(t, secret))))
		if err != nil {
			t.Fatal(err)
		}
		backend := command(t, "token", "--key", "HS256="+secret, "--subject", "back-office", "--publish", "stores",
			"--publish", "stores/**")
		storePC(t, token, backend, 300, "--jwt-key", "HS256="+secret, "--jwt-grant",
			"device=stores/{storeId}/pcs/{pcId}")
	})
}

func storePC(t *testing.T, token, backend string, commands int, more ...string) {
	t.Parallel()
	interpreter, path := python(t)
	data := t.TempDir()
	args := append([]string{"--stream-lifetime", "1s", "--drain-window", "500ms"}, more...)
	socket := holdSocket(t) // the client dies of a refused connection
	h := socket.serve(t, data, args...)
	ready(t, h.url("/readyz"))
	env := []string{path}
	if token != "" {
		env = append(env, "STORE_TOKEN="+token)
	}
	pc := startWith(t, env, interpreter, "store_pc.py", h.url(""), "42", "7", "0.2")
	if line := pc.next(20 * time.Second); line != `["sse", "CONNECTED"]` {
		t.Fatalf("first %s", line)
	}
	var sent []string
	for i := range commands {
		// To the PC, to its store, and to all stores: the three channels of its stream.
		path := []string{"/v1/stores/42/pcs/7/events", "/v1/stores/42/events", "/v1/stores/events"}[i%3]
		sent = append(sent, sendCommand(t, h.url(path), backend, fmt.Sprint("C", i)))
		if i == commands/2 {
			h.stop()
			h = socket.serve(t, data, args...)
		}
		time.Sleep(time.Duration(rand.ExpFloat64() * float64(12*time.Millisecond)))
	}
	var got []string
	connects := 1
	for deadline := time.Now().Add(time.Minute); len(got) < commands; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d commands were handled", len(got), commands)
		}
		var line []json.RawMessage
		if err := json.Unmarshal([]byte(pc.next(20*time.Second)), &line); err != nil {
			t.Fatal(err)
		}
		var command struct{ ReferenceID, Data string }
		if string(line[1]) == `"CONNECTED"` {
			connects++
		} else if json.Unmarshal(line[1], &command) == nil && command.ReferenceID != "" {
			got = append(got, command.ReferenceID)
		}
	}
	if connects < commands/125 {
		t.Errorf("only %d streams: the test tests nothing", connects)
	}
	for i := range sent {
		if got[i] != sent[i] {
			t.Fatalf("command %d of %d is %s, want %s (over %d streams)", i, commands, got[i], sent[i], connects)
		}
	}
	time.Sleep(1500 * time.Millisecond) // another stream or two: nothing may come again
	for more := true; more; {
		select {
		case line := <-pc.lines:
			if strings.Contains(line, "referenceId") {
				t.Errorf("came again: %s", line)
			}
		default:
			more = false
		}
	}
	t.Logf("%d commands over %d streams", commands, connects)
}

func sendCommand(t *testing.T, url, token, event string) string {
	t.Helper()
	status, body := request(t, client, "POST", url, token, `{"objectId":"o1","event":"`+event+`"}`)
	var answer struct{ ReferenceID string }
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusCreated {
		t.Fatalf("%d %s, %v", status, body, err)
	}
	return answer.ReferenceID
}

// browserLine is what eventsource.mjs prints.
type browserLine struct {
	Stream         int
	Kind, Data, ID string
	State          int
}

// TestEventSource runs EventSource in Chromium across a restart of the hub under it: nothing is
// lost or repeated, neither on a stream that had received events nor on one that had received none.
func TestEventSource(t *testing.T) {
	t.Parallel()
	chromium := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			chromium = path
			break
		}
	}
	if _, err := os.Stat("node_modules/playwright-core"); err != nil || chromium == "" {
		t.Skip("SKIPPED: no Chromium with playwright-core; e2e/setup says why")
	}
	data := t.TempDir()
	h := serve(t, "127.0.0.1:0", data, "--drain-window", "300ms")
	browser := start(t, "node", "eventsource.mjs", chromium, h.url("/livez"), "/v1/events?channel=busy",
		"/v1/events?channel=quiet&channel=other/*",
		"/v1/stores/event-sources?storeId=1&pcId=2")
	var got [3][]string
	heartbeats := [3]int{}
	until := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(60 * time.Second); !is(); {
			var line browserLine
			if err := json.Unmarshal([]byte(browser.next(time.Until(deadline))), &line); err != nil {
				t.Fatal(err)
			}
			switch {
			case line.Kind == "heartbeat", line.Data == "CONNECTED":
				heartbeats[line.Stream]++
			case line.Kind == "message", line.Kind == "sse", line.Kind == "gap":
				got[line.Stream] = append(got[line.Stream], line.Data)
			case line.Kind == "error" && line.State == 2:
				t.Fatalf("%s: stream %d was closed for good", what, line.Stream)
			}
		}
	}
	until("connect", func() bool { return heartbeats[0] > 0 && heartbeats[1] > 0 && heartbeats[2] > 0 })
	h.publish("busy", "1")
	h.publish("busy", "two\nlines")
	until("receive", func() bool { return len(got[0]) == 2 })

	addr := h.addr
	h.stop()
	h = serve(t, addr, data)
	for _, text := range []string{"3", "4"} { // before the browser is back
		h.publish("busy", text)
		h.publish("quiet", "quiet "+text)
	}
	sendCommand(t, h.url("/v1/stores/1/pcs/2/events"), "", "REBOOT")
	until("resume", func() bool { return len(got[0]) >= 4 && len(got[1]) >= 2 && len(got[2]) >= 1 })
	h.kill() // and once more the hard way
	h = serve(t, addr, data)
	h.publish("busy", "5")
	h.publish("other/x", "other")
	until("resume after kill -9", func() bool { return len(got[0]) >= 5 && len(got[1]) >= 3 })
	for i, want := range []string{"1|two\nlines|3|4|5", "quiet 3|quiet 4|other"} {
		if have := strings.Join(got[i], "|"); have != want {
			t.Errorf("stream %d dispatched %q, want %q", i, have, want)
		}
	}
	if len(got[2]) != 1 || !strings.Contains(got[2][0], "REBOOT") {
		t.Errorf("the store stream dispatched %q", got[2])
	}
	_ = browser.in.Close()
}

func needCurl(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("SKIPPED: no curl; e2e/setup says why")
	}
}

// TestCurl reads a stream with curl -N.
func TestCurl(t *testing.T) {
	needCurl(t)
	h := serve(t, "127.0.0.1:0", t.TempDir())
	id := h.publish("greetings", "before")
	curl := start(t, "curl", "-sN", "-H", "Last-Event-ID: "+id, h.url("/v1/events?channel=greetings"))
	for curl.next(time.Minute) != "" { // the first event ends with a blank line
	}
	next := h.publish("greetings", "hello\nworld")
	for _, want := range []string{"id: " + next, "data: hello", "data: world", ""} {
		if got := curl.next(time.Minute); got != want {
			t.Errorf("curl printed %q, want %q", got, want)
		}
	}
}

// TestPrintedLines pastes the three lines that the hub prints at its start into a shell.
func TestPrintedLines(t *testing.T) {
	needCurl(t)
	h := serve(t, "127.0.0.1:0", t.TempDir())
	var lines []string
	for _, line := range h.greet {
		if command, ok := strings.CutPrefix(line, "  "); ok {
			lines = append(lines, command)
		}
	}
	if len(lines) != 3 {
		t.Fatalf("%d lines to paste: %q", len(lines), h.greet)
	}
	subscribe := start(t, "bash", "-c", "exec "+lines[0])
	for subscribe.next(time.Minute) != "" {
	}
	for _, line := range lines[1:] {
		out, err := exec.Command("bash", "-c", line).Output()
		if err != nil || !strings.Contains(string(out), `"id":"`) {
			t.Errorf("%s: %s, %v", line, out, err)
		}
	}
	for {
		if line := subscribe.next(time.Minute); line == "data: hello" {
			break
		}
	}
	if len(h.history("stores/42/pcs/7")) != 1 {
		t.Error("the command was not stored")
	}
}

// TestManyLongChannels: a stream may name 100 channels of 512 bytes, and a URL escapes each of
// these.
func TestManyLongChannels(t *testing.T) {
	h := serve(t, "127.0.0.1:0", t.TempDir())
	var query strings.Builder
	for i := range 100 {
		fmt.Fprintf(&query, "&channel=%s", strings.Repeat("%20", 508)+fmt.Sprintf("%04d", i))
	}
	h.publish(strings.Repeat("%20", 508)+"0099", "heard")
	last := h.history(strings.Repeat("%20", 508) + "0099")
	got := streamUntil(t, h.url("/v1/events?replay=all"+query.String()), "", last[0].ID)
	if len(got) != 1 || got[0].Data != "heard" {
		t.Errorf("%+v", got)
	}
}
