package auth

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// Log is where used tickets and revocations are remembered across restarts.
type Log interface {
	fanfare.Log
	fanfare.Keeper
}

const (
	ticketPrefix = "ft_"
	// TicketOpensWithin is how long after it was made a ticket can be used for the first time.
	TicketOpensWithin = 30 * time.Second
	// TicketLastsFor is how long a ticket can be used at most.
	TicketLastsFor = 12 * time.Hour
	// TicketKeyBytes is the length of the key that seals tickets.
	TicketKeyBytes = 32
)

// Tickets stand in for a token in the URL of an EventSource, which can send no header and repeats
// its URL at each reconnect. A ticket is worth less than a token: it opens one stream of the
// channels that it was made for, and must be opened soon. It is sealed (AES-256-GCM), so nothing
// can be read from it or changed in it. Its methods may be called from any goroutine.
type Tickets struct {
	seal cipher.AEAD
	log  Log
	now  func() time.Time

	mu   sync.Mutex
	used map[string]time.Time // tickets opened by this process, and when they end; guarded by mu
}

// NewTickets returns tickets sealed with a key of TicketKeyBytes; with nil, with a random one. log
// may be nil: then a ticket that was opened does not survive a restart.
func NewTickets(key []byte, log Log) (*Tickets, error) {
	if key == nil {
		key = make([]byte, TicketKeyBytes)
		_, _ = rand.Read(key) // never fails
	}
	if len(key) != TicketKeyBytes {
		return nil, fanfare.Invalid("the key for tickets must have %d bytes, it has %d", TicketKeyBytes, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	seal, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Tickets{seal: seal, log: log, now: time.Now, used: map[string]time.Time{}}, nil
}

// ticket is the sealed content of a ticket.
type ticket struct {
	ID       string `json:"i"`
	Made     int64  `json:"m"` // milliseconds since 1970, as all times here
	Expires  int64  `json:"e"`
	Subject  string `json:"s"`
	Realm    string `json:"r,omitempty"`
	TokenID  string `json:"t"`
	IssuedAt int64  `json:"a,omitempty"` // of the token
	Key      string `json:"k,omitempty"` // that verified the token
	Session  string `json:"l,omitempty"`
	Channels []byte `json:"c"` // a hash of them
}

// Make makes a ticket for streams of the patterns. The caller has checked that p may subscribe to
// them.
func (t *Tickets) Make(p *fanfare.Principal, patterns []fanfare.Pattern) (text string, expires time.Time, err error) {
	now := t.now()
	expires = now.Add(TicketLastsFor)
	if end := p.StreamsEnd(); !end.IsZero() && end.Before(expires) {
		expires = end
	}
	var id [12]byte
	_, _ = rand.Read(id[:])
	made := ticket{
		ID: hex.EncodeToString(id[:]), Made: now.UnixMilli(), Expires: expires.UnixMilli(), Subject: p.Subject,
		Realm: p.Realm, TokenID: p.TokenID,
		Key: p.Key, Session: p.Session, Channels: hashPatterns(patterns),
	}
	if !p.IssuedAt.IsZero() {
		made.IssuedAt = p.IssuedAt.UnixMilli()
	}
	plain, err := json.Marshal(made)
	if err != nil {
		return "", expires, err
	}
	nonce := make([]byte, t.seal.NonceSize())
	_, _ = rand.Read(nonce)
	return ticketPrefix + base64.RawURLEncoding.EncodeToString(t.seal.Seal(nonce, nonce, plain, nil)), expires, nil
}

// hashPatterns is of the set: order and repeats do not matter.
func hashPatterns(patterns []fanfare.Pattern) []byte {
	var texts []string
	for _, p := range patterns {
		texts = append(texts, p.String())
	}
	slices.Sort(texts)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(texts), "\n"))) // a name has no LF
	return sum[:16]
}

var errTicket = unauthenticated(fanfare.ReasonBadToken, "the ticket is not valid", nil)

// Verify checks a ticket for a stream of the patterns. The principal may hear those patterns, and
// do nothing else. It may read the log.
func (t *Tickets) Verify(ctx context.Context, text string, patterns []fanfare.Pattern) (*fanfare.Principal, error) {
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimPrefix(text, ticketPrefix))
	if err != nil || !strings.HasPrefix(text, ticketPrefix) || len(sealed) < t.seal.NonceSize() {
		return nil, errTicket
	}
	n := t.seal.NonceSize()
	opened, err := t.seal.Open(nil, sealed[:n], sealed[n:], nil)
	var k ticket
	if err != nil || json.Unmarshal(opened, &k) != nil {
		return nil, errTicket
	}
	now := t.now()
	expires := time.UnixMilli(k.Expires)
	if !now.Before(expires) {
		return nil, unauthenticated(fanfare.ReasonExpiredToken, "the ticket has expired", nil)
	}
	if now.After(time.UnixMilli(k.Made).Add(TicketOpensWithin)) {
		used, err := t.wasUsed(ctx, k.ID)
		if err != nil {
			return nil, err
		}
		if !used {
			return nil, unauthenticated(fanfare.ReasonExpiredToken, "the ticket was not opened within 30 seconds", nil)
		}
	}
	if string(hashPatterns(patterns)) != string(k.Channels) {
		return nil, &fanfare.Error{Code: fanfare.CodeForbidden, Reason: fanfare.ReasonNoRight,
			Detail: "the ticket is for other channels"}
	}
	p := &fanfare.Principal{
		Subject: k.Subject, Realm: k.Realm, TokenID: k.TokenID, Expires: expires, Ticket: k.ID, Key: k.Key,
		Session: k.Session, TicketMade: time.UnixMilli(k.Made),
		Grants: fanfare.Grants{fanfare.ActionSubscribe: patterns},
	}
	if k.IssuedAt != 0 {
		p.IssuedAt = time.UnixMilli(k.IssuedAt)
	}
	return p, nil
}

// usedName is the name under which the log keeps an opened ticket.
func usedName(id string) string { return "ticket/" + id }

func (t *Tickets) wasUsed(ctx context.Context, id string) (bool, error) {
	t.mu.Lock()
	_, used := t.used[id]
	t.mu.Unlock()
	if used || t.log == nil {
		return used, nil
	}
	_, used, err := t.log.Kept(ctx, usedName(id))
	return used, err
}

// Opened notes that a stream was opened with p's ticket, so that the stream may reconnect with it.
// It waits until the note is stored, so that a restart finds it. After an error the note lasts
// until the next restart.
func (t *Tickets) Opened(ctx context.Context, p *fanfare.Principal) error {
	t.mu.Lock()
	_, known := t.used[p.Ticket]
	if !known {
		t.used[p.Ticket] = p.Expires
		t.forgetLocked()
	}
	t.mu.Unlock()
	if known || t.log == nil {
		return nil
	}
	return keep(ctx, t.log, fanfare.Kept{Name: usedName(p.Ticket), Time: t.now(), Expires: p.Expires})
}

// forgetLocked bounds used. It drops tickets that have ended and, where a log remembers them,
// enough others.
func (t *Tickets) forgetLocked() {
	const most = 10_000
	if len(t.used) < most {
		return
	}
	now := t.now()
	for id, end := range t.used {
		if now.After(end) || (t.log != nil && len(t.used) > most/2) {
			delete(t.used, id)
		}
	}
}

// keep stores something under a name, or several such, and waits for it.
func keep(ctx context.Context, log fanfare.Log, kept ...fanfare.Kept) error {
	_, err := fanfare.Append(ctx, log, &fanfare.Batch{Keep: kept})
	return err
}
