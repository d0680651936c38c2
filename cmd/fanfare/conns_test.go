package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/internal/forwarded"
)

// TestConnectionsPerAddress: one too many is closed at once; those that end, and those that are
// taken over, make room.
func TestConnectionsPerAddress(t *testing.T) {
	c := newConnections(3, &forwarded.Resolver{})
	if !c.exempt(netip.MustParseAddr("127.0.0.1")) || c.exempt(netip.MustParseAddr("192.0.2.1")) {
		t.Error("loopback is exempt, and nobody else")
	}
	c.exempt = func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.9") }
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			t.Cleanup(func() { _ = conn.Close() })
			_, _ = io.WriteString(conn, "x")
		}
	}))
	web.Config.ConnState = c.changed
	web.Start()
	defer web.Close()
	dial := func(from string) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := d.Dial("tcp", web.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	lives := func(conn net.Conn) bool { // a request takes the connection over
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		n, _ := conn.Read(make([]byte, 1))
		return n == 1
	}
	held := []net.Conn{dial("127.0.0.1"), dial("127.0.0.1"), dial("127.0.0.1")}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		n := len(c.of)
		c.mu.Unlock()
		if n == 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the connections are not counted")
		}
	}
	if lives(dial("127.0.0.1")) {
		t.Error("a fourth connection was taken")
	}
	if !lives(dial("127.0.0.2")) || !lives(dial("127.0.0.9")) {
		t.Error("others pay for it")
	}
	if !lives(held[0]) { // taken over: it counts no more
		t.Error("one of the three was closed")
	}
	if !lives(dial("127.0.0.1")) {
		t.Error("there is no room again")
	}
}
