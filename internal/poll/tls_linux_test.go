package poll_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fanfare-hub/fanfare/internal/poll"
)

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     []string{"hub"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// secured is the two ends of a TLS connection over TCP, ours over a socket of its own. early is
// what the client sends with its last message of the handshake.
func secured(t *testing.T, version uint16, early string) (ours *poll.TLS, fd int, theirs *tls.Conn) {
	t.Helper()
	below, conn := pair(t)
	theirs = tls.Client(
		conn,
		&tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version},
	) //nolint:gosec // of a test
	server := tls.Server(&poll.Base{Conn: below}, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
	if !poll.IsTLS(server) || poll.IsTLS(tls.Server(below, nil)) || poll.IsTLS(below) {
		t.Error("what is TLS whose socket can be owned")
	}
	done := make(chan error, 1)
	go func() {
		_, err := io.WriteString(theirs, early)
		done <- err
	}()
	if err := errors.Join(server.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	room := []byte(nil)
	ours, fd, err := poll.OwnTLS(server, &room)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return ours, fd, theirs
}

// arrives reads until a text has come.
func arrives(t *testing.T, c *poll.TLS, want string) {
	t.Helper()
	var got []byte
	buf := make([]byte, 1000)
	for deadline := time.Now().Add(time.Minute); string(got) != want; {
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		if (err != nil && err != unix.EAGAIN) || time.Now().After(deadline) {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

// TestTLS: both ways, what had come before, one record after the other, and the end, told within
// TLS, of either half.
func TestTLS(t *testing.T) {
	for name, version := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			ours, _, theirs := secured(t, version, "early")
			arrives(t, ours, "early")
			if n, err := ours.Read(make([]byte, 10)); n != 0 || err != unix.EAGAIN {
				t.Errorf("nothing has come: %d %v", n, err)
			}
			for range 3 { // also after its buffers were dropped
				if _, err := io.WriteString(theirs, "more"); err != nil {
					t.Fatal(err)
				}
				arrives(t, ours, "more")
				if err := ours.Write([]byte("hello")); err != nil || ours.Kept() != 0 {
					t.Fatalf("%v, %d bytes are kept", err, ours.Kept())
				}
				if b := make([]byte, 5); !reads(theirs, b, "hello") {
					t.Errorf("%q", b)
				}
			}
			if err := theirs.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(time.Minute); ; {
				n, err := ours.Read(make([]byte, 10))
				if n == 0 && err == nil {
					break
				}
				if err != unix.EAGAIN || time.Now().After(deadline) {
					t.Fatalf("%d %v", n, err)
				}
			}
			if err := errors.Join(ours.Write([]byte("still")), ours.CloseWrite()); err != nil {
				t.Fatal(err)
			}
			if rest, err := io.ReadAll(theirs); string(rest) != "still" || err != nil {
				t.Errorf("%q, %v", rest, err)
			}
		})
	}
}

// TestTLSToAPeerThatDoesNotRead: at most one record is kept, and nothing is lost or repeated once
// the peer reads.
func TestTLSToAPeerThatDoesNotRead(t *testing.T) {
	ours, fd, theirs := secured(t, tls.VersionTLS13, "x")
	arrives(t, ours, "x")
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<10)
	record := make([]byte, poll.MaxRecord)
	var sent []byte
	for kept := 0; kept == 0; {
		_, _ = rand.Read(record)
		sent = append(sent, record...)
		err := ours.Write(record)
		if kept = ours.Kept(); (kept > 0) != errors.Is(err, unix.EAGAIN) || kept > poll.MaxRecord+1<<10 {
			t.Fatalf("%d bytes are kept, %v", kept, err)
		}
	}
	done := make(chan []byte)
	go func() {
		got := make([]byte, len(sent))
		_, _ = io.ReadFull(theirs, got)
		done <- got
	}()
	for deadline := time.Now().Add(time.Minute); ours.Kept() > 0; time.Sleep(time.Millisecond) {
		if err := ours.Flush(); err != nil && !errors.Is(err, unix.EAGAIN) || time.Now().After(deadline) {
			t.Fatalf("%d bytes are kept, %v", ours.Kept(), err)
		}
	}
	if !bytes.Equal(<-done, sent) {
		t.Error("something else came")
	}
}

// TestTLSThatIsNone: what is no TLS ends the connection, and so does its end without a word.
func TestTLSThatIsNone(t *testing.T) {
	for name, end := range map[string]func(net.Conn){
		"garbage": func(c net.Conn) { _, _ = io.WriteString(c, "GET / HTTP/1.1\r\n\r\n") },
		"reset":   func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); _ = c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			ours, _, theirs := secured(t, tls.VersionTLS13, "x")
			arrives(t, ours, "x")
			end(theirs.NetConn())
			for deadline := time.Now().Add(time.Minute); ; {
				n, err := ours.Read(make([]byte, 10))
				if err != nil && err != unix.EAGAIN {
					break
				}
				if n > 0 || err == nil || time.Now().After(deadline) {
					t.Fatalf("%d %v", n, err)
				}
			}
		})
	}
}
