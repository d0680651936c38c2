package server_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// kind is how streams are connected, and how the hub serves them. The promises for streams (P1 to
// P8) hold on every kind, so every test of streams runs over all of them: it begins with
//
//	if eachKind(t, TestDelivery) {
//		return
//	}
//
// A fixture refuses to open a stream in a test that does not, unless that says why one kind is
// enough, with oneKind.
type kind struct {
	name     string
	attached bool // a stream has a goroutine, though it need not
	used     bool // the connections are those of publishers already, taken over after a publish
	tls, h2  bool
}

var detached = kind{name: "detached"}

var kinds = []kind{
	detached,
	{name: "used", used: true},
	{name: "attached", attached: true},
	{name: "TLS", tls: true},
	{name: "attached TLS", tls: true, attached: true},
	{name: "HTTP2", tls: true, h2: true},
	{name: "h2c", h2: true},
}

// running has the kinds of tests that run, by the tests' names.
var running sync.Map

// eachKind runs a test once over each kind, all at once and beside other tests, unless it does that
// already, and is true when that is over. A test that measures the process calls eachKindAlone.
func eachKind(t *testing.T, test func(*testing.T)) bool {
	t.Helper()
	if _, known := kindOf(t); known {
		return false
	}
	t.Parallel()
	return eachKindAlone(t, test)
}

func eachKindAlone(t *testing.T, test func(*testing.T)) bool {
	t.Helper()
	if _, known := kindOf(t); known {
		return false
	}
	var all sync.WaitGroup
	// not t.Parallel, of which there are as many as processors: most tests wait most of the time
	for _, k := range chosen() {
		all.Go(func() {
			t.Run(k.name, func(t *testing.T) {
				t.Cleanup(run(t, k))
				test(t)
			})
		})
	}
	all.Wait()
	return true
}

// chosen are the kinds that FANFARE_KINDS names, separated by commas, or all. A run with the race
// detector costs five times as much as one without, and make test names the two that share least.
func chosen() []kind {
	names := os.Getenv("FANFARE_KINDS")
	if names == "" {
		return kinds
	}
	var some []kind
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
		if i < 0 {
			panic("FANFARE_KINDS: there is no kind " + name)
		}
		some = append(some, kinds[i])
	}
	return some
}

// oneKind says why a test that opens streams does with those that are detached.
func oneKind(t *testing.T, why string) {
	t.Helper()
	if why == "" {
		t.Fatal("say why")
	}
	if _, known := kindOf(t); !known {
		t.Cleanup(run(t, detached))
	}
}

func run(t *testing.T, k kind) (end func()) {
	running.Store(t.Name(), k)
	return func() { running.Delete(t.Name()) }
}

func kindOf(t testing.TB) (k kind, known bool) {
	for name := t.Name(); name != ""; {
		if k, known := running.Load(name); known {
			return k.(kind), true
		}
		name = name[:max(strings.LastIndexByte(name, '/'), 0)]
	}
	return detached, false
}

// http1 skips a test of what there is on HTTP/1 alone.
func (f *fixture) http1(what string) {
	f.t.Helper()
	if f.kind.h2 {
		f.t.Skip("HTTP/2 has no such thing: ", what)
	}
}

func (f *fixture) needsKind() {
	f.t.Helper()
	if _, known := kindOf(f.t); !known {
		f.t.Fatalf("a test of streams runs over every kind of connection: begin it with `if eachKind(t, %s) { return "+
			"}`, or say with oneKind(t, …) why one is enough", f.t.Name())
	}
}

// certificate is what hubs of the tests show over TLS.
var certificate = sync.OnceValues(func() (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0,
			1)}, DNSNames: []string{"localhost"}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
})

// serverTLS is nil where the kind has no TLS.
func (k kind) serverTLS() *tls.Config {
	if !k.tls {
		return nil
	}
	cert, _ := certificate()
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

func (k kind) clientTLS() *tls.Config {
	_, pool := certificate()
	return &tls.Config{RootCAs: pool, ServerName: "localhost"}
}

// transport makes connections of the kind.
func (k kind) transport() *http.Transport {
	p := new(http.Protocols)
	p.SetHTTP1(!k.h2)
	p.SetHTTP2(k.h2 && k.tls)
	p.SetUnencryptedHTTP2(k.h2 && !k.tls)
	return &http.Transport{Protocols: p, TLSClientConfig: k.clientTLS()}
}

// wired is a connection of its own with a stream on it. The test has its socket in its hands, which
// is read only while it wants, and whose kernel takes little that nobody reads.
type wired struct {
	f    *fixture
	http *http.Client
	tcp  *net.TCPConn // when something has been sent
	gate *gate
	resp *http.Response
	body *bufio.Reader
	ctx  context.Context
	quit context.CancelFunc
}

// open opens a stream on a connection of its own.
func (f *fixture) open(path string, header ...string) *wired {
	f.t.Helper()
	w := f.wire()
	w.begin(path, header...)
	return w
}

func (f *fixture) wire() *wired {
	f.t.Helper()
	f.needsKind()
	w := &wired{f: f}
	w.ctx, w.quit = context.WithCancel(context.Background())
	transport := f.kind.transport()
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		w.tcp = conn.(*net.TCPConn)
		_ = w.tcp.SetReadBuffer(4 << 10)
		w.gate = newGate(conn)
		return w.gate, nil
	}
	transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: f.window}
	w.http = &http.Client{Transport: transport}
	f.t.Cleanup(w.close)
	if f.kind.used {
		w.call(http.MethodPost, "/v1/channels/used", "x", bearer(token("used", time.Hour, "publish", "used")))
	}
	return w
}

// call sends a request and reads its answer.
func (w *wired) call(method, path, body string, header ...string) {
	t := w.f.t
	t.Helper()
	resp := w.do(method, path, body, header...)
	b, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s %s %v", method, path, resp.Status, b, err)
	}
}

func (w *wired) do(method, path, body string, header ...string) *http.Response {
	w.f.t.Helper()
	resp, err := w.try(method, path, body, header...)
	if err != nil {
		w.f.t.Fatal(err)
	}
	return resp
}

func (w *wired) try(method, path, body string, header ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(w.ctx, method, w.f.url(path), strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	setHeader(req, header)
	return w.http.Do(req)
}

// begin opens the stream.
func (w *wired) begin(path string, header ...string) {
	t := w.f.t
	t.Helper()
	w.resp = w.do(http.MethodGet, path, "", header...)
	w.body = bufio.NewReader(w.resp.Body)
	if w.resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(w.body)
		t.Fatalf("GET %s: %s %s", path, w.resp.Status, b)
	}
}

// until reads to the end of a text.
func (w *wired) until(text string) string {
	w.f.t.Helper()
	timer := time.AfterFunc(time.Minute, func() { _ = w.tcp.Close() })
	defer timer.Stop()
	return readUntil(w.f.t, w.body, text)
}

// stops has no more bytes be read from the socket. The client has read few bytes already.
func (w *wired) stops() { w.gate.shut() }

// goesOn is the end of stops.
func (w *wired) goesOn() { w.gate.open() }

// reset closes the connection so that the peer's kernel says nothing more but that.
func (w *wired) reset() {
	_ = w.tcp.SetLinger(0)
	_ = w.tcp.Close()
}

func (w *wired) close() {
	w.quit()
	if w.gate != nil {
		w.gate.open()
		_ = w.tcp.Close()
	}
	if w.resp != nil {
		_ = w.resp.Body.Close()
	}
	w.http.CloseIdleConnections()
}

func setHeader(req *http.Request, lines []string) {
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			req.Host = value
		} else {
			req.Header.Add(name, value)
		}
	}
}

// gate is a connection that can be kept from being read.
type gate struct {
	net.Conn
	mu     sync.Mutex
	opened chan struct{} // closed while it may be read
}

func newGate(conn net.Conn) *gate {
	g := &gate{Conn: conn, opened: make(chan struct{})}
	close(g.opened)
	return g
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.opened:
		g.opened = make(chan struct{})
	default:
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.opened:
	default:
		close(g.opened)
	}
}

func (g *gate) Read(b []byte) (int, error) {
	g.mu.Lock()
	opened := g.opened
	g.mu.Unlock()
	<-opened
	return g.Conn.Read(b)
}
