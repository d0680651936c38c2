package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/fanfare-hub/fanfare"
)

// MaxTokenBytes is the longest token, key or ticket that is looked at.
const MaxTokenBytes = 16 << 10

// unauthenticated makes an error that says nothing of the token itself.
func unauthenticated(reason fanfare.Reason, detail string, cause error) error {
	return &fanfare.Error{Code: fanfare.CodeUnauthenticated, Reason: reason, Detail: detail, Err: cause}
}

func (a *Authenticator) newParser() *jwt.Parser {
	options := []jwt.ParserOption{
		jwt.WithValidMethods(algorithms), jwt.WithExpirationRequired(), jwt.WithLeeway(a.o.Leeway), jwt.WithJSONNumber(),
		jwt.WithStrictDecoding(), jwt.WithTimeFunc(a.o.now), jwt.WithIssuedAt(),
	}
	if len(a.o.Audiences) > 0 {
		options = append(options, jwt.WithAudience(a.o.Audiences...))
	}
	return jwt.NewParser(options...)
}

// verifyJWT checks a token and returns whose it is. It may wait for a JWKS.
func (a *Authenticator) verifyJWT(ctx context.Context, token string) (*fanfare.Principal, error) {
	claims := jwt.MapClaims{}
	_, err := a.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) { return a.keysFor(ctx, t) })
	if err != nil {
		return nil, refusal(err)
	}
	if err := a.checkIssuer(claims); err != nil {
		return nil, err
	}
	p := &fanfare.Principal{Grants: fanfare.Grants{}}
	p.Subject, _ = claims["sub"].(string)
	p.TokenID, _ = claims["jti"].(string)
	if p.TokenID == "" {
		sum := sha256.Sum256([]byte(token))
		p.TokenID = "sha256-" + hex.EncodeToString(sum[:12])
	}
	if strings.HasPrefix(p.TokenID, keyIDPrefix) {
		p.TokenID = "jti-" + p.TokenID // an API key's id cannot be had by asking for it
	}
	if len(p.Subject) > maxSubject || len(p.TokenID) > maxSubject {
		return nil, unauthenticated(fanfare.ReasonBadToken, "the token's sub or jti is longer than 1024 bytes", nil)
	}
	if iat, err := claims.GetIssuedAt(); err == nil && iat != nil {
		p.IssuedAt = iat.Time
	}
	exp, err := claims.GetExpirationTime()
	if err != nil || exp == nil || exp.Year() > 9999 {
		return nil, unauthenticated(fanfare.ReasonBadToken, "the token has no exp, or one beyond the year 9999", err)
	}
	if p.Expires = exp.Time; !a.o.now().Before(p.Expires) {
		p.Ends = p.Expires.Add(a.o.Leeway) // clocks differ
	}
	value := func(name string) (string, bool) { return claimValue(claims, name) }
	if claim, there := claims[a.o.Claim]; there {
		if err := claimGrants(claim, p, value); err != nil {
			e := err.(*fanfare.Error)
			e.Reason = fanfare.ReasonBadToken
			return nil, e
		}
	}
	for _, g := range a.o.ClaimGrants {
		g.addTo(p, value)
	}
	a.addAnonymous(p)
	return p, nil
}

const maxSubject = 1024

// checkIssuer holds iss and aud against what is expected. A token for somebody else is refused even where no audience was
// set (RFC 7519, section 4.1.3).
func (a *Authenticator) checkIssuer(claims jwt.MapClaims) error {
	if aud, err := claims.GetAudience(); err == nil && len(aud) > 0 && len(a.o.Audiences) == 0 {
		return unauthenticated(fanfare.ReasonBadToken, "the token is for an audience (aud), and the hub knows none: set --jwt-audience", nil)
	}
	if len(a.o.Issuers) == 0 {
		return nil
	}
	iss, _ := claims["iss"].(string)
	for _, known := range a.o.Issuers {
		if iss == known {
			return nil
		}
	}
	return unauthenticated(fanfare.ReasonBadToken, "the token's issuer (iss) is not one that the hub trusts", nil)
}

var (
	errNoKey     = errors.New("no key fits the token's algorithm and kid")
	errNoKeysYet = errors.New("the JWKS has not been fetched yet")
)

// keysFor chooses keys by algorithm and kid. The header's jku, x5u, x5c and jwk are not looked at; crit names what a reader
// must understand (RFC 7515, section 4.1.11), and this one understands no extension.
func (a *Authenticator) keysFor(ctx context.Context, t *jwt.Token) (any, error) {
	if _, there := t.Header["crit"]; there {
		return nil, errors.New("crit is not understood")
	}
	id := ""
	if kid, there := t.Header["kid"]; there {
		text, ok := kid.(string)
		if !ok || len(text) > maxSubject {
			return nil, errors.New("kid is not a text")
		}
		id = text
	}
	algorithm := t.Method.Alg()
	found := matching(a.state.Load().keys, algorithm, id)
	if len(found) == 0 && a.jwks != nil && !strings.HasPrefix(algorithm, "HS") {
		found = a.jwks.find(ctx, algorithm, id)
	}
	if len(found) == 0 && a.jwks != nil && !a.jwks.known() {
		return nil, errNoKeysYet
	}
	if len(found) == 0 {
		return nil, errNoKey
	}
	set := jwt.VerificationKeySet{}
	for _, v := range found {
		set.Keys = append(set.Keys, v.key)
	}
	return set, nil
}

// refusal turns the library's error into one that says what whoever made the token can mend.
func refusal(err error) error {
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return unauthenticated(fanfare.ReasonExpiredToken, "the token has expired", err)
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return unauthenticated(fanfare.ReasonBadToken, "the token is not valid yet: see its nbf and iat, and the clocks", err)
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return unauthenticated(fanfare.ReasonBadToken, "the token's audience (aud) is not this hub", err)
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return unauthenticated(fanfare.ReasonBadToken, "the token lacks exp or aud", err)
	case errors.Is(err, errNoKeysYet):
		// Not 401, after which many clients stop for good: the token may well be valid.
		return fanfare.Unavailable("the issuer's keys are not known yet: its JWKS could not be fetched so far", err)
	case errors.Is(err, errNoKey):
		return unauthenticated(fanfare.ReasonBadToken, "no key is known for the token's algorithm and kid", err)
	}
	return unauthenticated(fanfare.ReasonBadToken, "the token is not valid", err)
}

// expired tells whether a principal's rights have ended.
func expired(p *fanfare.Principal, now time.Time) bool {
	return !p.Expires.IsZero() && !now.Before(p.Expires)
}
