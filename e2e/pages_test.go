package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// screenshots is where pages are pictured: FANFARE_SCREENSHOTS, or nowhere that stays.
func screenshots(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("FANFARE_SCREENSHOTS"); dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	return t.TempDir()
}

func findChromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			if _, err := os.Stat("node_modules/playwright-core"); err == nil {
				return path
			}
		}
	}
	t.Skip("SKIPPED: no Chromium with playwright-core; e2e/setup says why")
	return ""
}

// looksAt runs one case of pages.mjs.
func looksAt(t *testing.T, h *hubProcess, which string, env ...string) {
	t.Helper()
	looksAtURL(t, h.url(""), which, env...)
}

func looksAtURL(t *testing.T, hub, which string, env ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "pages.mjs", findChromium(t), hub, screenshots(t), which)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("%s: %v", which, err)
	}
}

// publisher builds and runs an example's publisher until the test ends.
func publisher(t *testing.T, h *hubProcess, name string, args ...string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("go", "build", "-o", program, "../examples/"+name).CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	start(t, program, append([]string{"-hub", h.url("")}, args...)...)
}

func TestPage(t *testing.T) {
	t.Parallel()
	findChromium(t)
	h := serve(t, "127.0.0.1:0", t.TempDir())
	pc, err := http.Get(h.url("/v1/stores/event-sources?storeId=42&pcId=7"))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Body.Close()
	for i := range 50 {
		h.publish("greetings", fmt.Sprint("hello ", i))
	}
	resp, err := http.Get(h.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if policy := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy,
		"default-src 'none'; script-src 'self'") || strings.Contains(policy, "unsafe") {
		t.Errorf("the page's policy is %q", policy)
	}
	looksAt(t, h, "console")
	h.stop()
}

// TestPageParts are the parts of the page, each on a hub of its own.
func TestPageParts(t *testing.T) {
	t.Parallel()
	findChromium(t)
	for _, which := range []string{"channels", "live", "streams", "empty"} {
		t.Run(which, func(t *testing.T) {
			h := serve(t, "127.0.0.1:0", t.TempDir())
			if which == "streams" {
				for _, channel := range []string{"first/*", "second/*"} {
					resp, err := http.Get(h.url("/v1/events?channel=" + channel))
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
				}
			}
			looksAt(t, h, which)
			h.stop()
		})
	}
}

func TestExamplePages(t *testing.T) {
	t.Parallel()
	findChromium(t)
	h := serve(t, "127.0.0.1:0", t.TempDir())
	t.Run("notifications", func(t *testing.T) {
		publisher(t, h, "notifications", "-every", "1s")
		looksAt(t, h, "notifications")
	})
	t.Run("logs", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "test.log")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		publisher(t, h, "logs", "-file", file, "-channel", "logs/test")
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for i := 0; ; i++ {
				fmt.Fprintf(f, "%s line %d\n", time.Now().Format(time.RFC3339), i)
				select {
				case <-time.After(50 * time.Millisecond):
				case <-stop:
					return
				}
			}
		}()
		looksAt(t, h, "logs")
		close(stop)
		<-stopped
	})
	t.Run("quotes", func(t *testing.T) {
		publisher(t, h, "quotes", "-rate", "400")
		looksAt(t, h, "quotes")
	})
	t.Run("board", func(t *testing.T) {
		publisher(t, h, "board", "-stores", "2", "-pcs", "3", "-late", "4s")
		looksAt(t, h, "board")
	})
	h.stop()
}

// TestExamplesAtOnce: quotes and the board open with the state; nothing is published after.
func TestExamplesAtOnce(t *testing.T) {
	t.Parallel()
	findChromium(t)
	h := serve(t, "127.0.0.1:0", t.TempDir())
	for _, e := range [][2]string{{"quotes/ACME", `{"price":99,"change":1}`}, {"board/1/10", "older"},
		{"quotes/GEN", `{"price":7}`}, {"board/1/2", "open"}, {"board/1/10", `{"cpu":12.4}`},
		{"quotes/ACME", `{"price":12.5,"change":-1}`}} {
		if _, err := publish(h.url("/v1/channels/"+e[0]), e[1]); err != nil {
			t.Fatal(err)
		}
	}
	looksAt(t, h, "state")
	h.stop()
}

// TestExamplesEmpty: an example of an empty hub shows a command that publishes its first event.
func TestExamplesEmpty(t *testing.T) {
	t.Parallel()
	needCurl(t)
	findChromium(t)
	h := serve(t, "127.0.0.1:0", t.TempDir())
	looksAt(t, h, "emptyExamples")
	h.stop()
}

// TestExamplesConnecting: an example tells whether its stream is connecting, live or refused.
func TestExamplesConnecting(t *testing.T) {
	t.Parallel()
	findChromium(t)
	h := serve(t, "127.0.0.1:0", t.TempDir(), "--stream-lifetime", "2s")
	looksAt(t, h, "connecting")
	h.stop()
	full := serve(t, "127.0.0.1:0", t.TempDir(), "--max-streams", "1")
	resp, err := http.Get(full.url("/v1/events?channel=a"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	looksAt(t, full, "full")
	full.stop()
}

// TestExamplesWithToken: where the hub asks who somebody is, the pages of the examples say how to
// make a token, and the publishers take one.
func TestExamplesWithToken(t *testing.T) {
	needCurl(t)
	findChromium(t)
	secret := newSecret(t)
	h := serve(t, "127.0.0.1:0", t.TempDir(), "--jwt-key", "HS256="+secret)
	other := command(t, "token", "--key", "HS256="+secret, "--subscribe", "users/bob/**")
	t.Setenv("PATH", filepath.Dir(binary)+":"+os.Getenv("PATH"))
	looksAt(t, h, "examplesWithToken", "FANFARE_TEST_FOLDER="+filepath.Dir(secret), "FANFARE_OTHER_TOKEN="+other)
	if log := h.log.String(); strings.Contains(log, "Bearer") || strings.Contains(log, "ft_") {
		t.Errorf("a token or a ticket stands in the log:\n%s", log)
	}
	token := command(t, "token", "--key", "HS256="+secret, "--publish", "**", "--subscribe", "**", "--device",
		"stores/*/pcs/*")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, channel := range map[string]string{"quotes": "quotes/GEN01", "board": "board/2/3",
		"notifications": "users/eve/notifications", "logs": "logs/secret"} {
		args := map[string][]string{"notifications": {"-user", "eve", "hello"},
			"logs": {"-file", secret, "-channel", "logs/secret"}}[name]
		publisher(t, h, name, append([]string{"-token-file", file}, args...)...)
		eventually(t, name+" publishes with a token", func() bool {
			status, body := request(t, http.DefaultClient, "GET", h.url("/v1/latest?channel="+channel), token, "")
			return status == 200 && strings.Contains(body, channel)
		})
	}
	h.stop()
}

// TestPageBelowAPrefix has the hub's page and its tickets work below a path, as behind a proxy that
// takes the prefix off.
func TestPageBelowAPrefix(t *testing.T) {
	t.Parallel()
	findChromium(t)
	h := serve(t, "127.0.0.1:0", t.TempDir(), "--trusted-proxy", "127.0.0.1")
	target, err := url.Parse(h.url(""))
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(http.StripPrefix("/push",
		&httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.SetXForwarded()
			r.Out.Header.Set("X-Forwarded-Prefix", "/push")
		}}))
	defer proxy.Close()
	pc, err := http.Get(h.url("/v1/stores/event-sources?storeId=42&pcId=7"))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Body.Close()
	looksAtURL(t, proxy.URL+"/push", "console")
	h.stop()
}
