package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/internal/forwarded"
	"github.com/fanfare-hub/fanfare/server"
)

// securitySettings configure rights, credentials and limits.
type securitySettings struct {
	JwtKey      []string `sep:"none" help:"A key that verifies tokens, its algorithm first: RS256=/etc/fanfare/issuer.pem, or ES256:KID=FILE; repeatable." placeholder:"ALG[:KID]=FILE"`
	JwtSecret   []string `secret:"" sep:"none" help:"A shared secret that verifies tokens: HS256=SECRET; repeatable. --jwt-key HS256=FILE keeps it in a file." placeholder:"ALG[:KID]=SECRET"`
	JwksURL     string   `name:"jwks-url" help:"The https address at which an issuer publishes its keys." placeholder:"URL"`
	JwksRefresh span     `default:"15m" help:"How often to fetch these keys again."`
	JwtIssuer   []string `help:"The issuer that a token's iss must be; repeatable. Default: any." placeholder:"ISS"`
	JwtAudience []string `help:"The audience that a token's aud must name; repeatable. Without one, tokens with an aud are refused." placeholder:"AUD"`
	JwtClaim    string   `default:"fanfare" help:"The claim that holds a token's grants."`
	JwtGrant    []string `sep:"none" help:"A grant made of claims that tokens have anyway, such as 'device=stores/{storeId}/pcs/{pcId}'; repeatable." placeholder:"ACTION=PATTERN"`
	APIKeys     string   `name:"api-keys" help:"File of API keys, which fanfare key makes; it is read again when it changes." placeholder:"FILE"`
	APIKey      []string `name:"api-key" secret:"" sep:"none" help:"One more API key: the line that fanfare key create prints; repeatable." placeholder:"JSON"`
	Anonymous   []string `sep:"none" help:"A right of requests without a token, such as 'subscribe=public/**'; repeatable." placeholder:"ACTION=PATTERN"`
	QueryToken  bool     `help:"Take tokens from the query too, ?access_token=. They then stand in the logs of proxies; tickets avoid that."`

	TrustedProxy []string `help:"Address or range of proxies that the hub trusts to say where a request comes from, or unix for proxies on a Unix socket; repeatable." placeholder:"CIDR"`
	ProxyHeader  string   `default:"X-Forwarded-For" enum:"X-Forwarded-For,Forwarded" help:"The header in which these proxies say it; it counts when a request has both."`

	MaxConnectionsPerAddress limit `default:"off" help:"Most connections of one address. Streams over plain HTTP/1.1 do not count, nor do loopback and trusted proxies."`

	MaxStreamsPerSubject      limit    `default:"off" help:"Most streams of one subject."`
	MaxStreamsPerChannel      limit    `default:"off" help:"Most streams of one channel, or one pattern."`
	MaxNewStreams             limit    `default:"off" help:"Most streams that open in a second."`
	MaxRefusalsHeld           int      `default:"1000" help:"Most refused streams whose answer waits for 1 to 3 s at once, because their clients would come back at once; beyond that the hub closes connections."`
	MaxRefusalsHeldPerAddress int      `default:"32" help:"Most of these for one address, loopback and proxies' own included."`
	MaxReplays                int      `default:"16" help:"Most streams and pages of history that read the log at once; others wait for their turn."`
	PublishRate               limit    `default:"off" help:"Most events a second of one principal."`
	PublishBytesRate          byteSize `default:"0" help:"Most bytes of data a second of one principal; 0: no limit."`
	PublishBurst              span     `default:"1s" help:"How many events and bytes may come at once, as a time at the two rates."`
	MaxRevocations            int      `default:"100000" help:"Most tokens and subjects that are revoked at once."`
	AuditRate                 *limit   `help:"Most records a second of each kind in the audit trail, or off. Default: 10 with authentication, off without."`

	TLSCert string `name:"tls-cert" help:"The certificate to serve https with, and its chain, PEM; the hub reads it again when it changes." placeholder:"FILE"`
	TLSKey  string `name:"tls-key" help:"The certificate's private key." placeholder:"FILE"`
	H2c     bool   `name:"h2c" help:"Accept HTTP/2 without TLS too, from a proxy."`
	acmeSettings

	HeaderTimeout span `default:"10s" help:"How long the header of a request may take to come."`
	BodyTimeout   span `default:"1m" help:"How long a request may take to come, NDJSON excepted; its answer may take twice as long to leave."`
	IdleTimeout   span `default:"2m" help:"How long a connection may wait for its next request."`
}

// authConfigured tells whether authentication is configured.
func (c *securitySettings) authConfigured() bool {
	return len(c.JwtKey)+len(c.JwtSecret)+len(c.APIKey)+len(c.Anonymous) > 0 || c.JwksURL != "" || c.APIKeys != ""
}

func (c *securitySettings) tlsConfigured() bool { return c.TLSCert != "" || len(c.AcmeDomain) > 0 }

// auditRate is the one in force.
func (c *securitySettings) auditRate() int {
	switch {
	case c.AuditRate != nil:
		return int(*c.AuditRate)
	case c.authConfigured():
		return 10
	}
	return 0
}

func (c *securitySettings) check() error {
	switch {
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return errors.New("--tls-cert and --tls-key go together")
	case c.TLSCert != "" && len(c.AcmeDomain) > 0:
		return errors.New("--tls-cert and --acme-domain are both given: want one of them")
	case c.H2c && c.tlsConfigured():
		return errors.New("--h2c is HTTP/2 without TLS, and TLS is configured: want one of them")
	case c.MaxReplays < 1 || c.MaxRevocations < 1:
		return errors.New("--max-replays and --max-revocations must be at least 1")
	case c.MaxRefusalsHeld < 1 || c.MaxRefusalsHeldPerAddress < 1:
		return errors.New("--max-refusals-held and --max-refusals-held-per-address must be at least 1")
	case c.PublishBurst < span(10*time.Millisecond):
		return errors.New("--publish-burst must be at least 10ms")
	case c.HeaderTimeout < span(100*time.Millisecond) || c.BodyTimeout < span(100*time.Millisecond) ||
		c.IdleTimeout < span(100*time.Millisecond):
		return errors.New("--header-timeout, --body-timeout and --idle-timeout must be at least 100ms")
	}
	if _, err := forwarded.New(c.TrustedProxy, c.ProxyHeader); err != nil {
		return fmt.Errorf("--trusted-proxy: %w", err)
	}
	o, err := c.authOptions()
	if err == nil && c.authConfigured() {
		err = auth.Check(o)
	}
	if err == nil {
		err = c.acmeSettings.check()
	}
	if err == nil {
		err = c.checkFiles()
	}
	return err
}

// authOptions reads the settings, and no file. Errors name the setting, and show no secret.
func (c *securitySettings) authOptions() (o auth.Options, err error) {
	o = auth.Options{
		JWKS: c.JwksURL, JWKSRefresh: time.Duration(c.JwksRefresh), Issuers: c.JwtIssuer, Audiences: c.JwtAudience,
		Claim: c.JwtClaim, APIKeyFile: c.APIKeys,
	}
	for _, text := range c.JwtKey {
		k, err := auth.ParseKey(text)
		if err != nil {
			return o, fmt.Errorf("--jwt-key: %w", err)
		}
		o.Keys = append(o.Keys, k)
	}
	for _, text := range c.JwtSecret {
		k, err := auth.ParseSecret(text)
		if err != nil {
			return o, fmt.Errorf("--jwt-secret: %w", err)
		}
		o.Keys = append(o.Keys, k)
	}
	for _, text := range c.JwtGrant {
		g, err := auth.ParseGrant(text)
		if err != nil {
			return o, fmt.Errorf("--jwt-grant: %w", err)
		}
		o.ClaimGrants = append(o.ClaimGrants, g)
	}
	for _, line := range c.APIKey {
		k, err := auth.ParseAPIKey(line)
		if err != nil {
			return o, fmt.Errorf("--api-key: %w", err)
		}
		o.APIKeys = append(o.APIKeys, k)
	}
	if o.Anonymous, err = auth.ParseGrants(c.Anonymous); err != nil {
		return o, fmt.Errorf("--anonymous: %w", err)
	}
	return o, nil
}

// authenticator returns nil when no authentication is configured.
func (c *securitySettings) authenticator(logger *slog.Logger) (*auth.Authenticator, error) {
	if !c.authConfigured() {
		return nil, nil
	}
	o, err := c.authOptions()
	if err != nil {
		return nil, err
	}
	o.Logger = logger
	return auth.New(o)
}

func (c *securitySettings) apply(o *server.Options) {
	o.Access.QueryToken, o.Access.TrustedProxies, o.Access.ProxyHeader = c.QueryToken, c.TrustedProxy, c.ProxyHeader
	o.Streams.MaxPerSubject, o.Streams.MaxPerChannel = int(c.MaxStreamsPerSubject), int(c.MaxStreamsPerChannel)
	o.Streams.MaxNewPerSecond, o.Streams.MaxReplays = float64(c.MaxNewStreams), c.MaxReplays
	o.Streams.MaxRefusalsHeld, o.Streams.MaxRefusalsHeldPerAddress = c.MaxRefusalsHeld, c.MaxRefusalsHeldPerAddress
	o.Publish.Rate, o.Publish.BytesRate, o.Publish.Burst = float64(c.PublishRate), float64(c.PublishBytesRate),
		time.Duration(c.PublishBurst).Seconds()
	o.Access.MaxRevocations, o.AuditRate = c.MaxRevocations, c.auditRate()
}

// ticketKey is the key that seals tickets. It lies beside the log, so that a stream's ticket
// outlives a restart.
func ticketKey(dir string) ([]byte, error) {
	name := filepath.Join(dir, "ticket.key")
	key, err := os.ReadFile(name)
	if err == nil && len(key) == auth.TicketKeyBytes {
		return key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key = make([]byte, auth.TicketKeyBytes)
	_, _ = rand.Read(key) // never fails
	return key, os.WriteFile(name, key, 0o600)
}

// warn logs settings that allow more than they perhaps should.
func (c *settings) warn(logger *slog.Logger, addr string) {
	if c.authConfigured() && !c.tlsConfigured() && !isLoopback(addr) && strings.Contains(addr, ":") {
		logger.Warn("tokens are taken over connections that are not encrypted: set --tls-cert and --tls-key, or "+
			"--acme-domain, or put TLS in front and listen on loopback",
			slog.String("addr", addr))
	}
	var secrets []string
	for _, text := range c.JwtKey {
		if k, err := auth.ParseKey(text); err == nil && strings.HasPrefix(k.Algorithm, "HS") {
			secrets = append(secrets, k.File)
		}
	}
	for _, name := range append(secrets, c.TLSKey) {
		if info, err := os.Stat(name); err == nil && info.Mode().Perm()&0o007 != 0 {
			logger.Warn("everybody on the machine may read a secret: chmod o= it", slog.String("file", name))
		}
	}
	if c.QueryToken {
		logger.Warn("--query-token takes tokens from URLs, which proxies and browsers write down: tickets do not " +
			"have that fault")
	}
}
