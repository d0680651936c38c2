package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
)

const revokedPrefix = "revoked/"

// Revocations remember tokens and subjects that are refused from now on; with a log, across
// restarts. A token is known by its id. For a subject, all tokens that were issued before are
// refused. Its methods may be called from any goroutine.
type Revocations struct {
	// Fixed after NewRevocations.
	log    Log // nil: in memory only
	most   int
	leeway time.Duration // by how much an issuer's clock may be ahead
	now    func() time.Time

	size atomic.Int64 // of entries: nothing is looked up while it is 0

	order sync.Mutex // held while entries change and the log queues them, so that both see one order

	mu       sync.RWMutex          // guards the fields below
	entries  map[string]revocation // by name
	sessions int                   // of these
}

type revocation struct{ at, until time.Time }

// RevocationOptions set up Revocations. The zero value of each field is good.
type RevocationOptions struct {
	Most   int           // how many there may be; default 100,000
	Leeway time.Duration // by how much an issuer's clock may be ahead; default DefaultLeeway
}

// NewRevocations reads the revocations from the log. The log may be nil: then revocations do not
// survive a restart.
func NewRevocations(ctx context.Context, log Log, o RevocationOptions) (*Revocations, error) {
	if o.Most == 0 {
		o.Most = 100_000
	}
	if o.Leeway == 0 {
		o.Leeway = DefaultLeeway
	}
	r := &Revocations{log: log, most: o.Most, leeway: o.Leeway, now: time.Now, entries: map[string]revocation{}}
	if log == nil {
		return r, nil
	}
	err := log.EachKept(ctx, revokedPrefix, func(k fanfare.Kept) bool {
		r.entries[k.Name] = revocation{k.Time, k.Expires}
		if strings.HasPrefix(k.Name, revokedPrefix+sessionKind+"/") {
			r.sessions++
		}
		return true
	})
	r.size.Store(int64(len(r.entries)))
	return r, err
}

// revokedName hashes the text: a subject may be long, and the log need not show it.
func revokedName(kind, text string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + text))
	return revokedPrefix + kind + "/" + hex.EncodeToString(sum[:16])
}

// Revoke refuses tokens, by their ids, and all tokens of subjects that were issued up to now. It
// refuses them until a moment, by which they must have expired by themselves. An earlier revocation
// that lasts longer stays in force. Revoke waits until all of them are stored. When there is no
// room for all of them (ReasonMaxRevocations) it revokes none; after another error they are revoked
// until the next restart.
func (r *Revocations) Revoke(ctx context.Context, tokens, subjects []string, until time.Time) error {
	names := make([]string, 0, len(tokens)+len(subjects))
	for _, id := range tokens {
		names = append(names, revokedName("token", id))
	}
	for _, subject := range subjects {
		names = append(names, revokedName("subject", subject))
	}
	return r.add(ctx, names, until)
}

// EndSession refuses the tickets that a login by cookie has made up to now, and waits until that is
// stored. Sessions and revocations have separate room, of the same size, so that a full list of
// revocations does not prevent a sign-out.
func (r *Revocations) EndSession(ctx context.Context, session string) error {
	return r.add(ctx, []string{revokedName(sessionKind, session)}, r.now().Add(TicketLastsFor))
}

// sessionKind is revokedName's kind for sessions.
const sessionKind = "session"

func (r *Revocations) add(ctx context.Context, names []string, until time.Time) error {
	if len(names) == 0 {
		return nil
	}
	stored, err := r.queue(names, until)
	if err != nil || stored == nil {
		return err
	}
	select {
	case err := <-stored:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// queue adds entries, all or none, and appends them to the log in the order in which they were
// added: of two revocations of one name at the same time the longer one must win on disk too.
// stored receives the log's result; it is nil where there is no log.
func (r *Revocations) queue(names []string, until time.Time) (stored <-chan error, err error) {
	r.order.Lock()
	defer r.order.Unlock()
	kept, err := r.note(names, until)
	if err != nil || r.log == nil {
		return nil, err
	}
	done := make(chan error, 1)
	r.log.Append(&fanfare.Batch{Keep: kept}, func(_ fanfare.Receipt, err error) { done <- err })
	return done, nil
}

// note adds entries, all or none, and returns those that must be stored.
func (r *Revocations) note(names []string, until time.Time) (kept []fanfare.Kept, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	added := 0
	for _, name := range names {
		if _, known := r.entries[name]; !known {
			added++
		}
	}
	sessions := strings.HasPrefix(names[0], revokedPrefix+sessionKind+"/")
	if r.roomLocked(sessions) < added {
		r.forgetLocked(now)
	}
	if r.roomLocked(sessions) < added {
		return nil, &fanfare.Error{
			Code: fanfare.CodeOverloaded, Reason: fanfare.ReasonMaxRevocations, RetryAfter: time.Hour,
			Detail:  fmt.Sprintf("there is no room for %d more revocations: the limit is %d", added, r.most),
			Setting: fanfare.SettingMaxRevocations,
		}
	}
	for _, name := range names {
		e := revocation{now, until}
		was, known := r.entries[name]
		if known && was.until.After(until) {
			e.until = was.until
		}
		if known && was.at.After(now) { // the clock was set back
			e.at = was.at
		}
		if !known && sessions {
			r.sessions++
		}
		r.entries[name] = e
		kept = append(kept, fanfare.Kept{Name: name, Time: e.at, Expires: e.until})
	}
	r.size.Store(int64(len(r.entries)))
	return kept, nil
}

// roomLocked returns how many more sessions, or else tokens and subjects, may be revoked.
func (r *Revocations) roomLocked(sessions bool) int {
	if sessions {
		return r.most - r.sessions
	}
	return r.most - (len(r.entries) - r.sessions)
}

func (r *Revocations) forgetLocked(now time.Time) {
	for name, e := range r.entries {
		if !now.After(e.until) {
			continue
		}
		delete(r.entries, name)
		if strings.HasPrefix(name, revokedPrefix+sessionKind+"/") {
			r.sessions--
		}
	}
}

// Check returns an error when p was revoked.
func (r *Revocations) Check(p *fanfare.Principal) error {
	if r.size.Load() == 0 {
		return nil
	}
	issued := p.IssuedAt
	if !issued.IsZero() && !isAPIKeyID(p.TokenID) {
		issued = issued.Add(-r.leeway) // the issuer's clock may be ahead of the hub's
	}
	if p.Ticket != "" && p.Session != "" && r.revoked(revokedName(sessionKind, p.Session), p.TicketMade) {
		return unauthenticated(fanfare.ReasonRevokedToken, "the ticket ended with the session that made it", nil)
	}
	if (p.TokenID != "" && r.revoked(revokedName("token", p.TokenID), time.Time{})) ||
		(p.Subject != "" && r.revoked(revokedName("subject", p.Subject), issued)) {
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

// isAPIKeyID tells the TokenID of an API key's principal from that of a token's.
func isAPIKeyID(id string) bool { return strings.HasPrefix(id, keyIDPrefix) }
