package stream

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// wrapped hides that its connections are the system's own.
type wrapped struct{ net.Listener }

func (w wrapped) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	return struct{ net.Conn }{c}, err
}

// waitingRoom serves refusals that wait for an hour.
func waitingRoom(
	t *testing.T,
	stopping chan struct{},
	code fanfare.Code,
	begin func(*httptest.Server),
) (*Streams, *httptest.Server) {
	t.Helper()
	s := refusing(stopping)
	s.pacer.wait = func() time.Duration { return time.Hour }
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Refuse(w, r, Request{Adapter: "store", Pause: true}, fanfare.Errorf(code, "refused"))
	}))
	begin(web)
	t.Cleanup(func() {
		s.Close()
		web.CloseClientConnections()
		web.Close()
	})
	return s, web
}

// onEach runs a test over each kind of connection.
func onEach(t *testing.T, test func(t *testing.T, begin func(*httptest.Server))) {
	for name, begin := range map[string]func(*httptest.Server){
		"plain":        (*httptest.Server).Start,
		"not a socket": func(web *httptest.Server) { web.Listener = wrapped{web.Listener}; web.Start() },
		"TLS":          (*httptest.Server).StartTLS,
		"HTTP/2":       func(web *httptest.Server) { web.EnableHTTP2 = true; web.StartTLS() },
	} {
		t.Run(name, func(t *testing.T) { test(t, begin) })
	}
}

func (s *Streams) untilHeld(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); s.pacer.waiting() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d refusals wait, want %d", s.pacer.waiting(), n)
		}
	}
}

// TestHeldPeersThatGo: a refusal whose peer has gone waits no longer, and frees its place.
func TestHeldPeersThatGo(t *testing.T) {
	onEach(t, func(t *testing.T, begin func(*httptest.Server)) {
		s, web := waitingRoom(t, nil, fanfare.CodeUnauthenticated, begin)
		failed := make(chan error, 3)
		ctx, leave := context.WithCancel(t.Context())
		for range 3 {
			go func() {
				req, _ := http.NewRequestWithContext(ctx, "GET", web.URL, nil)
				resp, err := web.Client().Do(req)
				if err == nil {
					_ = resp.Body.Close()
				}
				failed <- err
			}()
		}
		s.untilHeld(t, 3)
		leave()
		for range 3 {
			if <-failed == nil {
				t.Error("answered")
			}
		}
		s.untilHeld(t, 0)
	})
}

// TestHeldUntilTheHubStops: who waits is answered when the hub stops, whole, and the connection
// ends.
func TestHeldUntilTheHubStops(t *testing.T) {
	onEach(t, func(t *testing.T, begin func(*httptest.Server)) {
		stopping := make(chan struct{})
		s, web := waitingRoom(t, stopping, fanfare.CodeUnavailable, begin)
		type heard struct {
			resp *http.Response
			body string
		}
		answers := make(chan heard, 4)
		for i := range 4 {
			go func() {
				req, _ := http.NewRequest("GET", web.URL, nil)
				if i%2 == 1 {
					req.Header.Set("Accept", "text/event-stream")
				}
				resp, err := web.Client().Do(req)
				if err != nil {
					t.Error(err)
					answers <- heard{&http.Response{}, ""}
					return
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Error(err)
				}
				_ = resp.Body.Close()
				answers <- heard{resp, string(body)}
			}()
		}
		s.untilHeld(t, 4)
		close(stopping)
		statuses := map[int]int{}
		for range 4 {
			a := <-answers
			statuses[a.resp.StatusCode]++
			stream := a.resp.StatusCode == 200 && strings.HasPrefix(a.body, "retry: ") &&
				strings.Count(a.body, "\n") == 1
			problem := a.resp.StatusCode == 503 && strings.Contains(a.body, `"code":"unavailable"`) &&
				a.resp.Header.Get("Retry-After") != ""
			if !stream && !problem || a.resp.ProtoMajor == 1 && !a.resp.Close ||
				stream && a.resp.ProtoMajor == 1 && a.resp.ContentLength != -1 {
				t.Errorf("%+v %q", a.resp, a.body)
			}
		}
		if statuses[200] != 2 || statuses[503] != 2 {
			t.Errorf("%v", statuses)
		}
		s.untilHeld(t, 0)
	})
}

// TestHeldWithoutAGoroutine: plain connections wait with those of the room.
func TestHeldWithoutAGoroutine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("connections are detached on Linux only")
	}
	s, web := waitingRoom(t, nil, fanfare.CodeForbidden, (*httptest.Server).Start)
	var conns []net.Conn
	for range 30 {
		c, err := net.Dial("tcp", web.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	s.untilHeld(t, 30)
	for _, c := range conns { // what comes behind a request must not have the kernel reset the connection
		if _, err := io.WriteString(c, "Host: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		n := strings.Count(string(stacks), "net/http.(*conn).serve") + strings.Count(string(stacks), "answerLater")
		if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines", n)
		}
	}
	s.Close()
	for _, c := range conns {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
			t.Errorf("%q %v behind the answer", rest, err)
		}
		if err != nil || resp.StatusCode != 403 || !strings.Contains(string(body), `"code":"forbidden"`) ||
			!resp.Close {
			t.Errorf("%+v %q %v", resp, body, err)
		}
	}
}

// TestNoPlaceToWait: beyond the limit the connection is closed unanswered, and over HTTP/2 that
// request alone.
func TestNoPlaceToWait(t *testing.T) {
	onEach(t, func(t *testing.T, begin func(*httptest.Server)) {
		stopping := make(chan struct{})
		s, web := waitingRoom(t, stopping, fanfare.CodeUnauthenticated, begin)
		s.pacer.mostAddress = 1
		first := make(chan error, 1)
		go func() {
			resp, err := web.Client().Get(web.URL)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				_ = resp.Body.Close()
			}
			first <- err
		}()
		s.untilHeld(t, 1)
		if resp, err := web.Client().Get(web.URL); err == nil {
			_ = resp.Body.Close()
			t.Errorf("answered %s", resp.Status)
		}
		close(stopping)
		if err := <-first; err != nil {
			t.Error(err)
		}
		if n := s.Stats().RefusalsCut; n == 0 { // Go's client asks twice when a connection is closed
			t.Error("not counted")
		}
	})
}
