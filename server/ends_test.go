package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/server"
)

// TestStreamsEndWithTheirConnection: a client that reads until the connection is closed gets there,
// and the head does not say that it will be: Node's fetch would take a body that was cut for one
// that has ended.
func TestStreamsEndWithTheirConnection(t *testing.T) {
	if eachKind(t, TestStreamsEndWithTheirConnection) {
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{Lifetime: 300 * time.Millisecond},
		Stores: server.StoreOptions{Lifetime: 300 * time.Millisecond}})
	f.http1("the end of a connection with a stream")
	for _, path := range []string{"/v1/events?channel=a", pcPath("1", "2")} {
		for _, version := range []string{"1.1", "1.0"} {
			_, r := f.dial("GET " + path + " HTTP/" + version + "\r\nHost: localhost\r\n\r\n")
			b, err := io.ReadAll(r)
			head, body, _ := strings.Cut(string(b), "\r\n\r\n")
			if err != nil || strings.Contains(head, "Connection:") ||
				!strings.Contains(head, "Cache-Control: no-cache, no-store, no-transform") {
				t.Errorf("%s: %v, %s", path, err, head)
			}
			if whole := strings.HasSuffix(body, "\r\n0\r\n\r\n"); whole != (version == "1.1") {
				t.Errorf("%s by HTTP/%s: ends with %q", path, version, body[max(len(body)-20, 0):])
			}
		}
	}
}

// TestStalledStreamBesideOthers (P5): of several streams of one HTTP/2 connection the one that its
// client does not read ends, and the others go on.
func TestStalledStreamBesideOthers(t *testing.T) {
	if eachKind(t, TestStalledStreamBesideOthers) {
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{StallLimit: 800 * time.Millisecond,
		Heartbeat: 100 * time.Millisecond}})
	if !f.kind.h2 {
		t.Skip("a connection of HTTP/1 has one stream")
	}
	w := f.open("/v1/events?channel=much")
	other, err := w.try(http.MethodGet, "/v1/events?channel=little", "")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Body.Close()
	hears := &wired{f: f, tcp: w.tcp, body: bufio.NewReader(other.Body)}
	hears.until("\n\n")
	f.untilStreams(2)
	f.publish("much", strings.Repeat("x", 900<<10))
	began := time.Now()
	for i := 0; !strings.Contains(f.call("GET", "/metrics", "").body,
		`fanfare_streams_ended_total{reason="stalled"} 1`); i++ {
		f.publish("little", fmt.Sprint("still ", i))
		hears.until(fmt.Sprint("data: still ", i, "\n\n"))
		if time.Since(began) > time.Minute {
			t.Fatal("a stream that is not read does not end")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if took := time.Since(began); took < 700*time.Millisecond {
		t.Errorf("it ended after %v", took)
	}
	f.publish("little", "and on")
	hears.until("data: and on\n\n")
	f.untilStreams(1)
}

// TestThroughServeTLS: in a program that serves TLS by itself HTTP/1 is as good as by the hub's
// listener, and over HTTP/2 nothing is lost.
func TestThroughServeTLS(t *testing.T) {
	oneKind(t, "it is another way to serve")
	for _, k := range kinds {
		if !k.tls {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			t.Cleanup(run(t, k))
			f := start(t, server.Options{Stores: server.StoreOptions{Lifetime: time.Minute}})
			web := httptest.NewUnstartedServer(f.srv)
			web.EnableHTTP2, web.TLS = true, k.serverTLS()
			web.StartTLS()
			t.Cleanup(web.Close)
			own := f.web
			f.web = web
			defer func() { f.web = own }()
			for i := range 3 {
				pc := f.open(pcPath("1", "2"))
				if pc.resp.ProtoMajor == 2 != k.h2 || pc.resp.TLS == nil {
					t.Fatal(pc.resp.Proto)
				}
				f.send("1", "2", fmt.Sprint("command ", i))
				next := i
				if k.h2 {
					next = 0 // everything comes again
				}
				for ; next <= i; next++ {
					if got := pc.command(); got != fmt.Sprint("command ", next) {
						t.Fatalf("boot %d: %q, want command %d", i, got, next)
					}
				}
				pc.reset()
			}
		})
	}
}

// TestRequestTLS: a handler sees that there is TLS where there is.
func TestRequestTLS(t *testing.T) {
	if eachKind(t, TestRequestTLS) {
		return
	}
	var there, h2 atomic.Bool
	f := start(t, withLogin(func(r *http.Request) (*fanfare.Principal, error) {
		there.Store(r.TLS != nil && r.TLS.HandshakeComplete)
		h2.Store(r.TLS != nil && r.TLS.NegotiatedProtocol == "h2")
		return &fanfare.Principal{Subject: "somebody", Unlimited: true}, nil
	}))
	f.call("GET", "/v1/history?channel=a", "")
	if there.Load() != f.kind.tls || h2.Load() != (f.kind.tls && f.kind.h2) {
		t.Errorf("TLS: %v, HTTP/2 by ALPN: %v", there.Load(), h2.Load())
	}
}

// TestTLSListener: who speaks HTTP to it is told so, and nothing else that is no TLS is answered.
func TestTLSListener(t *testing.T) {
	t.Cleanup(run(t, kind{name: "TLS", tls: true}))
	f := start(t, server.Options{})
	for sent, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n": "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to " +
			"an HTTPS server.\n",
		"SSH-2.0-OpenSSH_9.6\r\n": "",
	} {
		conn, err := net.Dial("tcp", f.addr())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		_, _ = io.WriteString(conn, sent)
		b, _ := io.ReadAll(conn)
		if want != "" && string(b) != want || want == "" && strings.HasPrefix(string(b), "HTTP") {
			t.Errorf("%q is answered %q", sent, b)
		}
		_ = conn.Close()
	}
}

// TestWithoutHTTP2: who switches HTTP/2 off, in the program or from outside, has clients not be
// offered it.
func TestWithoutHTTP2(t *testing.T) {
	k := kind{name: "HTTP2", tls: true, h2: true}
	http1 := new(http.Protocols)
	http1.SetHTTP1(true)
	for name, web := range map[string]*http.Server{
		"GODEBUG": {}, "Protocols": {Protocols: http1}, "TLSNextProto": {TLSNextProto: map[string]func(*http.Server,
			*tls.Conn, http.Handler){}}, "": {},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "GODEBUG" {
				t.Setenv("GODEBUG", "http2server=0")
			}
			f := start(t, server.Options{})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			web.Handler = f.srv
			config := k.serverTLS()
			config.NextProtos = []string{"h2", "http/1.1", "acme-tls/1"}
			go func() { _ = web.Serve(f.srv.Listener(web, l, config)) }()
			defer web.Close()
			transport := k.transport()
			transport.Protocols.SetHTTP1(true)
			defer transport.CloseIdleConnections()
			resp, err := (&http.Client{Transport: transport}).Get("https://" + l.Addr().String() + "/livez")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if got := resp.ProtoMajor; resp.StatusCode != 200 || (got == 2) != (name == "") {
				t.Errorf("%s %s", resp.Proto, resp.Status)
			}
		})
	}
}

// TestUnixSocket: behind a proxy of the same machine, too, a command that was read does not come
// again, and one that was not does (P3).
func TestUnixSocket(t *testing.T) {
	for _, attached := range []bool{false, true} {
		k := detached
		k.attached = attached
		t.Run(fmt.Sprint("attached=", attached), func(t *testing.T) {
			t.Cleanup(run(t, k))
			f := start(t, server.Options{})
			path := filepath.Join(t.TempDir(), "hub")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			web := &http.Server{Handler: f.srv}
			go func() { _ = web.Serve(f.srv.Listener(web, l, nil)) }()
			t.Cleanup(func() { _ = web.Close() })
			open := func() (net.Conn, *wired) {
				conn, err := net.Dial("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				_ = conn.SetDeadline(time.Now().Add(time.Minute))
				transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn,
					error) {
					return conn, nil
				}}
				resp, err := (&http.Client{Transport: transport}).Get("http://localhost" + pcPath("1", "2"))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = conn.Close(); _ = resp.Body.Close() })
				w := &wired{f: f, body: bufio.NewReader(resp.Body), tcp: new(net.TCPConn)}
				w.until("CONNECTED\n\n")
				return conn, w
			}
			conn, pc := open()
			id, _ := f.send("1", "2", "read")
			if got := pc.command(); got != "read" {
				t.Fatal(got)
			}
			f.untilKept("pc/1/2", id) // the hub has asked for the position that it keeps
			_ = conn.Close()
			f.untilStreams(0)
			conn, pc = open()
			f.send("1", "2", "next")
			if got := pc.command(); got != "next" {
				t.Errorf("%q came again", got)
			}
			f.send("1", "2", "unread")
			f.send("1", "2", "unread too")
			f.metric(t, "fanfare_events_delivered_total 4")
			_ = conn.Close()
			f.untilStreams(0)
			_, pc = open()
			got := pc.command()
			if got == "next" { // the hub had not asked since it was read
				got = pc.command()
			}
			if got != "unread" || pc.command() != "unread too" {
				t.Errorf("%.10q came", got)
			}
		})
	}
}
