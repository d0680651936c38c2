package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/server"
)

// pages reads all of a channel, page by page, and checks what a page promises.
func (e *entrance) pages(
	t *testing.T, hc *http.Client, channel string, limit int, header ...string,
) (data []string, pages int) {
	t.Helper()
	for after := ""; ; pages++ {
		a := e.do(hc, "GET", fmt.Sprintf("/v1/history?channel=%s&limit=%d%s", channel, limit, after), "", header...)
		var page historyPage
		if err := json.Unmarshal([]byte(a.body), &page); a.status != 200 || err != nil {
			t.Fatalf("%d %v %.200s", a.status, err, a.body)
		}
		if len(page.Events) > limit || (len(a.body) > 1<<20+100 && len(page.Events) > 1) {
			t.Errorf("a page of %d events has %d bytes", len(page.Events), len(a.body))
		}
		for _, e := range page.Events {
			data = append(data, e.Data)
		}
		if page.Gap != nil {
			t.Errorf("a gap: %v", page.Gap)
		}
		if page.Next == "" {
			return data, pages + 1
		}
		if n := len(page.Events); n == 0 || page.Events[n-1].ID != page.Next {
			t.Fatalf("next is %s after %d events", page.Next, n)
		}
		after = "&after=" + page.Next
	}
}

// TestPagesByBytes (P2): pages of at most 1 MiB of JSON bring events of all sizes, each once, in
// order.
func TestPagesByBytes(t *testing.T) {
	onAllWays(t, func(t *testing.T, w way) {
		e := enter(t, w, server.Options{})
		all := bearer(token("all", time.Hour, "publish", "**", "subscribe", "**"))
		hc := e.client()
		for name, c := range map[string]struct {
			sizes []int
			text  string
			pages map[int]int // by limit
		}{
			"small":    {[]int{1, 2, 3, 4, 5}, "x", map[int]int{1: 5, 2: 3, 5: 1, 1000: 1}},
			"large":    {[]int{1 << 20, 1 << 20, 10, 1 << 20}, "y", map[int]int{1: 4, 1000: 4}},
			"mixed":    {[]int{500_000, 500_000, 100_000, 10, 300_000, 600_000, 200_000}, "z", map[int]int{1000: 3}},
			"escaped":  {[]int{100_000, 100_000, 100_000, 174_000, 1_000_000, 1}, "\x01", map[int]int{1000: 6}},
			"unescape": {[]int{300_000, 40_000, 300_000}, "ü", map[int]int{2: 2, 1000: 1}},
		} {
			var want []string
			for i, n := range c.sizes {
				data := fmt.Sprint(i) + strings.Repeat(c.text, n/len(c.text))
				if len(data) > 1<<20 {
					data = data[:1<<20]
				}
				want = append(want, data)
				if a := e.do(hc, "POST", "/v1/channels/"+name, data, all); a.status != 201 {
					t.Fatalf("%+v", a)
				}
			}
			for limit, pages := range c.pages {
				got, n := e.pages(t, hc, name, limit, all)
				if len(got) != len(want) || n != pages {
					t.Errorf("%s by %d: %d events in %d pages, want %d in %d", name, limit, len(got), n, len(want),
						pages)
					continue
				}
				for i := range got {
					if got[i] != want[i] {
						t.Errorf("%s by %d: event %d is %.50q of %d bytes", name, limit, i, got[i], len(got[i]))
					}
				}
			}
		}
		// HEAD asks for no events, and reads none.
		before := e.log.Stats().EventsRead
		a := e.do(hc, "HEAD", "/v1/history?channel=large&limit=1000", "", all)
		if a.status != 200 || a.header.Get("Content-Type") != "application/json" || e.log.Stats().EventsRead != before {
			t.Errorf("%+v, and %d events were read", a, e.log.Stats().EventsRead-before)
		}
		e.do(hc, "HEAD", "/v1/history?channel=large&limit=0", "", all).wantStatus(t, 400)
	})
}

func (a answer) wantStatus(t *testing.T, status int) {
	t.Helper()
	if a.status != status {
		t.Errorf("got %d, want %d", a.status, status)
	}
}

// TestUnreadPagesHoldLittle (P5): of a page that nobody takes, the hub holds what it reads at once,
// however large the page, and nobody's turn to read the log.
func TestUnreadPagesHoldLittle(t *testing.T) {
	const requests, most = 20, 500 << 10 // with the connection, and the test's client
	onAllWays(t, func(t *testing.T, w way) {
		if w.taken {
			t.Skip("a GET goes back to net/http")
		}
		e := enter(t, w, server.Options{Streams: server.StreamOptions{MaxReplays: 2}})
		all := bearer(token("all", time.Hour, "publish", "**", "subscribe", "**"))
		events := make([]string, 16)
		for i := range events {
			events[i] = `{"channel":"a","data":"` + strings.Repeat("x", 1_000_000) + `"}`
		}
		if a := e.do(e.client(), "POST", "/v1/events", "["+strings.Join(events[:15], ",")+"]", all); a.status != 201 {
			t.Fatalf("%+v", a)
		}
		small := strings.Repeat(`{"channel":"b","data":"`+strings.Repeat("\\u0001", 10_000)+`"},`, 200)
		if a := e.do(e.client(), "POST", "/v1/events", "["+strings.TrimSuffix(small, ",")+"]", all); a.status != 201 {
			t.Fatalf("%+v", a)
		}
		events, small = nil, ""
		var clients []*http.Client
		for range requests {
			hc := e.client()
			e.do(hc, "GET", "/livez", "") // the connection is there
			clients = append(clients, hc)
		}
		before := heap()
		e.stall.Store(true)
		answers := make(chan answer, requests)
		for _, hc := range clients {
			go func() { answers <- e.do(hc, "GET", "/v1/history?channel=b&limit=1000", "", all) }()
		}
		for range requests {
			<-e.stalled
		}
		if each := (heap() - before) / requests; each > most {
			t.Errorf("each unread page holds %d bytes", each)
		}
		// All turns to read are free.
		if err := e.readNow(); err != nil {
			t.Error(err)
		}
		e.stall.Store(false)
		close(e.release)
		for range requests {
			if a := <-answers; a.status != 200 || !json.Valid([]byte(a.body)) {
				t.Errorf("%d, %d bytes", a.status, len(a.body))
			}
		}
		if held := e.inflight(t, func(n int) bool { return n == 0 }); held != 0 {
			t.Errorf("%d bytes are held by nobody", held)
		}
	})
}

// readNow reads a page past the connections.
func (e *entrance) readNow() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r := e.request("GET", "/v1/history?channel=a&limit=1", nil,
		bearer(token("other", time.Hour, "subscribe", "**"))).WithContext(ctx)
	w := new(recorder)
	e.srv.ServeHTTP(w, r)
	if w.status != 200 {
		return fmt.Errorf("another's page: %d %s", w.status, w.body.String())
	}
	return nil
}

type recorder struct {
	header http.Header
	status int
	body   strings.Builder
}

func (r *recorder) Header() http.Header {
	if r.header == nil {
		r.header = http.Header{}
	}
	return r.header
}
func (r *recorder) WriteHeader(status int)           { r.status = status }
func (r *recorder) Write(b []byte) (int, error)      { return r.body.Write(b) }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

// TestStalledPagesEnd: a page of which the peer takes nothing ends in time, also where the
// http.Server has no limit; what came is no whole answer; the cut is counted.
func TestStalledPagesEnd(t *testing.T) {
	t.Parallel()
	onAllWays(t, func(t *testing.T, w way) {
		e := enter(t, w, server.Options{Streams: server.StreamOptions{StallLimit: time.Second},
			Publish: server.PublishOptions{MaxEventBytes: 15 << 20}})
		all := bearer(token("all", time.Hour, "publish", "**", "subscribe", "**"))
		hc := e.client()
		// more than the kernel takes
		if a := e.do(hc, "POST", "/v1/channels/a", strings.Repeat("x", 15<<20), all); a.status != 201 {
			t.Fatalf("%+v", a)
		}
		resp, err := hc.Do(e.request("GET", "/v1/history?channel=a", nil, all))
		if err != nil {
			t.Fatal(err)
		}
		if n := e.figure(t, `fanfare_answers_cut_total{reason="stalled"}`, func(n int) bool { return n > 0 }); n != 1 {
			t.Errorf("%d cuts", n)
		}
		e.wait()
		if n, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Errorf("an answer that was cut after %d bytes looks like a whole one", n)
		}
		_ = resp.Body.Close()
		// One that is taken slowly, and faster than nothing, is whole.
		resp, err = e.client().Do(e.request("GET", "/v1/history?channel=a", nil, all))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(bufio.NewReaderSize(resp.Body, 512)); err != nil || !json.Valid(b) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	})
}

// troubledLog is a log that does something before some reading of history.
type troubledLog struct {
	server.Log
	reads  atomic.Int64
	before func(read int64, q fanfare.Query) error
}

func (l *troubledLog) Read(ctx context.Context, q fanfare.Query) (fanfare.Page, error) {
	if l.before != nil {
		if err := l.before(l.reads.Add(1), q); err != nil {
			return fanfare.Page{}, err
		}
	}
	return l.Log.Read(ctx, q)
}

// TestBrokenPages: a log that fails before the first byte is a problem document; one that fails
// later ends the answer so that nobody can take it for a whole one.
func TestBrokenPages(t *testing.T) {
	onAllWays(t, func(t *testing.T, w way) {
		e := enter(t, w, server.Options{})
		all := bearer(token("all", time.Hour, "publish", "**", "subscribe", "**"))
		hc := e.client()
		for range 10 {
			if a := e.do(hc, "POST", "/v1/channels/a", strings.Repeat("x", 50_000), all); a.status != 201 {
				t.Fatalf("%+v", a)
			}
		}
		trouble := &troubledLog{Log: e.log}
		e.replace(trouble)
		for fails := int64(1); fails <= 3; fails++ {
			trouble.reads.Store(0)
			trouble.before = func(read int64, _ fanfare.Query) error {
				if read == fails {
					return errors.New("a disk that died")
				}
				return nil
			}
			resp, err := e.client().Do(e.request("GET", "/v1/history?channel=a&limit=1000", nil, all))
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			switch {
			case fails == 1 && (resp.StatusCode != 500 || err != nil ||
				!strings.Contains(string(b), `"code":"internal"`)):
				t.Errorf("%d %s %v", resp.StatusCode, b, err)
			case fails > 1 && (err == nil || json.Valid(b)):
				t.Errorf("%d: half an answer of %d bytes looks like a whole one: %v", resp.StatusCode, len(b), err)
			}
		}
		if n := e.figure(t, `fanfare_answers_cut_total{reason="failed"}`, func(n int) bool { return n > 1 }); n != 2 {
			t.Errorf("%d cuts", n)
		}
	})
}

// TestRetentionOvertakesAPage (P4): a page ends where events were removed while it was read, and
// the next one begins with the gap.
func TestRetentionOvertakesAPage(t *testing.T) {
	e := enter(t, ways[0], server.Options{})
	all := bearer(token("all", time.Hour, "publish", "**", "subscribe", "**"))
	hc := e.client()
	rule, err := fanfare.ParseRule("a=count:6")
	if err == nil {
		err = e.log.SetRetention([]fanfare.Rule{rule})
	}
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	publish := func(n int) {
		for range n {
			ids = append(ids, e.do(hc, "POST", "/v1/channels/a", strings.Repeat("x", 50_000), all).json("id"))
		}
	}
	publish(6)
	trouble := &troubledLog{Log: e.log}
	e.replace(trouble)
	trouble.before = func(read int64, _ fanfare.Query) error {
		if read == 2 {
			publish(4)
		}
		return nil
	}
	var page historyPage
	if err := json.Unmarshal([]byte(e.do(hc, "GET", "/v1/history?channel=a&limit=1000", "", all).body),
		&page); err != nil {
		t.Fatal(err)
	}
	n := len(page.Events)
	if n == 0 || n >= 4 || page.Next != ids[n-1] || page.Gap != nil {
		t.Fatalf("%d events, next %s, gap %v", n, page.Next, page.Gap)
	}
	var rest historyPage
	if err := json.Unmarshal([]byte(e.do(hc, "GET", "/v1/history?channel=a&limit=1000&after="+page.Next, "", all).body),
		&rest); err != nil {
		t.Fatal(err)
	}
	if len(rest.Events) != 6 || rest.Gap == nil || rest.Events[0].ID != ids[4] {
		t.Errorf("%d events, gap %v", len(rest.Events), rest.Gap)
	}
}

// TestPagesShareTheBudget (P6): a large event comes out of the budget. Where there is no room the
// page ends before it, and when it would be the first, the page is refused; small pages find room
// all the same.
func TestPagesShareTheBudget(t *testing.T) {
	const event, most = 400 << 10, 2 << 20
	e := enter(t, ways[0], server.Options{Publish: server.PublishOptions{MaxRequestBytes: event, MaxEventBytes: event,
		MaxInflightBytes: most}})
	eve, bob := bearer(token("eve", time.Hour, "publish", "**", "subscribe", "**")), bearer(token("bob", time.Hour,
		"subscribe", "**"))
	hc := e.client()
	for _, data := range []string{"1", strings.Repeat("2", event), "3"} {
		if a := e.do(hc, "POST", "/v1/channels/a", data, eve); a.status != 201 {
			t.Fatalf("%+v", a)
		}
	}
	for range 3 { // of the 1 MiB that one may
		go e.upload("/v1/events", 250_000, eve).send(249_999)
	}
	e.inflight(t, func(n int) bool { return n >= 750_000 })
	var page historyPage
	a := e.do(hc, "GET", "/v1/history?channel=a", "", eve)
	if err := json.Unmarshal([]byte(a.body), &page); err != nil || len(page.Events) != 1 ||
		page.Next != page.Events[0].ID {
		t.Fatalf("%d %.300s", a.status, a.body)
	}
	e.do(hc, "GET", "/v1/history?channel=a&after="+page.Next, "", eve).wantProblem(t, 503, "overloaded",
		"--max-inflight-bytes")
	if data, _ := e.pages(t, hc, "a", 100, bob); len(data) != 3 {
		t.Errorf("another's pages have %d events", len(data))
	}
}
