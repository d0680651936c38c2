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
	"regexp"
	"slices"
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
		{"disconnect", "--subject", "", "--channel", "**"}, {"disconnect", "--subject="}, {"disconnect", "--stream",
			"0"},
		{"revoke", "--token-id", "", "--channel", "a"}, {"revoke", "--subject", "ada", "--for", ""},
		{"publish", "a", "x", "--key", ""}, {"subscribe", "a", "--since", ""}, {"token", "--key", "HS256=x",
			"--subject", ""}, {"retention", "--retention", ""},
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

// TestEmptyVariables: what is empty in the environment, or in the settings file, is not taken for
// what is not there.
func TestEmptyVariables(t *testing.T) {
	url, _ := hubFor(t)
	for _, c := range []struct {
		variable string
		args     []string
	}{
		{"FANFARE_SUBJECT", []string{"disconnect", "--channel", "**", "--url", url}},
		{"FANFARE_TOKEN_ID", []string{"revoke", "--channel", "**", "--url", url}},
		{"FANFARE_TOKEN", []string{"history", "a", "--url", url}},
		{"FANFARE_URL", []string{"history", "a"}},
		{"FANFARE_FOR", []string{"revoke", "--subject", "ada", "--url", url}},
		{"FANFARE_ALLOWED_HOST", []string{"serve", "--addr", "127.0.0.1:0", "--data", t.TempDir()}},
		{"FANFARE_JWT_ISSUER", []string{"config"}},
		{"FANFARE_JWT_SECRET", []string{"config"}},
		{"FANFARE_API_KEYS", []string{"serve", "--addr", "127.0.0.1:0", "--data", t.TempDir()}},
		{"FANFARE_TLS_CERT", []string{"config"}},
		{"FANFARE_MAX_STREAMS", []string{"config"}},
		{"FANFARE_H2C", []string{"config"}},
		{"FANFARE_CONFIG", []string{"config"}},
	} {
		t.Run(c.variable, func(t *testing.T) {
			t.Setenv(c.variable, "")
			if _, errOut, code := result(t, "", c.args...); code != exitUsage || !strings.Contains(errOut, c.variable) {
				t.Errorf("%q: %d %q", c.args, code, errOut)
			}
		})
	}
	t.Setenv("FANFARE_SUBJECT", "") // which is no setting of these
	t.Setenv("FANFARE_EVENT", "")   // an empty type is message
	if _, errOut, code := result(t, "", "publish", "a", "x", "--url", url); code != 0 {
		t.Errorf("%d %q", code, errOut)
	}
	if _, errOut, code := result(t, "", "disconnect", "--subject", "nobody", "--url", url); code != 0 {
		t.Errorf("the flag counts: %d %q", code, errOut)
	}
	if _, errOut, code := result(t, "", "history", "a", "--url", url, "--token-file",
		fileOf(t, "token", "\n")); code != exitUsage || !strings.Contains(errOut, "token is empty") {
		t.Errorf("an empty file of a token: %d %q", code, errOut)
	}
	if _, errOut, code := result(t, "", "backup", "", "--url", url); code != exitUsage ||
		!strings.Contains(errOut, "<dir> is empty") {
		t.Errorf("%d %q", code, errOut)
	}
}

// TestEachFlagHasItsVariable: as the guide says it is called, digits and all.
func TestEachFlagHasItsVariable(t *testing.T) {
	for name, value := range map[string]string{"FANFARE_H2C": "true", "FANFARE_API_KEYS": "/nowhere/keys",
		"FANFARE_TLS_CERT": "cert.pem", "FANFARE_MAX_STREAMS_PER_ADDRESS": "7"} {
		t.Setenv(name, value)
		setting := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, "FANFARE_")), "_", "-")
		if out, errOut, _ := result(t, "", "config"); !regexp.MustCompile(`(?m)^` + setting + ` +` + value +
			` +variable ` + name + `$`).MatchString(out) {
			t.Errorf("%s: %s%s", name, regexp.MustCompile(`(?m)^`+setting+` .*$`).FindString(out), errOut)
		}
	}
}

// TestSettingsFile: one document, each key once and with a value; what is wrong comes with the file
// and the line.
func TestSettingsFile(t *testing.T) {
	for text, says := range map[string]string{
		"heartbeat: 15s\n---\nallowed-host: a\n":      `, line 3: a second document`,
		"heartbeat: 15s\n---\n- a\n":                  `, line 3: a second document`,
		"heartbeat: 15s\n\nheartbeat: 16s\n":          `, line 3: the key "heartbeat" is given twice`,
		"# none\ndata:\n":                             `, line 2: the key "data" is empty`,
		"data: ''\n":                                  `, line 1: the key "data" is empty`,
		"jwt-issuer: []\n":                            `, line 1: the key "jwt-issuer" is empty`,
		"jwt-issuer: [a, '']\n":                       `, line 1: the key "jwt-issuer" is empty`,
		"tls-cert: ~\n":                               `, line 1: the key "tls-cert" is empty`,
		"trace-endpoint: ['http://u:hunter2@h']\n":    `, line 1: the key "trace-endpoint" takes one value, not a list`,
		"data: {a: b}\n":                              `, line 1: the key "data" must have a text`,
		"allowed-host: [[a]]\n":                       `, line 1: the key "allowed-host" must have a text`,
		"- heartbeat\n":                               `, line 1: want lines such as`,
		"heartbeat\n":                                 `, line 1: want lines such as`,
		"heartbeat: [1\n":                             `: yaml: line`,
		"heartbeat: 15s\n---\n# nothing\n":            "",
		"---\nheartbeat: 15s\n...\n":                  "",
		"# nothing\n":                                 "",
		"":                                            "",
		"allowed-host: &h [a, b]\ncors-origin: ['*']": "",
	} {
		file := fileOf(t, "fanfare.yaml", text)
		_, errOut, code := result(t, "", "config", "--config", file)
		if strings.Contains(errOut, "hunter2") || (says == "") != (code == 0) ||
			(says != "" && !strings.Contains(errOut, file+says)) {
			t.Errorf("%q: %d %q, want %q", text, code, errOut, says)
		}
	}
	file := fileOf(t, "fanfare.yaml", "data: 2020-01-01\njwt-issuer: [007, yes]\nmax-streams: 12\nh2c: true\n")
	out, errOut, code := result(t, "", "config", "--config", file)
	for _, want := range []string{`(?m)^data +2020-01-01 `, `(?m)^jwt-issuer +007; yes `, `(?m)^max-streams +12 `,
		`(?m)^h2c +true `} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("%s is missing: %d %q\n%s", want, code, errOut, out)
		}
	}
}

// TestPasswordsInURLs: none is shown, also where the text is no URL, by config and by those who
// refuse it.
func TestPasswordsInURLs(t *testing.T) {
	for _, text := range []string{
		"http://user:hunter2@127.0.0.1:4318", "http://user:hunter2%zz@127.0.0.1:4318",
		"http://user:hunter2/x@127.0.0.1:4318", "http://user:hunter2#x@127.0.0.1:4318",
		"http://user:hunter2?x@127.0.0.1:4318", "http://user:7/hunter2@127.0.0.1:4318", "http://hunter2@127.0.0.1:4318",
		"user:hunter2@127.0.0.1:4318", "hunter2@127.0.0.1",
		"http://us er:hunter2@127.0.0.1:4318", "http://user:hunter2@127.0.0.1:port",
		"http://user:hunter2@x@127.0.0.1:4318", "//user:hunter2@127.0.0.1", "http://user:hunter2@[::1",
		"ftp://user:hunter2@127.0.0.1", "https://user:hunter2@127.0.0.1:1/keys",
	} {
		for _, args := range [][]string{
			{"config", "--trace-endpoint", text}, {"config", "--jwks-url", text}, {"config", "--acme-domain",
				"a.example.com", "--acme-url", text}, {"config", "--cors-origin", text},
			{"config", "--jwt-issuer", text + "/"}, {"history", "a", "--url", text}, {"disconnect", "--subject", "a",
				"--url", text}, {"doctor", text}, {"bench", "idle", "--url", text, "--streams", "1"},
		} {
			if args[0] != "config" && (strings.HasPrefix(text, "http://user:hunter2@127.0.0.1:4318") ||
				strings.HasPrefix(text, "http://hunter2")) {
				continue // nobody is asked
			}
			if out, errOut, _ := result(t, "", args...); strings.Contains(out+errOut, "hunter2") &&
				!(args[0] == "config" && args[1] == "--jwt-issuer" && !strings.Contains(text, "//")) {
				t.Errorf("%q: %s%s", args, regexp.MustCompile("(?m)^.*hunter2.*$").FindString(out), errOut)
			}
		}
	}
	for _, text := range []string{"HS256=hunter2", "HS512:kid=hunter2=", "XX256=hunter2", "hunter2"} {
		if out, errOut, code := result(t, "", "config", "--jwt-key", text); code != exitUsage ||
			strings.Contains(out+errOut, "hunter2") {
			t.Errorf("%s: %d %s %s", text, code, regexp.MustCompile("(?m)^.*hunter2.*$").FindString(out), errOut)
		}
	}
	file := fileOf(t, "secret", strings.Repeat("s", 48))
	if out, _, code := result(t, "", "config", "--jwt-key", "HS256="+file); code != 0 ||
		!strings.Contains(out, "HS256="+file+" ") {
		t.Errorf("the file of a key: %s", out)
	}
	for _, url := range []string{"http://127.0.0.1:1/?token=hunter2", "http://127.0.0.1:1/#hunter2"} {
		if _, errOut, code := result(t, "", "history", "a", "--url", url); code != exitUsage {
			t.Errorf("a query in %s: %d %q", url, code, errOut)
		}
	}
	for text, want := range map[string]string{
		"http://127.0.0.1:4318/x?mail=a":         "http://127.0.0.1:4318/x?mail=a",
		"https://id.example.com/realms/x@y/keys": "https://id.example.com/realms/x@y/keys",
		"http://user:hunter2@127.0.0.1:4318/v1":  "http://user:xxxxx@127.0.0.1:4318/v1",
		"ops@example.com":                        "ops@example.com", "": "",
	} {
		if got := withoutPassword(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestConfigChecksWhatServeChecks: each setting that serve refuses is refused by config too, in the
// same words.
func TestConfigChecksWhatServeChecks(t *testing.T) {
	short := fileOf(t, "secret", "short")
	junk := fileOf(t, "junk.pem", "no certificate")
	for _, args := range [][]string{
		{"--cors-origin", "https://*.example.com"}, {"--cors-origin", "app.example.com"},
		{"--allowed-host", "https://push.example.com"}, {"--allowed-host", "*.example.com"},
		{"--jwt-key", "HS256=" + short}, {"--jwt-key", "RS256=/nowhere/key.pem"}, {"--api-keys", junk}, {"--jwks-url",
			"http://id.example.com/keys"},
		{"--tls-cert", junk, "--tls-key", junk}, {"--acme-domain", "a.example.com", "--acme-roots", junk},
		{"--trace-endpoint", "collector:4318"}, {"--trace-endpoint", "http://127.0.0.1:1", "--trace-header", "token"},
		{"--trusted-proxy", "everybody"}, {"--retention", "a=forever"}, {"--addr", "0.0.0.0:1"},
		{"--addr", "127.0.0.1:99999"}, {"--addr", "localhost"}, {"--admin-addr", "nowhere"}, {"--admin-addr",
			"127.0.0.1:-1"}, {"--admin-addr", "127.0.0.1:65536"},
		{"--acme-url", "https://ca.example.com/dir"}, {"--acme-email", "ops@example.com"}, {"--acme-domain",
			"*.example.com"}, {"--acme-domain", "a.example.com:443"},
		{"--acme-domain", "a.example.com", "--acme-url", "ca.example.com"}, {"--acme-domain", "a.example.com",
			"--acme-url", "http://ca.example.com/dir"},
		{"--acme-domain", "a.example.com", "--acme-email", "ops"}, {"--data", junk},
		{"--allowed-host", "push.example.com:99999"}, {"--allowed-host", ".example.com"}, {"--cors-origin",
			"http://127.1"}, {"--jwt-issuer", ""}, {"--tls-cert", ""}, {"--config", ""}, {"--config="},
	} {
		_, says, code := result(t, "", append([]string{"config"}, args...)...)
		if !slices.Contains(args, "--data") {
			args = append(args, "--data", t.TempDir())
		}
		if !slices.Contains(args, "--addr") {
			args = append(args, "--addr", "127.0.0.1:0")
		}
		_, alike, other := result(t, "", append([]string{"serve"}, args...)...)
		if code != 2 || other != 2 || says != alike {
			t.Errorf("%q:\nconfig %d %q\nserve  %d %q", args, code, says, other, alike)
		}
	}
}

// TestConfigSaysMore: what is misspelt in a file or a variable comes with what was meant, and a URL
// without its password.
func TestConfigSaysMore(t *testing.T) {
	file := fileOf(t, "fanfare.yaml", "# the settings\nheartbeat: 15s\nretenion: 'a=age:1d'\n")
	if _, says, code := result(t, "", "config", "--config", file); code != 2 ||
		!strings.Contains(says, file+`, line 3: unknown key "retenion": did you mean "retention"?`) {
		t.Errorf("%d %q", code, says)
	}
	t.Setenv("FANFARE_HEARTBEET", "3s")
	t.Setenv("FANFARE_SERVICE_HOST", "10.0.0.1")
	out, says, code := result(t, "", "config", "--trace-endpoint", "http://user:hunter2@127.0.0.1:4318")
	if code != 0 || !strings.Contains(says, "FANFARE_HEARTBEET, did you mean FANFARE_HEARTBEAT?") ||
		!strings.Contains(says, "FANFARE_SERVICE_HOST\n") {
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
	for args, says := range map[string]string{"help": "Run the hub.", "help publish": "Prints the event's id",
		"help key create": "Prints the key"} {
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
	for line, want := range map[string]string{"fanfare subs": "subscribe", "fanfare key ": "create list revoke",
		"fanfare key create --na": "--name", "fanfare publish greetings --ev": "--event"} {
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

// TestPublishOfNothing: what is no text, or is not there, is said, and not published as something
// else.
func TestPublishOfNothing(t *testing.T) {
	url, _ := hubFor(t)
	if _, errOut, code := result(t, "", "publish", "a", "--url", url); code == 0 ||
		!strings.Contains(errOut, "standard input is empty") {
		t.Errorf("%d %q", code, errOut)
	}
	if _, errOut, code := result(t, "", "publish", "a", "", "--url", url); code != 0 {
		t.Errorf("an event without data: %d %q", code, errOut)
	}
	_, errOut, code := result(t, "one\nt\xffwo\nthree\n", "publish", "lines", "-", "--url", url)
	if code != 1 || !strings.Contains(errOut, "line 2 is left out: it is not valid UTF-8") ||
		!strings.Contains(errOut, "2 lines published") {
		t.Errorf("%d %q", code, errOut)
	}
	if out, _, _ := result(t, "", "history", "lines", "--url", url); !strings.Contains(out, "one") ||
		!strings.Contains(out, "three") || strings.Contains(out, "wo\n") {
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

// TestCommandsOverTLS: --cacert has commands believe a certificate of one's own, and doctor takes
// FANFARE_URL.
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
	begin(t, strings.NewReader(""), "subscribe", "a", "--since", "all", "--url", url, "--cacert", cert).out.until(t,
		"(?m)^x$")
	t.Setenv("FANFARE_URL", url)
	if out, errOut, _ := result(t, "", "doctor", "--cacert", cert, "--idle", "0s"); !strings.Contains(out,
		"the hub is reached and ready") {
		t.Errorf("%q %q", out, errOut)
	}
	if _, errOut, code := result(t, "", "doctor", "--cacert", key); code != exitUsage ||
		!strings.Contains(errOut, "no certificate") {
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

// TestCollectorsPassword: what stands before the @ of --trace-endpoint is sent, and --trace-header
// counts more.
func TestCollectorsPassword(t *testing.T) {
	c := settings{TraceEndpoint: "http://user:hunter2@127.0.0.1:4318"}
	if _, headers, err := c.collector(); err != nil || headers["Authorization"] != "Basic dXNlcjpodW50ZXIy" {
		t.Errorf("%v %v", headers, err)
	}
	c.TraceHeader = []string{"Authorization=Bearer x"}
	if _, headers, err := c.collector(); err != nil || headers["Authorization"] != "Bearer x" {
		t.Errorf("%v %v", headers, err)
	}
}
