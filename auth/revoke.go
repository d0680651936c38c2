package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
)

const revokedPrefix = "revoked/"

// Revocations remember tokens and subjects that are refused from now on, across restarts where there is a log. A token is known
// by its id; of a subject all tokens are refused that were issued before. Its methods may be called from any goroutine.
type Revocations struct {
	// Fixed after NewRevocations.
	log  Log // nil: in memory only
	most int
	now  func() time.Time

	size atomic.Int64 // of entries: nothing is looked up while it is 0

	mu      sync.RWMutex
	entries map[string]revocation // by name; guarded by mu
}

type revocation struct{ at, until time.Time }

// NewRevocations reads what was revoked. most is how many there may be; zero: 100,000.
func NewRevocations(ctx context.Context, log Log, most int) (*Revocations, error) {
	if most == 0 {
		most = 100_000
	}
	r := &Revocations{log: log, most: most, now: time.Now, entries: map[string]revocation{}}
	if log == nil {
		return r, nil
	}
	err := log.EachKept(ctx, revokedPrefix, func(k fanfare.Kept) bool {
		r.entries[k.Name] = revocation{k.Time, k.Expires}
		return true
	})
	r.size.Store(int64(len(r.entries)))
	return r, err
}

// revokedName hashes: a subject may be long, and is nobody's business in the log.
func revokedName(kind, text string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + text))
	return revokedPrefix + kind + "/" + hex.EncodeToString(sum[:16])
}

// RevokeToken refuses a token from now on until a moment; after that it must have expired by itself. It waits until that is
// stored.
func (r *Revocations) RevokeToken(ctx context.Context, id string, until time.Time) error {
	return r.add(ctx, revokedName("token", id), until)
}

// RevokeSubject is RevokeToken for all tokens of a subject that were issued up to now.
func (r *Revocations) RevokeSubject(ctx context.Context, subject string, until time.Time) error {
	return r.add(ctx, revokedName("subject", subject), until)
}

func (r *Revocations) add(ctx context.Context, name string, until time.Time) error {
	now := r.now()
	r.mu.Lock()
	if _, known := r.entries[name]; !known && len(r.entries) >= r.most {
		r.forgetLocked(now)
		if len(r.entries) >= r.most {
			r.mu.Unlock()
			return &fanfare.Error{Code: fanfare.CodeOverloaded, Reason: fanfare.ReasonMaxRevocations, RetryAfter: time.Hour,
				Detail: "there is no room for another revocation (--max-revocations)"}
		}
	}
	r.entries[name] = revocation{now, until}
	r.size.Store(int64(len(r.entries)))
	r.mu.Unlock()
	if r.log == nil {
		return nil
	}
	return keep(ctx, r.log, fanfare.Kept{Name: name, Time: now, Expires: until})
}

func (r *Revocations) forgetLocked(now time.Time) {
	for name, e := range r.entries {
		if now.After(e.until) {
			delete(r.entries, name)
		}
	}
}

// Check returns an error when p was revoked.
func (r *Revocations) Check(p *fanfare.Principal) error {
	if r.size.Load() == 0 {
		return nil
	}
	if (p.TokenID != "" && r.revoked(revokedName("token", p.TokenID), time.Time{})) ||
		(p.Subject != "" && r.revoked(revokedName("subject", p.Subject), p.IssuedAt)) {
		return unauthenticated(fanfare.ReasonRevokedToken, "the token was revoked", nil)
	}
	return nil
}

// revoked tells whether a name was revoked at or after a moment; the zero moment was always before.
func (r *Revocations) revoked(name string, issued time.Time) bool {
	r.mu.RLock()
	e, there := r.entries[name]
	r.mu.RUnlock()
	// Tokens are dated in whole seconds: one of the same second may be an older one.
	return there && r.now().Before(e.until) && !issued.After(e.at)
}

// Len is how many revocations there are.
func (r *Revocations) Len() int { return int(r.size.Load()) }

// isAPIKey tells API keys from tokens.
func isAPIKey(token string) bool { return strings.HasPrefix(token, keyPrefix) }
