package bench

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// hubProcess is the real binary, in a process of its own so that its memory and its time can be
// told.
type hubProcess struct {
	addr  string
	pid   int
	roots *x509.CertPool // nil: no TLS
	stop  func()         // ends the process; a second call does nothing
}

func buildHub(b *testing.B) (binary string) {
	b.Helper()
	binary = filepath.Join(b.TempDir(), "fanfare")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/fanfare").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return binary
}

func startHub(b *testing.B, binary string, secure bool, more ...string) *hubProcess {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	h := &hubProcess{addr: l.Addr().String()}
	_ = l.Close()
	args := append([]string{"serve", "--addr", h.addr, "--data", b.TempDir(), "--max-new-streams", "0"}, more...)
	if secure {
		cert, key, roots := selfSigned(b)
		h.roots = roots
		args = append(args, "--tls-cert", cert, "--tls-key", key)
	}
	cmd := exec.Command(binary, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	h.pid = cmd.Process.Pid
	h.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	b.Cleanup(h.stop)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", h.addr); err == nil {
			_ = conn.Close()
			return h
		} else if time.Now().After(deadline) {
			b.Fatal(err)
		}
	}
}

func selfSigned(b *testing.B) (certFile, keyFile string, roots *x509.CertPool) {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0,
			1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	roots = x509.NewCertPool()
	cert, _ := x509.ParseCertificate(der)
	roots.AddCert(cert)
	dir := b.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der},
		keyFile: {Type: "EC PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return certFile, keyFile, roots
}

// dial opens a connection, and shakes hands over TLS.
func (h *hubProcess) dial() (net.Conn, error) {
	conn, err := net.Dial("tcp", h.addr)
	if err != nil || h.roots == nil {
		return conn, err
	}
	secure := tls.Client(conn, &tls.Config{RootCAs: h.roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13})
	return secure, secure.Handshake()
}

// open opens streams, which count the events that they hear, and returns how long that took.
func (h *hubProcess) open(b *testing.B, streams int, heard *atomic.Int64) time.Duration {
	b.Helper()
	began := time.Now()
	var opening sync.WaitGroup
	slots := make(chan struct{}, 64)
	for range streams {
		slots <- struct{}{}
		opening.Go(func() {
			defer func() { <-slots }()
			conn, err := h.dial()
			if err == nil {
				_, err = io.WriteString(conn, "GET /v1/events?channel=a HTTP/1.1\r\nHost: localhost\r\n\r\n")
			}
			if err != nil {
				b.Error(err)
				return
			}
			b.Cleanup(func() { _ = conn.Close() })
			r := bufio.NewReaderSize(conn, 512)
			if _, err := r.ReadString('}'); err != nil { // the first heartbeat
				b.Error(err)
				return
			}
			go func() {
				for {
					line, err := r.ReadSlice('\n')
					if err != nil && err != bufio.ErrBufferFull {
						return
					}
					if strings.HasPrefix(string(line), "data: x") {
						heard.Add(1)
					}
				}
			}()
		})
	}
	opening.Wait()
	return time.Since(began)
}

// residentKB is what of the process is in memory.
func (h *hubProcess) residentKB(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return kb
}

// cpu is the time that the process has taken.
func (h *hubProcess) cpu(b *testing.B) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+2:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func (h *hubProcess) publish(b *testing.B, client *http.Client, data string) {
	b.Helper()
	scheme := "http://"
	if h.roots != nil {
		scheme = "https://"
	}
	resp, err := client.Post(scheme+h.addr+"/v1/channels/a", "text/plain", strings.NewReader(data))
	if err != nil {
		b.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		b.Fatal(resp.Status)
	}
}

// BenchmarkTLSStreams is what streams over TLS cost the hub beside plain ones: memory, 20 s after
// they were opened; time for each delivery; and how many open in a second. The bars are 8 KB with
// 5,000 streams, and 1.6 times the time.
func BenchmarkTLSStreams(b *testing.B) {
	const streams, events = 5000, 40
	binary := os.Getenv("FANFARE_BINARY") // another program, to compare
	if binary == "" {
		binary = buildHub(b)
	}
	for b.Loop() {
		var perDelivery [2]float64
		for i, name := range []string{"plain", "TLS"} {
			h := startHub(b, binary, name == "TLS")
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.roots}}}
			h.publish(b, client, "warm")
			before := h.residentKB(b)
			var heard atomic.Int64
			took := h.open(b, streams, &heard)
			time.Sleep(20 * time.Second)
			b.ReportMetric((h.residentKB(b)-before)/streams, "KB/"+name)
			b.ReportMetric(streams/took.Seconds(), "opened/s/"+name)
			cpu := h.cpu(b)
			for n := range events {
				h.publish(b, client, "x"+strings.Repeat("y", 200))
				deadline, all := time.Now().Add(time.Minute), int64(n+1)*streams
				for ; heard.Load() < all; time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						b.Fatalf("%d events were heard", heard.Load())
					}
				}
			}
			perDelivery[i] = float64((h.cpu(b) - cpu).Microseconds()) / (events * streams)
			b.ReportMetric(perDelivery[i], "µs/"+name)
		}
		b.ReportMetric(perDelivery[1]/perDelivery[0], "TLS:plain")
	}
}
