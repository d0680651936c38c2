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
