package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
