package server_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/fanfare-hub/fanfare/server"
)

// TestBelowAPrefix: a ticket's URL has the prefix that a handler in front took off the path, and
// the one that a trusted proxy says.
func TestBelowAPrefix(t *testing.T) {
	f := start(t, server.Options{Access: server.AccessOptions{TrustedProxies: []string{"127.0.0.1"}}})
	mounted := httptest.NewServer(http.StripPrefix("/push", f.srv))
	defer mounted.Close()
	ask := func(base, said string) string {
		req, err := http.NewRequest(http.MethodPost, base+"/v1/tickets", strings.NewReader(`{"channels":["a"]}`))
		if err != nil {
			t.Fatal(err)
		}
		if said != "" {
			req.Header.Set("X-Forwarded-Prefix", said)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var b [4096]byte
		n, _ := resp.Body.Read(b[:])
		return answer{body: string(b[:n])}.json("url")
	}
	for _, c := range []struct{ base, said, want string }{
		{f.url(""), "", "/v1/events?"},
		{mounted.URL + "/push", "", "/push/v1/events?"},
		{f.url(""), "/shop/", "/shop/v1/events?"},
		{mounted.URL + "/push", "/shop", "/shop/push/v1/events?"},
		{mounted.URL + "/push", "/push", "/push/v1/events?"},
		{f.url(""), "//evil.example", "/v1/events?"},
		{f.url(""), "https://evil.example", "/v1/events?"},
		{f.url(""), "/a/../b", "/v1/events?"},
		{f.url(""), `/"x`, "/v1/events?"},
	} {
		if got := ask(c.base, c.said); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s, %q: %s, want %s", c.base, c.said, got, c.want)
		}
	}
	other := start(t, server.Options{})
	if got := ask(other.url(""), "/shop"); !strings.HasPrefix(got, "/v1/events?") {
		t.Errorf("a stranger's word was taken: %s", got)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for path, want := range map[string]string{"/push": "/push/", "/push/console/": "../"} {
		resp, err := client.Get(mounted.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 308 || resp.Header.Get("Location") != want {
			t.Errorf("%s: %d %v", path, resp.StatusCode, resp.Header)
		}
	}
}

// TestNosniff: on all answers but streams, whose content type says enough and whose head is long
// enough.
func TestNosniff(t *testing.T) {
	f := start(t, server.Options{})
	for path, want := range map[string]string{"/": "nosniff", "/livez": "nosniff", "/metrics": "nosniff",
		"/v1/history?channel=a": "nosniff", "/v1/history": "nosniff", "/nothing": "nosniff", "/v1/events?channel=a": "",
		"/v1/stores/event-sources?storeId=1&pcId=2": ""} {
		method := "GET"
		if want == "" {
			method = "HEAD"
		}
		if a := f.call(method, path, ""); a.header.Get("X-Content-Type-Options") != want {
			t.Errorf("%s: %v", path, a.header)
		}
	}
	ndjson := "Content-Type: application/x-ndjson"
	for _, c := range []struct{ method, path, body, header string }{
		{"POST", "/v1/channels/a", "x", ""}, {"POST", "/v1/channels/a", "over a connection that was taken over", ""},
		{"POST", "/v1/events", `{"channel":"a","data":"x"}` + "\n", ndjson},
		{"DELETE", "/v1/events", "", ""}, {"OPTIONS", "/v1/events", "", ""}, {"GET", "/v1/events", "", ""}, {"GET",
			"/v1/stores/event-sources?storeId=1", "", ""},
		{"GET", "/livez", "", "Host: evil.example"}, {"POST", "/v1/channels/a", "x",
			"Origin: https://evil.example"}, {"POST", "/v1/channels/a", "x", "Content-Encoding: gzip"},
	} {
		var header []string
		if c.header != "" {
			header = []string{c.header}
		}
		if a := f.call(c.method, c.path, c.body, header...); a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: %d %v", c.method, c.path, a.status, a.header)
		}
	}
	for _, path := range []string{"/metrics", "/livez", "/readyz", "/nothing"} {
		w := httptest.NewRecorder()
		f.srv.Admin().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("operators' %s: %v", path, w.Header())
		}
	}
}

// TestTracingPassesThePreflight: a page whose requests are traced is not stopped by headers that
// its tracer adds.
func TestTracingPassesThePreflight(t *testing.T) {
	f := start(t, server.Options{Access: server.AccessOptions{Origins: []string{"https://app.example.com"}}})
	a := f.call("OPTIONS", "/v1/events", "", "Origin: https://app.example.com", "Access-Control-Request-Method: POST",
		"Access-Control-Request-Headers: traceparent,tracestate,baggage,sentry-trace")
	allowed := strings.ToLower(a.header.Get("Access-Control-Allow-Headers"))
	for _, name := range []string{"traceparent", "tracestate", "baggage", "sentry-trace"} {
		if !strings.Contains(allowed, name) {
			t.Errorf("%s is missing in %s", name, allowed)
		}
	}
}
