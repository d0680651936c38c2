package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var secret = strings.Repeat("s3cr3t-", 10)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func start(t testing.TB, o Options) *Authenticator {
	t.Helper()
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// sign makes a token; claims have an exp in an hour unless they say otherwise.
func sign(algorithm string, key any, header, claims map[string]any) string {
	all := jwt.MapClaims{"exp": time.Now().Add(time.Hour).Unix()}
	for name, v := range claims {
		if all[name] = v; v == nil {
			delete(all, name)
		}
	}
	token := jwt.NewWithClaims(jwt.GetSigningMethod(algorithm), all)
	for name, v := range header {
		token.Header[name] = v
	}
	return must(token.SignedString(key))
}

func publicPEM(key crypto.PublicKey) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key))}))
}

func channel(name string) fanfare.Channel { return must(fanfare.ParseChannel(name)) }
func pattern(text string) fanfare.Pattern { return must(fanfare.ParsePattern(text)) }

// wantRefused wants an error that is public, has a reason, and shows nothing of the token.
func wantRefused(t *testing.T, name, token string, err error, reason fanfare.Reason) {
	t.Helper()
	e, ok := err.(*fanfare.Error)
	if !ok || e.Code != fanfare.CodeUnauthenticated || e.Reason != reason {
		t.Errorf("%s: %v, want it refused for %s", name, err, reason)
		return
	}
	for _, part := range strings.Split(token, ".") {
		if len(part) > 8 && strings.Contains(e.Error(), part) {
			t.Errorf("%s: the error shows the token: %v", name, e)
		}
	}
}

// TestAlgorithms: each algorithm with its key, and no other (RFC 8725, section 3.1: algorithm
// confusion).
func TestAlgorithms(t *testing.T) {
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	curves := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}
	private, public := map[string]any{}, map[string]string{}
	for _, alg := range algorithms {
		switch alg[:2] {
		case "HS":
			private[alg], public[alg] = []byte(secret), secret
		case "RS", "PS":
			private[alg], public[alg] = rsaKey, publicPEM(rsaKey.Public())
		case "ES":
			key := must(ecdsa.GenerateKey(curves[alg], rand.Reader))
			private[alg], public[alg] = key, publicPEM(key.Public())
		default:
			private[alg], public[alg] = edKey, publicPEM(edKey.Public())
		}
	}
	for _, alg := range algorithms {
		a := start(t, Options{Keys: []Key{{Algorithm: alg, Text: public[alg]}}})
		p, err := a.Verify(t.Context(), sign(alg, private[alg], nil, map[string]any{"sub": "ada"}))
		if err != nil || p.Subject != "ada" {
			t.Errorf("%s: %v %v", alg, p, err)
		}
		for _, other := range algorithms {
			if other == alg {
				continue
			}
			token := sign(other, private[other], nil, nil)
			_, err := a.Verify(t.Context(), token)
			wantRefused(t, other+" for "+alg, token, err, fanfare.ReasonBadToken)
		}
		// The public key as an HMAC secret, and no signature at all.
		confused := sign("HS256", []byte(public[alg]), nil, nil)
		if alg != "HS256" {
			_, err = a.Verify(t.Context(), confused)
			wantRefused(t, "public key as secret", confused, err, fanfare.ReasonBadToken)
		}
		none := sign("none", jwt.UnsafeAllowNoneSignatureType, nil, nil)
		_, err = a.Verify(t.Context(), none)
		wantRefused(t, "none", none, err, fanfare.ReasonBadToken)
	}
}

// TestHostileTokens: what attackers send, and what broken issuers do.
func TestHostileTokens(t *testing.T) {
	a := start(t, Options{Keys: []Key{{Algorithm: "HS256", ID: "k1", Text: secret}},
		Issuers: []string{"https://id.example.com"}, Audiences: []string{"fanfare", "push"}})
	good := map[string]any{"iss": "https://id.example.com", "aud": "push", "sub": "ada"}
	with := func(name string, v any) map[string]any {
		m := map[string]any{name: v}
		for k, v := range good {
			if _, set := m[k]; !set {
				m[k] = v
			}
		}
		return m
	}
	now := time.Now()
	key := []byte(secret)
	if p, err := a.Verify(t.Context(), sign("HS256", key, nil, good)); err != nil || p.Subject != "ada" {
		t.Fatal(p, err)
	}
	token := sign("HS256", key, nil, good)
	parts := strings.Split(token, ".")
	reencoded := func(i int, text string) string {
		c := slices.Clone(parts)
		c[i] = base64.RawURLEncoding.EncodeToString([]byte(text))
		return strings.Join(c, ".")
	}
	attacker := must(rsa.GenerateKey(rand.Reader, 2048))
	jwk := map[string]any{"kty": "RSA", "n": base64.RawURLEncoding.EncodeToString(attacker.N.Bytes()), "e": "AQAB"}
	for name, c := range map[string]struct {
		token  string
		reason fanfare.Reason
	}{
		"expired": {sign("HS256", key, nil, with("exp", now.Add(-31*time.Second).Unix())),
			fanfare.ReasonExpiredToken},
		"no exp":      {sign("HS256", key, nil, with("exp", nil)), fanfare.ReasonBadToken},
		"exp as text": {sign("HS256", key, nil, with("exp", "tomorrow")), fanfare.ReasonBadToken},
		"not yet valid": {sign("HS256", key, nil, with("nbf", now.Add(40*time.Second).Unix())),
			fanfare.ReasonBadToken},
		"issued in future": {sign("HS256", key, nil, with("iat", now.Add(40*time.Second).Unix())),
			fanfare.ReasonBadToken},
		"other issuer":   {sign("HS256", key, nil, with("iss", "https://evil.example")), fanfare.ReasonBadToken},
		"no issuer":      {sign("HS256", key, nil, with("iss", nil)), fanfare.ReasonBadToken},
		"other audience": {sign("HS256", key, nil, with("aud", "mail")), fanfare.ReasonBadToken},
		"no audience":    {sign("HS256", key, nil, with("aud", nil)), fanfare.ReasonBadToken},
		"other secret": {sign("HS256", []byte("another secret of the same length....."), nil, good),
			fanfare.ReasonBadToken},
		"other kid": {sign("HS256", key, map[string]any{"kid": "k2"}, good), fanfare.ReasonBadToken},
		"kid as path": {sign("HS256", []byte{}, map[string]any{"kid": "../../../../dev/null"}, good),
			fanfare.ReasonBadToken},
		"kid as query": {sign("HS256", key, map[string]any{"kid": "k1' UNION SELECT 'x"}, good),
			fanfare.ReasonBadToken},
		"kid as object": {sign("HS256", key, map[string]any{"kid": map[string]any{"a": 1}}, good),
			fanfare.ReasonBadToken},
		"kid of 100 KB": {sign("HS256", key, map[string]any{"kid": strings.Repeat("k", 100<<10)}, good),
			fanfare.ReasonBadToken},
		"jku": {sign("RS256", attacker, map[string]any{"jku": "https://evil.example/jwks.json"}, good),
			fanfare.ReasonBadToken},
		"x5u": {sign("RS256", attacker, map[string]any{"x5u": "https://evil.example/cert.pem"}, good),
			fanfare.ReasonBadToken},
		"embedded key": {sign("RS256", attacker, map[string]any{"jwk": jwk}, good), fanfare.ReasonBadToken},
		"crit": {sign("HS256", key, map[string]any{"crit": []string{"exp"}}, good),
			fanfare.ReasonBadToken},
		"crit b64": {sign("HS256", key, map[string]any{"crit": []string{"b64"}, "b64": false}, good),
			fanfare.ReasonBadToken},
		"truncated":    {token[:len(token)-5], fanfare.ReasonBadToken},
		"two parts":    {parts[0] + "." + parts[1], fanfare.ReasonBadToken},
		"four parts":   {token + ".x", fanfare.ReasonBadToken},
		"no signature": {parts[0] + "." + parts[1] + ".", fanfare.ReasonBadToken},
		"changed claims": {reencoded(1, `{"sub":"root","exp":9999999999,"iss":"https://id.example.com","aud":"push"}`),
			fanfare.ReasonBadToken},
		"header no JSON": {reencoded(0, `nonsense`), fanfare.ReasonBadToken},
		"alg None":       {reencoded(0, `{"alg":"None"}`), fanfare.ReasonBadToken},
		"no alg":         {reencoded(0, `{"typ":"JWT"}`), fanfare.ReasonBadToken},
		"100 KB": {sign("HS256", key, nil, with("x", strings.Repeat("x", 100<<10))),
			fanfare.ReasonBadToken},
		"deep": {reencoded(1, strings.Repeat(`{"a":`, 10_000)), fanfare.ReasonBadToken},
		"dots": {strings.Repeat(".", 10_000), fanfare.ReasonBadToken},
		"sub of 2 KB": {sign("HS256", key, nil, with("sub", strings.Repeat("s", 2<<10))),
			fanfare.ReasonBadToken},
		"grants as text": {sign("HS256", key, nil, with("fanfare", "everything")), fanfare.ReasonBadToken},
		"patterns as text": {sign("HS256", key, nil, with("fanfare", map[string]any{"publish": "**"})),
			fanfare.ReasonBadToken},
		"patterns as numbers": {sign("HS256", key, nil, with("fanfare", map[string]any{"publish": []int{1}})),
			fanfare.ReasonBadToken},
		"made-up API key": {"fk_0123_abc", fanfare.ReasonBadToken},
		"garbage":         {"\x00\xff\r\nSet-Cookie: x", fanfare.ReasonBadToken},
	} {
		_, err := a.Verify(t.Context(), c.token)
		wantRefused(t, name, c.token, err, c.reason)
		// A refusal is never remembered as anything else.
		_, err = a.Verify(t.Context(), c.token)
		wantRefused(t, name+" again", c.token, err, c.reason)
	}
	// beyond the year 9999 there is no time
	for _, exp := range []json.Number{"1e300", "1e19", "-1e300", "9223372036854775807", "253402300800"} {
		if p, err := a.Verify(t.Context(),
			sign("HS256", key, nil, with("exp", exp))); fanfare.CodeOf(err) != fanfare.CodeUnauthenticated {
			t.Errorf("exp %s: %+v %v", exp, p, err)
		}
	}
	// Clocks differ by up to 30 s.
	for name, claims := range map[string]map[string]any{
		"just expired": with("exp", now.Add(-20*time.Second).Unix()), "just not valid": with("nbf",
			now.Add(20*time.Second).Unix()),
		"audience in a list": with("aud", []string{"mail", "push"}),
	} {
		if _, err := a.Verify(t.Context(), sign("HS256", key, map[string]any{"kid": "k1"}, claims)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	late := must(a.Verify(t.Context(), sign("HS256", key, nil, with("exp", now.Add(-20*time.Second).Unix()))))
	if end := late.StreamsEnd(); !end.After(time.Now()) || end.After(now.Add(11*time.Second)) {
		t.Errorf("a stream within the leeway ends %s", end)
	}
	// A token for somebody else, where no audience was set (RFC 7519, section 4.1.3).
	open := start(t, Options{Keys: []Key{{Algorithm: "HS256", Text: secret}}})
	_, err := open.Verify(t.Context(), token)
	wantRefused(t, "aud without one expected", token, err, fanfare.ReasonBadToken)
}

// TestGrants: what a token's claims allow, and what they must not.
func TestGrants(t *testing.T) {
	a := start(t, Options{
		Keys: []Key{{Algorithm: "HS256", Text: secret}},
		ClaimGrants: []Grant{
			must(ParseGrant("device=stores/{storeId}/pcs/{pcId}")), must(ParseGrant("subscribe=tenants/{org.id}/**")),
			must(ParseGrant("subscribe={sub}")),
		},
	})
	verify := func(claims map[string]any) *fanfare.Principal {
		t.Helper()
		p, err := a.Verify(t.Context(), sign("HS256", []byte(secret), nil, claims))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := verify(map[string]any{"sub": "ada", "fanfare": map[string]any{"publish": []string{"users/{sub}/**", "a"},
		"subscribe": []string{"**"}, "admin": []string{"stores/**"}}})
	for name, want := range map[string]bool{"users/ada/x": true, "users/ada/x/y": true, "users/ada": false,
		"users/bob/x": false, "a": true, "b": false, "$x": false} {
		if p.May(fanfare.ActionPublish, channel(name)) != want {
			t.Errorf("publish to %s: %v", name, !want)
		}
	}
	if !p.May(fanfare.ActionSubscribe, channel("x/y")) || p.May(fanfare.ActionSubscribe, channel("$presence/x")) ||
		p.Operator() || p.May(fanfare.ActionAck, channel("a")) {
		t.Errorf("%+v", p)
	}
	// Values that would mean more than themselves, in sub and in claims: the grant is void, nothing
	// else changes.
	for _, evil := range []any{"", "*", "**", "a/b", "../x", "$internal", "a*", "a$b", nil, 1.5, true, []string{"a"},
		map[string]any{}, "a\nb", "\xff"} {
		sub, isText := evil.(string) // a sub that is none is refused: TestClaimsOfAnotherType
		if !isText {
			sub = "*"
		}
		p := verify(map[string]any{"sub": sub, "storeId": evil, "pcId": evil, "org": map[string]any{"id": evil},
			"fanfare": map[string]any{"subscribe": []string{"users/{sub}/**", "ok"}}})
		for _, name := range []string{"users/a/b", "users/x/y", "tenants/a/b", "$internal", "users/a\u00a0b/c"} {
			if p.May(fanfare.ActionSubscribe, channel(name)) {
				t.Errorf("%q: may subscribe to %s", evil, name)
			}
		}
		if p.Self != (fanfare.Pattern{}) || !p.May(fanfare.ActionSubscribe, channel("ok")) {
			t.Errorf("%q: %+v", evil, p)
		}
	}
	// Numbers are what many issuers have for ids.
	p = verify(map[string]any{"storeId": 42, "pcId": "till-7", "org": map[string]any{"id": "acme"}})
	if p.Self.String() != "stores/42/pcs/till-7" || !p.May(fanfare.ActionSubscribe, channel("tenants/acme/x")) {
		t.Errorf("%+v", p)
	}
	// Patterns that are none are void, and only {sub} may stand in a token's own.
	p = verify(map[string]any{"sub": "ada", "role": "x", "fanfare": map[string]any{"publish": []string{"a**", "",
		"b/{role}", "x/{", "ok"}, "device": "stores/1/pcs/2/3"}})
	if len(p.Grants[fanfare.ActionPublish]) != 1 || p.Self != (fanfare.Pattern{}) {
		t.Errorf("%+v", p)
	}
	p = verify(map[string]any{"fanfare": map[string]any{"device": "stores/42/pcs/7"}})
	if !p.Is(channel("stores/42/pcs/7")) || p.Is(channel("stores/42/pcs/8")) ||
		p.May(fanfare.ActionSubscribe, channel("stores/42")) {
		t.Errorf("%+v", p)
	}
	// A token that a fleet shares is each of its PCs, and nothing else.
	for device, want := range map[string][3]bool{"stores/*/pcs/*": {true, true, true},
		"stores/42/pcs/*": {true, true, false}, "stores/*/pcs/7": {true, false,
			true}, "stores/42/pcs/**": {}, "stores/**": {}, "stores/4*/pcs/7": {}, "**": {}} {
		p = verify(map[string]any{"fanfare": map[string]any{"device": device}})
		for i, pc := range []string{"stores/42/pcs/7", "stores/42/pcs/8", "stores/43/pcs/7"} {
			if p.Is(channel(pc)) != want[i] || p.May(fanfare.ActionSubscribe, channel(pc)) {
				t.Errorf("%s is %v: %v", device, pc, p.Is(channel(pc)))
			}
		}
	}
	p = verify(map[string]any{"fanfare": map[string]any{"subscribe": []string{"stores", "stores/**"}}})
	if p.Is(channel("stores/42/pcs/7")) {
		t.Errorf("who may only subscribe is a PC: %+v", p)
	}
	for _, text := range []string{"", "publish", "read=a", "publish=", "publish=a/**/b", "device=stores/1",
		"device=x/1/pcs/2", "device=stores/**", "device=stores/a*/pcs/1", "subscribe={", "subscribe={}",
		"subscribe=a*"} {
		if g, err := ParseGrant(text); err == nil {
			t.Errorf("%q was taken as %+v", text, g)
		}
	}
	if _, err := ParseGrants([]string{"device=stores/1/pcs/2"}); err == nil {
		t.Error("everybody is a PC")
	}
}

// TestClaimsName: the claim that holds the grants is a setting.
func TestClaimsName(t *testing.T) {
	a := start(t, Options{Keys: []Key{{Algorithm: "HS256", Text: secret}}, Claim: "https://example.com/push"})
	p := must(a.Verify(t.Context(), sign("HS256", []byte(secret), nil, map[string]any{
		"https://example.com/push": map[string]any{"publish": []string{"a"}},
		"fanfare":                  map[string]any{"publish": []string{"b"}}})))
	if !p.May(fanfare.ActionPublish, channel("a")) || p.May(fanfare.ActionPublish, channel("b")) {
		t.Errorf("%+v", p)
	}
}

// TestKeys: keys that must not be taken, with what to do.
func TestKeys(t *testing.T) {
	small := must(x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: must(rsa.GenerateKey(rand.Reader,
		2048)).N.Rsh(must(rsa.GenerateKey(rand.Reader, 2048)).N, 1024), E: 65537}))
	ec := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	for name, c := range map[string]struct {
		key  Key
		want string
	}{
		"short secret":         {Key{Algorithm: "HS256", Text: "short"}, "at least 32 bytes"},
		"secret for HS512":     {Key{Algorithm: "HS512", Text: strings.Repeat("x", 63)}, "at least 64 bytes"},
		"public key as secret": {Key{Algorithm: "HS256", Text: publicPEM(ec.Public())}, "public key is no secret"},
		"private key": {Key{Algorithm: "ES256",
			Text: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY",
				Bytes: must(x509.MarshalPKCS8PrivateKey(ec))}))}, "pkey -pubout"},
		"other curve":   {Key{Algorithm: "ES384", Text: publicPEM(ec.Public())}, "cannot verify ES384"},
		"RSA for EdDSA": {Key{Algorithm: "EdDSA", Text: publicPEM(rsaKey.Public())}, "cannot verify EdDSA"},
		"1024 bits": {Key{Algorithm: "RS256",
			Text: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: small}))}, "too small"},
		"no PEM":  {Key{Algorithm: "RS256", Text: "hello"}, "BEGIN PUBLIC KEY"},
		"no file": {Key{Algorithm: "RS256", File: "/nonexistent.pem"}, "no such file"},
	} {
		if _, err := New(Options{Keys: []Key{c.key}}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		} else if c.key.Algorithm == "HS256" && strings.Contains(err.Error(), c.key.Text) {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
	for _, text := range []string{"", "RS256", "RS256=", "none=x", "rs256=x", "RS257=x"} {
		if _, err := ParseKey(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	if _, err := ParseSecret("RS256=hush-hush"); err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("a secret for RS256: %v", err)
	}
	k := must(ParseKey("ES256:2026=/etc/k.pem"))
	if k.Algorithm != "ES256" || k.ID != "2026" || k.File != "/etc/k.pem" {
		t.Errorf("%+v", k)
	}
}

// TestKeyFilesAreReadAgain: a key is rotated without a restart; one that cannot be used changes
// nothing.
func TestKeyFilesAreReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key.pem")
	one, two := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), must(ecdsa.GenerateKey(elliptic.P256(),
		rand.Reader))
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(publicPEM(one.Public()))
	a := start(t, Options{Keys: []Key{{Algorithm: "ES256", File: file}}, Watch: 5 * time.Millisecond})
	first, second := sign("ES256", one, nil, nil), sign("ES256", two, nil, nil)
	if _, err := a.Verify(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	write("broken")
	for deadline := time.Now().Add(50 * time.Millisecond); time.Now().Before(deadline); {
		if _, err := a.Verify(t.Context(), first); err != nil {
			t.Fatal(err)
		}
	}
	write(publicPEM(two.Public()))
	waitFor(t, "the new key", func() bool { _, err := a.Verify(t.Context(), second); return err == nil })
	// A token that the old key has signed is not remembered as good.
	_, err := a.Verify(t.Context(), first)
	wantRefused(t, "the old key", first, err, fanfare.ReasonBadToken)
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come", what)
		}
	}
}

// TestAPIKeys: made, taken, revoked while running; only the hash is kept.
func TestAPIKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.json")
	a := start(t, Options{APIKeyFile: file, Watch: 5 * time.Millisecond})
	ended := make(chan func(*fanfare.Principal) bool, 10)
	a.OnEnd(func(f func(*fanfare.Principal) bool) { ended <- f })
	text, made := mustKey(t, APIKey{Name: "pos", Publish: []string{"stores", "stores/**"}})
	otherText, other := mustKey(t, APIKey{Name: "logs", Publish: []string{"logs/**"}})
	if err := WriteAPIKeys(file, []APIKey{made, other}); err != nil {
		t.Fatal(err)
	}
	if b := must(os.ReadFile(file)); strings.Contains(string(b), strings.SplitN(text, "_", 3)[2]) {
		t.Error("the file holds the key")
	}
	if info := must(os.Stat(file)); info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v", info.Mode())
	}
	var p *fanfare.Principal
	waitFor(t, "the key", func() (ok bool) { p, _ = a.Verify(t.Context(), text); return p != nil })
	if p.Subject != "pos" || !p.May(fanfare.ActionPublish, channel("stores")) ||
		!p.May(fanfare.ActionPublish, channel("stores/1/pcs/2")) || p.May(fanfare.ActionPublish, channel("x")) {
		t.Errorf("%+v", p)
	}
	logs := must(a.Verify(t.Context(), otherText))
	<-ended
	for _, wrong := range []string{text + "x", text[:len(text)-1], strings.Replace(text, "fk_", "fk_f", 1),
		"fk_" + made.ID + "_", "fk_", strings.ToUpper(text)} {
		_, err := a.Verify(t.Context(), wrong)
		wantRefused(t, wrong, wrong, err, fanfare.ReasonBadToken)
	}
	if a.StillMay(p) != nil {
		t.Error("the key may not any more")
	}
	made.Publish = []string{"stores/**"}
	if err := WriteAPIKeys(file, []APIKey{made}); err != nil {
		t.Fatal(err)
	}
	f := <-ended
	if !f(p) || !f(logs) || f(&fanfare.Principal{Subject: "pos", TokenID: "jti-key-x"}) {
		t.Error("the streams of changed and revoked keys end, and no others")
	}
	if a.StillMay(p) == nil || a.StillMay(logs) == nil {
		t.Error("a stream that opens at the moment of the change is not noticed")
	}
	_, err := a.Verify(t.Context(), otherText)
	wantRefused(t, "revoked", otherText, err, fanfare.ReasonBadToken)
	if p = must(a.Verify(t.Context(), text)); p.May(fanfare.ActionPublish, channel("stores")) {
		t.Error("the key has its old rights")
	}
	// A token cannot pass itself off as a key.
	token := start(t, Options{Keys: []Key{{Algorithm: "HS256", Text: secret}}})
	if p := must(token.Verify(t.Context(),
		sign("HS256", []byte(secret), nil, map[string]any{"jti": p.TokenID}))); p.TokenID == "key-"+made.ID {
		t.Error("a token has the id of a key")
	}
	for _, line := range []string{"", "{}", `{"id":"x","name":"y","hash":"md5:00"}`,
		`{"id":"x","name":"y","hash":"` + made.Hash + `","publish":["a**"]}`, `{"id":"x","name":"","hash":"` +
			made.Hash + `"}`, `{"id":"x","name":"y","hash":"` + made.Hash + `","root":true}`} {
		if _, err := ParseAPIKey(line); err == nil {
			t.Errorf("%s was taken", line)
		}
	}
}

// TestKeyFileFormat reads a file of docs/format/keys.md, version 1. The key is of no other use.
func TestKeyFileFormat(t *testing.T) {
	// in two, for scanners of secrets
	const key = "fk_caf9d6833a93eb6998_" + "7g_1E1E8MBnnI7Q9nKzX0ovUPoCl_N0NectM7bYadcM"
	a := start(t, Options{APIKeyFile: "testdata/keys.json"})
	p, err := a.Verify(t.Context(), key)
	if err != nil || p.Subject != "golden" || !p.May(fanfare.ActionPublish, channel("stores/1")) ||
		!p.May(fanfare.ActionSubscribe, channel("users/x")) || !p.May(fanfare.ActionAdmin, channel("a")) {
		t.Errorf("%+v %v", p, err)
	}
}

func mustKey(t *testing.T, k APIKey) (string, APIKey) {
	t.Helper()
	text, made, err := CreateAPIKey(k)
	if err != nil {
		t.Fatal(err)
	}
	line := must(json.Marshal(made))
	if _, err := ParseAPIKey(string(line)); err != nil {
		t.Error(err)
	}
	return text, made
}

// TestToken: where a token is taken from, and in which order.
func TestToken(t *testing.T) {
	request := func(query string, headers ...string) *http.Request {
		r := must(http.NewRequest("GET", "http://hub/v1/events?"+query, nil))
		for i := 0; i < len(headers); i += 2 {
			r.Header.Add(headers[i], headers[i+1])
		}
		return r
	}
	for name, c := range map[string]struct {
		r      *http.Request
		query  bool
		token  string
		source Source
		bad    bool
	}{
		"nothing":    {r: request("")},
		"header":     {r: request("", "Authorization", "Bearer abc"), token: "abc", source: FromHeader},
		"lower case": {r: request("", "Authorization", "bearer  abc "), token: "abc", source: FromHeader},
		"basic":      {r: request("", "Authorization", "Basic abc"), source: FromHeader, bad: true},
		"no token":   {r: request("", "Authorization", "Bearer"), source: FromHeader, bad: true},
		"two headers": {r: request("", "Authorization", "Bearer a", "Authorization", "Bearer b"),
			source: FromHeader, bad: true},
		"query, off":     {r: request("access_token=abc")},
		"query, on":      {r: request("access_token=abc"), query: true, token: "abc", source: FromQuery},
		"cookie":         {r: request("", "Cookie", "a=b; __Host-fanfare=abc"), token: "abc", source: FromCookie},
		"another cookie": {r: request("", "Cookie", "fanfare=abc")},
		"header wins": {r: request("access_token=q", "Authorization", "Bearer h", "Cookie", "__Host-fanfare=c"),
			query: true, token: "h", source: FromHeader},
		"bad header wins": {r: request("access_token=q", "Authorization", "Digest h"), query: true, source: FromHeader,
			bad: true},
	} {
		token, source, err := Token(c.r, c.query)
		if token != c.token || source != c.source || (err != nil) != c.bad {
			t.Errorf("%s: %q %q %v", name, token, source, err)
		}
	}
}

// TestRememberedTokenIsFree: the hot path of a publish looks into a map, and allocates nothing.
func TestRememberedTokenIsFree(t *testing.T) {
	a := start(t, Options{Keys: []Key{{Algorithm: "HS256", Text: secret}}})
	token := sign("HS256", []byte(secret), nil,
		map[string]any{"sub": "ada", "fanfare": map[string]any{"publish": []string{"users/{sub}/**", "a", "b/*"}}})
	ctx, c := context.Background(), channel("users/ada/inbox")
	if _, err := a.Verify(ctx, token); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		p, err := a.Verify(ctx, token)
		if err != nil || !p.May(fanfare.ActionPublish, c) {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestRememberedTokensAreBounded, and one that has expired is not remembered as good.
func TestRememberedTokensAreBounded(t *testing.T) {
	clock := time.Now()
	a := start(t, Options{Keys: []Key{{Algorithm: "HS256", Text: secret}}, now: func() time.Time { return clock }})
	for i := range passedMost + 100 {
		a.passed.add(strings.Repeat("x", 1+i%50)+string(rune(i)), &fanfare.Principal{}, 0)
	}
	if n := len(a.passed.tokens); n > passedMost {
		t.Errorf("%d tokens are remembered", n)
	}
	token := sign("HS256", []byte(secret), nil, map[string]any{"exp": clock.Add(time.Minute).Unix()})
	if _, err := a.Verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(2 * time.Minute)
	_, err := a.Verify(t.Context(), token)
	wantRefused(t, "expired since", token, err, fanfare.ReasonExpiredToken)
}

func FuzzToken(f *testing.F) {
	a := start(f, Options{Watch: time.Hour, Keys: []Key{{Algorithm: "HS256", Text: secret},
		{Algorithm: "ES256", Text: publicPEM(must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)).Public())}}})
	good := sign("HS256", []byte(secret), map[string]any{"kid": "x"},
		map[string]any{"sub": "ada", "fanfare": map[string]any{"publish": []string{"a"}}})
	for _, text := range []string{good, good[:20], "", "...", "fk_a_b", "ft_x", strings.Repeat("a.", 100)} {
		f.Add(text)
	}
	tickets := must(NewTickets(nil, nil))
	f.Fuzz(func(t *testing.T, text string) {
		p, err := a.Verify(context.Background(), text)
		if (p == nil) == (err == nil) {
			t.Fatalf("%v %v", p, err)
		}
		if err == nil && text != "" && text != good && !strings.HasPrefix(good, text) {
			// Only what was signed passes; base64 has one spelling here.
			t.Fatalf("%q passed as %+v", text, p)
		}
		if p, err := tickets.Verify(t.Context(), text, []fanfare.Pattern{pattern("a")}); err == nil {
			t.Fatalf("%q passed as a ticket of %+v", text, p)
		}
	})
}

func FuzzGrants(f *testing.F) {
	f.Add("subscribe=users/{sub}/**", "ada", "users/ada/x")
	f.Add("publish={a}/*", "*", "x/y")
	f.Add("device=stores/{s}/pcs/{p}", "1", "$x")
	f.Fuzz(func(t *testing.T, text, value, name string) {
		g, err := ParseGrant(text)
		if err != nil {
			return
		}
		p := &fanfare.Principal{Grants: fanfare.Grants{}}
		g.addTo(p, func(string) (string, bool) { return value, true })
		c, err := fanfare.ParseChannel(name)
		if err != nil || g.Action == deviceAction {
			return
		}
		if !p.May(fanfare.Action(g.Action), c) || !strings.Contains(g.Where, "{") {
			return
		}
		// A value stands for itself: the channel must contain it, as a part of one segment.
		if !plain(value) || !slices.ContainsFunc(strings.Split(name, "/"),
			func(s string) bool { return strings.Contains(s, value) }) {
			t.Fatalf("%q with %q allows %q", text, value, name)
		}
	})
}
