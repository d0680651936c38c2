package server_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/server"
)

// TestForgedFields: CR, LF and NUL in every text that a client can send. The answers and streams
// have no forged field, event or header.
func TestForgedFields(t *testing.T) {
	oneKind(t, "what is sent is made in one place for all")
	f := start(t, server.Options{})
	const forged = "x\r\ndata: forged\n\nevent: forged\rid: forged\x00\u2028\u0085y"
	escaped := url.QueryEscape(forged)
	jsonText := `"x\r\ndata: forged\n\nevent: forged\rid: forged\u0000\u2028\u0085y"`
	c := f.stream("/v1/events?channel=a&channel=stores/1/pcs/2&heartbeat=1")
	c.any()
	store := f.stream("/v1/stores/event-sources?storeId=1&pcId=2")
	for _, r := range []struct {
		path, body string
		status     int
	}{
		{"/v1/channels/a", forged, 201}, // as data it is data
		{"/v1/events", `{"channel":"a","data":` + jsonText + `}`, 201},
		{"/v1/events", `{"channel":` + jsonText + `,"data":"x"}`, 400},
		{"/v1/events", `{"channel":"a","event":` + jsonText + `,"data":"x"}`, 400},
		{"/v1/events", `{"channel":"a","idempotencyKey":` + jsonText + `,"data":"x"}`, 400},
		{"/v1/events", `{"channel":"a","data":{` + jsonText + `:` + jsonText + `}}`, 201},
		{"/v1/channels/" + url.PathEscape(forged), "x", 400},
		{"/v1/channels/a?event=" + escaped, "x", 400},
		{"/v1/stores/1/pcs/2/events", `{"event":` + jsonText + `,"objectId":` + jsonText + `,"eventType":` + jsonText +
			`,"referenceType":` + jsonText + `}`, 201},
		{"/v1/stores/" + url.PathEscape(forged) + "/events", `{"event":"x"}`, 400},
		{"/v1/stores/1/pcs/" + url.PathEscape(forged) + "/events", `{"event":"x"}`, 400},
	} {
		if a := f.call("POST", r.path, r.body); a.status != r.status {
			t.Errorf("%s: %d %s, want %d", r.path, a.status, a.body, r.status)
		}
	}
	for _, path := range []string{
		"/v1/events?channel=" + escaped, "/v1/history?channel=" + escaped, "/v1/history?channel=a&after=" +
			escaped, "/v1/events?channel=a&replay=" + escaped,
		"/v1/events?channel=a&heartbeat=" + escaped, "/v1/events?channel=a&heartbeatEvent=" +
			escaped, "/v1/stores/event-sources?storeId=1&pcId=" + escaped, "/v1/health?storeId=" + escaped,
	} {
		if a := f.call("GET", path, ""); a.status != 400 || len(a.header["Forged"]) > 0 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	// A position that is garbage comes back in the gap, as JSON.
	gap := f.stream("/v1/events?channel=none&lastEventId=" + escaped)
	gap.any()
	if e := gap.any(); e.Type != "gap" || !strings.Contains(e.Data, `"requested":"x\r\ndata: forged`) {
		t.Errorf("%+v", e)
	}
	for range 4 { // what came is what was sent, and nothing else
		e := c.next()
		if e.Type == "forged" || e.LastEventID == "forged" || e.Data == "forged" {
			t.Errorf("%+v", e)
		}
	}
	c.quiet()
	if e := store.next(); e.Data != "CONNECTED" {
		t.Errorf("%+v", e)
	}
	if e := store.next(); e.Type != "sse" || strings.ContainsAny(e.Data, "\r\n\x00") {
		t.Errorf("%+v", e)
	}
	// In raw headers net/http refuses them itself.
	for _, header := range []string{"Last-Event-ID: a\x00b", "Idempotency-Key: a\rb", "Authorization: Bearer a\x00"} {
		_, r := f.dial("GET /v1/events?channel=a HTTP/1.1\r\nHost: localhost\r\n" + header + "\r\n\r\n")
		if line, _ := r.ReadString('\n'); !strings.Contains(line, "400") {
			t.Errorf("%q: %s", header, line)
		}
	}
}

// TestNumbersAndDepth: numbers past 64 bits are refused where they mean something, and kept as they
// are in data; depth has an end.
func TestNumbersAndDepth(t *testing.T) {
	f := start(t, server.Options{})
	big := "123456789012345678901234567890"
	for _, path := range []string{
		"/v1/history?channel=a&limit=" + big, "/v1/events?channel=a&replay=" + big, "/v1/events?channel=a&heartbeat=" +
			big, "/v1/stats?streams=" + big,
		"/v1/stats?interval=" + big, "/v1/events?channel=a&since=" + big +
			"d", "/v1/history?channel=a&limit=-1", "/v1/history?channel=a&limit=1e3",
		"/v1/history?channel=a&limit=0x10",
	} {
		f.call("GET", path, "").wantProblem(t, 400, "invalid", "")
	}
	f.call("POST", "/v1/admin/disconnect", `{"stream":`+big+`}`).wantProblem(t, 400, "invalid", "stream must be")
	f.call("POST", "/v1/admin/disconnect", `{"stream":-1}`).wantProblem(t, 400, "invalid", "stream must be")
	if a := f.call("POST", "/v1/events", `{"channel":"a","data":`+big+`.5e400}`); a.status != 201 {
		t.Errorf("%+v", a)
	}
	if data := f.dataOf("a"); len(data) != 1 || data[0] != big+".5e400" {
		t.Errorf("%q", data)
	}
	deep := strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)
	f.call("POST", "/v1/events", `{"channel":"a","data":`+deep+`}`).wantProblem(t, 400, "invalid", "JSON")
	f.call("POST", "/v1/stores/1/events", `{"event":"x","x":`+deep+`}`).wantProblem(t, 400, "invalid", "JSON")
	f.call("POST", "/v1/tickets", `{"channels":`+deep+`}`).wantProblem(t, 400, "invalid", "JSON")
	f.call("POST", "/v1/stores/1/events", `{"event":"x","event":"y"}`).wantProblem(t, 400, "invalid", "twice")
	f.call("POST", "/v1/tickets", `{"channels":["a"],"channels":["b"]}`).wantProblem(t, 400, "invalid", "twice")
	f.call("GET", "/v1/events?"+strings.Repeat("channel=a&", 200), "").wantProblem(t, 400, "invalid", "100")
	f.call("POST", "/v1/tickets", `{"channels":["`+strings.Repeat(`a","`, 200)+`"]}`).wantProblem(t, 400, "invalid",
		"100")
}

// TestBodies: too large ones are refused before they are read, endless ones as soon as they are too
// large.
func TestBodies(t *testing.T) {
	f := secured(t, server.Options{}, auth.Options{})
	may := bearer(token("ada", time.Hour, "publish", "**", "subscribe", "**", "admin", "**"))
	for _, path := range []string{"/v1/events", "/v1/channels/a", "/v1/stores/1/events", "/v1/tickets",
		"/v1/admin/disconnect", "/v1/admin/log-level"} {
		_, r := f.dial("POST " + path + " HTTP/1.1\r\nHost: x\r\n" + may + "\r\nContent-Length: 20000000\r\n\r\n")
		if line, err := r.ReadString('\n'); !strings.Contains(line, "413") {
			t.Errorf("%s: %q %v", path, line, err)
		}
	}
	// A client that may not publish is told so before a byte is read.
	for _, path := range []string{"/v1/events", "/v1/channels/a", "/v1/stores/1/events"} {
		_, r := f.dial("POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n")
		if line, err := r.ReadString('\n'); !strings.Contains(line, "401") {
			t.Errorf("%s: %q %v", path, line, err)
		}
	}
	for _, path := range []string{"/v1/events", "/v1/channels/a"} {
		conn, r := f.dial("POST " + path + " HTTP/1.1\r\nHost: x\r\n" + may + "\r\nTransfer-Encoding: chunked\r\n\r\n")
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			for sent := 0; sent < 200<<20; sent += 64 << 10 {
				if _, err := fmt.Fprintf(conn, "10000\r\n%s\r\n", strings.Repeat(" ", 64<<10)); err != nil {
					return
				}
			}
			t.Errorf("%s: 200 MB were taken", path)
		}()
		if line, err := r.ReadString('\n'); !strings.Contains(line, "413") {
			t.Errorf("%s: %q %v", path, line, err)
		}
		_ = conn.Close()
		<-stop
	}
}

// TestPathsAreTakenOnce: encodings, dots and slashes lead to no other channel and past no check.
func TestPathsAreTakenOnce(t *testing.T) {
	f := secured(t, server.Options{}, auth.Options{})
	may := bearer(token("ada", time.Hour, "publish", "public/**", "subscribe", "public/**"))
	root := bearer(token("root", time.Hour, "admin", "**", "subscribe", "**", "publish", "**"))
	for path, status := range map[string]int{
		// channels are no paths
		"/v1/channels/public/a": 201, "/v1/channels/public%2fa": 201, "/v1/channels/public//a": 201,
		"/v1/channels/public/../private": 201,
		"/v1/channels/private":           403, "/v1/channels/%70rivate": 403, "/v1/channels/public": 403,
		"/v1/channels//public/a": 403, "/v1/channels/./public/a": 403,
		"/v1/channels/public%252fa": 403, // unescaped once: the channel is public%2fa
		"/v1/channels/PUBLIC/a":     403, "/v1/channels/public%00/a": 400, "/v1/channels/public/%c0%af": 400,
		"/v1/channels/public/%ff": 400, "/v1/channels/public/*": 400,
		"/v1/channels/public/**": 400, "/v1/channels/%2a%2a": 400, "/v1/channels/$presence/a": 403,
		"/v1/channels/%24presence":   403,
		"/v1/../v1/channels/private": 404, "/v1/%63hannels/public/a": 404, "/v1/channels": 405,
		"/V1/channels/public/a": 404, "//v1/channels/public/a": 404, "/v1/channels%2fpublic%2fa": 404,
		"/v1/stores/1%2fpcs%2f2/events": 400, "/v1/stores/../events": 403, "/v1/stores/./events": 403,
		"/v1/stores//events": 400, "/v1/stores/1/pcs/%2e%2e/events": 403,
	} {
		conn, r := f.dial("POST " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + may +
			"\r\nContent-Length: 13\r\n\r\n{\"event\":\"x\"}")
		b, _ := io.ReadAll(r)
		_ = conn.Close()
		if !strings.HasPrefix(string(b), fmt.Sprintf("HTTP/1.1 %d", status)) {
			line, _, _ := strings.Cut(string(b), "\r\n")
			t.Errorf("%s: %s, want %d", path, line, status)
		}
	}
	if a := f.call("GET", "/v1/history?channel=private", "", root); a.body != `{"events":[]}` {
		t.Errorf("something came to a private channel: %s", a.body)
	}
	for _, path := range []string{"/metrics/", "/metrics%00", "/metrics%2f", "/%6detrics", "/METRICS", "//metrics",
		"/./metrics", "/x/../metrics", "/metrics;a=b", "/v1/stats/", "/v1/admin%2flog-level", "/v1/admin/",
		"/livez/../metrics", "/openapi.yaml/../metrics", "/console/../metrics", "/examples/..%2f..%2fmetrics"} {
		conn, r := f.dial("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		b, _ := io.ReadAll(r)
		_ = conn.Close()
		if !strings.HasPrefix(string(b), "HTTP/1.1 404") && !strings.HasPrefix(string(b), "HTTP/1.1 400") ||
			strings.Contains(string(b), "fanfare_") {
			t.Errorf("%s: %.100s", path, b)
		}
	}
	for _, pattern := range []string{"$presence/**", "$x", "%24x", "*", "**", "*/a", "public*", "**/a"} {
		if a := f.call("GET", "/v1/events?channel="+pattern, "", may); a.status != 403 && a.status != 400 {
			t.Errorf("%s: %d", pattern, a.status)
		}
	}
}

// TestSmuggling: requests that two readers could take for different ones are refused, and nothing
// behind them is answered.
func TestSmuggling(t *testing.T) {
	f := start(t, server.Options{})
	hidden := "POST /v1/channels/smuggled HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
	for name, request := range map[string]string{
		"both lengths": "POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: " +
			"chunked\r\n\r\n0\r\n\r\n" + hidden,
		"two lengths": "POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: " +
			fmt.Sprint(len(hidden)) + "\r\n\r\n" + hidden,
		"lengths in a list": "POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0, 5\r\n\r\n" +
			hidden,
		"a signed length": "POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: +0\r\n\r\n" +
			hidden,
		"unknown coding": "POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: " +
			"xchunked\r\n\r\n" + hidden,
		"two codings": "POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: " +
			"chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + hidden,
		"space before colon": "POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : " +
			"chunked\r\n\r\n0\r\n\r\n" + hidden,
		"folded": "POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding:\r\n " +
			"chunked\r\nContent-Length: 0\r\n\r\n" + hidden,
		"chunk size with garbage": "POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: " +
			"chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n" + hidden,
		"two hosts": "POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n" + hidden,
	} {
		conn, r := f.dial(request)
		_ = conn.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(r)
		if n := strings.Count(string(b), "HTTP/1.1 "); n > 1 {
			t.Errorf("%s: %d answers: %s", name, n, b)
		}
		_ = conn.Close()
	}
	// Bytes that follow a stream's request are not a request.
	conn, r := f.dial("GET /v1/events?channel=a HTTP/1.1\r\nHost: localhost\r\n\r\n" + hidden)
	readUntil(t, r, "heartbeat")
	_ = conn.Close()
	f.publish("a", "last")
	if data := f.dataOf("smuggled"); data != nil {
		t.Errorf("%q was smuggled in", data)
	}
}

// TestHeaders: long ones are taken up to the server's limit, and a token of 64 KB is no token.
func TestHeaders(t *testing.T) {
	f := secured(t, server.Options{}, auth.Options{})
	f.call("GET", "/v1/history?channel=a", "", bearer(strings.Repeat("x", 64<<10))).wantProblem(t, 401,
		"unauthenticated", "16 KiB")
	if a := f.call("GET", "/v1/history?channel=a", "", bearer(token("ada", time.Hour, "subscribe", "a")),
		"X-Long: "+strings.Repeat("x", 64<<10)); a.status != 200 {
		t.Errorf("%+v", a)
	}
}

// TestCORSWithRights: an allow-list, never credentials with *, Last-Event-ID allowed, problems
// readable.
func TestCORSWithRights(t *testing.T) {
	listed := secured(t, server.Options{Access: server.AccessOptions{Origins: []string{"https://app.example.com"}}},
		auth.Options{})
	any := secured(t, server.Options{Access: server.AccessOptions{Origins: []string{"*"}}}, auth.Options{})
	for _, c := range []struct {
		f             *fixture
		origin        string
		allow, creds  string
		preflight     string
		publishStatus int
	}{
		{listed, "https://app.example.com", "https://app.example.com", "true", "Last-Event-ID", 201},
		{listed, "https://evil.example", "", "", "", 403},
		// with rights, a page on somebody's own machine is a stranger
		{listed, "http://localhost:5173", "", "", "", 403},
		{any, "https://evil.example", "*", "", "Last-Event-ID", 201},
	} {
		ada := bearer(token("ada", time.Hour, "subscribe", "a", "publish", "a"))
		origin := "Origin: " + c.origin
		for _, a := range []answer{
			c.f.call("GET", "/v1/history?channel=a", "", origin, ada), c.f.call("GET", "/v1/history?channel=a", "",
				origin), c.f.call("GET", "/v1/history?channel=b", "", origin, ada),
			c.f.call("GET", "/v1/nothing", "", origin), c.f.call("HEAD", "/v1/events?channel=a", "", origin, ada),
		} {
			if a.header.Get("Access-Control-Allow-Origin") != c.allow ||
				a.header.Get("Access-Control-Allow-Credentials") != c.creds {
				t.Errorf("%s: %d %v", c.origin, a.status, a.header)
			}
		}
		pre := c.f.call("OPTIONS", "/v1/events", "", origin, "Access-Control-Request-Method: POST",
			"Access-Control-Request-Headers: authorization")
		if pre.status != http.StatusNoContent || !strings.Contains(pre.header.Get("Access-Control-Allow-Headers"),
			c.preflight) || (c.preflight == "") != (pre.header.Get("Access-Control-Allow-Headers") == "") {
			t.Errorf("%s: %+v", c.origin, pre)
		}
		if a := c.f.call("POST", "/v1/channels/a", "x", origin, ada); a.status != c.publishStatus {
			t.Errorf("%s: %+v", c.origin, a)
		}
	}
}
