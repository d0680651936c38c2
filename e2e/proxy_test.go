package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate makes a certificate for push.example.com and writes it in the forms that proxies
// want.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "push.example.com"},
		DNSNames:  []string{"push.example.com", "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour), IsCA: true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	for name, content := range map[string][]byte{
		"push.example.com.pem": cert, "push.example.com.key": secret,
		"push.example.com.both.pem": append(append([]byte{}, cert...), secret...),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// freePort picks a port that nobody listens on at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
}

// proxied starts a proxy with a configuration, in which the documented addresses and paths are
// replaced. ca is the file of its certificate.
func proxied(t *testing.T, h *hubProcess, program, config string, args func(file string) []string) (url, ca string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("SKIPPED: no %s; e2e/setup says why", program)
	}
	dir, port := t.TempDir(), freePort(t)
	certificate(t, dir)
	ca = filepath.Join(dir, "push.example.com.pem")
	config = strings.NewReplacer("127.0.0.1:8443", "127.0.0.1:"+port, "127.0.0.1:8082", h.addr, "/etc/ssl/", dir+"/",
		"DIR", dir,
		"maxconn 40000", "maxconn 1000", "maxconn 30000", "maxconn 900").Replace(config)
	file := filepath.Join(dir, "proxy.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log := &tailBuffer{}
	cmd := exec.Command(program, args(file)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", program, log)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen: %s", program, log)
		}
	}
	return "https://localhost:" + port, ca
}

func nginxArgs(file string) []string {
	return []string{"-p", filepath.Dir(file), "-c", file, "-g", "daemon off;"}
}

func haproxyArgs(file string) []string { return []string{"-db", "-f", file} }

// nginxHTTP puts server blocks into a whole configuration that writes nowhere but below DIR.
func nginxHTTP(blocks string) string {
	return `error_log DIR/error.log; pid DIR/nginx.pid; user root; worker_processes 1; events { worker_connections 512; }
http { access_log off; client_body_temp_path DIR/b; proxy_temp_path DIR/p; fastcgi_temp_path DIR/f; uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;
` + blocks + "\n}\n"
}

func doctor(t *testing.T, url string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(binary, append([]string{"doctor", url}, args...)...).CombinedOutput()
	return string(out), err
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestProxies: the configurations in deploy/ pass the doctor, with the real programs.
func TestProxies(t *testing.T) {
	t.Parallel()
	h := serve(t, "127.0.0.1:0", t.TempDir(), "--heartbeat", "1s")
	for _, c := range []struct {
		program, config string
		args            func(string) []string
	}{
		{"nginx", nginxHTTP(read(t, "../deploy/nginx/fanfare.conf")), nginxArgs},
		{"haproxy", read(t, "../deploy/haproxy/haproxy.cfg"), haproxyArgs},
	} {
		t.Run(c.program, func(t *testing.T) {
			url, ca := proxied(t, h, c.program, c.config, c.args)
			out, err := doctor(t, url, "--cacert", ca, "--idle", "4s")
			if err != nil {
				t.Errorf("%v", err)
			}
			for _, want := range []string{"ok    the hub is reached and ready", "TLS 1.3", "HTTP/2",
				"nothing compresses", "from publish to delivery", "an idle stream lives"} {
				if !strings.Contains(out, want) {
					t.Errorf("no %q", want)
				}
			}
			t.Logf("\n%s", out)
		})
	}
	h.stop()
}

// TestDoctorFinds what is wrong with a deployment, and says what mends it.
func TestDoctorFinds(t *testing.T) {
	t.Parallel()
	h := serve(t, "127.0.0.1:0", t.TempDir(), "--heartbeat", "10s")
	block := func(host, more string) string {
		return nginxHTTP(`server { listen 127.0.0.1:8443 ssl; ssl_certificate /etc/ssl/push.example.com.pem; ssl_certificate_key /etc/ssl/push.example.com.key;
location / { proxy_pass http://127.0.0.1:8082; proxy_http_version 1.1; proxy_set_header Host ` + host + `; ` + more + ` } }`)
	}
	t.Cleanup(h.stop) // when the cases, which run at the same time, have ended
	for name, c := range map[string]struct {
		config string
		want   []string
	}{
		"buffering": {block("localhost", "proxy_ignore_headers X-Accel-Buffering; proxy_buffers 8 64k;"),
			[]string{"BAD", "proxy_buffering off"}},
		"compression": {block("localhost",
			"gzip on; gzip_proxied any; gzip_min_length 1; gzip_types text/event-stream;"),
			[]string{"BAD   a proxy compresses the stream (gzip)", "gzip_types"}},
		"idle cut-off": {block("localhost", "proxy_buffering off; proxy_read_timeout 2s;"),
			[]string{"BAD   the stream was cut after", "proxy_read_timeout"}},
		"host": {block("push.example.com", "proxy_buffering off;"),
			[]string{"BAD   the hub refuses the name", "--allowed-host"}},
		"another site": {nginxHTTP(`server { listen 127.0.0.1:8443 ssl; ssl_certificate /etc/ssl/push.example.com.pem; ssl_certificate_key /etc/ssl/push.example.com.key; return 200 "hello"; }`),
			[]string{"BAD   GET /readyz was answered 200 OK, and not by a hub", "content type"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, ca := proxied(t, h, "nginx", c.config, nginxArgs)
			out, err := doctor(t, url, "--cacert", ca, "--idle", "6s")
			if err == nil {
				t.Error("the doctor is content")
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q", want)
				}
			}
			if !strings.Contains(out, "→") || !strings.Contains(out, "to be mended") {
				t.Error("it does not say how to mend it")
			}
			t.Logf("\n%s", out)
		})
	}
	t.Run("delay", func(t *testing.T) {
		plain := strings.NewReplacer(" ssl crt /etc/ssl/push.example.com.both.pem alpn h2,http/1.1", "",
			"  option http-no-delay", "  #").Replace(read(t, "../deploy/haproxy/haproxy.cfg"))
		url, _ := proxied(t, h, "haproxy", plain, haproxyArgs)
		url = strings.Replace(url, "https:", "http:", 1)
		if out, _ := doctor(t, url, "--idle", "0s"); !strings.Contains(out, "BAD   events come") ||
			!strings.Contains(out, "option http-no-delay") {
			t.Errorf("%s", out)
		}
	})
	out, err := doctor(t, h.url(""), "--idle", "2s")
	if err != nil || !strings.Contains(out, "at most 6 connections") {
		t.Errorf("without a proxy: %v\n%s", err, out)
	}
	if out, err := doctor(t, "http://127.0.0.1:1"); err == nil || !strings.Contains(out, "cannot be reached") {
		t.Errorf("nobody there: %v\n%s", err, out)
	}
}

// TestUnits: systemd takes the units.
func TestUnits(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("SKIPPED: no systemd-analyze; e2e/setup says why")
	}
	dir := t.TempDir()
	for _, name := range []string{"fanfare.service", "fanfare.socket"} {
		unit := strings.ReplaceAll(read(t, "../deploy/systemd/"+name), "/usr/local/bin/fanfare", binary)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(unit), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("systemd-analyze", "verify", filepath.Join(dir, "fanfare.service"),
		filepath.Join(dir, "fanfare.socket"))
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "fanfare") {
		t.Errorf("%v\n%s", err, out)
	}
}
