package http1

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers with the request as it has understood it. The end of the path may ask for more.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	status := http.StatusOK
	switch {
	case strings.HasSuffix(r.URL.Path, "/panic"):
		panic("on request")
	case strings.HasSuffix(r.URL.Path, "/close"):
		w.Header().Set("Connection", "close")
	case strings.HasSuffix(r.URL.Path, "/empty"):
		w.WriteHeader(http.StatusNoContent)
		return
	case strings.HasSuffix(r.URL.Path, "/large"):
		w.Header().Set("Content-Length", fmt.Sprint(10<<20))
		_, _ = w.Write(bytes.Repeat([]byte("0123456789"), 1<<20))
		return
	case strings.HasSuffix(r.URL.Path, "/refused"):
		status = http.StatusTeapot
	}
	w.Header().Add("X-Two", "a")
	w.Header().Add("X-Two", "b\r\nX-Three: c")
	text := fmt.Sprintf("%s %s %s %q %v %v %d\n", r.Method, r.RequestURI, r.Host, body, err, r.Header, r.ContentLength)
	w.Header().Set("Content-Length", fmt.Sprint(len(text)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

// hub is an http.Server whose publishers are taken over, and what that is hidden behind.
type hub struct {
	conns *Conns
	web   *httptest.Server
	took  atomic.Int64 // connections
	taken atomic.Int64 // requests that were answered here
	log   log

	panics atomic.Bool // in Takes
}

func (h *hub) takes(r *http.Request) bool {
	if h.panics.Load() {
		panic("in Takes")
	}
	return strings.HasPrefix(r.URL.Path, "/p/")
}

type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func begin(t *testing.T, handler http.HandlerFunc, set func(*http.Server)) *hub {
	t.Helper()
	h := &hub{}
	h.conns = New(Options{Takes: h.takes, Logger: slog.New(slog.NewTextHandler(&h.log, nil))})
	h.web = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ours := w.(*answer); ours {
			h.taken.Add(1)
		}
		handler(w, r)
		if r.Method == "POST" && strings.HasPrefix(r.URL.Path, "/p/") && h.conns.Wants(w, r) {
			h.conns.Take(w, r)
			h.took.Add(1)
		}
	}))
	h.web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	if set != nil {
		set(h.web.Config)
	}
	h.web.Start()
	t.Cleanup(func() {
		h.web.Close()
		h.conns.Close()
		if n := h.conns.Len(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
	return h
}

// dial opens a connection that has been taken over.
func (h *hub) dial(t *testing.T) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", h.web.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(conn)
	before := h.took.Load()
	send(t, conn, "POST /p/first HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
	read(t, r)
	within(t, "the connection is taken over", func() bool { return h.took.Load() > before })
	return conn, r
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

// read reads an answer, and returns it without its date, the lines of its header in order.
func read(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	var head strings.Builder
	for !strings.HasSuffix(head.String(), "\r\n\r\n") {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("%v after %q", err, head.String())
		}
		head.WriteString(line)
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader(head.String()), r)), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(io.LimitReader(r, max(resp.ContentLength, 0)))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(regexp.MustCompile("Date: .*\r\n").ReplaceAllString(head.String(), ""), "\r\n")
	slices.Sort(lines[1:])
	return strings.Join(lines, "\r\n") + string(body)
}

func within(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// TestSameAnswers: on a connection that was taken over each request gets what net/http would have
// answered, but for the date and the order of the header, whatever shape it has and in whatever
// pieces it comes.
func TestSameAnswers(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(echo))
	defer plain.Close()
	h := begin(t, echo, nil)
	for i, request := range []string{
		"POST /p/a?b=c HTTP/1.1\r\nHost: localhost:1\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello",
		"POST /p/a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
		"POST /p/empty HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
		"POST /p/refused HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
		"POST /p/close HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
		"POST /other HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
		"POST /p/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
		"POST /p/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
		"POST /p/a HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n" + strings.Repeat("x", 70000),
		"POST /p/a HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n" + strings.Repeat("x", 65536),
		"POST /p/a HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("y", 9000) + "\r\nContent-Length: 1\r\n\r\nx",
		"GET /p/a HTTP/1.1\r\nHost: a\r\n\r\n",
		"DELETE /p/a HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /p/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
		"POST /p/a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
		"POST /p/a HTTP/9.9\r\nHost: a\r\n\r\n",
		"nonsense\r\n\r\n",
	} {
		for _, pieces := range []int{1, 2, 7} {
			want := exchange(t, plain.Listener.Addr().String(), request, 1)
			conn, r := h.dial(t)
			inPieces(t, conn, request, pieces)
			if got := read(t, r); got != want {
				t.Errorf("request %d in %d pieces\n got %q\nwant %q", i, pieces, got, want)
			} else if strings.Contains(got, "Connection: close") {
				if _, err := io.Copy(io.Discard, r); err != nil {
					t.Errorf("request %d: after the last answer: %v", i, err)
				}
			}
			_ = conn.Close()
		}
	}
	if n := h.taken.Load(); n < 3*6 {
		t.Errorf("%d requests were answered here", n)
	}
}

func exchange(t *testing.T, addr, request string, pieces int) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	inPieces(t, conn, request, pieces)
	return read(t, bufio.NewReader(conn))
}

func inPieces(t *testing.T, conn net.Conn, text string, pieces int) {
	t.Helper()
	for i := range pieces {
		if i > 0 {
			time.Sleep(3 * time.Millisecond)
		}
		send(t, conn, text[len(text)*i/pieces:len(text)*(i+1)/pieces])
	}
}

// TestWhatIsNotTaken: a connection that is about to end, or whose answer has no length, stays with
// net/http.
func TestWhatIsNotTaken(t *testing.T) {
	h := begin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/p/chunked" {
			_, _ = io.ReadAll(r.Body)
			_, _ = io.WriteString(w, "x")
			return
		}
		echo(w, r)
	}, nil)
	for _, request := range []string{
		"POST /p/close HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
		"POST /p/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
		"POST /p/a HTTP/1.0\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
		"POST /p/chunked HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET /p/close HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", h.web.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		send(t, conn, request)
		if b, err := io.ReadAll(conn); err != nil || len(b) == 0 ||
			bytes.Count(b, []byte(" 200 OK\r\n")) != bytes.Count(b, []byte("\r\nContent-Length: ")) {
			t.Errorf("%q: %q %v", request, b, err)
		}
		_ = conn.Close()
		if n := h.conns.Len(); n != 0 {
			t.Errorf("%q: %d connections were taken over", request, n)
		}
	}
}

// TestManyRequests: one after the other, several at once, and with others in between that are
// net/http's.
func TestManyRequests(t *testing.T) {
	h := begin(t, echo, nil)
	conn, r := h.dial(t)
	one := func(i int) string {
		return fmt.Sprintf("POST /p/%d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n%02d", i, i)
	}
	check := func(i int) {
		t.Helper()
		if got := read(t, r); !strings.Contains(got, fmt.Sprintf("POST /p/%d a \"%02d\"", i, i)) {
			t.Fatalf("%d: %s", i, got)
		}
	}
	for i := range 50 {
		send(t, conn, one(i))
		check(i)
	}
	if n := h.taken.Load(); n != 50 {
		t.Errorf("%d of 50 were answered here", n)
	}
	var many strings.Builder
	for i := range 50 {
		many.WriteString(one(i))
	}
	send(t, conn, many.String())
	for i := range 50 {
		check(i)
	}
	for i := range 20 {
		send(t, conn, "GET /q HTTP/1.1\r\nHost: a\r\n\r\n"+one(i)+one(i+1))
		if got := read(t, r); !strings.Contains(got, "GET /q") {
			t.Fatal(got)
		}
		check(i)
		check(i + 1)
	}
}

// TestPeerClosesItsHalf: what was asked is answered, and then the connection ends.
func TestPeerClosesItsHalf(t *testing.T) {
	h := begin(t, echo, nil)
	for _, text := range []string{"POST /p/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", ""} {
		conn, r := h.dial(t)
		send(t, conn, text)
		_ = conn.(*net.TCPConn).CloseWrite()
		if text != "" && !strings.Contains(read(t, r), "POST /p/a") {
			t.Error("no answer")
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("%q: %v", text, err)
		}
	}
	conn, r := h.dial(t)
	send(t, conn, "POST /p/a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx")
	_ = conn.(*net.TCPConn).CloseWrite()
	if got := read(t, r); !strings.Contains(got, "unexpected EOF") { // as net/http says it
		t.Error(got)
	}
	within(t, "all have ended", func() bool { return h.conns.Len() == 0 })
}

// TestHandlerPanics: its connection ends, and no other.
func TestHandlerPanics(t *testing.T) {
	h := begin(t, echo, nil)
	other, otherReader := h.dial(t)
	conn, r := h.dial(t)
	send(t, conn, "POST /p/panic HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
	if _, err := r.ReadByte(); err == nil {
		t.Error("there is an answer")
	}
	send(t, other, "POST /p/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
	read(t, otherReader)
	if !strings.Contains(h.log.String(), "on request") {
		t.Errorf("the log has %q", h.log.String())
	}
}

// TestReadingPanics: a connection whose request cannot even be looked at is net/http's.
func TestReadingPanics(t *testing.T) {
	h := begin(t, echo, nil)
	conn, r := h.dial(t)
	h.panics.Store(true)
	send(t, conn, "POST /p/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
	if got := read(t, r); !strings.Contains(got, "POST /p/a") {
		t.Error(got)
	}
	if n := h.taken.Load(); n != 0 || !strings.Contains(h.log.String(), "in Takes") {
		t.Errorf("%d requests were answered here; the log has %q", n, h.log.String())
	}
}

// TestEndWithoutAReader: a peer that does not read its answer holds the end up for a moment only.
func TestEndWithoutAReader(t *testing.T) {
	h := begin(t, echo, nil)
	conn, _ := h.dial(t)
	send(t, conn, "POST /p/large HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
	within(t, "the request is answered", func() bool { return h.taken.Load() == 1 })
	began := time.Now()
	h.conns.Close()
	if took := time.Since(began); took > time.Minute {
		t.Errorf("Close took %v", took)
	}
}

// TestLargeAnswer: a peer that reads slowly gets all of it.
func TestLargeAnswer(t *testing.T) {
	h := begin(t, echo, nil)
	for _, text := range []string{"POST /p/large HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
		"POST /p/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"} {
		conn, r := h.dial(t)
		send(t, conn, "POST /p/large HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"+text)
		time.Sleep(20 * time.Millisecond)
		if got := read(t, r); len(got) < 10<<20 {
			t.Errorf("%d bytes", len(got))
		}
		read(t, r)
	}
}

// TestLimitsOfTime: the http.Server's, also for connections that it has not.
func TestLimitsOfTime(t *testing.T) {
	h := begin(t, echo, func(s *http.Server) {
		s.IdleTimeout, s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout = 500*time.Millisecond, 500*time.Millisecond,
			700*time.Millisecond, 500*time.Millisecond
	})
	for _, text := range []string{"", "POST /p/a HT", "POST /p/a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"} {
		conn, r := h.dial(t)
		send(t, conn, text)
		began := time.Now()
		_, _ = io.Copy(io.Discard, r)
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("%q: %v", text, took)
		}
	}
	conn, _ := h.dial(t)
	send(t, conn, "POST /p/large HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
	within(t, "who takes no answer is cut", func() bool { return h.conns.Len() == 0 })
}

// TestTheEnd: idle connections end at once, a request that runs is answered, and told that it was
// the last.
func TestTheEnd(t *testing.T) {
	running, goOn := make(chan struct{}), make(chan struct{})
	h := begin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/p/slow" {
			close(running)
			<-goOn
		}
		echo(w, r)
	}, nil)
	_, idleReader := h.dial(t)
	conn, r := h.dial(t)
	send(t, conn, "POST /p/slow HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
	<-running
	if err := h.web.Config.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := idleReader.ReadByte(); err != io.EOF {
		t.Errorf("idle: %v", err)
	}
	closed := make(chan struct{})
	go func() {
		h.conns.Close()
		close(closed)
	}()
	select {
	case <-closed:
		t.Error("Close has not waited for the request")
	case <-time.After(50 * time.Millisecond):
	}
	close(goOn)
	if got := read(t, r); !strings.Contains(got, "\r\nConnection: close\r\n") ||
		!strings.Contains(got, "POST /p/slow") {
		t.Error(got)
	}
	<-closed
}

// TestNoGoroutineForEach: connections that say nothing have none.
func TestNoGoroutineForEach(t *testing.T) {
	h := begin(t, echo, nil)
	h.dial(t)
	before := runtime.NumGoroutine()
	for range 50 {
		h.dial(t)
	}
	within(t, "net/http's goroutines end", func() bool { return runtime.NumGoroutine() < before+10 })
}
