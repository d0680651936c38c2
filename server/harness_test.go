package server_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/pebblelog"
	"github.com/fanfare-hub/fanfare/server"
	"github.com/fanfare-hub/fanfare/sse"
)

func TestMain(m *testing.M) {
	jwt.TimePrecision = time.Millisecond // tokens of tests expire after parts of a second
	goleak.VerifyTestMain(m)
}

// fixture is a hub behind a real listener.
type fixture struct {
	t    testing.TB
	log  *pebblelog.Log
	srv  *server.Server
	web  *httptest.Server
	o    server.Options
	lo   pebblelog.Options
	kind kind
	http *http.Client // for answers
	// for streams: over HTTP/1 their connections end with them, and a publish that reused one would
	// fail
	long *http.Client
	down bool

	limit  time.Duration                   // of the http.Server; 0: none
	below  func(net.Listener) net.Listener // what connections come from; nil: the system
	window int                             // what an HTTP/2 client takes of a stream that nobody reads, in bytes
}

func start(t *testing.T, o server.Options, rules ...string) *fixture {
	t.Helper()
	return startAny(t, o, rules...)
}

// startWithin has the http.Server limit the time that a request and its answer take.
func startWithin(t *testing.T, limit time.Duration, o server.Options) *fixture {
	t.Helper()
	f := newFixture(t, o)
	f.limit = limit
	f.begin()
	return f
}

// ownClock gives the log, which is opened next, a clock that passes when the test says so.
func (f *fixture) ownClock() (pass func(time.Duration)) {
	began := time.Now()
	var passed atomic.Int64
	f.lo.Elapsed = func() time.Duration { return time.Duration(passed.Load()) }
	f.lo.Now = func() time.Time { return began.Add(f.lo.Elapsed()) }
	return func(d time.Duration) { passed.Add(int64(d)) }
}

// withLogin are the options of a program that has a login of its own.
func withLogin(login server.AuthFunc) server.Options {
	return server.Options{Access: server.AccessOptions{Auth: login}}
}

func startAny(t testing.TB, o server.Options, rules ...string) *fixture {
	t.Helper()
	f := newFixture(t, o, rules...)
	f.begin()
	return f
}

func (f *fixture) begin() {
	f.t.Helper()
	f.up("127.0.0.1:0")
	f.t.Cleanup(func() { f.stop(0) })
}

func newFixture(t testing.TB, o server.Options, rules ...string) *fixture {
	t.Helper()
	k, _ := kindOf(t)
	o.Streams.Attached, o.Publish.Detach = k.attached, !k.attached
	if o.SettingName == nil { // as the command has it
		o.SettingName = func(s fanfare.Setting) string { return "--" + string(s) }
	}
	lo := pebblelog.Options{Dir: t.TempDir()}
	for _, text := range rules {
		r, err := fanfare.ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		lo.Retention = append(lo.Retention, r)
	}
	f := &fixture{t: t, o: o, lo: lo, kind: k, window: 64 << 10}
	f.clients()
	return f
}

// clients makes clients that have no connections yet.
func (f *fixture) clients() {
	f.http = &http.Client{Transport: f.kind.transport()}
	f.long = f.http
	if !f.kind.h2 {
		f.long = &http.Client{Transport: f.kind.transport()}
	}
}

func (f *fixture) up(addr string) {
	f.t.Helper()
	f.clients() // an HTTP/2 connection to the hub before may seem to be there still
	var err error
	if f.log, err = pebblelog.Open(f.lo); err != nil {
		f.t.Fatal(err)
	}
	f.o.Log = f.log
	if f.srv, err = server.New(f.o); err != nil {
		f.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.web = httptest.NewUnstartedServer(f.srv)
	_ = f.web.Listener.Close()
	f.serve(listener)
	f.down = false
}

// serve serves as the command does.
func (f *fixture) serve(l net.Listener) {
	f.web.Config.ReadTimeout, f.web.Config.WriteTimeout = f.limit, f.limit
	if f.kind.h2 && !f.kind.tls {
		f.web.Config.Protocols = new(http.Protocols)
		f.web.Config.Protocols.SetHTTP1(true)
		f.web.Config.Protocols.SetUnencryptedHTTP2(true)
	}
	if f.below != nil {
		l = f.below(l)
	}
	f.web.Listener = f.srv.Listener(f.web.Config, l, f.kind.serverTLS())
	f.web.Start()
	if f.kind.tls {
		f.web.URL = "https://" + f.addr()
	}
}

// stop shuts the hub down as the command does.
func (f *fixture) stop(window time.Duration) {
	if f.down {
		return
	}
	f.down = true
	ctx, cancel := context.WithTimeout(context.Background(), window+time.Minute)
	defer cancel()
	if err := f.srv.Drain(ctx, window); err != nil {
		f.t.Errorf("drain: %v", err)
	}
	f.web.Close()
	f.http.CloseIdleConnections()
	f.long.CloseIdleConnections()
	if err := f.srv.Close(); err != nil {
		f.t.Error(err)
	}
	if err := f.log.Close(); err != nil {
		f.t.Error(err)
	}
}

// restart stops the hub and starts another on the same data and port.
func (f *fixture) restart() {
	f.t.Helper()
	addr := f.web.Listener.Addr().String()
	f.stop(0)
	f.up(addr)
}

func (f *fixture) url(path string) string { return f.web.URL + path }
func (f *fixture) addr() string           { return f.web.Listener.Addr().String() }

type answer struct {
	status int
	header http.Header
	body   string
}

// call sends a request; header lines are "Name: value".
func (f *fixture) call(method, path, body string, header ...string) answer {
	f.t.Helper()
	req, err := http.NewRequest(method, f.url(path), strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	setHeader(req, header)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a stream where an answer was expected
	defer cancel()
	resp, err := f.http.Do(req.WithContext(ctx))
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, strings.TrimSuffix(string(b), "\n")}
}

func (f *fixture) publish(channel string, data ...string) (ids []string) {
	f.t.Helper()
	for _, d := range data {
		a := f.call("POST", "/v1/channels/"+channel, d)
		if a.status != http.StatusCreated {
			f.t.Fatalf("publish: %+v", a)
		}
		ids = append(ids, a.json("id"))
	}
	return ids
}

// json returns one member of a JSON answer as text.
func (a answer) json(name string) string {
	var o map[string]any
	if err := json.Unmarshal([]byte(a.body), &o); err != nil {
		return "not JSON: " + a.body
	}
	if o[name] == nil {
		return ""
	}
	return fmt.Sprint(o[name])
}

// wantProblem checks a refusal: status, code, and that the detail names what is wrong.
func (a answer) wantProblem(t *testing.T, status int, code, detail string) {
	t.Helper()
	if a.status != status || a.json("code") != code || a.header.Get("Content-Type") != "application/problem+json" ||
		a.json("status") != fmt.Sprint(status) || a.json("title") == "" || !strings.Contains(a.json("detail"), detail) {
		t.Errorf("got %d %s %s, want %d %s naming %q", a.status, a.header.Get("Content-Type"), a.body, status, code,
			detail)
	}
	if status == 503 || status == 429 {
		if a.header.Get("Retry-After") == "" {
			t.Errorf("%d without Retry-After", status)
		}
	}
}

// client is one open stream.
type client struct {
	t       testing.TB
	resp    *http.Response
	cancel  context.CancelFunc
	events  chan sse.Event
	raw     bytes.Buffer // what has come; to be looked at when the stream has ended
	retry   int64
	comment atomic.Int64
	err     error // when events is closed
}

func (f *fixture) stream(path string, header ...string) *client {
	f.t.Helper()
	f.needsKind()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "GET", f.url(path), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	setHeader(req, header)
	return connect(f.t, f.long, req, cancel)
}

func connect(t testing.TB, hc *http.Client, req *http.Request, cancel context.CancelFunc) *client {
	t.Helper()
	resp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		cancel()
		t.Fatalf("GET %s: %d %s", req.URL, resp.StatusCode, b)
	}
	c := &client{t: t, resp: resp, cancel: cancel, events: make(chan sse.Event, 10000)}
	go c.read()
	t.Cleanup(c.close)
	return c
}

func (c *client) read() {
	defer close(c.events)
	p := sse.Parser{Handler: sse.Handler{
		Event:   func(e sse.Event) { c.events <- e },
		Retry:   func(ms int64) { c.retry = ms },
		Comment: func(string) { c.comment.Add(1) },
	}}
	buf := make([]byte, 32<<10)
	for {
		n, err := c.resp.Body.Read(buf)
		if c.raw.Len() < 1<<20 {
			c.raw.Write(buf[:n])
		}
		_, _ = p.Write(buf[:n])
		if err != nil {
			c.err = err
			return
		}
	}
}

// next returns the next event that is no heartbeat.
func (c *client) next() sse.Event {
	c.t.Helper()
	for {
		e := c.any()
		if e.Type != "heartbeat" {
			return e
		}
	}
}

func (c *client) any() sse.Event {
	c.t.Helper()
	select {
	case e, ok := <-c.events:
		if !ok {
			c.t.Fatalf("the stream has ended: %v", c.err)
		}
		return e
	case <-time.After(time.Minute):
		c.t.Fatal("no event came for a minute")
	}
	return sse.Event{}
}

// comments waits until n comments have come.
func (c *client) comments(n int64) {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); c.comment.Load() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("%d comments, want %d", c.comment.Load(), n)
		}
	}
}

// quiet checks that nothing but heartbeats comes for a moment.
func (c *client) quiet() {
	c.t.Helper()
	deadline := time.After(60 * time.Millisecond)
	for {
		select {
		case e, ok := <-c.events:
			if ok && e.Type != "heartbeat" {
				c.t.Errorf("unexpected event %+v", e)
			}
			if !ok {
				return
			}
		case <-deadline:
			return
		}
	}
}

// rest reads to the end of the stream.
func (c *client) rest() (events []sse.Event) {
	c.t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case e, ok := <-c.events:
			if !ok {
				return events
			}
			events = append(events, e)
		case <-deadline:
			c.t.Fatal("the stream did not end")
		}
	}
}

func (c *client) close() {
	c.cancel()
	_ = c.resp.Body.Close()
	for range c.events {
	}
}

// want checks the data of the next events.
func (c *client) want(data ...string) (last sse.Event) {
	c.t.Helper()
	for _, d := range data {
		if last = c.next(); last.Data != d {
			c.t.Fatalf("got %+v, want data %q", last, d)
		}
	}
	return last
}

// dial opens a raw connection and sends a request of HTTP/1 as it stands.
func (f *fixture) dial(request string) (net.Conn, *bufio.Reader) {
	f.t.Helper()
	var conn net.Conn
	conn, err := net.Dial("tcp", f.addr())
	if err != nil {
		f.t.Fatal(err)
	}
	if f.kind.tls {
		conn = tls.Client(conn, f.kind.clientTLS())
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if used || f.kind.used {
		f.use(conn)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		f.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

// tcpOf is the socket of a connection that was dialed.
func tcpOf(conn net.Conn) *net.TCPConn {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	return conn.(*net.TCPConn)
}

// used has all connections that tests dial be those of publishers already; see
// TestOnPublishersConnections.
var used bool

// use publishes over a connection, which is then taken over. Nothing is left to read of the answer.
func (f *fixture) use(conn net.Conn) {
	f.t.Helper()
	may := bearer(token("used", time.Hour, "publish", "used"))
	if _, err := io.WriteString(conn,
		"POST /v1/channels/used HTTP/1.1\r\nHost: localhost\r\n"+may+"\r\nContent-Length: 1\r\n\r\nx"); err != nil {
		f.t.Fatal(err)
	}
	var b []byte
	for one := make([]byte, 1); !bytes.HasSuffix(b, []byte("}\n")); b = append(b, one...) {
		if _, err := conn.Read(one); err != nil {
			f.t.Fatalf("%v after %q", err, b)
		}
	}
	if !bytes.HasPrefix(b, []byte("HTTP/1.1 201 ")) {
		f.t.Fatalf("%s", b)
	}
	time.Sleep(5 * time.Millisecond) // so that what follows is most likely read after the connection was taken over
}

func readUntil(t testing.TB, r *bufio.Reader, text string) string {
	t.Helper()
	var b strings.Builder
	for !strings.HasSuffix(b.String(), text) {
		c, err := r.ReadByte()
		if err != nil {
			t.Fatalf("%v after %q, waiting for %q", err, b.String(), text)
		}
		b.WriteByte(c)
	}
	return b.String()
}
