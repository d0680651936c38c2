package adminapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/audit"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/stream"
)

// Revocations remember what is refused from now on.
type Revocations interface {
	// Revoke refuses tokens, by their ids, and all tokens of subjects that were issued up to now. When there is no room for all of
	// them (ReasonMaxRevocations), none is refused. After another error they are refused until the next restart.
	Revoke(ctx context.Context, tokens, subjects []string, until time.Time) error
	// Check returns an error when a principal's token or subject was revoked.
	Check(*fanfare.Principal) error
}

// selection says which streams are meant: those for which everything fits that is given.
type selection struct {
	subject string
	tokenID string
	channel string // one that the stream listens to, or a pattern of such
	stream  uint64
	until   time.Time // of revoke

	pattern fanfare.Pattern // of channel
	given   int
}

// revokedFor is how long revoked tokens are remembered; they should expire sooner.
const revokedFor = 366 * 24 * time.Hour

// readSelection reads a body. Members beyond the selection's own are more.
func (a *API) readSelection(w http.ResponseWriter, r *http.Request, by caller.Caller, more ...string) (s selection, err error) {
	o, err := a.body(w, r, by, append([]string{"subject", "tokenId", "channel", "stream"}, more...)...)
	if err != nil {
		return s, err
	}
	for _, one := range []struct {
		name string
		text *string
	}{{"subject", &s.subject}, {"tokenId", &s.tokenID}, {"channel", &s.channel}} {
		text, given, err := o.Name(one.name)
		if err != nil {
			return s, err
		}
		if given {
			*one.text = text
			s.given++
		}
	}
	n, given, err := o.Number("stream")
	if err != nil {
		return s, err
	}
	if given {
		s.stream = n
		s.given++
	}
	if s.given == 0 {
		return s, fanfare.Invalid("name whose streams to end: subject, tokenId, channel or stream")
	}
	if s.channel != "" {
		if s.pattern, err = fanfare.ParsePattern(s.channel); err != nil {
			return s, err
		}
	}
	s.until, err = untilWhen(o)
	return s, err
}

func untilWhen(o publish.Object) (time.Time, error) {
	text, given, err := o.Name("for")
	if err != nil || !given {
		return time.Now().Add(revokedFor), err
	}
	d, err := fanfare.ParseDuration(text)
	if err != nil || d <= 0 {
		return time.Time{}, fanfare.Invalid("for must be a time such as 12h or 90d")
	}
	return time.Now().Add(d), nil
}

// fits tells whether a stream is meant, and by may end it. An operator may end every stream; an administrator of some channels
// only streams that listen to no others.
func (s *selection) fits(h stream.Held, by caller.Caller) bool {
	who := h.Caller.Who
	if (s.subject != "" && who.Subject != s.subject) || (s.tokenID != "" && who.TokenID != s.tokenID) || (s.stream != 0 && h.ID != s.stream) {
		return false
	}
	listens := s.channel == ""
	for _, p := range h.Patterns {
		listens = listens || s.pattern.Overlaps(p)
	}
	if !listens || by.Who.Operator() {
		return listens
	}
	for _, p := range h.Administered {
		if !by.Who.MayAll(fanfare.ActionAdmin, p) {
			return false
		}
	}
	return true
}

// mayEnd refuses who has no right to end any stream.
func mayEnd(by caller.Caller) error {
	if by.Who.Unlimited || len(by.Who.Grants[fanfare.ActionAdmin]) > 0 {
		return nil
	}
	return by.Operator()
}

type ended struct {
	Streams int `json:"streams"`           // that end now
	Tokens  int `json:"revoked,omitempty"` // tokens and subjects that are refused from now on
}

// Disconnect is POST /v1/admin/disconnect {"subject" | "tokenId" | "channel" | "stream": …}: their streams end within a second,
// and may come back.
func (a *API) Disconnect(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	var done ended
	err := mayEnd(by)
	if err == nil {
		var s selection
		if s, err = a.readSelection(w, r, by); err == nil {
			for h := range a.Streams.Each() {
				if s.fits(h, by) && h.End(stream.EndDisconnected) {
					done.Streams++
				}
			}
			a.record(audit.Disconnected, by, s, done)
		}
	}
	a.answer(w, r, http.StatusOK, done, err)
}

func (a *API) record(kind audit.Kind, by caller.Caller, s selection, done ended) {
	a.Audit.RecordAlways(kind, by, slog.String("ofSubject", s.subject), slog.String("ofTokenId", s.tokenID), slog.String("ofChannel", s.channel),
		slog.Uint64("ofStream", s.stream), slog.Int("streams", done.Streams), slog.Int("revoked", done.Tokens))
}

// Revoke is POST /v1/admin/revoke: as Disconnect, and the tokens that the streams were opened with are refused from now on, with
// all other streams that were opened with them. For an operator the subject or tokenId that is named is refused too, whether it
// has a stream or not.
func (a *API) Revoke(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	var done ended
	err := mayEnd(by)
	if err == nil {
		var s selection
		if s, err = a.readSelection(w, r, by, "for"); err == nil {
			done, err = a.revoke(context.WithoutCancel(r.Context()), by, s)
			a.record(audit.Revoked, by, s, done)
		}
	}
	a.answer(w, r, http.StatusOK, done, err)
}

// revoke first refuses, then ends: a client that is cut and comes back is refused. Where there is no room to remember all of it,
// nothing is done. What cannot be stored, since the disk is full, say, is an error, and the streams end all the same.
func (a *API) revoke(ctx context.Context, by caller.Caller, s selection) (done ended, err error) {
	var tokens, subjects []string
	if by.Operator() == nil && s.given == 1 {
		switch {
		case s.tokenID != "":
			tokens = []string{s.tokenID}
		case s.subject != "":
			subjects = []string{s.subject}
		}
	}
	refused := map[string]bool{}
	for _, id := range tokens {
		refused[id] = true
	}
	// A stream that opens during a round has a token that is not refused yet, or none; the next round finds it. Who opens streams
	// faster than this is cut by the last round, and comes back once.
	for range 3 {
		for h := range a.Streams.Each() {
			if id := h.Caller.Who.TokenID; id != "" && !refused[id] && s.fits(h, by) {
				refused[id] = true
				tokens = append(tokens, id)
			}
		}
		if len(tokens)+len(subjects) > 0 {
			e := a.Revocations.Revoke(ctx, tokens, subjects, s.until)
			if public, ok := errors.AsType[*fanfare.Error](e); ok && public.Reason == fanfare.ReasonMaxRevocations {
				return done, e
			}
			if e != nil {
				err = e
			}
			done.Tokens += len(tokens) + len(subjects)
			tokens, subjects = nil, nil
		}
		n := a.endRefused(by, s)
		if done.Streams += n; n == 0 {
			break
		}
	}
	return done, err
}

// endRefused ends the streams that are meant, and all that may not go on since something of theirs was revoked.
func (a *API) endRefused(by caller.Caller, s selection) (n int) {
	for h := range a.Streams.Each() {
		if s.fits(h, by) || a.Revocations.Check(h.Caller.Who) != nil {
			if h.End(stream.EndRevoked) {
				n++
			}
		}
	}
	return n
}
