package server_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/server"
	"github.com/fanfare-hub/fanfare/sse"
)

// tab is an EventSource: it comes back with the same URL and the last id, until it is answered
// another status than 200.
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
	b := &tab{t: t, hc: hc, url: url, opened: make(chan string, 1000), heard: make(chan string, 1000),
		closed: make(chan int, 1), cancel: cancel}
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
	case <-time.After(time.Minute):
		t.Fatal("waited in vain: " + what)
	}
	return v
}

// TestTwoTabsWithOneTicket: the newer one takes the stream, the older one is told to stay away at
// its next try, and the newer one goes on undisturbed.
func TestTwoTabsWithOneTicket(t *testing.T) {
	if eachKind(t, TestTwoTabsWithOneTicket) {
		return
	}
	f := secured(t, server.Options{}, auth.Options{})
	ada := bearer(token("ada", time.Hour, "subscribe", "a", "publish", "a", "admin", "**"))
	for _, busy := range []bool{false, true} {
		url := f.url(f.ticket(ada))
		one := openTab(t, f.long, url)
		wait(t, "the first tab opens", one.opened)
		if busy { // the two have different ids then
			f.call("POST", "/v1/channels/a", "1", ada)
			wait(t, "the first tab hears", one.heard)
		}
		two := openTab(t, f.long, url)
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
	}
	f.metric(t, "fanfare_streams_stopped_total 2", ada)
}

// ticket makes a ticket for channel a, and returns the path of its stream.
func (f *fixture) ticket(by string) string {
	f.t.Helper()
	link := f.call("POST", "/v1/tickets", `{"channels":["a"]}`, by).json("url")
	if !strings.HasPrefix(link, "/v1/events?") {
		link = "/v1/" + link // relative to the call
	}
	return link
}

// TestTwoTabsWithoutIDs: tabs that have never had an id are told after a few rounds.
func TestTwoTabsWithoutIDs(t *testing.T) {
	if eachKind(t, TestTwoTabsWithoutIDs) {
		return
	}
	f := secured(t, server.Options{}, auth.Options{})
	url := f.url(f.ticket(bearer(token("ada", time.Hour, "subscribe", "a")))) + "&heartbeatEvent=false"
	one, two := openTab(t, f.long, url), openTab(t, f.long, url)
	var status int
	select {
	case status = <-one.closed:
	case status = <-two.closed:
	case <-time.After(time.Minute):
	}
	if n := len(one.opened) + len(two.opened); status != 204 || n > 6 {
		t.Errorf("%d after %d rounds", status, n)
	}
}

// TestOneTabWhoseConnectionIsCut: a client that comes back is let in, always: whether its
// connection was closed, reset, or is half-dead, and, when the hub can see that it was cut, also if
// another tab had the ticket before.
func TestOneTabWhoseConnectionIsCut(t *testing.T) {
	if eachKind(t, TestOneTabWhoseConnectionIsCut) {
		return
	}
	f := secured(t, server.Options{}, auth.Options{})
	ada := bearer(token("ada", time.Hour, "subscribe", "a"))
	for name, cut := range map[string]func(*wired){
		"closed": (*wired).close, "reset": (*wired).reset, "half-dead": func(*wired) {},
	} {
		link := f.ticket(ada)
		open := func(last string) (*wired, string) {
			w := f.open(link, "Last-Event-ID: "+last) // an empty one is none
			w.until("id: ")
			return w, strings.TrimSpace(w.until("\n"))
		}
		w, last := open("")
		for range 5 {
			cut(w)
			w, last = open(last)
		}
		if name == "half-dead" {
			continue
		}
		// A second page takes the ticket; its own connection is cut, and it comes back with the id
		// that the first one had, too.
		w, last = open("")
		for range 5 {
			cut(w)
			w, last = open(last)
		}
	}
}
