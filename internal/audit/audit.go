// Package audit writes the audit trail: log records of callers that connected, published, were
// refused or cut, with the reason. The message of a record is the stable name of its kind. Records
// never hold tokens, queries or data.
package audit

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare/internal/caller"
)

// Kind is the name of a kind of record. It is the record's message, and never changes.
type Kind string

// The kinds.
const (
	StreamOpened  Kind = "stream.opened"
	StreamEnded   Kind = "stream.ended"   // with the reason
	StreamRefused Kind = "stream.refused" // with the code and the reason
	Published     Kind = "publish.stored"
	Canceled      Kind = "publish.canceled"
	Commanded     Kind = "command.changed" // an answer, or a cancel, with the state
	Refused       Kind = "request.refused"
	TicketMade    Kind = "ticket.made"
	Session       Kind = "session.changed"
	Disconnected  Kind = "admin.disconnect" // the operator's acts are never left out
	Revoked       Kind = "admin.revoke"
	Operated      Kind = "admin.call"
)

// Trail writes records. A nil Trail writes none. Its methods may be called from any goroutine.
type Trail struct {
	logger    *slog.Logger
	perSecond int
	now       func() time.Time

	mu    sync.Mutex
	kinds map[Kind]*sampled // guarded by mu
}

// sampled counts the records of a kind in the present second, and those left out since the last one
// that was written.
type sampled struct {
	second  int64
	n       int
	skipped uint64
}

// oneOf is how many records of a kind are left out for each that is written, beyond the rate.
const oneOf = 1000

// New returns a Trail that writes up to perSecond records of each kind a second, and one of a
// thousand beyond that.
func New(logger *slog.Logger, perSecond int) *Trail {
	return &Trail{logger: logger, perSecond: perSecond, now: time.Now, kinds: map[Kind]*sampled{}}
}

// take tells whether to write a record, and how many were left out before it.
func (t *Trail) take(kind Kind) (skipped uint64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.kinds[kind]
	if s == nil {
		s = &sampled{}
		t.kinds[kind] = s
	}
	if second := t.now().Unix(); second != s.second {
		s.second, s.n = second, 0
	}
	s.n++
	if s.n > t.perSecond && s.n%oneOf != 0 {
		s.skipped++
		return 0, false
	}
	skipped, s.skipped = s.skipped, 0
	return skipped, true
}

// Record writes a record with its kind and its caller. It leaves the record out when there are too
// many of the kind; the next record of the kind then says how many were left out.
func (t *Trail) Record(kind Kind, by caller.Caller, more ...slog.Attr) {
	if t == nil {
		return
	}
	skipped, ok := t.take(kind)
	if ok {
		t.write(kind, by, skipped, more)
	}
}

// RecordAlways is Record for records that are never left out.
func (t *Trail) RecordAlways(kind Kind, by caller.Caller, more ...slog.Attr) {
	if t != nil {
		t.write(kind, by, 0, more)
	}
}

func (t *Trail) write(kind Kind, by caller.Caller, skipped uint64, more []slog.Attr) {
	attrs := make([]slog.Attr, 0, 5+len(more))
	attrs = append(attrs, slog.Bool("audit", true), slog.String("remote", by.Remote()))
	if by.Who != nil && by.Who.Subject != "" {
		attrs = append(attrs, slog.String("subject", by.Who.Subject))
	}
	if by.Who != nil && by.Who.TokenID != "" {
		attrs = append(attrs, slog.String("tokenId", by.Who.TokenID))
	}
	attrs = append(attrs, more...)
	if skipped > 0 {
		attrs = append(attrs, slog.Uint64("leftOut", skipped))
	}
	t.logger.LogAttrs(context.Background(), slog.LevelInfo, string(kind), attrs...)
}
