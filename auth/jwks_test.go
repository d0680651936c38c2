package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"

	"github.com/fanfare-hub/fanfare"
)

// issuer publishes keys.
type issuer struct {
	*httptest.Server
	fetches atomic.Int64
	mu      sync.Mutex
	handler http.HandlerFunc
}

func newIssuer(t *testing.T) *issuer {
	i := &issuer{}
	i.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.fetches.Add(1)
		i.mu.Lock()
		h := i.handler
		i.mu.Unlock()
		h(w, r)
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) answer(h http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.handler = h
}

func (i *issuer) publish(keys ...any) {
	body := must(json.Marshal(map[string]any{"keys": keys}))
	i.answer(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
}

func (i *issuer) transport() http.RoundTripper {
	// the test's own server
	return &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
}

func jwk(t *testing.T, key any, id string, more ...jwkset.ALG) any {
	t.Helper()
	m := jwkset.JWKMetadataOptions{KID: id}
	if len(more) > 0 {
		m.ALG = more[0]
	}
	made, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: m})
	if err != nil {
		t.Fatal(err)
	}
	return made.Marshal()
}

// TestJWKS: keys are fetched, pinned to their algorithm, rotated without a restart; an unknown kid
// is unknown for a while.
func TestJWKS(t *testing.T) {
	i := newIssuer(t)
	rsaKey, ecKey, later := must(rsa.GenerateKey(rand.Reader, 2048)), must(ecdsa.GenerateKey(elliptic.P256(),
		rand.Reader)), must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	small := map[string]any{"kty": "RSA", "kid": "small", "alg": "RS256", "n": "2bKh7Q", "e": "AQAB"}
	i.publish(jwk(t, rsaKey.Public(), "r"), jwk(t, ecKey.Public(), "e"), small,
		map[string]any{"kty": "oct", "kid": "o", "alg": "HS256", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I"},
		map[string]any{"kty": "future"})
	a := start(t, Options{JWKS: i.URL + "/jwks.json", Transport: i.transport()})
	clock := &atomic.Int64{}
	a.jwks.mu.Lock()
	a.jwks.now = func() time.Time { return time.Now().Add(time.Duration(clock.Load())) }
	a.jwks.mu.Unlock()
	if _, err := a.Verify(t.Context(),
		sign("RS256", rsaKey, map[string]any{"kid": "r"}, map[string]any{"sub": "ada"})); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Verify(t.Context(), sign("ES256", ecKey, map[string]any{"kid": "e"}, nil)); err != nil {
		t.Error(err)
	}
	for name, token := range map[string]string{
		"another algorithm of the same key": sign("PS256", rsaKey, map[string]any{"kid": "r"}, nil),
		"a secret from the set": sign("HS256", []byte("secret-secret-secret-secret-secr"),
			map[string]any{"kid": "o"}, nil),
		"another's key": sign("ES256", later, map[string]any{"kid": "e"}, nil),
	} {
		_, err := a.Verify(t.Context(), token)
		wantRefused(t, name, token, err, fanfare.ReasonBadToken)
	}
	// Made-up kids do not have the issuer asked again and again.
	before := i.fetches.Load()
	for n := range 50 {
		token := sign("ES256", later, map[string]any{"kid": strings.Repeat("x", n+1)}, nil)
		_, err := a.Verify(t.Context(), token)
		wantRefused(t, "unknown kid", token, err, fanfare.ReasonBadToken)
	}
	if n := i.fetches.Load() - before; n != 0 {
		t.Errorf("50 made-up kids had the set fetched %d times", n)
	}
	// A new key is found by the first token that it signed, once the set is old enough.
	i.publish(jwk(t, ecKey.Public(), "e"), jwk(t, later.Public(), "l"))
	clock.Store(int64(jwksAgain + time.Second))
	if _, err := a.Verify(t.Context(), sign("ES256", later, map[string]any{"kid": "l"}, nil)); err != nil {
		t.Errorf("after the rotation: %v", err)
	}
	old := sign("RS256", rsaKey, map[string]any{"kid": "r"}, map[string]any{"sub": "ada"})
	_, err := a.Verify(t.Context(), old)
	wantRefused(t, "a key that is gone", old, err, fanfare.ReasonBadToken)
	// An issuer that is down costs nobody anything.
	i.answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	a.jwks.fetch(t.Context())
	if _, err := a.Verify(t.Context(), sign("ES256", later, map[string]any{"kid": "l", "x": 1}, nil)); err != nil ||
		a.JWKSFailures() == 0 {
		t.Errorf("while the issuer is down: %v, %d failures", err, a.JWKSFailures())
	}
}

// TestIssuerIsDown: as long as its keys were never seen a token may be valid, and is not refused
// for good; and a hub that ends does not wait for an issuer that hangs.
func TestIssuerIsDown(t *testing.T) {
	i := newIssuer(t)
	i.answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	token := sign("ES256", key, map[string]any{"kid": "e"}, nil)
	a := start(t, Options{JWKS: i.URL, Transport: i.transport(), Keys: []Key{{Algorithm: "HS256", Text: secret}}})
	if _, err := a.Verify(t.Context(), token); fanfare.CodeOf(err) != fanfare.CodeUnavailable {
		t.Errorf("%v", err)
	}
	if _, err := a.Verify(t.Context(), sign("HS256", []byte(secret), nil, nil)); err != nil {
		t.Errorf("a token of another key: %v", err)
	}
	i.publish(jwk(t, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)).Public(), "other"))
	a.jwks.fetch(t.Context())
	_, err := a.Verify(t.Context(), token)
	wantRefused(t, "when the keys are known", token, err, fanfare.ReasonBadToken)

	asked, release := make(chan struct{}, 1), make(chan struct{})
	i.answer(func(http.ResponseWriter, *http.Request) { asked <- struct{}{}; <-release })
	defer close(release)
	hanging := must(New(Options{JWKS: i.URL, Transport: i.transport()}))
	<-asked
	began := time.Now()
	hanging.Close()
	if took := time.Since(began); took >= jwksTimeout {
		t.Errorf("Close took %s", took)
	}
}

// TestHostileJWKS: what an issuer, or somebody in its place, may not do.
func TestHostileJWKS(t *testing.T) {
	for _, u := range []string{"http://id.example.com/jwks", "ftp://x", "", "https://",
		"https://user:pw@id.example.com/jwks", "file:///etc/passwd"} {
		if _, err := newJWKS(t.Context(), u, 0, nil, slog.New(slog.DiscardHandler), func() {}); err == nil {
			t.Errorf("%q was taken", u)
		}
	}
	elsewhere := newIssuer(t)
	elsewhere.publish(jwk(t, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)).Public(), "x"))
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer plain.Close()
	i := newIssuer(t)
	j := must(newJWKS(t.Context(), i.URL+"/jwks", 0, i.transport(), slog.New(slog.DiscardHandler), func() {}))
	big := strings.Repeat(" ", jwksMostBytes+1)
	many := `{"keys":[` + strings.Repeat(`{"kty":"x"},`, jwksMostKeys) + `{}]}`
	for name, h := range map[string]http.HandlerFunc{
		"another host": func(w http.ResponseWriter,
			r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusFound)
		},
		"not https": func(w http.ResponseWriter,
			r *http.Request) {
			http.Redirect(w, r, plain.URL, http.StatusFound)
		},
		"a loop": func(w http.ResponseWriter,
			r *http.Request) {
			http.Redirect(w, r, i.URL+"/x", http.StatusFound)
		},
		"too large": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(big)) },
		"too many":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(many)) },
		"no JSON":   func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"no keys":   func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"keys":[]}`)) },
		"an error":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
	} {
		i.answer(h)
		if _, keys, err := j.get(t.Context()); err == nil {
			t.Errorf("%s: %v was taken", name, keys)
		}
	}
	if n := elsewhere.fetches.Load(); n != 0 {
		t.Errorf("the other host was asked %d times", n)
	}
	i.answer(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/jwks" {
			http.Redirect(w, r, "/moved", http.StatusFound)
			return
		}
		_, _ = w.Write(must(json.Marshal(map[string]any{"keys": []any{jwk(t,
			must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)).Public(), "x")}})))
	})
	if _, keys, err := j.get(t.Context()); err != nil || len(keys) != 1 {
		t.Errorf("a redirect within the host: %v %v", keys, err)
	}
}
