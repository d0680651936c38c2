package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// clockBinary builds the program with another package time, whose wall clock is wrong by as many
// seconds as a file says. The kernel's clock is not touched: it is the machine's that is wrong, not
// time itself.
func clockBinary(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	changed := string(text)
	for old, replacement := range map[string]string{
		"\tsec, nsec, mono := runtimeNow()\n\tif mono == 0": "\tsec, nsec, mono := runtimeNow()\n\tsec += " +
			"WrongBy.Load()\n\tif mono == 0",
		"import (\n": "import (\n\t\"sync/atomic\"\n",
		"func Now() Time {": "// WrongBy is how many seconds the clock is ahead.\nvar WrongBy atomic.Int64\n\nfunc " +
			"Now() Time {",
	} {
		if strings.Count(changed, old) != 1 {
			t.Fatalf("package time of this Go does not have %q once: this test has to be told how to set its clock",
				old)
		}
		changed = strings.Replace(changed, old, replacement, 1)
	}
	setter := `package main

import (
	"os"
	"strconv"
	"strings"
	"time"
)

func init() {
	set := func() {
		text, _ := os.ReadFile(os.Getenv("CLOCK_FILE"))
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
			time.WrongBy.Store(n)
		}
	}
	set()
	go func() {
		for ; ; time.Sleep(5 * time.Millisecond) {
			set()
		}
	}()
}
`
	program, err := filepath.Abs("../cmd/fanfare")
	if err != nil {
		t.Fatal(err)
	}
	overlay := map[string]map[string]string{"Replace": {}}
	for name, content := range map[string]string{source: changed, filepath.Join(program, "clock_file.go"): setter} {
		file := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay["Replace"][name] = file
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), list, 0o600); err != nil {
		t.Fatal(err)
	}
	built := filepath.Join(dir, "fanfare")
	if out, err := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", built,
		"../cmd/fanfare").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return built
}

// wrongHub is a hub whose machine has a clock that a test sets.
type wrongHub struct {
	*hubProcess
	t             *testing.T
	program, data string
	clock         string
	args          []string
}

func newWrongHub(t *testing.T, program string, args ...string) *wrongHub {
	t.Helper()
	h := &wrongHub{t: t, program: program, data: t.TempDir(), clock: filepath.Join(t.TempDir(), "clock"), args: args}
	h.write(0)
	h.start()
	return h
}

func (h *wrongHub) write(by time.Duration) {
	h.t.Helper()
	next := h.clock + ".new" // the hub reads the file at any moment
	if err := os.WriteFile(next, []byte(strconv.Itoa(int(by/time.Second))), 0o600); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Rename(next, h.clock); err != nil {
		h.t.Fatal(err)
	}
}

func (h *wrongHub) start() {
	h.t.Helper()
	cmd := exec.Command(h.program, append([]string{"serve", "--addr", "127.0.0.1:0", "--data", h.data}, h.args...)...)
	cmd.Env = append(os.Environ(), "CLOCK_FILE="+h.clock)
	h.hubProcess = serveWith(h.t, cmd)
}

// set sets the clock, while the hub runs or while it is stopped; when it returns the hub goes by
// it.
func (h *wrongHub) set(by time.Duration, how string) {
	h.t.Helper()
	switch how {
	case "SIGTERM":
		h.stop()
	case "kill -9":
		h.kill()
	}
	h.write(by)
	if how != "running" {
		h.start()
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		resp, err := client.Get(h.url("/livez"))
		if err != nil {
			h.t.Fatal(err)
		}
		_ = resp.Body.Close()
		at, err := http.ParseTime(resp.Header.Get("Date"))
		if off := time.Until(at) - by; err == nil && off > -10*time.Second && off < 10*time.Second {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("the hub's clock says %v, %v", at, err)
		}
	}
}

func (h *wrongHub) command(event, key string) (replayed bool) {
	h.t.Helper()
	req, _ := http.NewRequest("POST", h.url("/v1/stores/1/pcs/2/events"), strings.NewReader(`{"event":"`+event+`"}`))
	req.Header.Set("Idempotency-Key", key)
	resp, err := client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode/100 != 2 {
		h.t.Fatalf("%s: %d %s", event, resp.StatusCode, body)
	}
	return resp.Header.Get("Idempotent-Replayed") == "true"
}

// pc connects as the older client does, without a position, hears the commands that wait for it,
// and goes.
func (h *wrongHub) pc(want ...string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", h.url("/v1/stores/event-sources?storeId=1&pcId=2"), nil)
	resp, err := client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	var got []string
	lines := bufio.NewScanner(resp.Body)
	for connected := false; len(got) < len(want) || !connected; {
		if !lines.Scan() {
			break
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if connected = connected || data == "CONNECTED"; !ok || data == "CONNECTED" {
			continue
		}
		var c struct{ Data string }
		var inner struct{ Event string }
		if json.Unmarshal([]byte(data), &c) != nil || json.Unmarshal([]byte(c.Data), &inner) != nil {
			got = append(got, data) // a gap, say
		} else {
			got = append(got, inner.Event)
		}
	}
	if !slices.Equal(got, want) {
		h.t.Errorf("the PC heard %q, want %q", got, want)
	}
}

func (h *wrongHub) holds(want int) {
	h.t.Helper()
	if n := len(h.history("stores/1/pcs/2")); n != want {
		h.t.Errorf("the log holds %d commands, want %d", n, want)
	}
}

// TestWrongClock is what fleets have: two seconds of a clock that is wrong, with a reconnect
// meanwhile. No command is lost, none is stored twice under its key, and nothing is removed,
// whatever the retention; nor when the hub begins with such a clock.
func TestWrongClock(t *testing.T) {
	program := clockBinary(t)
	for _, how := range []string{"running", "SIGTERM", "kill -9"} {
		for _, by := range []time.Duration{-time.Hour, time.Hour, 48 * time.Hour, 30 * 24 * time.Hour} {
			t.Run(fmt.Sprintf("%s/%v", how, by), func(t *testing.T) {
				t.Parallel()
				h := newWrongHub(t, program, "--retention", "**=age:30m", "--drain-window", "100ms")
				h.pc()
				time.Sleep(1500 * time.Millisecond) // where the PC stood is stored within a second
				h.command("first", "k1")
				h.set(by, how)
				if !h.command("first", "k1") {
					t.Error("the first command is stored again while the clock is wrong")
				}
				h.pc("first")
				time.Sleep(1500 * time.Millisecond)
				h.command("second", "k2")
				if how != "running" { // the sweep looks every ten seconds
					time.Sleep(12 * time.Second)
				}
				h.holds(2)
				h.set(0, how)
				for event, key := range map[string]string{"first": "k1", "second": "k2"} {
					if !h.command(event, key) {
						t.Errorf("the %s command is stored again when the clock is right", event)
					}
				}
				h.pc("second")
				h.command("third", "k3")
				h.holds(3)
				h.pc("third")
				if ahead := h.metric("fanfare_clock_ahead_seconds"); ahead < -1 || ahead > 1 {
					t.Errorf("the clock is right, and the hub takes it to be %v s ahead", ahead)
				}
			})
		}
	}
}

// metric returns the value of a metric without labels.
func (h *wrongHub) metric(name string) float64 {
	h.t.Helper()
	for line := range strings.Lines(metrics(h.t, h.hubProcess)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				h.t.Fatal(err)
			}
			return n
		}
	}
	h.t.Fatalf("there is no metric %s", name)
	return 0
}
