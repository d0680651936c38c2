package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/pebblelog"
	"github.com/fanfare-hub/fanfare/server"
)

// way is a way in for requests. The promises about requests and answers are tested on all ways.
type way struct {
	name       string
	tls, http2 bool
	taken      bool // on a publisher's connection that was taken over
}

var ways = []way{{name: "net/http"}, {name: "taken over", taken: true}, {name: "TLS", tls: true},
	{name: "HTTP/2", tls: true, http2: true}, {name: "h2c", http2: true}}

// onAllWays runs a test for each way.
func onAllWays(t *testing.T, test func(t *testing.T, w way)) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) { test(t, w) })
	}
}

// entrance is a fixture whose web server is reached by a way, and which knows what its handlers do.
type entrance struct {
	*fixture
	way  way
	read chan struct{} // a token for each request of which a byte of the body has been read
	over chan *upload  // those that were answered, or broke

	mu      sync.Mutex
	running int       // requests
	fewer   sync.Cond // on mu: running has fallen

	stalled chan struct{} // a token for each connection that was written to while stall was set
	stall   atomic.Bool   // connections do not take what is written from now on
	release chan struct{} // ends that
}

// enter makes a hub that is reached by a way. Its tokens are those of secured.
func enter(t *testing.T, w way, o server.Options) *entrance {
	t.Helper()
	e := &entrance{way: w, read: make(chan struct{}, 10_000), over: make(chan *upload, 10_000),
		stalled: make(chan struct{}, 10_000), release: make(chan struct{})}
	e.fewer.L = &e.mu
	e.fixture = secured(t, o, auth.Options{})
	e.srv.Close()
	e.web.Close()
	e.o.Publish.Detach, e.o.Log = w.taken, e.log
	var err error
	if e.srv, err = server.New(e.o); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e.web = httptest.NewUnstartedServer(e)
	_ = e.web.Listener.Close()
	e.web.Listener = stallingListener{listener, e}
	e.web.EnableHTTP2 = w.http2
	switch {
	case w.tls:
		e.web.StartTLS()
	case w.http2:
		e.web.Config.Protocols = new(http.Protocols)
		e.web.Config.Protocols.SetUnencryptedHTTP2(true)
		fallthrough
	default:
		e.web.Start()
	}
	return e
}

// replace has another server serve another log.
func (e *entrance) replace(log server.Log) {
	e.t.Helper()
	_ = e.srv.Close()
	o := e.o
	o.Log = log
	var err error
	if e.srv, err = server.New(o); err != nil {
		e.t.Fatal(err)
	}
}

// ServeHTTP implements http.Handler.
func (e *entrance) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.run(1)
	defer e.run(-1)
	if _, whole := r.Body.(interface{ Text() string }); !whole {
		r.Body = &firstRead{ReadCloser: r.Body, read: e.read}
	}
	e.srv.ServeHTTP(w, r)
}

func (e *entrance) run(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running += n
	e.fewer.Broadcast()
}

// wait waits until no request runs.
func (e *entrance) wait() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.running > 0 {
		e.fewer.Wait()
	}
}

type firstRead struct {
	io.ReadCloser
	read chan struct{}
	done bool
}

func (f *firstRead) Read(b []byte) (int, error) {
	n, err := f.ReadCloser.Read(b)
	if n > 0 && !f.done {
		f.done = true
		f.read <- struct{}{}
	}
	return n, err
}

// stallingListener gives connections that can be made to take nothing.
type stallingListener struct {
	net.Listener
	e *entrance
}

func (l stallingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil || l.e.way.taken {
		return conn, err // a socket of ours could not be taken over
	}
	return &stallingConn{Conn: conn, e: l.e}, nil
}

type stallingConn struct {
	net.Conn
	e    *entrance
	once sync.Once
}

func (c *stallingConn) Write(b []byte) (int, error) {
	if c.e.stall.Load() {
		c.once.Do(func() { c.e.stalled <- struct{}{} })
		<-c.e.release
	}
	return c.Conn.Write(b)
}

// client is one with a connection of its own.
func (e *entrance) client() *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: e.way.http2,
		WriteBufferSize: 512}
	if e.way.http2 && !e.way.tls {
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	e.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// upload is a POST whose body is sent bit by bit.
type upload struct {
	body   *io.PipeWriter
	answer answer // once it is over; status 0: it broke
}

// upload begins a POST that announces a length, on a connection of its own.
func (e *entrance) upload(path string, announced int64, header ...string) *upload {
	e.t.Helper()
	hc := e.client()
	if e.way.taken {
		if a := e.do(hc, "POST", "/v1/channels/first", "x", header...); a.status != 201 {
			e.t.Fatalf("%+v", a)
		}
	}
	from, to := io.Pipe()
	u := &upload{body: to}
	req := e.request("POST", path, from, header...)
	req.ContentLength = announced
	ctx, cancel := context.WithCancel(context.Background())
	e.t.Cleanup(func() { cancel(); _ = to.Close() })
	go func() {
		resp, err := hc.Do(req.WithContext(ctx))
		if err == nil {
			b, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			u.answer = answer{resp.StatusCode, resp.Header, strings.TrimSuffix(string(b), "\n")}
		}
		_ = from.CloseWithError(io.ErrClosedPipe)
		e.over <- u
	}()
	return u
}

func (u *upload) send(n int) { _, _ = u.body.Write(bytes.Repeat([]byte("x"), n)) }

// give ends the request in its middle.
func (u *upload) giveUp() { _ = u.body.CloseWithError(io.ErrUnexpectedEOF) }

func (e *entrance) request(method, path string, body io.Reader, header ...string) *http.Request {
	e.t.Helper()
	req, err := http.NewRequest(method, e.url(path), body)
	if err != nil {
		e.t.Fatal(err)
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	return req
}

func (e *entrance) do(hc *http.Client, method, path, body string, header ...string) answer {
	e.t.Helper()
	resp, err := hc.Do(e.request(method, path, strings.NewReader(body), header...))
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, strings.TrimSuffix(string(b), "\n")}
}

// inflight waits until the number of bytes that the hub holds fits, and returns it.
func (e *entrance) inflight(t *testing.T, fits func(int) bool) (held int) {
	t.Helper()
	return e.figure(t, "fanfare_inflight_bytes", fits)
}

// figure waits for a metric that fits, and returns it, or the last one.
func (e *entrance) figure(t *testing.T, name string, fits func(int) bool) (value int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
		r, w := e.request("GET", "/metrics", nil,
			bearer(token("root", time.Hour, "admin", "**"))), httptest.NewRecorder()
		e.srv.ServeHTTP(w, r) // the connections may take nothing
		for line := range strings.SplitSeq(w.Body.String(), "\n") {
			if text, ok := strings.CutPrefix(line, name+" "); ok {
				var n float64
				_, _ = fmt.Sscan(text, &n)
				value = int(n)
			}
		}
		if fits(value) || time.Now().After(deadline) {
			return value
		}
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestAnnouncedIsNotAllocated: memory follows the bytes that have come, for everything that reads a
// body. (Each of these requests once had all that it announced.)
func TestAnnouncedIsNotAllocated(t *testing.T) {
	const requests, most = 20, 900 << 10 // with the test's own client
	onAllWays(t, func(t *testing.T, w way) {
		e := enter(t, w, server.Options{})
		all := bearer(token("all", time.Hour, "admin", "**", "publish", "**", "subscribe", "**"))
		for _, c := range []struct {
			path      string
			announced int64
			header    string
		}{
			{"/v1/events", 16_000_000, "Content-Type: application/json"},
			{"/v1/events", 16_000_000, "Content-Type: application/x-ndjson"},
			{"/v1/channels/a", 1_000_000, "Content-Type: text/plain"},
			{"/v1/stores/1/pcs/2/events", 16_000_000, "Content-Type: application/json"},
		} {
			before := allocated()
			var uploads []*upload
			for range requests {
				uploads = append(uploads, e.upload(c.path, c.announced, c.header, all))
			}
			for _, u := range uploads {
				u.send(2000)
			}
			for range requests {
				<-e.read
			}
			for _, u := range uploads {
				u.giveUp()
			}
			e.wait()
			if each := int(allocated()-before) / requests; each > most {
				t.Errorf("%s (%s): %d bytes were allocated for each request of 2,000", c.path, c.header, each)
			}
		}
	})
}

// TestBodiesShareABudget (P6): one caller's bodies that do not come to their end leave room for
// others, the one too many is refused with the limit's name, and all of it is free again when they
// are gone.
func TestBodiesShareABudget(t *testing.T) {
	const body, most = 128 << 10, 1 << 20
	onAllWays(t, func(t *testing.T, w way) {
		e := enter(t, w, server.Options{Publish: server.PublishOptions{MaxRequestBytes: body, MaxEventBytes: body,
			MaxInflightBytes: most}})
		eve, bob := bearer(token("eve", time.Hour, "publish", "**")), bearer(token("bob", time.Hour, "publish", "**"))
		var uploads []*upload
		for range 16 {
			u := e.upload("/v1/events", body, eve)
			uploads = append(uploads, u)
			go u.send(body - 1)
		}
		// at once, though its body has not come
		(<-e.over).answer.wantProblem(t, 503, "overloaded", "--max-inflight-bytes")
		if n := e.figure(t, `fanfare_refusals_total{reason="max_inflight_bytes"}`,
			func(n int) bool { return n > 0 }); n == 0 {
			t.Error("the refusals have no counter")
		}
		if held := e.inflight(t, func(n int) bool { return n > most/4 && n <= most/2 }); held <= most/4 ||
			held > most/2 {
			t.Errorf("%d bytes held of %d", held, most)
		}
		// Another one's small and large ones find room.
		if a := e.do(e.client(), "POST", "/v1/channels/a", "x", bob); a.status != 201 {
			t.Errorf("%+v", a)
		}
		if a := e.do(e.client(), "POST", "/v1/channels/a", strings.Repeat("x", body), bob); a.status != 201 {
			t.Errorf("%+v", a)
		}
		for _, u := range uploads {
			u.giveUp()
		}
		if held := e.inflight(t, func(n int) bool { return n == 0 }); held != 0 {
			t.Errorf("%d bytes are held by nobody", held)
		}
		if a := e.do(e.client(), "POST", "/v1/channels/a", strings.Repeat("x", body), eve); a.status != 201 {
			t.Errorf("%+v", a)
		}
	})
}

// TestSlowBodiesEnd: a body that holds some of the budget must come in time, also where the
// http.Server has no limit for that.
func TestSlowBodiesEnd(t *testing.T) {
	t.Parallel()
	onAllWays(t, func(t *testing.T, w way) {
		e := enter(t, w, server.Options{Publish: server.PublishOptions{BodyTimeout: 2 * time.Second}})
		for path, header := range map[string]string{"/v1/events": "Content-Type: application/json",
			"/v1/channels/a": "Content-Type: text/plain"} {
			u := e.upload(path, 1_000_000, header, bearer(token("eve", time.Hour, "publish", "**")))
			go u.send(900_000)
			(<-e.over).answer.wantProblem(t, 400, "invalid", "--body-timeout")
		}
		if held := e.inflight(t, func(n int) bool { return n == 0 }); held != 0 {
			t.Errorf("%d bytes are held by nobody", held)
		}
		// One that came in time is not cut afterwards: the connection's next request is answered.
		hc := e.client()
		for range 3 {
			if a := e.do(hc, "POST", "/v1/channels/a", strings.Repeat("x", 900_000),
				bearer(token("bob", time.Hour, "publish", "**"))); a.status != 201 {
				t.Errorf("%+v", a)
			}
		}
	})
}

// TestLargeLinesShareTheBudget: a line that finds no room is refused by its number, and the lines
// after it are stored.
func TestLargeLinesShareTheBudget(t *testing.T) {
	const line, most = 512 << 10, 2 << 20
	onAllWays(t, func(t *testing.T, w way) {
		e := enter(t, w, server.Options{Publish: server.PublishOptions{MaxRequestBytes: line, MaxEventBytes: line,
			MaxInflightBytes: most}})
		eve := bearer(token("eve", time.Hour, "publish", "**"))
		// With a line of 512 KiB that does not end the caller holds half of what one may, and
		// another one would be copied from 256 KiB.
		holder := e.upload("/v1/events", -1, "Content-Type: application/x-ndjson", eve)
		holder.send(line - 1)
		if held := e.inflight(t, func(n int) bool { return n >= most/4 }); held < most/4 || held > most/2 {
			t.Fatalf("%d bytes held of %d", held, most)
		}
		large := `{"channel":"a","data":"` + strings.Repeat("x", line-100) + `"}` + "\n"
		small := `{"channel":"a","data":"small"}` + "\n"
		a := e.do(e.client(), "POST", "/v1/events", small+large+small, "Content-Type: application/x-ndjson", eve)
		answers := strings.Split(a.body, "\n")
		if len(answers) != 3 || !strings.Contains(answers[0], `"id"`) ||
			!strings.Contains(answers[1], `"code":"overloaded"`) ||
			!strings.Contains(answers[1], `"line":2`) || !strings.Contains(answers[1], "--max-inflight-bytes") ||
			!strings.Contains(answers[2], `"id"`) {
			t.Errorf("%s", a.body)
		}
		holder.giveUp()
		<-e.over
		if held := e.inflight(t, func(n int) bool { return n == 0 }); held != 0 {
			t.Errorf("%d bytes are held by nobody", held)
		}
		if a := e.do(e.client(), "POST", "/v1/events", large, "Content-Type: application/x-ndjson",
			eve); !strings.Contains(a.body, `"id"`) {
			t.Errorf("%+v", a)
		}
	})
}

// TestSlowLinesEnd: a line that holds some of the budget must come to its end in time, or it ends
// the body.
func TestSlowLinesEnd(t *testing.T) {
	t.Parallel()
	onAllWays(t, func(t *testing.T, w way) {
		e := enter(t, w, server.Options{Publish: server.PublishOptions{BodyTimeout: 2 * time.Second}})
		u := e.upload("/v1/events", -1, "Content-Type: application/x-ndjson",
			bearer(token("eve", time.Hour, "publish", "**")))
		go u.send(500_000)
		<-e.over
		if u.answer.status != 200 || !strings.Contains(u.answer.body, "--body-timeout") ||
			!strings.Contains(u.answer.body, `"line":1`) {
			t.Errorf("%+v", u.answer)
		}
		if held := e.inflight(t, func(n int) bool { return n == 0 }); held != 0 {
			t.Errorf("%d bytes are held by nobody", held)
		}
	})
}

// TestUnreadAnswersShareTheBudget: of answers that nobody takes, each body holds 64 KiB and what
// its caller's share allows.
func TestUnreadAnswersShareTheBudget(t *testing.T) {
	const most, bodies = 2 << 20, 10
	onAllWays(t, func(t *testing.T, w way) {
		if w.taken {
			t.Skip("NDJSON is never answered there")
		}
		e := enter(t, w, server.Options{Publish: server.PublishOptions{MaxRequestBytes: 64 << 10,
			MaxEventBytes: 64 << 10, MaxInflightBytes: most}})
		eve := bearer(token("eve", time.Hour, "publish", "**"))
		var uploads []*upload
		for range bodies {
			uploads = append(uploads, e.upload("/v1/events", -1, "Content-Type: application/x-ndjson", eve))
		}
		for _, u := range uploads {
			_, _ = io.WriteString(u.body, "x\n")
		}
		for range bodies {
			<-e.read
		}
		e.stall.Store(true)
		for _, u := range uploads {
			go func() { // more lines than their answers find room
				for range 30_000 {
					if _, err := io.WriteString(u.body, "x\nx\nx\nx\n"); err != nil {
						return
					}
				}
			}()
		}
		for range bodies {
			<-e.stalled
		}
		if held := e.inflight(t, func(n int) bool { return n > most/2-1000 }); held > most/2 || held <= most/2-1000 {
			t.Errorf("%d bytes are held of %d", held, most)
		}
		e.stall.Store(false)
		close(e.release)
		for _, u := range uploads {
			u.giveUp()
		}
		for range bodies {
			<-e.over
		}
		e.wait()
		if held := e.inflight(t, func(n int) bool { return n == 0 }); held != 0 {
			t.Errorf("%d bytes are held by nobody", held)
		}
	})
}

// TestEncodedBodiesAreRefused: 415 with Accept-Encoding on every call that takes a body, and
// nothing is stored.
func TestEncodedBodiesAreRefused(t *testing.T) {
	onAllWays(t, func(t *testing.T, w way) {
		e := enter(t, w, server.Options{LogLevel: new(slog.LevelVar)})
		all := bearer(token("all", time.Hour, "publish", "**", "subscribe", "**", "admin", "**"))
		hc := e.client()
		for _, path := range []string{
			"/v1/events", "/v1/channels/a", "/v1/stores/events", "/v1/stores/1/events", "/v1/stores/1/pcs/2/events",
			"/v1/tickets",
			"/v1/admin/log-level", "/v1/admin/disconnect", "/v1/admin/revoke", "/v1/admin/backup",
		} {
			// a taken connection is taken again
			if a := e.do(hc, "POST", "/v1/channels/other", "x", all); a.status != 201 {
				t.Fatalf("%+v", a)
			}
			for _, coding := range []string{"gzip", "identity, br", "x-unheard-of"} {
				a := e.do(hc, "POST", path, `{"channel":"a","data":"x","event":"REBOOT"}`, all,
					"Content-Encoding: "+coding)
				a.wantProblem(t, 415, "unsupported_media_type", "Content-Encoding")
				if a.header.Get("Accept-Encoding") != "identity" {
					t.Errorf("%s: Accept-Encoding is %q", path, a.header.Get("Accept-Encoding"))
				}
			}
		}
		e.do(hc, "POST", "/v1/events", "{}\n", all, "Content-Encoding: gzip",
			"Content-Type: application/x-ndjson").wantProblem(t, 415, "unsupported_media_type", "gzip")
		for _, coding := range []string{"identity", "Identity"} {
			if a := e.do(hc, "POST", "/v1/channels/b", "x", all, "Content-Encoding: "+coding); a.status != 201 {
				t.Errorf("%s: %+v", coding, a)
			}
		}
		if a := e.do(hc, "GET", "/v1/history?channel=a", "", all); a.body != `{"events":[]}` {
			t.Errorf("%s", a.body)
		}
		// A bad token is refused first.
		e.do(hc, "POST", "/v1/events", "x", bearer("bad"), "Content-Encoding: gzip").wantProblem(t, 401,
			"unauthenticated", "")
	})
}

// TestManyHeadersAreRefused: net/http's cost of a request with very many headers lasts as long as
// the request, which is not long.
func TestManyHeadersAreRefused(t *testing.T) {
	onAllWays(t, func(t *testing.T, w way) {
		e := enter(t, w, server.Options{})
		all := bearer(token("all", time.Hour, "publish", "**", "subscribe", "**"))
		for n, status := range map[int]int{200: 200, 300: 400} {
			header := []string{all}
			for i := range n {
				header = append(header, fmt.Sprintf("X-%d: ", i))
			}
			a := e.do(e.client(), "GET", "/v1/history?channel=a", "", header...)
			if a.status != status {
				t.Errorf("%d headers: %d", n, a.status)
			}
			if status == 400 {
				a.wantProblem(t, 400, "invalid", "256")
			}
		}
	})
}

// TestManyParametersAreRefused: what a query string costs is bounded by more than its bytes.
func TestManyParametersAreRefused(t *testing.T) {
	f := start(t, server.Options{})
	for _, path := range []string{"/v1/history?channel=a", "/v1/events?channel=a",
		"/v1/stores/event-sources?storeId=1&pcId=2", "/v1/stats?a=b"} {
		if a := f.call("HEAD", path+strings.Repeat("&x", 990), ""); a.status != 200 {
			t.Errorf("%s: %d", path, a.status)
		}
		f.call("GET", path+strings.Repeat("&x", 1000), "").wantProblem(t, 400, "invalid", "1000")
	}
}

// TestCommandsCostTheirBytes: a command's fields are held against the limit before they are put
// into JSON twice.
func TestCommandsCostTheirBytes(t *testing.T) {
	f := start(t, server.Options{Publish: server.PublishOptions{MaxEventBytes: 1000}})
	body := `{"event":"x","objectId":"` + strings.Repeat(`\"`, 4<<20) + `"}`
	before := allocated()
	f.call("POST", "/v1/stores/1/pcs/2/events", body).wantProblem(t, 413, "too_large", "objectId")
	if got := allocated() - before; got > 5*uint64(len(body)) { // the body in steps, its text, the test's own
		t.Errorf("%d bytes were allocated for a body of %d", got, len(body))
	}
	f.call("POST", "/v1/stores/1/pcs/2/events", `{"event":"`+strings.Repeat("x", 950)+`"}`).wantProblem(t, 413,
		"too_large", "--max-event-bytes")
}

// TestBudgetsThatCannotBe: a budget in which the largest body might never fit is refused at the
// start.
func TestBudgetsThatCannotBe(t *testing.T) {
	log, err := pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for _, c := range []struct {
		o    server.Options
		text string
	}{
		{server.Options{Publish: server.PublishOptions{MaxInflightBytes: 63 << 20}},
			"MaxInflightBytes"}, {server.Options{Publish: server.PublishOptions{MaxInflightBytes: 64 << 20}}, ""},
		{server.Options{Publish: server.PublishOptions{MaxRequestBytes: 1 << 20, MaxInflightBytes: 4 << 20}},
			""}, {server.Options{Publish: server.PublishOptions{MaxRequestBytes: 1 << 30}}, ""},
		{server.Options{Publish: server.PublishOptions{MaxRequestBytes: 1 << 10, MaxEventBytes: 2 << 20,
			MaxInflightBytes: 7 << 20}}, "MaxInflightBytes"},
	} {
		c.o.Log = log
		s, err := server.New(c.o)
		if (err == nil) != (c.text == "") || (err != nil && !strings.Contains(err.Error(), c.text)) {
			t.Errorf("%+v: %v", c.o, err)
		}
		if err == nil {
			_ = s.Close()
		}
	}
}
