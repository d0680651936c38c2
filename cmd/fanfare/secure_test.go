package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/auth"
)

// TestKeyCommands: a key is made, listed by its id, taken by an authenticator, and revoked; the key
// itself is shown once.
func TestKeyCommands(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.json")
	out, _, code := result(t, "", "key", "create", "--name", "pos-backend", "--publish", "stores", "--publish",
		"stores/**", "--file", file)
	text := strings.TrimSpace(out)
	if code != 0 || !strings.HasPrefix(text, "fk_") {
		t.Fatalf("%d %q", code, out)
	}
	if _, _, code := result(t, "", "key", "create", "--name", "logs", "--publish", "logs/**", "--file",
		file); code != 0 {
		t.Error(code)
	}
	listed, _, _ := result(t, "", "key", "list", "--file", file)
	if !strings.Contains(listed, "pos-backend") || !strings.Contains(listed, "publish stores stores/**") ||
		strings.Contains(listed, text) {
		t.Error(listed)
	}
	a, err := auth.New(auth.Options{APIKeyFile: file})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if p, err := a.Verify(t.Context(), text); err != nil || p.Subject != "pos-backend" {
		t.Errorf("%v %v", p, err)
	}
	if out, _, code := result(t, "", "key", "revoke", "pos-backend", "--file", file); code != 0 ||
		!strings.Contains(out, "1 revoked") {
		t.Errorf("%d %s", code, out)
	}
	if err := a.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Verify(t.Context(), text); err == nil {
		t.Error("a revoked key is taken")
	}
	if _, errOut, code := result(t, "", "key", "revoke", "nobody", "--file", file); code != 1 ||
		!strings.Contains(errOut, "nobody") {
		t.Errorf("%d %s", code, errOut)
	}
	if _, errOut, code := result(t, "", "key", "create", "--name", "x"); code != 2 ||
		!strings.Contains(errOut, "--publish") {
		t.Errorf("a key without grants: %d %s", code, errOut)
	}
	if _, errOut, code := result(t, "", "key", "create", "--name", "x", "--publish", "a**"); code != 2 ||
		!strings.Contains(errOut, "'*'") {
		t.Errorf("a key with a bad pattern: %d %s", code, errOut)
	}
	// Without a file the line for the settings is printed, and is taken.
	out, _, _ = result(t, "", "key", "create", "--name", "x", "--publish", "a")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 3 {
		t.Fatalf("%q", out)
	}
	if _, err := auth.ParseAPIKey(lines[2]); err != nil || strings.Contains(lines[2], lines[0]) {
		t.Errorf("%v %s", err, lines[2])
	}
	if out, errOut, code := result(t, "", "config", "--api-key", lines[2]); code != 0 ||
		strings.Contains(out, "sha256:") {
		t.Errorf("%d %s %s", code, out, errOut)
	}
}

// TestTokenCommand makes tokens that an authenticator takes, with what they may do in them.
func TestTokenCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("a secret that is long enough for HS256\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errOut, code := result(t, "", "token", "--key", "HS256:k1="+file, "--subject", "ada", "--subscribe",
		"users/{sub}/**", "--device", "stores/1/pcs/2", "--issuer", "me", "--audience", "push", "--expires", "2h")
	if code != 0 {
		t.Fatalf("%d %s", code, errOut)
	}
	k, err := auth.ParseKey("HS256:k1=" + file)
	if err != nil {
		t.Fatal(err)
	}
	a, err := auth.New(auth.Options{Keys: []auth.Key{k}, Issuers: []string{"me"}, Audiences: []string{"push"}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	p, err := a.Verify(t.Context(), strings.TrimSpace(out))
	if err != nil || p.Subject != "ada" || !strings.HasSuffix(p.Self.String(), "/pcs/2") ||
		p.Grants["subscribe"][0].String() != "users/ada/**" || time.Until(p.Expires) < 119*time.Minute {
		t.Errorf("%+v %v", p, err)
	}
	for says, args := range map[string][]string{
		"--subscribe: ": {"--subscribe", "a**"}, "--device: ": {"--device", "stores/1"}, "only {sub}": {"--publish",
			"tenants/{org}/**"},
		"needs a --subject": {"--publish", "users/{sub}/**"}, "without / * $": {"--publish", "users/{sub}/**",
			"--subject", "a/b"},
	} {
		if _, errOut, code := result(t, "", append([]string{"token", "--key", "HS256=" + file},
			args...)...); code != 2 || !strings.Contains(errOut, says) {
			t.Errorf("%v: %d %q, want %q", args, code, errOut, says)
		}
	}
	for _, args := range [][]string{{"--key", "none=" + file}, {"--key", file}, {"--key", "XX=" + file},
		{"--key", ""}} {
		if _, _, code := result(t, "", append([]string{"token"}, args...)...); code != 2 {
			t.Errorf("%v: %d", args, code)
		}
	}
}

// TestSecretsAreNotShown: config, errors and logs show no secret, token or key.
func TestSecretsAreNotShown(t *testing.T) {
	const secret = "hush hush hush hush hush hush hush hush"
	t.Setenv("FANFARE_JWT_SECRET", "HS256="+secret)
	out, errOut, code := result(t, "", "config", "--trace-header", "a="+secret, "--trace-endpoint",
		"http://127.0.0.1:1")
	if code != 0 || strings.Contains(out+errOut, "hush") || !strings.Contains(out, "***") {
		t.Errorf("%d %s %s", code, out, errOut)
	}
	for _, args := range [][]string{
		{"serve", "--jwt-key", "HS256=" + secret, "--addr", "127.0.0.1:0", "--data", t.TempDir()},
		{"config", "--jwt-secret", "RS256=" + secret}, {"config", "--jwt-secret", secret},
		{"config", "--api-key", `{"id":"` + secret}, {"config", "--api-key", secret},
		{"history", "a", "--token", secret, "--url", "http://127.0.0.1:1"}, {"serve", "--jwt-secret", "HS512=" + secret,
			"--addr", "127.0.0.1:0", "--data", t.TempDir()},
	} {
		out, errOut, code := result(t, "", args...)
		if code == 0 || strings.Contains(out+errOut, "hush") {
			t.Errorf("%v: %d %s %s", args[0:2], code, out, errOut)
		}
	}
}

// TestSecuritySettings are refused with what is wrong.
func TestSecuritySettings(t *testing.T) {
	for want, args := range map[string][]string{
		"--tls-cert and --tls-key": {"--tls-cert", "x"},
		"--acme-domain":            {"--tls-cert", "x", "--tls-key", "y", "--acme-domain", "z"},
		"--h2c":                    {"--tls-cert", "x", "--tls-key", "y", "--h2c"},
		"--max-replays":            {"--max-replays", "0"},
		"--publish-burst":          {"--publish-burst", "1ms"},
		"--header-timeout":         {"--header-timeout", "1ms"},
		"--jwt-key":                {"--jwt-key", "x"},
		"--jwt-grant":              {"--jwt-grant", "read=x"},
		"--anonymous":              {"--anonymous", "subscribe=a**"},
		"Forwarded":                {"--proxy-header", "X-Real-IP"},
		"no authentication":        {"--addr", "192.0.2.1:1"},
		"neither a number nor off": {"--max-streams-per-subject", "many"},
		"trusted proxy":            {"--trusted-proxy", "everybody"},
	} {
		if _, errOut, code := result(t, "", append([]string{"config"}, args...)...); code != 2 ||
			!strings.Contains(errOut, want) {
			t.Errorf("%v: %d %s", args, code, errOut)
		}
	}
}

// TestConfigShowsEverySetting as a value: no address of a pointer, nothing empty but what is empty.
func TestConfigShowsEverySetting(t *testing.T) {
	out, _, code := result(t, "", "config")
	if code != 0 || strings.Contains(out, "0xc0") || !strings.Contains(out, "(10 with authentication, off without)") {
		t.Error(out)
	}
	if out, _, _ := result(t, "", "config", "--audit-rate",
		"7"); !regexp.MustCompile(`audit-rate +7 +flag`).MatchString(out) {
		t.Error(out)
	}
}

// TestTicketKey lies beside the log, for its owner alone, and stays the same.
func TestTicketKey(t *testing.T) {
	dir := t.TempDir()
	one, err := ticketKey(dir)
	if err != nil || len(one) != auth.TicketKeyBytes {
		t.Fatal(err)
	}
	two, err := ticketKey(dir)
	if err != nil || string(one) != string(two) {
		t.Error(err)
	}
	info, err := os.Stat(filepath.Join(dir, "ticket.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}
