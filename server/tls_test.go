package server_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/server"
)

// TestKeyUpdate: a client of TLS 1.3 changes its key, and asks the hub to, in the middle of a
// stream (RFC 8446, section 4.6.3).
func TestKeyUpdate(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not here: Go's clients never ask for it")
	}
	for _, k := range kinds {
		if !k.tls || k.h2 {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			t.Cleanup(run(t, k))
			f := start(t, server.Options{})
			cmd := exec.Command(openssl, "s_client", "-connect", f.addr(), "-tls1_3", "-msg")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
			timer := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
			defer timer.Stop()
			r := bufio.NewReader(out)
			until := func(text string) {
				t.Helper()
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						t.Fatalf("%q has not come: %v", text, err)
					}
					if strings.Contains(line, text) {
						return
					}
				}
			}
			_, _ = io.WriteString(in, "GET /v1/events?channel=a HTTP/1.1\r\nHost: localhost\r\n\r\n")
			until("event: heartbeat")
			for i := range 3 {
				_, _ = io.WriteString(in, "K\n")
				until("<<< TLS 1.3, Handshake [length 0005], KeyUpdate")
				f.publish("a", fmt.Sprint("after update ", i))
				until(fmt.Sprint("data: after update ", i))
			}
		})
	}
}

// TestCloseNotify: a client that has said within TLS that it sends nothing more, and listens, goes
// on hearing.
func TestCloseNotify(t *testing.T) {
	for _, k := range kinds {
		if !k.tls || k.h2 {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			t.Cleanup(run(t, k))
			f := start(t, server.Options{Streams: server.StreamOptions{Heartbeat: 100 * time.Millisecond}})
			conn, err := tls.Dial("tcp", f.addr(), k.transport().TLSClientConfig)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			if _, err := io.WriteString(conn,
				"GET /v1/events?channel=a HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(conn)
			readUntil(t, r, "event: heartbeat")
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			readUntil(t, r, "\n:\n")
			f.publish("a", "still heard")
			readUntil(t, r, "still heard")
		})
	}
}
