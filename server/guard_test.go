package server_test

import (
	"io"
	"strings"
	"testing"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/server"
)

// TestOpenOnLoopback: the protection of a hub that asks nobody who they are.
func TestOpenOnLoopback(t *testing.T) {
	f := start(t, server.Options{Access: server.AccessOptions{Hosts: []string{"Push.Example.com"},
		Origins: []string{"https://app.example.com"}}})
	for host, status := range map[string]int{
		"localhost": 200, "LOCALHOST:99": 200, "127.0.0.1:8082": 200, "127.9.9.9": 200, "[::1]:5": 200,
		"push.example.com": 200, "push.example.com:444": 200,
		"evil.example": 403, "localhost.evil.example": 403, "192.168.1.1": 403, "127.0.0.1.evil.example": 403,
		"0.0.0.0": 403,
	} {
		for _, path := range []string{"/livez", "/v1/history?channel=a", "/metrics"} {
			a := f.call("GET", path, "", "Host: "+host)
			if a.status != status {
				t.Errorf("%s as %s: %d, want %d", path, host, a.status, status)
			}
			if status == 403 {
				a.wantProblem(t, 403, "forbidden", "--allowed-host")
			}
		}
	}
	f.call("GET", "/nothing", "", "Host: evil.example").wantProblem(t, 403, "forbidden", "--allowed-host")
	_, r := f.dial("GET /livez HTTP/1.0\r\n\r\n")
	if b, _ := io.ReadAll(r); !strings.HasPrefix(string(b), "HTTP/1.0 200") {
		t.Errorf("HTTP/1.0 without Host: %s", b)
	}
}

func TestOrigins(t *testing.T) {
	listed := start(t, server.Options{Access: server.AccessOptions{Origins: []string{"https://app.example.com"}}})
	any := start(t, server.Options{Access: server.AccessOptions{Origins: []string{"*"}}})
	for _, c := range []struct {
		f             *fixture
		origin        string
		publish       int
		allow, creds  string
		secFetchSites string
	}{
		{listed, "", 201, "", "", ""},
		{listed, "https://app.example.com", 201, "https://app.example.com", "true", "cross-site"},
		{listed, "http://localhost:5173", 201, "http://localhost:5173", "true", "cross-site"},
		{listed, "http://127.0.0.1", 201, "http://127.0.0.1", "true", ""},
		{listed, "http://[::1]:3000", 201, "http://[::1]:3000", "true", ""},
		{listed, "http://app.example.com", 403, "", "", ""},
		{listed, "https://app.example.com.evil.example", 403, "", "", ""},
		{listed, "null", 403, "", "", ""},
		{listed, "https://evil.example", 403, "", "", "cross-site"},
		{any, "https://evil.example", 201, "*", "", "cross-site"},
	} {
		var header []string
		if c.origin != "" {
			header = append(header, "Origin: "+c.origin)
		}
		if c.secFetchSites != "" {
			header = append(header, "Sec-Fetch-Site: "+c.secFetchSites)
		}
		post := c.f.call("POST", "/v1/channels/a", "x", header...)
		get := c.f.call("GET", "/v1/history?channel=a", "", header...)
		bad := c.f.call("GET", "/v1/history", "", header...)
		stream := c.f.call("HEAD", "/v1/events?channel=a", "", header...)
		if post.status != c.publish || get.status != 200 || bad.status != 400 {
			t.Errorf("%q: POST %d, GET %d, want %d, 200", c.origin, post.status, get.status, c.publish)
		}
		if post.status == 403 {
			post.wantProblem(t, 403, "forbidden", "--cors-origin")
		}
		for _, a := range []answer{post, get, bad, stream} {
			h := a.header
			if h.Get("Access-Control-Allow-Origin") != c.allow ||
				h.Get("Access-Control-Allow-Credentials") != c.creds ||
				(c.origin != "") != (h.Get("Vary") == "Origin") {
				t.Errorf("%q: %v", c.origin, h)
			}
		}
		pre := c.f.call("OPTIONS", "/v1/events", "", append(header, "Access-Control-Request-Method: POST")...)
		if (pre.header.Get("Access-Control-Allow-Methods") != "") != (c.allow != "") || pre.status != 204 {
			t.Errorf("preflight of %q: %+v", c.origin, pre)
		}
		if c.allow != "" && !strings.Contains(pre.header.Get("Access-Control-Allow-Headers"), "Last-Event-ID") {
			t.Errorf("preflight of %q: %+v", c.origin, pre)
		}
	}
	for _, o := range []server.Options{{Access: server.AccessOptions{Hosts: []string{"*.example.com"}}},
		{Access: server.AccessOptions{Hosts: []string{""}}},
		{Access: server.AccessOptions{Origins: []string{"app.example.com"}}},
		{Access: server.AccessOptions{Origins: []string{"https://a/b"}}}} {
		o.Log = listed.log
		if _, err := server.New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

// TestSettingsHaveNames: a program that says nothing about the names of settings shows them as in a
// settings file.
func TestSettingsHaveNames(t *testing.T) {
	o := server.Options{SettingName: func(s fanfare.Setting) string { return "my " + string(s) },
		Publish: server.PublishOptions{MaxEventBytes: 10}}
	f := start(t, o)
	f.call("POST", "/v1/channels/a", strings.Repeat("x", 11)).wantProblem(t, 413, "too_large", "(my max-event-bytes)")
	f.stop(0)
	f.o.SettingName = nil
	f.up("127.0.0.1:0")
	f.call("POST", "/v1/channels/a", strings.Repeat("x", 11)).wantProblem(t, 413, "too_large", "(max-event-bytes)")
	f.call("GET", "/livez", "", "Host: evil.example").wantProblem(t, 403, "forbidden", "(allowed-host)")
}
