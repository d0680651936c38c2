package auth

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"

	"github.com/fanfare-hub/fanfare"
)

const (
	jwksMostBytes = 1 << 20
	jwksMostKeys  = 100
	jwksTimeout   = 10 * time.Second
	jwksRetry     = 10 * time.Second // after a fetch that failed
	jwksAgain     = 30 * time.Second // how often to look again for a kid that is not in the set
)

// jwks is a set of keys that an issuer publishes (RFC 7517).
type jwks struct {
	// Fixed after newJWKS.
	life    context.Context // ends with the Authenticator; a fetch serves many requests, and belongs to none of them
	url     string
	refresh time.Duration
	client  *http.Client
	logger  *slog.Logger
	changed func() // the set is another one than before
	now     func() time.Time

	mu       sync.Mutex // guards the fields below
	keys     []verifier
	body     []byte        // of the set in force
	tried    time.Time     // when a fetch last ended
	fetching chan struct{} // closed when the fetch under way has ended; nil: none is
	failed   bool
	failures uint64
}

func newJWKS(
	life context.Context, text string, refresh time.Duration, transport http.RoundTripper, logger *slog.Logger,
	changed func(),
) (*jwks, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, fanfare.Invalid("the JWKS URL must be https://host/path")
	}
	if refresh == 0 {
		refresh = 15 * time.Minute
	}
	j := &jwks{life: life, url: text, refresh: refresh, logger: logger, changed: changed, now: time.Now}
	j.client = &http.Client{
		Transport: transport, Timeout: jwksTimeout,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Scheme != "https" || r.URL.Host != u.Host || len(via) > 3 {
				return errors.New("the JWKS URL redirects to another host, or not to https")
			}
			return nil
		},
	}
	return j, nil
}

// run fetches the set now, and again whenever it is due, until the Authenticator is closed.
func (j *jwks) run() {
	for {
		j.fetch(j.life)
		j.mu.Lock()
		wait := j.refresh
		if j.failed {
			wait = min(wait, jwksRetry)
		}
		j.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-j.life.Done():
			timer.Stop()
			return
		}
	}
}

// find returns the keys for an algorithm and a kid. When the set has no such kid, find fetches the
// set again, at most once in jwksAgain, so that made-up kids cost the issuer nothing. It may wait
// for a fetch.
func (j *jwks) find(ctx context.Context, algorithm, id string) []verifier {
	found, due, fetching := j.look(algorithm, id)
	if len(found) > 0 {
		return found
	}
	switch {
	case fetching != nil:
		select {
		case <-fetching:
		case <-ctx.Done():
			return nil
		}
	case due:
		j.fetch(ctx)
	default:
		return nil
	}
	found, _, _ = j.look(algorithm, id)
	return found
}

func (j *jwks) look(algorithm, id string) (found []verifier, due bool, fetching <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	found = matching(j.keys, algorithm, id)
	return found, j.now().Sub(j.tried) > jwksAgain, j.fetching
}

// fetch gets the set. Calls at the same time share one request.
func (j *jwks) fetch(ctx context.Context) {
	j.mu.Lock()
	if done := j.fetching; done != nil {
		j.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
		}
		return
	}
	done := make(chan struct{})
	j.fetching = done
	j.mu.Unlock()

	// The fetch does not end with the request that asked for it: other requests wait for it too.
	get, cancel := context.WithTimeout(j.life, jwksTimeout)
	defer cancel()
	body, keys, err := j.get(get)

	j.mu.Lock()
	j.tried, j.fetching = j.now(), nil
	renewed, was := err == nil && !bytes.Equal(body, j.body), j.failed
	if renewed {
		j.keys, j.body = keys, body
	}
	if j.failed = err != nil; j.failed {
		j.failures++
	}
	j.mu.Unlock()
	close(done)
	switch {
	case j.life.Err() != nil:
	case err != nil && !was:
		j.logger.Warn("the JWKS cannot be fetched; the keys known so far stay in force", slog.String("url", j.url),
			slog.Any("err", err))
	case renewed:
		j.logger.Info("a JWKS was fetched", slog.String("url", j.url), slog.Int("keys", len(keys)))
		j.changed()
	}
}

// has tells whether the set has a key.
func (j *jwks) has(fingerprint string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.ContainsFunc(j.keys, func(v verifier) bool { return v.fingerprint == fingerprint })
}

// known tells whether a set was ever fetched.
func (j *jwks) known() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.body != nil
}

func (j *jwks) get(ctx context.Context) ([]byte, []verifier, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.url, nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err := j.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("it was answered %s", resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, jwksMostBytes+1))
	if err != nil {
		return nil, nil, err
	}
	if len(body) > jwksMostBytes {
		return nil, nil, fmt.Errorf("it is larger than %d bytes", jwksMostBytes)
	}
	keys, err := parseJWKS(body)
	return body, keys, err
}

// parseJWKS reads the keys that can verify signatures, and pins each to one algorithm. Secrets (kty
// oct) are not taken from a place that everybody can read; x5u and x5c are not looked at.
func parseJWKS(body []byte) ([]verifier, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, errors.New("it is not a JSON Web Key Set")
	}
	if len(set.Keys) > jwksMostKeys {
		return nil, fmt.Errorf("it has more than %d keys", jwksMostKeys)
	}
	var keys []verifier
	for _, raw := range set.Keys {
		if v, ok := parseJWK(raw); ok {
			keys = append(keys, v)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("it has no key that verifies signatures")
	}
	return keys, nil
}

func parseJWK(raw []byte) (verifier, bool) {
	var m jwkset.JWKMarshal
	if json.Unmarshal(raw, &m) != nil || m.KTY == jwkset.KtyOct || (m.USE != "" && m.USE != jwkset.UseSig) {
		return verifier{}, false
	}
	m.X5U, m.X5C, m.X5T, m.X5TS256 = "", nil, "", ""
	jwk, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return verifier{}, false
	}
	v := verifier{algorithm: string(m.ALG), id: m.KID, key: jwk.Key()}
	if v.algorithm == "" {
		switch key := v.key.(type) {
		case *rsa.PublicKey:
			v.algorithm = "RS256"
		case *ecdsa.PublicKey:
			v.algorithm = ecAlgorithm(key.Curve)
		case ed25519.PublicKey:
			v.algorithm = "EdDSA"
		}
	}
	if !slices.Contains(algorithms, v.algorithm) || !fits(v.algorithm, v.key) {
		return v, false
	}
	v, err = v.ready()
	return v, err == nil
}

// matching returns the keys for an algorithm and a kid.
func matching(keys []verifier, algorithm, id string) (found []verifier) {
	for _, k := range keys {
		if k.algorithm == algorithm && (k.id == id || k.id == "" || id == "") {
			found = append(found, k)
		}
	}
	return found
}
