package server_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/server"
)

// compressing is a middleware as there are many: it compresses what clients take compressed, can
// flush, and can be taken over.
func compressing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		r.Header.Del("Accept-Encoding")
		z := &compressed{ResponseWriter: w, gzip: gzip.NewWriter(w)}
		next.ServeHTTP(z, r)
		_ = z.gzip.Close()
	})
}

type compressed struct {
	http.ResponseWriter
	gzip *gzip.Writer
}

func (c *compressed) WriteHeader(status int) {
	c.Header().Del("Content-Length")
	c.ResponseWriter.WriteHeader(status)
}

func (c *compressed) Write(b []byte) (int, error) {
	c.Header().Del("Content-Length")
	return c.gzip.Write(b)
}

func (c *compressed) Flush() {
	_ = c.gzip.Flush()
	c.ResponseWriter.(http.Flusher).Flush()
}

func (c *compressed) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return c.ResponseWriter.(http.Hijacker).Hijack()
}

// TestBehindACompressingHandler: the stream is what its head says, and each event comes at once.
func TestBehindACompressingHandler(t *testing.T) {
	f := start(t, server.Options{})
	front := httptest.NewServer(compressing(f.srv))
	defer front.Close()
	for _, path := range []string{"/v1/events?channel=a", "/v1/stores/event-sources?storeId=1&pcId=2"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, front.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept-Encoding", "gzip")
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("%s: %v", path, resp.Header)
		}
		z, err := gzip.NewReader(resp.Body)
		if err != nil {
			t.Fatalf("%s says gzip and is not: %v", path, err)
		}
		lines := bufio.NewReader(z)
		until := func(text string) {
			t.Helper()
			for {
				line, err := lines.ReadString('\n')
				if err != nil {
					t.Fatalf("no %q: %v", text, err)
				}
				if strings.Contains(line, text) {
					return
				}
			}
		}
		until("data: ")
		f.call("POST", "/v1/channels/a", "hello")
		f.call("POST", "/v1/stores/1/events", `{"event":"hello"}`)
		until("hello")
		cancel()
		_ = resp.Body.Close()
	}
	// A publisher's connection is not taken over either.
	for range 3 {
		req, err := http.NewRequest(http.MethodPost, front.URL+"/v1/channels/a", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req) // which asks for gzip, and takes it off
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 201 ||
			!strings.Contains(string(b), `"id"`) {
			t.Errorf("%v %d %q", err, resp.StatusCode, b)
		}
		_ = resp.Body.Close()
	}
}

// TestBehindAHandlerThatHoldsBack: a stream that nobody would see before its end is refused at
// once.
func TestBehindAHandlerThatHoldsBack(t *testing.T) {
	f := start(t, server.Options{})
	front := httptest.NewServer(http.TimeoutHandler(f.srv, time.Minute, "too late"))
	defer front.Close()
	for _, c := range []struct{ method, path, kind string }{
		{"GET", "/v1/events?channel=a", ""}, {"GET", "/v1/stores/event-sources?storeId=1&pcId=2", ""},
		{"GET", "/v1/stats", ""}, {"POST", "/v1/events", "application/x-ndjson"},
	} {
		req, err := http.NewRequest(c.method, front.URL+c.path, strings.NewReader(`{"channel":"a","data":"x"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", c.kind)
		req.Header.Set("Accept", "text/event-stream")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 500 || !strings.Contains(string(b), "mount the hub outside") {
			t.Errorf("%s: %d %s", c.path, resp.StatusCode, b)
		}
	}
	if resp, err := http.Get(front.URL + "/v1/history?channel=a"); err != nil || resp.StatusCode != 200 {
		t.Errorf("%v %+v", err, resp)
	} else {
		_ = resp.Body.Close()
	}
}

// TestEmptyLinesBetweenRequests (RFC 9112, section 2.2), on a publisher's connection that was taken
// over, and on one that was not.
func TestEmptyLinesBetweenRequests(t *testing.T) {
	f := start(t, server.Options{})
	post := "POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
	conn, r := f.dial(post)
	for i := range 4 {
		readUntil(t, r, `"id"`)
		if i == 2 { // in pieces
			_, _ = io.WriteString(conn, "\r\n")
			_, _ = io.WriteString(conn, "\r\n\r\n"+post[:10])
			_, _ = io.WriteString(conn, post[10:])
			continue
		}
		_, _ = io.WriteString(conn, "\r\n"+post)
	}
	readUntil(t, r, `"id"`)
	_, _ = io.WriteString(conn, "\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n") // goes back to net/http
	readUntil(t, r, `{"status":"ok"}`)
}
