package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/server"
	"github.com/fanfare-hub/fanfare/sse"
)

// tab is an EventSource: it comes back with the same URL and the last id, until it is answered another status than 200.
type tab struct {
	t      *testing.T
	hc     *http.Client
	url    string
	last   string
	opened chan string
	heard  chan string
	closed chan int // the status
	cancel context.CancelFunc
}

func openTab(t *testing.T, hc *http.Client, url string) *tab {
	ctx, cancel := context.WithCancel(t.Context())
	b := &tab{t: t, hc: hc, url: url, opened: make(chan string, 1000), heard: make(chan string, 1000), closed: make(chan int, 1), cancel: cancel}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil && b.try(ctx) {
			select {
			case <-time.After(20 * time.Millisecond): // its `retry:`, sooner
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return b
}

func (b *tab) try(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, "GET", b.url, nil)
	if err != nil {
		b.t.Error(err)
		return false
	}
	req.Header.Set("Accept", "text/event-stream")
	if b.last != "" {
		req.Header.Set("Last-Event-ID", b.last)
	}
	resp, err := b.hc.Do(req)
	if err != nil {
		return true
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		b.closed <- resp.StatusCode
		return false
	}
	b.opened <- b.last
	p := sse.Parser{Handler: sse.Handler{Event: func(e sse.Event) {
		b.last = e.LastEventID
		if e.Type != "heartbeat" {
			b.heard <- e.Data
		}
	}}}
	_, _ = io.Copy(&p, resp.Body)
	return true
}

func wait[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		t.Fatal("waited in vain: " + what)
	}
	return v
}

// wires are the kinds of connections to a hub.
func wires(t *testing.T, f *fixture, test func(t *testing.T, hc *http.Client, base string)) {
	t.Run("HTTP/1.1", func(t *testing.T) {
		hc := &http.Client{Transport: &http.Transport{}}
		defer hc.CloseIdleConnections()
		test(t, hc, f.web.URL)
	})
	web := httptest.NewUnstartedServer(f.srv)
	web.EnableHTTP2 = true
	web.StartTLS()
	defer web.Close()
	for name, hc := range map[string]*http.Client{
		"HTTP/2": web.Client(),
		"TLS":    {Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}},
	} {
		t.Run(name, func(t *testing.T) {
			defer hc.CloseIdleConnections()
			test(t, hc, web.URL)
		})
	}
}

// TestTwoTabsWithOneTicket: the newer one takes the stream, the older one is told to stay away at its next try, and the newer one goes
// on undisturbed.
func TestTwoTabsWithOneTicket(t *testing.T) {
	f := secured(t, server.Options{}, auth.Options{})
	ada := bearer(token("ada", time.Hour, "subscribe", "a", "publish", "a", "admin", "**"))
	for _, busy := range []bool{false, true} {
		wires(t, f, func(t *testing.T, hc *http.Client, base string) {
			url := base + f.call("POST", "/v1/tickets", `{"channels":["a"]}`, ada).json("url")
			one := openTab(t, hc, url)
			wait(t, "the first tab opens", one.opened)
			if busy { // the two have different ids then
				f.call("POST", "/v1/channels/a", "1", ada)
				wait(t, "the first tab hears", one.heard)
			}
			two := openTab(t, hc, url)
			wait(t, "the second tab opens", two.opened)
			if status := wait(t, "the first tab is told", one.closed); status != 204 {
				t.Errorf("the first tab is told %d", status)
			}
			f.call("POST", "/v1/channels/a", "2", ada)
			if data := wait(t, "the second tab hears", two.heard); data != "2" {
				t.Errorf("%q", data)
			}
			select {
			case last := <-two.opened:
				t.Errorf("the second tab has had to come back, with %q", last)
			case last := <-one.opened:
				t.Errorf("the first tab was let in again, with %q", last)
			default:
			}
		})
	}
	f.metric(t, "fanfare_streams_stopped_total 6", ada)
}

// TestTwoTabsWithoutIDs: tabs that have never had an id are told after a few rounds.
func TestTwoTabsWithoutIDs(t *testing.T) {
	f := secured(t, server.Options{}, auth.Options{})
	ada := bearer(token("ada", time.Hour, "subscribe", "a"))
	url := f.url(f.call("POST", "/v1/tickets", `{"channels":["a"]}`, ada).json("url") + "&heartbeatEvent=false")
	one, two := openTab(t, http.DefaultClient, url), openTab(t, http.DefaultClient, url)
	var status int
	select {
	case status = <-one.closed:
	case status = <-two.closed:
	case <-time.After(20 * time.Second):
	}
	if n := len(one.opened) + len(two.opened); status != 204 || n > 6 {
		t.Errorf("%d after %d rounds", status, n)
	}
}

// cutStream opens a stream and returns its connection and its first id.
func cutStream(t *testing.T, addr, link, last string) (net.Conn, string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if last != "" {
		last = "Last-Event-ID: " + last + "\r\n"
	}
	if _, err := io.WriteString(conn, "GET "+link+" HTTP/1.1\r\nHost: x\r\n"+last+"\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	line := ""
	for line = readUntil(t, r, "\n"); !strings.HasPrefix(line, "id: "); line = readUntil(t, r, "\n") {
		if strings.HasPrefix(line, "HTTP/") && !strings.Contains(line, " 200 ") {
			t.Fatalf("answered %s", line)
		}
	}
	return conn, strings.TrimSpace(strings.TrimPrefix(line, "id: "))
}

// TestOneTabWhoseConnectionIsCut: a client that comes back is let in, always: whether its connection was closed, reset, or is half-dead,
// and also when another tab had the ticket before.
func TestOneTabWhoseConnectionIsCut(t *testing.T) {
	f := secured(t, server.Options{}, auth.Options{})
	ada := bearer(token("ada", time.Hour, "subscribe", "a"))
	for name, cut := range map[string]func(net.Conn){
		"closed":    func(c net.Conn) { _ = c.Close() },
		"reset":     func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); _ = c.Close() },
		"half-dead": func(net.Conn) {},
	} {
		t.Run(name, func(t *testing.T) {
			link := f.call("POST", "/v1/tickets", `{"channels":["a"]}`, ada).json("url")
			conn, last := cutStream(t, f.addr(), link, "")
			for range 10 {
				cut(conn)
				conn, last = cutStream(t, f.addr(), link, last)
			}
			if name == "half-dead" {
				return
			}
			// A second page takes the ticket; its own connection is cut, and it comes back with the id that the first one had, too.
			conn, last = cutStream(t, f.addr(), link, "")
			for range 10 {
				cut(conn)
				conn, last = cutStream(t, f.addr(), link, last)
			}
		})
	}
}
