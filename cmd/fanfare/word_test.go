package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
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

func fileOf(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestEmptyFlags: a variable that is not set does not make a command mean something else.
func TestEmptyFlags(t *testing.T) {
	url, _ := hubFor(t)
	for _, args := range [][]string{
		{"disconnect", "--subject", "", "--channel", "**"}, {"disconnect", "--subject="}, {"disconnect", "--stream", "0"},
		{"revoke", "--token-id", "", "--channel", "a"}, {"revoke", "--subject", "ada", "--for", ""},
		{"publish", "a", "x", "--key", ""}, {"subscribe", "a", "--since", ""}, {"token", "--key", "HS256=x", "--subject", ""}, {"retention", "--retention", ""},
	} {
		if args[0] != "token" {
			args = append(args, "--url", url)
		}
		_, errOut, code := result(t, "", args...)
		want := " is empty: leave it out"
		if args[1] == "--stream" {
			want = "above zero"
		}
		if code == 0 || !strings.Contains(errOut, want) {
			t.Errorf("%q: %d %q", args, code, errOut)
		}
	}
	if _, errOut, code := result(t, "", "publish", "a", "x", "--event", "", "--url", url); code != 0 {
		t.Errorf("an empty event type is message: %q", errOut)
	}
}

// TestConfigChecksWhatServeChecks: each setting that serve refuses is refused by config too, in the same words.
func TestConfigChecksWhatServeChecks(t *testing.T) {
	short := fileOf(t, "secret", "short")
	junk := fileOf(t, "junk.pem", "no certificate")
	for _, args := range [][]string{
		{"--cors-origin", "https://*.example.com"}, {"--cors-origin", "app.example.com"},
		{"--allowed-host", "https://push.example.com"}, {"--allowed-host", "*.example.com"},
		{"--jwt-key", "HS256=" + short}, {"--jwt-key", "RS256=/nowhere/key.pem"}, {"--api-keys", junk}, {"--jwks-url", "http://id.example.com/keys"},
		{"--tls-cert", junk, "--tls-key", junk}, {"--acme-domain", "a.example.com", "--acme-roots", junk},
		{"--trace-endpoint", "collector:4318"}, {"--trace-endpoint", "http://127.0.0.1:1", "--trace-header", "token"},
		{"--trusted-proxy", "everybody"}, {"--retention", "a=forever"}, {"--addr", "0.0.0.0:1"},
	} {
		_, says, code := result(t, "", append([]string{"config"}, args...)...)
		_, alike, other := result(t, "", append([]string{"serve", "--addr", "127.0.0.1:0", "--data", t.TempDir()}, args...)...)
		if code != 2 || other != 2 || says != alike {
			t.Errorf("%q:\nconfig %d %q\nserve  %d %q", args, code, says, other, alike)
		}
	}
}

// TestConfigSaysMore: what is misspelt in a file or a variable comes with what was meant, and a URL without its password.
func TestConfigSaysMore(t *testing.T) {
	file := fileOf(t, "fanfare.yaml", "# the settings\nheartbeat: 15s\nretenion: 'a=age:1d'\n")
	if _, says, code := result(t, "", "config", "--config", file); code != 2 || !strings.Contains(says, file+`, line 3: unknown key "retenion": did you mean "retention"?`) {
		t.Errorf("%d %q", code, says)
	}
	t.Setenv("FANFARE_HEARTBEET", "3s")
	t.Setenv("FANFARE_SERVICE_HOST", "10.0.0.1")
	out, says, code := result(t, "", "config", "--trace-endpoint", "http://user:hunter2@127.0.0.1:4318")
	if code != 0 || !strings.Contains(says, "FANFARE_HEARTBEET, did you mean FANFARE_HEARTBEAT?") || !strings.Contains(says, "FANFARE_SERVICE_HOST\n") {
		t.Errorf("%d %q", code, says)
	}
	if strings.Contains(out, "hunter2") || !strings.Contains(out, "http://user:xxxxx@127.0.0.1:4318") {
		t.Errorf("%s", out)
	}
}

// TestWhatPeopleTryFirst: the version as a flag, help as a command, and completion.
func TestWhatPeopleTryFirst(t *testing.T) {
	want, _, _ := result(t, "", "version")
	if out, errOut, code := result(t, "", "--version"); code != 0 || out != want {
		t.Errorf("--version: %d %q %q", code, out, errOut)
	}
	for args, says := range map[string]string{"help": "Run the hub.", "help publish": "Prints the event's id", "help key create": "Prints the key"} {
		if out, errOut, code := result(t, "", strings.Fields(args)...); code != 0 || !strings.Contains(out, says) {
			t.Errorf("%s: %d %q %q", args, code, out, errOut)
		}
	}
	script, _, code := result(t, "", "completion", "bash")
	if code != 0 {
		t.Fatal(code)
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash")
	}
	for line, want := range map[string]string{"fanfare subs": "subscribe", "fanfare key ": "create list revoke", "fanfare key create --na": "--name", "fanfare publish greetings --ev": "--event"} {
		words := strings.Split(line, " ")
		ask := script + "\nCOMP_WORDS=("
		for _, w := range words {
			ask += "'" + w + "' "
		}
		ask += fmt.Sprintf(")\nCOMP_CWORD=%d\n_fanfare\necho \"${COMPREPLY[@]}\"\n", len(words)-1)
		out, err := exec.Command(bash, "--norc", "-c", ask).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("%q: %v %q, want %q", line, err, got, want)
		}
	}
	for _, shell := range []string{"zsh", "fish"} {
		if out, _, code := result(t, "", "completion", shell); code != 0 || !strings.Contains(out, "subscribe") {
			t.Errorf("%s: %d %q", shell, code, out)
		}
	}
}

// TestPublishOfNothing: what is no text, or is not there, is said, and not published as something else.
func TestPublishOfNothing(t *testing.T) {
	url, _ := hubFor(t)
	if _, errOut, code := result(t, "", "publish", "a", "--url", url); code == 0 || !strings.Contains(errOut, "standard input is empty") {
		t.Errorf("%d %q", code, errOut)
	}
	if _, errOut, code := result(t, "", "publish", "a", "", "--url", url); code != 0 {
		t.Errorf("an event without data: %d %q", code, errOut)
	}
	_, errOut, code := result(t, "one\nt\xffwo\nthree\n", "publish", "lines", "-", "--url", url)
	if code != 1 || !strings.Contains(errOut, "line 2 is left out: it is not valid UTF-8") || !strings.Contains(errOut, "2 lines published") {
		t.Errorf("%d %q", code, errOut)
	}
	if out, _, _ := result(t, "", "history", "lines", "--url", url); !strings.Contains(out, "one") || !strings.Contains(out, "three") || strings.Contains(out, "wo\n") {
		t.Errorf("%q", out)
	}
}

// TestSubscribeNamesChannels where events of several may come.
func TestSubscribeNamesChannels(t *testing.T) {
	url, _ := hubFor(t)
	result(t, "", "publish", "logs/a", "hello", "--event", "line", "--url", url)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"logs/*"}, `(?m)^logs/a\thello$`},
		{[]string{"logs/a", "logs/b"}, `(?m)^logs/a\thello$`},
		{[]string{"logs/a"}, `(?m)^hello$`},
		{[]string{"logs/a", "--json"}, `"channel":"logs/a","event":"line","data":"hello","time":"2`},
	} {
		args := append([]string{"subscribe", "--since", "all", "--url", url}, c.args...)
		begin(t, strings.NewReader(""), args...).out.until(t, c.want)
	}
}

// TestCommandsOverTLS: --cacert has commands believe a certificate of one's own, and doctor takes FANFARE_URL.
func TestCommandsOverTLS(t *testing.T) {
	cert, key := selfSigned(t)
	url, _ := hubFor(t, "--tls-cert", cert, "--tls-key", key)
	if _, errOut, code := result(t, "", "publish", "a", "x", "--url", url, "--retry-for", "0s"); code == 0 {
		t.Errorf("an unknown certificate was believed: %q", errOut)
	}
	for _, args := range [][]string{{"publish", "a", "x"}, {"history", "a"}, {"disconnect", "--subject", "nobody"}} {
		if _, errOut, code := result(t, "", append(args, "--url", url, "--cacert", cert)...); code != 0 {
			t.Errorf("%v: %d %q", args, code, errOut)
		}
	}
	begin(t, strings.NewReader(""), "subscribe", "a", "--since", "all", "--url", url, "--cacert", cert).out.until(t, "(?m)^x$")
	t.Setenv("FANFARE_URL", url)
	if out, errOut, _ := result(t, "", "doctor", "--cacert", cert, "--idle", "0s"); !strings.Contains(out, "the hub is reached and ready") {
		t.Errorf("%q %q", out, errOut)
	}
	if _, errOut, code := result(t, "", "doctor", "--cacert", key); code != exitUsage || !strings.Contains(errOut, "no certificate") {
		t.Errorf("%d %q", code, errOut)
	}
}

// selfSigned makes a certificate for this machine, and returns its files.
func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return fileOf(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		fileOf(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
}
