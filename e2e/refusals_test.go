package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// figure reads a metric without labels.
func (h *hubProcess) figure(token, name string) int {
	h.t.Helper()
	_, body := request(h.t, client, "GET", h.url("/metrics"), token, "")
	m := regexp.MustCompile(`(?m)^` + name + ` (\d+)$`).FindStringSubmatch(body)
	if m == nil {
		h.t.Fatalf("no %s", name)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// TestOlderClientIsNoFlood runs the class that store PCs run today, which looks at no status and
// comes back at once, against a hub that refuses its token, and against one that has no room: it
// hears the answer a second later at the earliest, and goes on. (A slow machine makes it ask less
// often.)
func TestOlderClientIsNoFlood(t *testing.T) {
	t.Parallel()
	interpreter, path := python(t)
	secret := newSecret(t)
	admin := command(t, "token", "--key", "HS256="+secret, "--subject", "root", "--admin", "**", "--subscribe", "a",
		"--publish", "stores/**")
	for name, c := range map[string]struct{ accept, token string }{
		"401":             {"*/*", "not a token"},
		"401, Accept":     {"text/event-stream", "not a token"},
		"no room":         {"*/*", admin},
		"no room, Accept": {"text/event-stream", admin},
		"a token of no PC, 403": {"*/*",
			command(t, "token", "--key", "HS256="+secret, "--subject", "x", "--subscribe", "a")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := serve(t, "127.0.0.1:0", t.TempDir(), "--jwt-key", "HS256="+secret, "--max-streams", "1",
				"--drain-window", "100ms")
			if strings.HasPrefix(name, "no room") {
				curl := start(t, "curl", "-sN", "-H", "Authorization: Bearer "+admin, h.url("/v1/events?channel=a"))
				curl.next(20 * time.Second)
			}
			began := time.Now()
			pc := startWith(t, []string{path, "STORE_ACCEPT=" + c.accept, "STORE_TOKEN=" + c.token}, interpreter,
				"store_pc.py", h.url(""), "42", "7", "1000")
			eventually(t, "three refusals", func() bool { return h.figure(admin, "fanfare_refusals_paced_total") >= 3 })
			n := h.figure(admin, "fanfare_refusals_paced_total")
			if most := int(time.Since(began)/time.Second) + 1; n > most {
				t.Errorf("%d refusals, at most %d", n, most)
			}
			if held, cut := h.figure(admin, "fanfare_refusals_held"), h.figure(admin,
				"fanfare_refusals_cut_total"); held > 1 || cut > 0 {
				t.Errorf("%d held, %d cut", held, cut)
			}
			select {
			case line := <-pc.lines:
				t.Errorf("the client says %q: %s", line, pc.errs)
			default:
			}
		})
	}
}

// TestOlderClientBehindProxies: while the hub is away the proxies' files in deploy/ have the same
// class wait for their own answers. When the hub is back it hears again.
func TestOlderClientBehindProxies(t *testing.T) {
	t.Parallel()
	interpreter, path := python(t)
	for _, c := range []struct {
		program, config string
		args            func(string) []string
	}{
		{"nginx", nginxHTTP(read(t, "../deploy/nginx/fanfare.conf")), nginxArgs},
		{"haproxy", read(t, "../deploy/haproxy/haproxy.cfg"), haproxyArgs},
	} {
		t.Run(c.program, func(t *testing.T) {
			t.Parallel()
			data := t.TempDir()
			h := serve(t, "127.0.0.1:0", data, "--drain-window", "100ms")
			front, ca := proxied(t, h, c.program, c.config, c.args)
			h.stop()
			if c.program == "haproxy" { // it needs two seconds to notice
				eventually(t, "HAProxy knows", func() bool { return away(t, front, ca) })
			}
			pc := startWith(t, []string{path, "STORE_ASKS=1", "REQUESTS_CA_BUNDLE=" + ca}, interpreter, "store_pc.py",
				front, "42", "7", "1000")
			pc.next(20 * time.Second)
			for began, n := time.Now(), 1; n < 4; n++ {
				if line := pc.next(20 * time.Second); line != `["asks", ""]` {
					t.Fatal(line)
				}
				// nginx counts milliseconds of its own clock
				if least := time.Duration(n-1) * 900 * time.Millisecond; time.Since(began) < least {
					t.Fatalf("%d more requests after %v", n, time.Since(began))
				}
			}
			h = serve(t, h.addr, data)
			eventually(t, "the client hears",
				func() bool { return strings.Contains(pc.next(20*time.Second), "CONNECTED") })
			h.stop()
		})
	}
}

// away tells whether the proxy answers a PC itself, and not at once.
func away(t *testing.T, front, ca string) bool {
	began := time.Now()
	out, _ := exec.Command("curl", "-s", "--cacert", ca,
		front+"/v1/stores/event-sources?storeId=1&pcId=1").CombinedOutput()
	return time.Since(began) > time.Second && strings.Contains(string(out), "503")
}

// TestTwoTabsInABrowser: of two EventSources with one ticket, in Chromium, the older one is told to
// stay away, and is closed; the newer one hears on.
func TestTwoTabsInABrowser(t *testing.T) {
	t.Parallel()
	chromium := findChromium(t)
	secret := newSecret(t)
	h := serve(t, "127.0.0.1:0", t.TempDir(), "--jwt-key", "HS256="+secret)
	ada := command(t, "token", "--key", "HS256="+secret, "--subject", "ada", "--subscribe", "a", "--publish", "a")
	_, body := request(t, client, "POST", h.url("/v1/tickets"), ada, `{"channels":["a"]}`)
	var made struct{ Ticket string }
	if err := json.Unmarshal([]byte(body), &made); err != nil || made.Ticket == "" {
		t.Fatal(body, err)
	}
	stream := "/v1/events?channel=a&ticket=" + made.Ticket
	browser := start(t, "node", "eventsource.mjs", chromium, h.url("/livez"), stream, stream)
	next := func() (line browserLine) {
		if err := json.Unmarshal([]byte(browser.next(60*time.Second)), &line); err != nil {
			t.Fatal(err)
		}
		return line
	}
	closed := next()
	for closed.State != 2 { // CLOSED
		closed = next()
	}
	if status, body := request(t, client, "POST", h.url("/v1/channels/a"), ada, "on we go"); status != 201 {
		t.Fatal(body)
	}
	for {
		line := next()
		if line.Stream == closed.Stream || line.Kind == "error" {
			t.Fatalf("after the other one was closed: %+v", line)
		}
		if line.Data == "on we go" {
			break
		}
	}
	h.stop()
}

var pythonBlock = regexp.MustCompile("(?ms)^```python\n(.*?)^```")

// TestStoresGuideClient runs the client of docs/guide/stores.md, and the older one beside it,
// against a hub that is killed and away for a while: connections are refused. The older one dies of
// that, as the page says; the guide's goes on, and handles every command.
func TestStoresGuideClient(t *testing.T) {
	t.Parallel()
	interpreter, path := python(t)
	blocks := pythonBlock.FindAllStringSubmatch(read(t, "../docs/guide/stores.md"), -1)
	if len(blocks) != 1 {
		t.Fatalf("%d blocks of Python", len(blocks))
	}
	data := t.TempDir()
	h := serve(t, "127.0.0.1:0", data, "--stream-lifetime", "1s")
	script := filepath.Join(t.TempDir(), "pc.py")
	if err := os.WriteFile(script, []byte(strings.ReplaceAll(blocks[0][1], "http://127.0.0.1:8082", h.url(""))),
		0o600); err != nil {
		t.Fatal(err)
	}
	pc := startWith(t, []string{path, "PYTHONUNBUFFERED=1"}, interpreter, script)
	older := startWith(t, []string{path}, interpreter, "store_pc.py", h.url(""), "42", "8", "1000")
	if line := older.next(20 * time.Second); line != `["sse", "CONNECTED"]` {
		t.Fatal(line)
	}
	eventually(t, "both are connected", func() bool {
		_, body := request(t, client, "GET", h.url("/metrics"), "", "")
		return strings.Contains(body, `fanfare_streams_open{adapter="store"} 2`+"\n")
	})
	commands := func(from int) {
		t.Helper()
		for i := from; i < from+5; i++ {
			sendCommand(t, h.url("/v1/stores/42/pcs/7/events"), "", fmt.Sprint("C", i))
		}
		for i := from; i < from+5; {
			line := pc.next(30 * time.Second)
			if strings.HasPrefix(line, "once again: ") {
				continue
			}
			if !strings.Contains(line, fmt.Sprintf(`"event":"C%d"`, i)) {
				t.Fatalf("want command %d, got %s", i, line)
			}
			i++
		}
	}
	commands(0)
	h.kill()
	for line := range older.lines {
		t.Logf("the older client: %s", line)
	}
	if errs := older.errs.String(); !strings.Contains(errs, "ConnectionError") &&
		!strings.Contains(errs, "ChunkedEncodingError") {
		t.Errorf("the older client has ended with %s", errs)
	}
	eventually(t, "the connection is refused",
		func() bool { return strings.Contains(pc.next(30*time.Second), "refused") })
	h = serve(t, h.addr, data)
	commands(5)
	h.stop()
}
