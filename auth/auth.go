package auth

import (
	"context"
	"crypto/sha256"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/fanfare-hub/fanfare"
)

// DefaultLeeway is for the clocks of issuers and hub, which differ.
const DefaultLeeway = 30 * time.Second

// Options set up an Authenticator. The zero value of each field is good. With the zero Options no
// caller has any right.
type Options struct {
	Keys        []Key         // that verify tokens
	JWKS        string        // https URL of more of them; "": none
	JWKSRefresh time.Duration // how often to fetch it again; default 15 min
	Issuers     []string      // iss must be one of them; none: anything
	Audiences   []string      // aud must name one of them; none: tokens with an aud are refused
	Claim       string        // the claim that holds the grants; default "fanfare"
	ClaimGrants []Grant       // grants from claims that an issuer gives anyway
	Leeway      time.Duration // for clocks that differ; default 30 s

	APIKeys    []APIKey
	APIKeyFile string // more of them; it is looked at again while running, and need not exist yet

	Anonymous fanfare.Grants // rights of every caller, also without a token

	Watch     time.Duration     // how often files are looked at; default 1 s
	Transport http.RoundTripper // for the JWKS; default: http.DefaultTransport's settings
	Logger    *slog.Logger      // default: discard

	now func() time.Time
}

// Authenticator verifies tokens and API keys. Make it with New, end it with Close. Its methods may
// be called from any goroutine.
type Authenticator struct {
	// Fixed after New.
	o         Options
	parser    *jwt.Parser
	jwks      *jwks // nil: none
	anonymous *fanfare.Principal
	cancel    context.CancelFunc
	running   sync.WaitGroup

	state  atomic.Pointer[state]
	onEnd  atomic.Pointer[func(ended func(*fanfare.Principal) bool)]
	passed passed
}

// state holds the keys that the files and the settings give. Reload replaces it as a whole.
type state struct {
	keys    []verifier
	apiKeys map[string]readyKey // by id
	files   map[string]stamp
}

// stamp is a hash of a file's content: two versions may have the same size and time.
type stamp struct {
	sum     [sha256.Size]byte
	missing bool
}

// Check returns the error with which New would fail, or nil. It reads the files, and does not use
// the network.
func Check(o Options) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, err := prepare(ctx, o)
	return err
}

// New reads the keys and begins to watch their files. It fails when a key cannot be used.
func New(o Options) (*Authenticator, error) {
	ctx, cancel := context.WithCancel(context.Background())
	a, err := prepare(ctx, o)
	if err != nil {
		cancel()
		return nil, err
	}
	a.cancel = cancel
	if a.jwks != nil {
		a.running.Go(a.jwks.run)
	}
	a.running.Go(func() { a.watch(ctx) })
	return a, nil
}

// prepare is New without the watching. ctx ends when the Authenticator is closed.
func prepare(ctx context.Context, o Options) (*Authenticator, error) {
	if o.Claim == "" {
		o.Claim = "fanfare"
	}
	if o.Leeway == 0 {
		o.Leeway = DefaultLeeway
	}
	if o.Watch == 0 {
		o.Watch = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.now == nil {
		o.now = time.Now
	}
	a := &Authenticator{o: o, anonymous: &fanfare.Principal{Grants: o.Anonymous}}
	a.passed.tokens = map[string]*fanfare.Principal{}
	a.parser = a.newParser()
	s, err := a.read()
	if err != nil {
		return nil, err
	}
	a.state.Store(s)
	if o.JWKS != "" {
		transport := o.Transport
		if transport == nil {
			own := http.DefaultTransport.(*http.Transport).Clone()
			own.DisableKeepAlives = true // one request in a quarter of an hour
			transport = own
		}
		if a.jwks, err = newJWKS(ctx, o.JWKS, o.JWKSRefresh, transport, o.Logger, a.jwksChanged); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Close stops watching.
func (a *Authenticator) Close() {
	a.cancel()
	a.running.Wait()
}

// OnEnd registers f, which is called when a key was removed or an API key was given other rights. f
// must end the streams of all principals for which ended returns true.
func (a *Authenticator) OnEnd(f func(ended func(*fanfare.Principal) bool)) { a.onEnd.Store(&f) }

// Authenticate verifies the token in a request's header Authorization. Without a token it returns
// the anonymous principal. A Server reads cookies and queries, too, and calls Verify.
func (a *Authenticator) Authenticate(r *http.Request) (*fanfare.Principal, error) {
	token, source, err := Token(r, false)
	if err != nil {
		return nil, err
	}
	if source != FromHeader {
		token = "" // a cookie counts only if it is known which page has sent it
	}
	return a.Verify(r.Context(), token)
}

// Verify returns the principal of a token or API key. For "" it returns the anonymous principal.
// Errors have CodeUnauthenticated. Before the first JWKS has been fetched they have CodeUnavailable
// when the JWKS might hold the token's key. Verify may wait some seconds for a JWKS. A token that
// has passed before costs one map lookup and no allocation.
func (a *Authenticator) Verify(ctx context.Context, token string) (*fanfare.Principal, error) {
	if token == "" {
		return a.anonymous, nil
	}
	if len(token) > MaxTokenBytes {
		return nil, unauthenticated(fanfare.ReasonBadToken, "the token is longer than 16 KiB", nil)
	}
	if p := a.passed.find(token); p != nil && !expired(p, a.o.now()) {
		return p, nil
	}
	generation := a.passed.generation.Load()
	var p *fanfare.Principal
	var err error
	if isAPIKey(token) {
		p, err = a.verifyAPIKey(token)
	} else {
		p, err = a.verifyJWT(ctx, token)
	}
	if err != nil {
		return nil, err
	}
	a.passed.add(token, p, generation)
	return p, nil
}

// Anonymous returns the principal of every caller without a token.
func (a *Authenticator) Anonymous() fanfare.Grants { return a.o.Anonymous }

// Leeway returns the difference that is allowed between an issuer's clock and the hub's.
func (a *Authenticator) Leeway() time.Duration { return a.o.Leeway }

// StillMay checks a principal again that Verify or a ticket gave before (P8). It returns an error
// when the key that verified the token, or the API key, has been removed since, or when the API key
// has other rights now. Errors are those of Verify.
func (a *Authenticator) StillMay(p *fanfare.Principal) error {
	id, isKey := strings.CutPrefix(p.TokenID, keyIDPrefix)
	if !isKey {
		return a.keyStands(p)
	}
	key, there := a.state.Load().apiKeys[id]
	switch {
	case !there:
		return unauthenticated(fanfare.ReasonRevokedToken, "the API key was revoked", nil)
	case p == key.principal:
		return nil
	case p.Ticket == "" && !sameRights(p, key.principal):
		return unauthenticated(fanfare.ReasonRevokedToken, "the API key has other rights now: send the request again",
			nil)
	case p.Ticket != "":
		for _, pattern := range p.Grants[fanfare.ActionSubscribe] {
			if !key.principal.MayAll(fanfare.ActionSubscribe, pattern) {
				return &fanfare.Error{Code: fanfare.CodeForbidden, Reason: fanfare.ReasonNoRight,
					Detail: "the API key behind the ticket may not subscribe to these channels any more"}
			}
		}
	}
	return nil
}

// sameRights compares principals of an API key, whichever way the key came.
func sameRights(p, q *fanfare.Principal) bool {
	one, other := *p, *q
	one.Session, other.Session = "", ""
	return reflect.DeepEqual(one, other)
}

// keyStands tells whether the key that verified a principal's token is still one of the hub's.
func (a *Authenticator) keyStands(p *fanfare.Principal) error {
	switch {
	case p.Key == "" || a.hasKey(p.Key):
		return nil
	case a.jwks != nil && !a.jwks.known():
		return refusal(errNoKeysYet)
	}
	return unauthenticated(fanfare.ReasonRevokedToken, "the key that verified the token was taken away", nil)
}

func (a *Authenticator) hasKey(fingerprint string) bool {
	for _, v := range a.state.Load().keys {
		if v.fingerprint == fingerprint {
			return true
		}
	}
	return a.jwks != nil && a.jwks.has(fingerprint)
}

// jwksChanged forgets verified tokens, and ends streams whose key the issuer has removed.
func (a *Authenticator) jwksChanged() {
	a.passed.forget()
	a.endOf(func(p *fanfare.Principal) bool { return p.Key != "" && !a.hasKey(p.Key) })
}

// endOf ends the streams of the principals for which ended is true.
func (a *Authenticator) endOf(ended func(*fanfare.Principal) bool) {
	if f := a.onEnd.Load(); f != nil {
		(*f)(ended)
	}
}

// JWKSFailures is how many fetches of the JWKS have failed.
func (a *Authenticator) JWKSFailures() uint64 {
	if a.jwks == nil {
		return 0
	}
	a.jwks.mu.Lock()
	defer a.jwks.mu.Unlock()
	return a.jwks.failures
}

// passed caches the principals of verified tokens.
type passed struct {
	generation atomic.Uint64 // of the keys: a token that older keys have verified is not added

	mu     sync.RWMutex
	tokens map[string]*fanfare.Principal // guarded by mu
}

const (
	passedMost      = 20_000
	passedMostBytes = 4 << 10 // longer tokens are verified each time
)

func (c *passed) find(token string) *fanfare.Principal {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.tokens[token]
}

func (c *passed) add(token string, p *fanfare.Principal, generation uint64) {
	if len(token) > passedMostBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generation.Load() != generation {
		return
	}
	if len(c.tokens) >= passedMost {
		for other := range c.tokens { // any of them: a map's order is random enough
			if delete(c.tokens, other); len(c.tokens) < passedMost*9/10 {
				break
			}
		}
	}
	c.tokens[strings.Clone(token)] = p
}

// forget empties the cache.
func (c *passed) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation.Add(1)
	clear(c.tokens)
}

// addAnonymous adds the anonymous grants to a new principal.
func (a *Authenticator) addAnonymous(p *fanfare.Principal) {
	for action, patterns := range a.o.Anonymous {
		p.Grants[action] = append(p.Grants[action], patterns...)
	}
}

// files are the files that the keys are read from.
func (a *Authenticator) files() (names []string) {
	for _, k := range a.o.Keys {
		if k.File != "" {
			names = append(names, k.File)
		}
	}
	if a.o.APIKeyFile != "" {
		names = append(names, a.o.APIKeyFile)
	}
	return names
}

func stampOf(file string) stamp {
	b, err := os.ReadFile(file)
	if err != nil {
		return stamp{missing: true}
	}
	return stamp{sum: sha256.Sum256(b)}
}

// read reads everything anew.
func (a *Authenticator) read() (*state, error) {
	s := &state{apiKeys: map[string]readyKey{}, files: map[string]stamp{}}
	for _, name := range a.files() {
		s.files[name] = stampOf(name) // before reading, so that a change in between is read again
	}
	for _, k := range a.o.Keys {
		v, err := k.load()
		if err != nil {
			return nil, err
		}
		s.keys = append(s.keys, v)
	}
	keys := slices.Clone(a.o.APIKeys)
	if a.o.APIKeyFile != "" {
		more, err := ReadAPIKeys(a.o.APIKeyFile)
		if err != nil && !isMissing(err) {
			return nil, err
		}
		keys = append(keys, more...)
	}
	for _, k := range keys {
		ready, err := k.ready()
		if err != nil {
			return nil, err
		}
		if _, twice := s.apiKeys[k.ID]; twice {
			return nil, fanfare.Invalid("API key %s is there twice", k.ID)
		}
		a.addAnonymous(ready.principal)
		s.apiKeys[k.ID] = ready
	}
	return s, nil
}

func isMissing(err error) bool {
	e, ok := err.(*fs.PathError)
	return ok && os.IsNotExist(e)
}

// watch reads the key files again when their content changes, until ctx ends.
func (a *Authenticator) watch(ctx context.Context) {
	tick := time.NewTicker(a.o.Watch)
	defer tick.Stop()
	var wrong map[string]stamp // files that could not be used; told once
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := map[string]stamp{}
		for _, name := range a.files() {
			now[name] = stampOf(name)
		}
		if maps.Equal(now, a.state.Load().files) || maps.Equal(now, wrong) {
			continue
		}
		if err := a.Reload(); err != nil {
			wrong = now
			a.o.Logger.Error("key files have changed and cannot be used; the keys read before stay in force",
				slog.Any("err", err))
		}
	}
}

// Reload reads the key files now; when one of them cannot be used nothing changes.
func (a *Authenticator) Reload() error {
	next, err := a.read()
	if err != nil {
		return err
	}
	before := a.state.Swap(next)
	a.passed.forget()
	if reflect.DeepEqual(before.keys, next.keys) && reflect.DeepEqual(before.apiKeys, next.apiKeys) {
		return nil
	}
	a.o.Logger.Info("keys were read again", slog.Int("tokenKeys", len(next.keys)),
		slog.Int("apiKeys", len(next.apiKeys)))
	a.endOf(func(p *fanfare.Principal) bool {
		id, isKey := strings.CutPrefix(p.TokenID, keyIDPrefix)
		if !isKey {
			return p.Key != "" && !a.hasKey(p.Key)
		}
		was, known := before.apiKeys[id]
		is, still := next.apiKeys[id]
		return known && (!still || !reflect.DeepEqual(was, is))
	})
	return nil
}

// Source is where a request brings its token.
type Source string

// The sources.
const (
	FromNowhere Source = ""
	FromHeader  Source = "header"
	FromCookie  Source = "cookie"
	FromQuery   Source = "query"
)

// Cookie is the name of the cookie that may hold a token. A browser takes it only from https, for
// the whole host and no other (RFC 6265bis, section 4.1.3.2).
const Cookie = "__Host-fanfare"

// Token finds the token that a request brings: in the header Authorization (RFC 6750, section 2.1),
// where query says so in the parameter access_token, or in the cookie; the first of them counts.
func Token(r *http.Request, query bool) (token string, source Source, err error) {
	if values := r.Header["Authorization"]; len(values) > 0 {
		scheme, rest, _ := strings.Cut(values[0], " ")
		token = strings.Trim(rest, " ")
		if len(values) > 1 || !strings.EqualFold(scheme, "Bearer") || token == "" {
			return "", FromHeader,
				unauthenticated(fanfare.ReasonBadToken, "want one header `Authorization: Bearer TOKEN`", nil)
		}
		return token, FromHeader, nil
	}
	if query && strings.Contains(r.URL.RawQuery, "access_token=") {
		if token = r.URL.Query().Get("access_token"); token != "" {
			return token, FromQuery, nil
		}
	}
	if len(r.Header["Cookie"]) > 0 {
		if c, err := r.Cookie(Cookie); err == nil && c.Value != "" {
			return c.Value, FromCookie, nil
		}
	}
	return "", FromNowhere, nil
}
