package adminapi

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/audit"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/stream"
)

// Revocations remember what is refused from now on.
type Revocations interface {
	RevokeToken(ctx context.Context, id string, until time.Time) error
	RevokeSubject(ctx context.Context, subject string, until time.Time) error
}

// selection says which streams are meant: those for which everything fits that is given.
type selection struct {
	Subject string `json:"subject"`
	TokenID string `json:"tokenId"`
	Channel string `json:"channel"` // one that the stream listens to, or a pattern of such
	Stream  uint64 `json:"stream"`
	For     string `json:"for"` // of revoke: how long, such as 90d; default a year

	pattern fanfare.Pattern
	given   int
}

func (a *API) selection(w http.ResponseWriter, r *http.Request) (s selection, err error) {
	if err := a.body(w, r, &s); err != nil {
		return s, err
	}
	for _, given := range []bool{s.Subject != "", s.TokenID != "", s.Channel != "", s.Stream != 0} {
		if given {
			s.given++
		}
	}
	if s.given == 0 {
		return s, fanfare.Invalid("name whose streams to end: subject, tokenId, channel or stream")
	}
	if s.Channel != "" {
		s.pattern, err = fanfare.ParsePattern(s.Channel)
	}
	return s, err
}

// fits tells whether a stream is meant. An administrator of some channels ends streams of those channels only.
func (s *selection) fits(h stream.Held, by caller.Caller) bool {
	who := h.Caller.Who
	if (s.Subject != "" && who.Subject != s.Subject) || (s.TokenID != "" && who.TokenID != s.TokenID) || (s.Stream != 0 && h.ID != s.Stream) {
		return false
	}
	listens := s.Channel == ""
	for _, p := range h.Patterns {
		listens = listens || s.pattern.Overlaps(p)
	}
	for _, p := range h.Administered {
		if !by.Who.MayAll(fanfare.ActionAdmin, p) {
			return false
		}
	}
	return listens
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
		if s, err = a.selection(w, r); err == nil {
			done.Streams = len(a.Streams.End(func(h stream.Held) bool { return s.fits(h, by) }, stream.EndDisconnected))
			a.record(audit.Disconnected, by, s, done)
		}
	}
	a.answer(w, r, http.StatusOK, done, err)
}

func (a *API) record(kind audit.Kind, by caller.Caller, s selection, done ended) {
	a.Audit.RecordAlways(kind, by, slog.String("ofSubject", s.Subject), slog.String("ofTokenId", s.TokenID), slog.String("ofChannel", s.Channel),
		slog.Uint64("ofStream", s.Stream), slog.Int("streams", done.Streams), slog.Int("revoked", done.Tokens))
}

// Revoke is POST /v1/admin/revoke: as Disconnect, and the tokens that the streams were opened with are refused from now on. With
// `admin` on `**` the subject or tokenId that is named is refused too, whether it has a stream or not.
func (a *API) Revoke(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	var done ended
	err := mayEnd(by)
	if err == nil {
		var s selection
		if s, err = a.selection(w, r); err == nil {
			done, err = a.revoke(context.WithoutCancel(r.Context()), by, s)
			a.record(audit.Revoked, by, s, done)
		}
	}
	a.answer(w, r, http.StatusOK, done, err)
}

// revokedFor is how long revoked tokens are remembered; they should expire sooner.
const revokedFor = 366 * 24 * time.Hour

func (a *API) revoke(ctx context.Context, by caller.Caller, s selection) (done ended, err error) {
	until := time.Now().Add(revokedFor)
	if s.For != "" {
		d, err := fanfare.ParseDuration(s.For)
		if err != nil || d <= 0 {
			return done, fanfare.Invalid("for must be a time such as 12h or 90d")
		}
		until = time.Now().Add(d)
	}
	// First what is remembered, then the streams: who is cut and comes back is refused. What cannot be remembered, since the disk
	// is full, say, is an error, but the streams end all the same.
	note := func(e error) {
		if e == nil {
			done.Tokens++
		} else if err == nil {
			err = e
		}
	}
	if by.Operator() == nil && s.given == 1 {
		switch {
		case s.TokenID != "":
			note(a.Revocations.RevokeToken(ctx, s.TokenID, until))
		case s.Subject != "":
			note(a.Revocations.RevokeSubject(ctx, s.Subject, until))
		}
	}
	tokens := map[string]bool{}
	collect := func(h stream.Held) bool {
		if s.fits(h, by) && h.Caller.Who.TokenID != "" {
			tokens[h.Caller.Who.TokenID] = true
		}
		return false
	}
	a.Streams.End(collect, stream.EndRevoked)
	if s.TokenID != "" && done.Tokens > 0 {
		delete(tokens, s.TokenID)
	}
	for id := range tokens {
		note(a.Revocations.RevokeToken(ctx, id, until))
	}
	done.Streams = len(a.Streams.End(func(h stream.Held) bool { return s.fits(h, by) }, stream.EndRevoked))
	return done, err
}
