package adminapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/audit"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/stream"
	"github.com/fanfare-hub/fanfare/internal/units"
)

// Revocations remember tokens and subjects that are refused from now on.
type Revocations interface {
	// Revoke refuses tokens, by their ids, and all tokens of subjects that were issued up to now.
	// When there is no room for all of them (ReasonMaxRevocations), it refuses none. After another
	// error they are refused until the next restart.
	Revoke(ctx context.Context, tokens, subjects []string, until time.Time) error
	// Check returns an error when a principal's token or subject was revoked.
	Check(*fanfare.Principal) error
}

// selection says which streams an operator means: those that match every given member.
type selection struct {
	subject string
	tokenID string
	channel string // one that the stream listens to, or a pattern of such
	stream  uint64
	until   time.Time // of revoke

	pattern fanfare.Pattern // of channel
	given   int
}

// revokedFor is how long a revocation lasts unless the call says otherwise. Tokens should expire
// sooner.
const revokedFor = 366 * 24 * time.Hour

// readSelection reads a body. Members beyond the selection's own are more.
func (a *API) readSelection(
	w http.ResponseWriter, r *http.Request, by caller.Caller, more ...string,
) (s selection, err error) {
	o, err := a.body(w, r, by, `{"subject":"ada"}`,
		append([]string{"subject", "tokenId", "channel", "stream"}, more...)...)
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
	d, err := units.ParseDuration(text)
	if err != nil || d <= 0 {
		return time.Time{}, fanfare.Invalid("for must be a time such as 12h or 90d")
	}
	return time.Now().Add(d), nil
}

// fits tells whether the selection means a stream and by may end it. An operator may end every
// stream. An administrator of some channels may end streams that listen to no other channel.
func (s *selection) fits(h stream.Held, by caller.Caller) bool {
	who := h.Caller.Who
	if (s.subject != "" && who.Subject != s.subject) || (s.tokenID != "" && who.TokenID != s.tokenID) ||
		(s.stream != 0 && h.ID != s.stream) {
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

// mayEnd returns an error when the caller may end no stream at all.
func mayEnd(by caller.Caller) error {
	if by.Who.Unlimited || len(by.Who.Grants[fanfare.ActionAdmin]) > 0 {
		return nil
	}
	return by.Operator()
}

type ended struct {
	Streams int `json:"streams"`           // that end now
	Revoked int `json:"revoked,omitempty"` // tokens and subjects that are refused from now on

	// NotRevoked counts tokens that allow more than the caller administers: their streams may come
	// back.
	NotRevoked int `json:"notRevoked,omitempty"`
}

// Disconnect is POST /v1/admin/disconnect {"subject" | "tokenId" | "channel" | "stream": …}: their
// streams end within a second, and may come back.
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
	a.Audit.RecordAlways(kind, by, slog.String("ofSubject", s.subject), slog.String("ofTokenId", s.tokenID),
		slog.String("ofChannel", s.channel),
		slog.Uint64("ofStream", s.stream), slog.Int("streams", done.Streams), slog.Int("revoked", done.Revoked),
		slog.Int("notRevoked", done.NotRevoked))
}

// Revoke is POST /v1/admin/revoke. It ends streams as Disconnect does, refuses the tokens behind
// them from now on, and ends the other streams of these tokens. An administrator of some channels
// revokes only tokens that allow nothing beyond these channels. For an operator, a subject or
// tokenId that is named alone is refused even without a stream.
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

// revoke refuses tokens first and ends streams then, so that a client which comes back is refused.
// When the list of revocations is full, it does nothing. When the log cannot store a revocation,
// the streams end all the same, and the caller gets the error.
func (a *API) revoke(ctx context.Context, by caller.Caller, s selection) (ended, error) {
	v := revoking{api: a, by: by, selection: s, refused: map[string]bool{}, spared: map[string]bool{}}
	tokens, subjects := v.named()
	var failed error
	// A stream may open during a round with a token that is not refused yet: the next round finds
	// it. Only a client that opens streams with ever new tokens may keep the last of them.
	for round := range 3 {
		if tokens = append(tokens, v.found()...); len(tokens)+len(subjects) > 0 {
			err := a.Revocations.Revoke(ctx, tokens, subjects, s.until)
			if public, ok := errors.AsType[*fanfare.Error](err); ok && public.Reason == fanfare.ReasonMaxRevocations {
				return v.done, a.noRoom(public, v.done)
			}
			if err != nil {
				failed = err
			}
			v.done.Revoked += len(tokens) + len(subjects)
			tokens, subjects = nil, nil
		}
		n := v.end(round == 0)
		if v.done.Streams += n; n == 0 {
			break
		}
	}
	for id := range v.spared {
		if !v.refused[id] { // by another of its streams
			v.done.NotRevoked++
		}
	}
	return v.done, a.notStored(failed, v.done)
}

// revoking is one call of Revoke under way.
type revoking struct {
	api       *API
	by        caller.Caller
	selection selection
	refused   map[string]bool // ids of tokens
	spared    map[string]bool // ids of tokens that by may not revoke
	done      ended
}

// named returns the token or subject that an operator refuses by name, even without a stream.
func (v *revoking) named() (tokens, subjects []string) {
	if !v.by.Who.Operator() || v.selection.given != 1 {
		return nil, nil
	}
	if id := v.selection.tokenID; id != "" {
		v.refused[id] = true
		tokens = []string{id}
	}
	if v.selection.subject != "" {
		subjects = []string{v.selection.subject}
	}
	return tokens, subjects
}

// found returns the tokens behind the selected streams that are not refused yet, each once.
func (v *revoking) found() (tokens []string) {
	for h := range v.api.Streams.Each() {
		who := h.Caller.Who
		switch id := who.TokenID; {
		case id == "" || v.refused[id] || !v.selection.fits(h, v.by):
		case v.api.Revocations.Check(who) != nil: // was revoked before, and its stream is about to end
		case v.api.mayRevoke(v.by, who):
			v.refused[id] = true
			tokens = append(tokens, id)
		default:
			v.spared[id] = true
		}
	}
	return tokens
}

// end ends all streams whose token or subject was revoked and, the first time, all selected
// streams.
func (v *revoking) end(first bool) (n int) {
	for h := range v.api.Streams.Each() {
		meant := first && v.selection.fits(h, v.by)
		if (meant || v.api.Revocations.Check(h.Caller.Who) != nil) && h.End(stream.EndRevoked) {
			n++
		}
	}
	return n
}

// mayRevoke tells whether by may revoke a token. All rights of the token, except those of every
// caller, must be on channels that by administers. For a store PC's token its own channel counts,
// because every PC hears `stores` too. A ticket does not list the rights of its token, so only an
// operator revokes that token.
func (a *API) mayRevoke(by caller.Caller, who *fanfare.Principal) bool {
	switch {
	case by.Who.Operator():
		return true
	case who.Unlimited || who.Ticket != "":
		return false
	}
	if who.Self != (fanfare.Pattern{}) && !by.Who.MayAll(fanfare.ActionAdmin, who.Self) {
		return false
	}
	for action, patterns := range who.Grants {
		for _, p := range patterns {
			if !by.Who.MayAll(fanfare.ActionAdmin, p) && !slices.Contains(a.Everybody[action], p) {
				return false
			}
		}
	}
	return true
}

// noRoom adds to the error of a full list the effects that the call had before. There are none,
// unless streams opened during the call.
func (a *API) noRoom(full *fanfare.Error, done ended) error {
	said := *full
	text := a.Problems.Public(full)
	said.Detail, said.Setting = text+": nothing was revoked or ended", ""
	if done != (ended{}) {
		said.Detail = fmt.Sprintf("%s (revoked before: %d, streams ended: %d)", text, done.Revoked, done.Streams)
	}
	return &said
}

// notStored adds to the error of a revocation that was not stored the effects of the call.
func (a *API) notStored(err error, done ended) error {
	public, ok := errors.AsType[*fanfare.Error](err)
	if !ok {
		return err
	}
	said := *public
	said.Setting = ""
	said.Detail = fmt.Sprintf("%s (streams ended: %d, revoked until the hub starts again: %d)"+
		": once the log stores again, revoke them by subject or tokenId, which the audit trail has",
		a.Problems.Public(public), done.Streams, done.Revoked)
	return &said
}
