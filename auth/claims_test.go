package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// TestClaimsOfAnotherType: a claim that is not of the type of RFC 7519, section 4.1, is refused,
// and not taken for absent.
func TestClaimsOfAnotherType(t *testing.T) {
	for _, audiences := range [][]string{nil, {"hub"}} {
		a := start(t, Options{Keys: []Key{{Algorithm: "HS256", Text: secret}}, Audiences: audiences})
		for claim, values := range map[string][]any{
			"sub": {42, true, []string{"ada"}, map[string]any{}},
			"iss": {1, []string{"x"}},
			"jti": {7, false},
			"nbf": {"0", true, []int{1}, 1e300, 1e19, json.Number("9223372036854775807"), -1},
			"iat": {"0", map[string]any{}, 1e19},
			"exp": {"9999999999", true},
			"aud": {42, []any{"hub", 1}, map[string]any{"hub": 1}, true, []any{nil}},
		} {
			for _, value := range values {
				token := sign("HS256", []byte(secret), nil, map[string]any{"aud": audience(audiences), claim: value})
				_, err := a.Verify(t.Context(), token)
				wantRefused(t, claim, token, err, fanfare.ReasonBadToken)
				if !strings.Contains(err.Error(), claim) {
					t.Errorf("%s is %v: %v", claim, value, err)
				}
			}
		}
		good := sign("HS256", []byte(secret), nil, map[string]any{"aud": audience(audiences), "sub": "ada",
			"nbf": time.Now().Add(-time.Minute).Unix(), "iat": float64(time.Now().UnixMilli()) / 1000})
		if p, err := a.Verify(t.Context(), good); err != nil || p.Subject != "ada" {
			t.Errorf("%+v %v", p, err)
		}
	}
}

func audience(list []string) any {
	if list == nil {
		return nil
	}
	return list[0]
}

// TestTokenIDOutlivesItsSignature (P8): whoever has a token can make another of it that is valid
// too, since (r, -s) is a signature where (r, s) is one. It is the same token to those who revoke
// it.
func TestTokenIDOutlivesItsSignature(t *testing.T) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	a := start(t, Options{Keys: []Key{{Algorithm: "ES256", Text: publicPEM(&key.PublicKey)}}})
	token := sign("ES256", key, nil, map[string]any{"sub": "ada"})
	input, text := signingInput(token), token[strings.LastIndexByte(token, '.')+1:]
	signature := must(base64.RawURLEncoding.DecodeString(text))
	s := new(big.Int).SetBytes(signature[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(signature[32:])
	twin := input + "." + base64.RawURLEncoding.EncodeToString(signature)
	one, other := must(a.Verify(t.Context(), token)), must(a.Verify(t.Context(), twin))
	if one.TokenID != other.TokenID || one.TokenID == "" {
		t.Errorf("%q and %q", one.TokenID, other.TokenID)
	}
	if another := must(a.Verify(t.Context(),
		sign("ES256", key, nil, map[string]any{"sub": "bob"}))); another.TokenID == one.TokenID {
		t.Error("two tokens have one id")
	}
}

// TestWhichKeyVerified: of several that fit, the one that does is noted, whatever its kid.
func TestWhichKeyVerified(t *testing.T) {
	other := strings.Repeat("other ", 10)
	a := start(t, Options{Keys: []Key{{Algorithm: "HS256", Text: other}, {Algorithm: "HS256", Text: secret}}})
	one := must(a.Verify(t.Context(), sign("HS256", []byte(secret), nil, nil)))
	two := must(a.Verify(t.Context(), sign("HS256", []byte(other), nil, nil)))
	if one.Key == "" || one.Key == two.Key || a.StillMay(one) != nil || a.StillMay(two) != nil {
		t.Errorf("%q, %q", one.Key, two.Key)
	}
	fewer := start(t, Options{Keys: []Key{{Algorithm: "HS256", ID: "7", Text: secret}}})
	if err := fewer.StillMay(one); err != nil {
		t.Error(err)
	}
	if e, ok := fewer.StillMay(two).(*fanfare.Error); !ok || e.Reason != fanfare.ReasonRevokedToken {
		t.Errorf("the key is gone: %v", e)
	}
}

// TestMisspeltGrants: a right that is misspelt gives nothing, so its token is refused with what was
// probably meant.
func TestMisspeltGrants(t *testing.T) {
	a := start(t, Options{Keys: []Key{{Algorithm: "HS256", Text: secret}}})
	for member, says := range map[string]string{
		"subscribes": `did you mean "subscribe"`, "Subscribe": `did you mean "subscribe"`,
		"Device": `did you mean "device"`,
		"read":   "the members are publish, subscribe, presence, ack, admin, device",
	} {
		token := sign("HS256", []byte(secret), nil,
			map[string]any{"fanfare": map[string]any{"publish": []string{"a"}, member: []string{"b"}}})
		_, err := a.Verify(t.Context(), token)
		wantRefused(t, member, token, err, fanfare.ReasonBadToken)
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %s", member, err, says)
		}
	}
	// Claims of the token's own are the issuer's (RFC 7519, section 4.3).
	good := sign("HS256", []byte(secret), nil,
		map[string]any{"subscribes": []string{"b"}, "Fanfare": 1, "fanfare": map[string]any{
			"publish": []string{"a"}, "subscribe": nil, "presence": []string{}, "ack": nil, "admin": nil,
			"device": nil}})
	if p, err := a.Verify(t.Context(), good); err != nil || !p.May(fanfare.ActionPublish, channel("a")) {
		t.Errorf("%+v %v", p, err)
	}
}

// TestMisspeltAPIKeys: a line of a key file is one object of members that are known, each once and
// spelt as they are.
func TestMisspeltAPIKeys(t *testing.T) {
	_, made := mustKey(t, APIKey{Name: "pos", Publish: []string{"a"}})
	line := string(must(json.Marshal(made)))
	with := func(more string) string { return strings.TrimSuffix(line, "}") + "," + more + "}" }
	for text, says := range map[string]string{
		with(`"Admin":["**"]`):        `did you mean "admin"`,
		with(`"admins":["**"]`):       `did you mean "admin"`,
		with(`"root":true`):           "the members are id, name, hash",
		with(`"publish":["b"]`):       `"publish" is given twice`,
		with(`"pub\u006cish":["b"]`):  `"publish" is given twice`,
		line + ` {"admin":["**"]}`:    "something follows",
		line + "x":                    "something follows",
		line + line:                   "something follows",
		line[:len(line)-1]:            "JSON object",
		"[" + line + "]":              "JSON object",
		with("\"ack\":[\"a\xff\"]"):   "JSON object",
		with(`"ack":"a"`):             "JSON object",
		with(`"ack":["a"`):            "JSON object",
		strings.ToUpper(line):         `did you mean`,
		"null":                        "JSON object",
		" \t" + line + " \t\r":        "",
		with(`"ack":null,"admin":[]`): "",
	} {
		_, err := ParseAPIKey(text)
		if says == "" && err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v, want %s", text, err, says)
		}
		if err != nil && strings.Contains(err.Error(), made.Hash[7:]) {
			t.Errorf("the error shows the hash: %v", err)
		}
	}
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, []byte(line+"\n\n"+with(`"Admin":["**"]`)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadAPIKeys(file); err == nil || !strings.Contains(err.Error(), file+", line 3: ") {
		t.Errorf("%v", err)
	}
}
