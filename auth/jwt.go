package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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
		jwt.WithValidMethods(algorithms), jwt.WithExpirationRequired(), jwt.WithLeeway(a.o.Leeway),
		jwt.WithJSONNumber(),
		jwt.WithStrictDecoding(), jwt.WithTimeFunc(a.o.now), jwt.WithIssuedAt(),
	}
	if len(a.o.Audiences) > 0 {
		options = append(options, jwt.WithAudience(a.o.Audiences...))
	}
	return jwt.NewParser(options...)
}

// verifyJWT checks a token and returns its principal. It may wait for a JWKS.
func (a *Authenticator) verifyJWT(ctx context.Context, token string) (*fanfare.Principal, error) {
	claims := jwt.MapClaims{}
	var candidates []verifier
	parsed, err := a.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		if err := checkTypes(claims); err != nil {
			return nil, err
		}
		set := jwt.VerificationKeySet{}
		found, err := a.keysFor(ctx, t)
		for _, v := range found {
			set.Keys = append(set.Keys, v.key)
		}
		candidates = found
		return set, err
	})
	if err != nil {
		return nil, refusal(err)
	}
	if err := a.checkIssuer(claims); err != nil {
		return nil, err
	}
	p := &fanfare.Principal{Grants: fanfare.Grants{}, Realm: "token"}
	if p.Key, err = whichKey(parsed, token, candidates); err != nil {
		return nil, refusal(err)
	}
	p.Subject, _ = claims["sub"].(string)
	if iss, _ := claims["iss"].(string); iss != "" {
		p.Realm = "token of " + iss
	}
	if err := identify(p, claims, token); err != nil {
		return nil, err
	}
	if !a.o.now().Before(p.Expires) {
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

// checkTypes refuses the claims of RFC 7519, section 4.1, whose type is wrong. golang-jwt treats
// some of them as absent: a token whose sub is a number would have no subject, and a token whose
// aud is a number would be for every audience.
func checkTypes(claims jwt.MapClaims) error {
	for _, name := range []string{"sub", "iss", "jti"} {
		if _, ok := claims[name].(string); !ok && claims[name] != nil {
			return wrongType(name, "a string")
		}
	}
	for _, name := range []string{"exp", "nbf", "iat"} {
		n, ok := claims[name].(json.Number)
		if !ok && claims[name] != nil {
			return wrongType(name, "a number of seconds since 1970")
		}
		// The library's times overflow into the past. An exp before 1970 is fine: the token has
		// expired.
		if seconds, err := n.Float64(); ok &&
			(err != nil || seconds > latestSeconds || (seconds < 0 && name != "exp")) {
			return wrongType(name, "a number of seconds since 1970, before the year 10000")
		}
	}
	if _, ok := claims["aud"].(string); ok || claims["aud"] == nil {
		return nil
	}
	list, ok := claims["aud"].([]any)
	for _, one := range list {
		_, text := one.(string)
		ok = ok && text
	}
	if !ok {
		return wrongType("aud", "a string or a list of strings")
	}
	return nil
}

// latestSeconds is the end of the year 9999.
const latestSeconds = 253402300799

// typeError is a claim of another type than it must have.
type typeError struct{ detail string }

func (e *typeError) Error() string { return e.detail }

func wrongType(claim, want string) error {
	return &typeError{"the token's " + claim + " is not " + want}
}

// whichKey returns the fingerprint of the candidate that verified the token; one of them has.
func whichKey(t *jwt.Token, text string, candidates []verifier) (fingerprint string, err error) {
	signed := signingInput(text)
	for _, v := range candidates {
		if len(candidates) == 1 || t.Method.Verify(signed, t.Signature, v.key) == nil {
			return v.fingerprint, nil
		}
	}
	return "", errNoKey
}

// signingInput is a token without its signature (RFC 7515, section 5.1).
func signingInput(token string) string { return token[:strings.LastIndexByte(token, '.')] }

// identify reads the names by which a token is known, and its times.
func identify(p *fanfare.Principal, claims jwt.MapClaims, token string) error {
	p.TokenID, _ = claims["jti"].(string)
	if p.TokenID == "" {
		// Not of the signature: that of an ECDSA key can be changed into another that is valid too,
		// and was not revoked.
		sum := sha256.Sum256([]byte(signingInput(token)))
		p.TokenID = "sha256-" + hex.EncodeToString(sum[:12])
	}
	if isAPIKeyID(p.TokenID) {
		p.TokenID = "jti-" + p.TokenID // an API key's id cannot be had by asking for it
	}
	if len(p.Subject) > maxSubject || len(p.TokenID) > maxSubject || len(p.Realm) > maxSubject {
		return unauthenticated(fanfare.ReasonBadToken, "the token's sub, iss or jti is longer than 1024 bytes", nil)
	}
	if iat, err := claims.GetIssuedAt(); err == nil && iat != nil {
		p.IssuedAt = iat.Time
	}
	exp, err := claims.GetExpirationTime()
	if err != nil || exp == nil || exp.Year() > 9999 {
		return unauthenticated(fanfare.ReasonBadToken, "the token has no exp, or one beyond the year 9999", err)
	}
	p.Expires = exp.Time
	return nil
}

const maxSubject = 1024

// checkIssuer compares iss and aud with the settings. A token that names an audience is refused
// when the settings name none (RFC 7519, section 4.1.3).
func (a *Authenticator) checkIssuer(claims jwt.MapClaims) error {
	if aud, err := claims.GetAudience(); err == nil && len(aud) > 0 && len(a.o.Audiences) == 0 {
		return &fanfare.Error{
			Code: fanfare.CodeUnauthenticated, Reason: fanfare.ReasonBadToken, Setting: fanfare.SettingJWTAudience,
			Detail: "the token is for an audience (aud), and the hub knows none",
		}
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

// keysFor chooses keys by algorithm and kid. It ignores jku, x5u, x5c and jwk in the header. crit
// names the extensions that a reader must understand (RFC 7515, section 4.1.11), and this one
// understands none.
func (a *Authenticator) keysFor(ctx context.Context, t *jwt.Token) ([]verifier, error) {
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
	return found, nil
}

// refusal turns the library's error into one that tells the token's issuer what to correct.
func refusal(err error) error {
	wrong, isWrong := errors.AsType[*typeError](err)
	switch {
	case isWrong:
		return unauthenticated(fanfare.ReasonBadToken, wrong.detail, nil)
	case errors.Is(err, jwt.ErrTokenExpired):
		return unauthenticated(fanfare.ReasonExpiredToken, "the token has expired", err)
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return unauthenticated(fanfare.ReasonBadToken,
			"the token is not valid yet: see its nbf and iat, and the clocks", err)
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
