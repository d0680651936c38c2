package peer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"testing"
	"time"
)

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// accepted is a connection that a listener with a config has accepted, and its client.
func accepted(t *testing.T, config *tls.Config) (*Conn, *tls.Conn) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Listener(inner, config, false, func(net.Addr, error) {})
	defer l.Close()
	theirs, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	ours, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ours.Close() })
	// #nosec G402 -- the test is about the server's side
	return ours.(*Conn), tls.Client(theirs, &tls.Config{InsecureSkipVerify: true})
}

// TestHandshakeLeavesNothing: a connection whose handshake is over, and that waits for bytes, has
// dropped the buffers of the handshake.
func TestHandshakeLeavesNothing(t *testing.T) {
	ours, theirs := accepted(t, &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}})
	say := make(chan string)
	defer close(say)
	go func() {
		for text := range say {
			_, _ = io.WriteString(theirs, text)
		}
	}()
	var buf [8]byte
	for _, text := range []string{"a", "b"} { // the first may come with the handshake's last message
		say <- text
		if n, err := ours.Read(buf[:]); err != nil || string(buf[:n]) != text {
			t.Fatalf("%q was read: %v", buf[:n], err)
		}
	}
	if ours.TLS() == nil || !ours.light {
		t.Errorf("the state is %v, the buffers are gone: %v", ours.TLS(), ours.light)
	}
}

// TestHandshakePanics: a panic in the handshake, which may be a callback's, reaches the goroutine
// that reads, where net/http recovers it.
func TestHandshakePanics(t *testing.T) {
	ours, theirs := accepted(t, &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { panic("of a callback") },
	})
	ended := make(chan error)
	go func() { ended <- theirs.Handshake() }()
	func() {
		defer func() {
			if p := recover(); p != "of a callback" {
				t.Errorf("recovered %v", p)
			}
		}()
		_, _ = ours.Read(make([]byte, 8))
	}()
	_ = ours.Close()
	if err := <-ended; err == nil {
		t.Error("the client's handshake has succeeded")
	}
}
