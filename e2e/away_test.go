package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// reader is a client of somebody else's that reads a stream through a proxy.
type reader struct {
	name    string
	program *program
	opened  chan struct{}

	mu     sync.Mutex // guards the fields below
	got    []string
	closed bool // for good
	gaps   []string
}

func (r *reader) follow() {
	var once sync.Once
	for line := range r.program.lines {
		var e struct {
			Kind, Data string
			State      int
		}
		if json.Unmarshal([]byte(line), &e) != nil {
			continue
		}
		r.mu.Lock()
		switch e.Kind {
		case "message":
			if e.Data != "" {
				r.got = append(r.got, e.Data)
			}
		case "gap":
			r.gaps = append(r.gaps, e.Data)
		case "error":
			r.closed = r.closed || e.State == 2
		}
		r.mu.Unlock()
		if e.Kind == "open" || e.Kind == "heartbeat" {
			once.Do(func() { close(r.opened) })
		}
	}
}

// readers starts Chromium, npm's eventsource and PyPI's sseclient, as far as they are there, and
// waits until each has a stream.
func readers(t *testing.T, front, stream, ca string) (list []*reader) {
	t.Helper()
	add := func(name, env, program string, args ...string) {
		r := &reader{name: name, program: startWith(t, []string{env}, program, args...), opened: make(chan struct{})}
		go r.follow()
		list = append(list, r)
	}
	if node, err := exec.LookPath("node"); err == nil {
		if _, err := os.Stat("node_modules/eventsource"); err == nil {
			add("npm eventsource", "NODE_EXTRA_CA_CERTS="+ca, node, "node_eventsource.mjs", front+stream)
		}
		if chromium, err := exec.LookPath("chromium"); err == nil {
			if _, err := os.Stat("node_modules/playwright-core"); err == nil {
				add("Chromium", "", node, "eventsource.mjs", chromium, front+"/examples/", stream)
			}
		}
	}
	if _, err := os.Stat(".btubbs/sseclient.py"); err == nil {
		btubbs, err := filepath.Abs(".btubbs")
		if err != nil {
			t.Fatal(err)
		}
		add("PyPI sseclient", "PYTHONPATH="+btubbs, ".venv/bin/python", "btubbs_client.py", front+stream, ca)
	}
	if len(list) == 0 {
		t.Skip("SKIPPED: no client; e2e/setup says why")
	}
	for _, r := range list {
		select {
		case <-r.opened:
		case <-time.After(time.Minute):
			t.Fatalf("%s has no stream: %s", r.name, r.program.errs)
		}
	}
	return list
}

// complete waits until a reader has events 0 to n-1, and checks that each came once and in order,
// and that it goes on.
func (r *reader) complete(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		r.mu.Lock()
		got, closed, gaps := r.got, r.closed, r.gaps
		r.mu.Unlock()
		if len(got) >= n || closed || time.Now().After(deadline) {
			if closed || len(gaps) > 0 || len(got) != n {
				t.Errorf("%s: %d of %d events, closed for good: %v, gaps: %v; %s", r.name, len(got), n, closed, gaps,
					r.program.errs)
			}
			for i := range min(n, len(got)) {
				if got[i] != strconv.Itoa(i) {
					t.Errorf("%s: event %d is %q", r.name, i, got[i])
					break
				}
			}
			return
		}
	}
}

// restarts is how often the hub is restarted below readers: FANFARE_RESTARTS, else twice.
func restarts() int {
	if n, err := strconv.Atoi(os.Getenv("FANFARE_RESTARTS")); err == nil {
		return n
	}
	return 2
}

// TestHubAwayBehindProxies (P3, P7): the hub is killed and away for six seconds, and then restarted
// gracefully, behind the proxies' files in deploy/. No client stops for good, and each gets each
// event once.
func TestHubAwayBehindProxies(t *testing.T) {
	t.Parallel()
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
			h := serve(t, "127.0.0.1:0", data, "--drain-window", "2s")
			front, ca := proxied(t, h, c.program, c.config, c.args)
			list := readers(t, front, "/v1/events?channel=ticks", ca)
			n := 0
			publishFor := func(d time.Duration) {
				for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
					if _, err := publish(h.url("/v1/channels/ticks"), strconv.Itoa(n)); err != nil {
						t.Fatal(err)
					}
					n++
				}
			}
			publishFor(time.Second)
			h.kill()
			time.Sleep(6 * time.Second)
			h = serve(t, h.addr, data, "--drain-window", "2s")
			publishFor(2 * time.Second)
			for range restarts() {
				stopping := h
				done := make(chan struct{})
				go func() { defer close(done); stopping.stop() }()
				// It takes publishes while it drains.
				for i := 0; i < 10; i++ {
					if _, err := publish(stopping.url("/v1/channels/ticks"), strconv.Itoa(n)); err != nil {
						break
					}
					n++
					time.Sleep(20 * time.Millisecond)
				}
				<-done
				h = serve(t, h.addr, data, "--drain-window", "2s")
				publishFor(3 * time.Second)
			}
			for _, r := range list {
				r.complete(t, n)
			}
			t.Logf("%d events, %d clients", n, len(list))
			h.stop()
		})
	}
}
