package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// newSecret writes a secret for HS256, and returns its file.
func newSecret(t *testing.T) string {
	t.Helper()
	var b [32]byte
	_, _ = rand.Read(b[:])
	file := filepath.Join(t.TempDir(), "secret.txt")
	if err := os.WriteFile(file, []byte(base64.StdEncoding.EncodeToString(b[:])+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// command runs the program to its end.
func command(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(binary, args...).Output()
	if err != nil {
		t.Fatalf("fanfare %v: %v %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func request(t *testing.T, client *http.Client, method, url, token, body string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// TestPageWithToken: the page of a hub that asks who somebody is, in Chromium.
func TestPageWithToken(t *testing.T) {
	findChromium(t)
	needCurl(t)
	secret := newSecret(t)
	t.Setenv("PATH", filepath.Dir(binary)+":"+os.Getenv("PATH"))
	h := serve(t, "127.0.0.1:0", t.TempDir(), "--jwt-key", "HS256="+secret)
	token := command(t, "token", "--key", "HS256="+secret, "--subject", "ada", "--admin", "**", "--publish", "**",
		"--subscribe", "**")
	looksAt(t, h, "secured", "FANFARE_TEST_TOKEN="+token, "FANFARE_TEST_FOLDER="+filepath.Dir(secret))
	other := command(t, "token", "--key", "HS256="+secret, "--subject", "bob", "--subscribe", "users/bob/**")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.url("/v1/channels/users/bob/inbox"),
		strings.NewReader("for bob"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	looksAt(t, h, "limited", "FANFARE_TEST_TOKEN="+other)
	if log := h.log.String(); strings.Contains(log, token[100:]) || strings.Contains(log, "ft_") {
		t.Errorf("a token or a ticket stands in the log:\n%s", log)
	}
	h.stop()
}

// TestTicketInChromium: an EventSource repeats its URL at each reconnect; the ticket in it serves
// over three lifetimes.
func TestTicketInChromium(t *testing.T) {
	t.Parallel()
	findChromium(t)
	secret := newSecret(t)
	h := serve(t, "127.0.0.1:0", t.TempDir(), "--jwt-key", "HS256="+secret, "--stream-lifetime", "1s")
	token := command(t, "token", "--key", "HS256="+secret, "--subject", "ada", "--publish", "ticks", "--subscribe",
		"ticks")
	looksAt(t, h, "ticket", "FANFARE_TEST_TOKEN="+token)
	h.stop()
}

// trusting returns a client that trusts a certificate, and speaks HTTP/1.1 or HTTP/2.
func trusting(t *testing.T, certFile string, http2 bool) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(read(t, certFile)))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"},
		ForceAttemptHTTP2: http2}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// TestTLS: https with HTTP/2, nothing older than TLS 1.2, and a certificate that is replaced while
// running; one that cannot be used changes nothing.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir, secret := t.TempDir(), newSecret(t)
	certificate(t, dir)
	cert, key := filepath.Join(dir, "push.example.com.pem"), filepath.Join(dir, "push.example.com.key")
	h := serve(t, "127.0.0.1:0", t.TempDir(), "--tls-cert", cert, "--tls-key", key, "--jwt-key", "HS256="+secret,
		"--stream-lifetime", "2s")
	token := command(t, "token", "--key", "HS256="+secret, "--publish", "a", "--subscribe", "a")
	for _, two := range []bool{false, true} {
		client := trusting(t, cert, two)
		if status, body := request(t, client, "POST", h.url("/v1/channels/a"), token, "hello"); status != 201 {
			t.Errorf("%d %s", status, body)
		}
		req, _ := http.NewRequest("GET", h.url("/v1/events?channel=a&replay=all"), nil)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body) // to the end of its lifetime
		_ = resp.Body.Close()
		if !strings.Contains(string(b), "data: hello") || err != nil || (resp.ProtoMajor == 2) != two {
			t.Errorf("HTTP/%d: %s %v", resp.ProtoMajor, b, err)
		}
	}
	for version, ok := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true,
		tls.VersionTLS13: true} {
		// only whether it shakes hands
		conn, err := tls.Dial("tcp", h.addr,
			&tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		if (err == nil) != ok {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			_ = conn.Close()
		}
	}
	serial := func() string {
		conn, err := tls.Dial("tcp", h.addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		return fmt.Sprintf("%x", conn.ConnectionState().PeerCertificates[0].Signature)
	}
	first := serial()
	if err := os.WriteFile(cert, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log tells of the broken certificate",
		func() bool { return strings.Contains(h.log.String(), "cannot be used; the one before stays") })
	if now := serial(); now != first {
		t.Errorf("a broken certificate changed something: %s", now)
	}
	certificate(t, dir)
	eventually(t, "the new certificate is shown", func() bool { return serial() != first })
	// Plain HTTP on the port for https is told so.
	conn, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
	if line, _ := bufio.NewReader(conn).ReadString('\n'); !strings.Contains(line, "400") {
		t.Errorf("plain HTTP: %q", line)
	}
	h.stop()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not come that %s", what)
		}
	}
}

// TestH2C: HTTP/2 without TLS, where that is switched on.
func TestH2C(t *testing.T) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	h := serve(t, "127.0.0.1:0", t.TempDir(), "--h2c")
	for _, c := range []*http.Client{client, http.DefaultClient} {
		if status, body := request(t, c, "POST", h.url("/v1/channels/a"), "", "hello"); status != 201 {
			t.Errorf("%d %s", status, body)
		}
	}
	h.stop()
	h = serve(t, "127.0.0.1:0", t.TempDir())
	if _, err := client.Get(h.url("/livez")); err == nil {
		t.Error("HTTP/2 without TLS was taken without --h2c")
	}
	http.DefaultClient.CloseIdleConnections()
	h.stop()
}

// TestACME gets a certificate from Let's Encrypt's test server, over a challenge on the hub's own
// port.
func TestACME(t *testing.T) {
	for _, tool := range []string{"pebble", "pebble-challtestsrv"} {
		if _, err := os.Stat(".tools/" + tool); err != nil {
			t.Skipf("SKIPPED: no %s; e2e/setup says why", tool)
		}
	}
	dir, secret := t.TempDir(), newSecret(t)
	certificate(t, dir) // of the authority's own https
	hubPort, names, directory, management := freePort(t), freePort(t), freePort(t), freePort(t)
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": "127.0.0.1:" + directory, "managementListenAddress": "127.0.0.1:" +
			management, "certificate": filepath.Join(dir, "push.example.com.pem"),
		"privateKey": filepath.Join(dir, "push.example.com.key"), "httpPort": 1, "tlsPort": json.Number(hubPort),
		"profiles": map[string]any{"default": map[string]any{"description": "x", "validityPeriod": 7776000}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pebble.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	start(t, ".tools/pebble-challtestsrv", "-dnsserver", "127.0.0.1:"+names, "-http01", "", "-https01", "",
		"-tlsalpn01", "", "-doh", "", "-management", "127.0.0.1:"+freePort(t), "-defaultIPv6", "")
	authority := start(t, ".tools/pebble", "-config", filepath.Join(dir, "pebble.json"), "-dnsserver",
		"127.0.0.1:"+names)
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives: true}}
	eventually(t, "the authority answers", func() bool {
		resp, err := insecure.Get("https://127.0.0.1:" + directory + "/dir")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err == nil
	})
	data := t.TempDir()
	h := serve(t, "127.0.0.1:"+hubPort, data, "--acme-domain", "push.example.com", "--acme-email", "ops@example.com",
		"--acme-url", "https://localhost:"+directory+"/dir",
		"--acme-roots", filepath.Join(dir, "push.example.com.pem"), "--jwt-key", "HS256="+secret)
	_, roots := request(t, insecure, "GET", "https://127.0.0.1:"+management+"/roots/0", "", "")
	rootFile := filepath.Join(dir, "root.pem")
	if err := os.WriteFile(rootFile, []byte(roots), 0o600); err != nil {
		t.Fatal(err)
	}
	client := trusting(t, rootFile, true)
	client.Transport.(*http.Transport).TLSClientConfig.ServerName = "push.example.com"
	eventually(t, "the hub shows a certificate of the authority: "+h.log.String(), func() bool {
		resp, err := client.Get(h.url("/livez"))
		if err == nil {
			_ = resp.Body.Close()
		}
		return err == nil
	})
	if !strings.Contains(h.log.String(), "a certificate was obtained") {
		t.Errorf("%s", h.log)
	}
	h.stop()
	// The certificate is kept: the next start needs no authority.
	if err := authority.cmd.Cancel(); err != nil {
		t.Fatal(err)
	}
	h = serve(t, "127.0.0.1:"+hubPort, data, "--acme-domain", "push.example.com", "--acme-email", "ops@example.com",
		"--acme-url", "https://localhost:"+directory+"/dir", "--acme-roots", filepath.Join(dir,
			"push.example.com.pem"), "--jwt-key", "HS256="+secret)
	client.CloseIdleConnections()
	eventually(t, "the kept certificate is shown", func() bool {
		resp, err := client.Get(h.url("/livez"))
		if err == nil {
			_ = resp.Body.Close()
		}
		return err == nil
	})
	h.stop()
}

// TestIssuersKeys: the hub fetches an issuer's keys over https, and takes new ones without a
// restart.
func TestIssuersKeys(t *testing.T) {
	dir := t.TempDir()
	certificate(t, dir)
	t.Setenv("SSL_CERT_FILE", filepath.Join(dir, "push.example.com.pem"))
	type issued struct {
		id  string
		key *ecdsa.PrivateKey
	}
	var current atomic.Pointer[issued]
	rotate := func(id string) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		current.Store(&issued{id, key})
	}
	rotate("one")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	issuer := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		now := current.Load()
		point, err := now.key.PublicKey.Bytes()
		if err != nil {
			t.Error(err)
		}
		coordinate := base64.RawURLEncoding.EncodeToString
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{
			"kty": "EC", "crv": "P-256", "kid": now.id, "use": "sig", "x": coordinate(point[1:33]),
			"y": coordinate(point[33:]),
		}}})
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = issuer.ServeTLS(l, filepath.Join(dir, "push.example.com.pem"), filepath.Join(dir, "push.example.com.key"))
	}()
	defer func() { _ = issuer.Close(); <-served }()
	token := func() string {
		now := current.Load()
		made := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
			"sub": "ada", "iss": "https://id.example.com", "exp": time.Now().Add(time.Hour).Unix(),
			"fanfare": map[string]any{"subscribe": []string{"a"}}})
		made.Header["kid"] = now.id
		text, err := made.SignedString(now.key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	h := serve(t, "127.0.0.1:0", t.TempDir(), "--jwks-url", fmt.Sprintf("https://localhost:%d/jwks.json",
		l.Addr().(*net.TCPAddr).Port), "--jwks-refresh", "1s", "--jwt-issuer", "https://id.example.com")
	ask := func(token string) int {
		status, _ := request(t, client, "GET", h.url("/v1/history?channel=a"), token, "")
		return status
	}
	old := token()
	eventually(t, "the issuer's key is taken: "+h.log.String(), func() bool { return ask(old) == 200 })
	rotate("two")
	eventually(t, "the issuer's next key is taken", func() bool { return ask(token()) == 200 })
	if status := ask(old); status != 401 {
		t.Errorf("the old key: %d", status)
	}
	h.stop()
}

// TestSmugglingBehindNginx: what nginx passes on is what the hub reads; nothing hides behind a
// request.
func TestSmugglingBehindNginx(t *testing.T) {
	t.Parallel()
	h := serve(t, "127.0.0.1:0", t.TempDir(), "--allowed-host", "push.example.com")
	url, _ := proxied(t, h, "nginx", nginxHTTP(read(t, "../deploy/nginx/fanfare.conf")), nginxArgs)
	addr := strings.TrimPrefix(url, "https://")
	_, port, _ := net.SplitHostPort(addr)
	hidden := "POST /v1/channels/smuggled HTTP/1.1\r\nHost: push.example.com\r\nContent-Length: 1\r\n\r\nx"
	head := "POST /v1/channels/a HTTP/1.1\r\nHost: push.example.com\r\n"
	for name, r := range map[string]string{
		"both lengths": head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
		"both, other order": head + "Transfer-Encoding: chunked\r\nContent-Length: " + fmt.Sprint(5+len(hidden)) +
			"\r\n\r\n0\r\n\r\n" + hidden,
		"two lengths": head + "Content-Length: 0\r\nContent-Length: " + fmt.Sprint(len(hidden)) + "\r\n\r\n" +
			hidden,
		"length of a get": "GET /v1/events?channel=a HTTP/1.1\r\nHost: push.example.com\r\nContent-Length: " +
			fmt.Sprint(len(hidden)) + "\r\n\r\n" + hidden,
		"obscured coding":    head + "Transfer-Encoding: \x0bchunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n" + hidden,
		"space before colon": head + "Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n" + hidden,
		"bare LF": strings.ReplaceAll(head, "\r\n", "\n") +
			"Content-Length: 0\nTransfer-Encoding:\n chunked\n\n0\n\n" + hidden,
		"chunk extension": head + "Transfer-Encoding: chunked\r\n\r\n1;\nx\r\nx\r\n0\r\n\r\n" + hidden,
		"upgrade": "GET /v1/events?channel=a HTTP/1.1\r\nHost: push.example.com\r\nConnection: Upgrade, " +
			"HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" + hidden,
	} {
		conn, err := tls.Dial("tcp", net.JoinHostPort("127.0.0.1", port),
			&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(1500 * time.Millisecond))
		_, _ = io.WriteString(conn, r)
		b, _ := io.ReadAll(conn)
		_ = conn.Close()
		// A client may pipeline requests on its own connection; no other connection may carry them.
		// A second answer on this connection is wrong only where the first request's body covered
		// the second request.
		if strings.Contains(name, "length of a get") && strings.Contains(string(b), "201") {
			t.Errorf("%s: %s", name, b)
		}
	}
	// Of those that two readers could take for different requests nothing may have been stored, and
	// whoever comes next on nginx's connections to the hub gets their own answers.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	for i := range 50 {
		req, _ := http.NewRequest("POST", url+"/v1/channels/after", strings.NewReader(fmt.Sprint(i)))
		req.Host = "push.example.com"
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 201 {
			t.Errorf("%d %s", resp.StatusCode, b)
		}
	}
	if n := len(h.history("after")); n != 50 {
		t.Errorf("%d of 50 were stored", n)
	}
	h.stop()
}

// TestSilentAndSlowConnections: 10,000 connections that never send a byte, and 2,000 streams that
// are read a byte a second, while a publisher and a stream go on as if nothing were; the silent
// ones are cut after the header's time.
func TestSilentAndSlowConnections(t *testing.T) {
	silent, slow := 10_000, 2_000
	if room := filesRoom(); room < silent+slow+1000 {
		silent, slow = room/2, room/10
	}
	h := serve(t, "127.0.0.1:0", t.TempDir(), "--header-timeout", "4s")
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	stop := make(chan struct{})
	var readers sync.WaitGroup
	defer readers.Wait()
	defer close(stop)
	for range slow {
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		_, _ = io.WriteString(c, "GET /v1/events?channel=busy HTTP/1.1\r\nHost: localhost\r\n\r\n")
	}
	slowConns := conns[:slow:slow]
	readers.Go(func() { // a byte a second of each
		var one [1]byte
		for {
			for _, c := range slowConns {
				_ = c.SetReadDeadline(time.Now().Add(time.Microsecond))
				_, _ = c.Read(one[:])
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
			}
		}
	})
	var cut atomic.Int64
	for range silent {
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatalf("after %d silent connections: %v", len(conns)-slow, err)
		}
		conns = append(conns, c)
	}
	began := time.Now()
	for i := 0; time.Since(began) < 6*time.Second; i++ {
		h.publish("busy", fmt.Sprint(i, strings.Repeat("x", 500)))
	}
	events := h.history("busy")
	if len(events) < 20 {
		t.Errorf("only %d publishes in 6 s", len(events))
	}
	// A new client gets in and hears at once.
	if got := streamUntil(t, h.url("/v1/events?channel=busy&replay=5"), "", events[len(events)-1].ID); len(got) == 0 {
		t.Error("a new stream heard nothing")
	}
	for _, c := range conns[slow:] {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := c.Read(make([]byte, 1)); err == io.EOF {
			cut.Add(1)
		}
	}
	if int(cut.Load()) != silent {
		t.Errorf("%d of %d silent connections were cut", cut.Load(), silent)
	}
	// A byte a second does not open TCP's window for half a minute: such a stream may end as
	// stalled, and for no other reason.
	var open, stalled int
	for _, line := range strings.Split(metrics(t, h), "\n") {
		_, _ = fmt.Sscanf(line, `fanfare_streams_open{adapter="native"} %d`, &open)
		_, _ = fmt.Sscanf(line, `fanfare_streams_ended_total{reason="stalled"} %d`, &stalled)
	}
	if n := open + stalled - slow; n != 0 && n != 1 { // the one above may not be noticed to be gone yet
		t.Errorf("of %d streams that are read slowly %d are open and %d ended as stalled", slow, open, stalled)
	}
	if rss := residentBytes(t, h.cmd.Process.Pid); rss > 800<<20 {
		t.Errorf("the hub takes %d MB", rss>>20)
	}
	t.Logf("%d silent and %d slow connections, %d publishes, %d MB", silent, slow, len(events),
		residentBytes(t, h.cmd.Process.Pid)>>20)
	h.stop()
}

// TestLongHeaders: 64 KB pass, what is beyond the server's limit gets 431.
func TestLongHeaders(t *testing.T) {
	h := serve(t, "127.0.0.1:0", t.TempDir())
	for size, want := range map[int]string{64 << 10: "200", 400 << 10: "431"} {
		conn, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = io.WriteString(conn,
				"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: "+strings.Repeat("x",
					size)+"\r\n\r\n")
		}()
		if line, _ := bufio.NewReader(conn).ReadString('\n'); !strings.Contains(line, want) {
			t.Errorf("%d bytes: %q, want %s", size, line, want)
		}
		_ = conn.Close()
	}
	h.stop()
}

// TestOpenHubStaysOnLoopback: another address takes authentication. Nothing is listened on here.
func TestOpenHubStaysOnLoopback(t *testing.T) {
	out, err := exec.Command(binary, "config", "--addr", "0.0.0.0:8082").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--jwt-key") {
		t.Errorf("%v %s", err, out)
	}
	if out, err := exec.Command(binary, "config", "--addr", "0.0.0.0:8082", "--jwt-secret",
		"HS256=hush, hush, hush, hush, hush, hush").CombinedOutput(); err != nil ||
		strings.Contains(string(out), "hush") {
		t.Errorf("%v %s", err, out)
	}
}

// residentBytes is the memory of a process.
func residentBytes(t *testing.T, pid int) int {
	t.Helper()
	var size, resident int
	if _, err := fmt.Sscan(read(t, fmt.Sprintf("/proc/%d/statm", pid)), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * os.Getpagesize()
}

// filesRoom is how many files a process may have open.
func filesRoom() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 1000
	}
	return int(min(limit.Cur, 1<<20))
}
