package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/fanfare-hub/fanfare/auth"
)

type tokenCmd struct {
	Key       string   `required:"" help:"The key that signs the token: HS256=FILE with the secret, or RS256=, ES256=, EdDSA=FILE with a private key, PEM." placeholder:"ALG[:KID]=FILE"`
	Subject   string   `help:"The subject of the token."`
	Expires   span     `default:"1h" help:"How long the token is good."`
	Issuer    string   `help:"The token's iss."`
	Audience  []string `help:"The token's aud; repeatable."`
	Publish   []string `sep:"none" help:"A channel or pattern that the holder may publish to; repeatable." placeholder:"PATTERN"`
	Subscribe []string `sep:"none" help:"A channel or pattern that the holder may listen to and read, such as 'users/{sub}/**'; repeatable." placeholder:"PATTERN"`
	Admin     []string `sep:"none" help:"A channel or pattern whose streams the holder may end; '**' allows all of an operator's calls; repeatable." placeholder:"PATTERN"`
	Device    string   `help:"The store PC that holds the token, such as stores/42/pcs/7; for a fleet that shares the token 'stores/*/pcs/*'." placeholder:"stores/S/pcs/P"`
	Claim     string   `default:"fanfare" help:"The claim that holds the grants: the hub's --jwt-claim."`
}

// Help implements kong.HelpProvider.
func (tokenCmd) Help() string {
	return `Example: fanfare token --key HS256=secret.txt --subject ada --subscribe 'users/{sub}/**'

Makes a JSON Web Token for experiments, tests and small set-ups. In production your issuer makes the tokens.`
}

func (c *tokenCmd) Run(std *stdio) error {
	head, file, ok := strings.Cut(c.Key, "=")
	algorithm, id, _ := strings.Cut(head, ":")
	method := jwt.GetSigningMethod(algorithm)
	if !ok || method == nil || algorithm == "none" {
		return &exitError{exitUsage, fmt.Errorf("--key: want ALG[:KID]=FILE, such as HS256=secret.txt")}
	}
	if err := c.checkGrants(); err != nil {
		return &exitError{exitUsage, err}
	}
	key, err := signingKey(algorithm, file)
	if err != nil {
		return err
	}
	var jti [12]byte
	_, _ = rand.Read(jti[:]) // never fails
	now := time.Now()
	grants := map[string]any{}
	for name, patterns := range map[string][]string{"publish": c.Publish, "subscribe": c.Subscribe, "admin": c.Admin} {
		if len(patterns) > 0 {
			grants[name] = patterns
		}
	}
	if c.Device != "" {
		grants["device"] = c.Device
	}
	claims := jwt.MapClaims{"iat": now.Unix(), "exp": now.Add(time.Duration(c.Expires)).Unix(),
		"jti": hex.EncodeToString(jti[:]), c.Claim: grants}
	for name, value := range map[string]string{"sub": c.Subject, "iss": c.Issuer} {
		if value != "" {
			claims[name] = value
		}
	}
	if len(c.Audience) > 0 {
		claims["aud"] = c.Audience
	}
	token := jwt.NewWithClaims(method, claims)
	if id != "" {
		token.Header["kid"] = id
	}
	text, err := token.SignedString(key)
	if err != nil {
		return fmt.Errorf("sign with %s: %w", file, err)
	}
	_, err = fmt.Fprintln(std.out, text)
	return err
}

// checkGrants refuses grants that would give nothing: the hub leaves out a pattern that is none.
func (c *tokenCmd) checkGrants() error {
	for _, grants := range []struct {
		action   string
		patterns []string
	}{{"publish", c.Publish}, {"subscribe", c.Subscribe}, {"admin", c.Admin}, {"device", []string{c.Device}}} {
		for _, text := range grants.patterns {
			if text == "" { // no device
				continue
			}
			if _, err := auth.ParseGrant(grants.action + "=" + text); err != nil {
				return fmt.Errorf("--%s: %w", grants.action, err)
			}
			if strings.ContainsAny(strings.ReplaceAll(text, "{sub}", ""), "{}") {
				return fmt.Errorf("--%s %q: of a token's claims only {sub} can stand in its own grants", grants.action,
					text)
			}
			if strings.Contains(text, "{sub}") && (c.Subject == "" || strings.ContainsAny(c.Subject, "/*$")) {
				return fmt.Errorf("--%s %q: {sub} needs a --subject without / * $", grants.action, text)
			}
		}
	}
	return nil
}

// signingKey reads a secret, or a private key.
func signingKey(algorithm, file string) (any, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	switch algorithm[:2] {
	case "HS":
		return bytes.TrimRight(b, "\r\n"), nil
	case "ES":
		return jwt.ParseECPrivateKeyFromPEM(b)
	case "Ed":
		return jwt.ParseEdPrivateKeyFromPEM(b)
	}
	return jwt.ParseRSAPrivateKeyFromPEM(b)
}

// endCmd is the part that disconnect and revoke share.
type endCmd struct {
	target
	Subject string  `help:"Streams of this subject."`
	TokenID string  `name:"token-id" help:"Streams of this token (its jti) or API key (key-ID); the audit trail and /v1/stats show the id." placeholder:"ID"`
	Channel string  `help:"Streams of this channel, or of channels that match a pattern."`
	Stream  *uint64 `help:"The stream of this number, which the page and /v1/stats show."`
}

func (c *endCmd) post(ctx context.Context, std *stdio, path, lasts string) error {
	selection := map[string]any{}
	for name, text := range map[string]string{"subject": c.Subject, "tokenId": c.TokenID, "channel": c.Channel,
		"for": lasts} {
		if text != "" { // given empty it is refused before: see refuseEmpty
			selection[name] = text
		}
	}
	if c.Stream != nil {
		selection["stream"] = *c.Stream
	}
	body, err := json.Marshal(selection)
	if err != nil {
		return err
	}
	req, err := c.request(ctx, http.MethodPost, path, nil, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	answer, err := c.do(req)
	if err != nil {
		return asExit(err)
	}
	_, err = std.out.Write(answer)
	return err
}

type disconnectCmd struct{ endCmd }

// Help implements kong.HelpProvider.
func (disconnectCmd) Help() string {
	return `Example: fanfare disconnect --channel 'stores/42/**'

Ends the streams that match all given flags, within a second. Their clients may come back.`
}

func (c *disconnectCmd) Run(ctx context.Context, std *stdio) error {
	return c.post(ctx, std, "/v1/admin/disconnect", "")
}

type revokeCmd struct {
	endCmd
	For string `help:"How long the hub remembers the revocation; by then the token must have expired. Default: a year." placeholder:"TIME"`
}

// Help implements kong.HelpProvider.
func (revokeCmd) Help() string {
	return `Example: fanfare revoke --subject ada

Ends streams as disconnect does, and makes the hub refuse the tokens that they were opened with. The hub refuses a subject or
token id whether it has a stream or not; for a subject, it refuses all tokens issued up to now.`
}

func (c *revokeCmd) Run(ctx context.Context, std *stdio) error {
	return c.post(ctx, std, "/v1/admin/revoke", c.For)
}
