// Package problem answers HTTP requests that fail: RFC 9457 problem documents with a stable code.
package problem

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// statuses is the one table from code to status.
var statuses = map[fanfare.Code]int{
	fanfare.CodeInvalid:            http.StatusBadRequest,
	fanfare.CodeUnauthenticated:    http.StatusUnauthorized,
	fanfare.CodeForbidden:          http.StatusForbidden,
	fanfare.CodeNotFound:           http.StatusNotFound,
	fanfare.CodeMethodNotAllowed:   http.StatusMethodNotAllowed,
	fanfare.CodeConflict:           http.StatusConflict,
	fanfare.CodePreconditionFailed: http.StatusPreconditionFailed,
	fanfare.CodeExpired:            http.StatusGone,
	fanfare.CodeTooLarge:           http.StatusRequestEntityTooLarge,
	fanfare.CodeUnsupported:        http.StatusUnsupportedMediaType,
	fanfare.CodeRateLimited:        http.StatusTooManyRequests,
	fanfare.CodeOverloaded:         http.StatusServiceUnavailable,
	fanfare.CodeUnavailable:        http.StatusServiceUnavailable,
	fanfare.CodeInternal:           http.StatusInternalServerError,
}

// Document is a problem document.
type Document struct {
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Code   fanfare.Code `json:"code"`
	Detail string       `json:"detail"`
	Line   int          `json:"line,omitempty"` // of an NDJSON body, counted from 1

	State string `json:"state,omitempty"` // of the command that was answered too late

	// the newest event of the channel whose condition was not met: its id, or null
	Latest json.RawMessage `json:"latest,omitempty"`
}

// Writer writes problem documents and counts them. Its methods may be called from any goroutine.
type Writer struct {
	logger  *slog.Logger
	counts  map[fanfare.Code]*atomic.Uint64   // fixed keys
	reasons map[fanfare.Reason]*atomic.Uint64 // fixed keys

	// SettingName, when set, spells settings as the operator knows them; it is set before the first
	// error.
	SettingName func(fanfare.Setting) string

	// OnRefused, when set, hears of each refusal that Write answers; it is set before the first.
	OnRefused func(r *http.Request, err error)
}

// NewWriter returns a Writer that logs the private half of errors.
func NewWriter(logger *slog.Logger) *Writer {
	w := &Writer{logger: logger, counts: map[fanfare.Code]*atomic.Uint64{},
		reasons: map[fanfare.Reason]*atomic.Uint64{}}
	for _, reason := range fanfare.Reasons() {
		w.reasons[reason] = new(atomic.Uint64)
	}
	for code := range statuses {
		w.counts[code] = new(atomic.Uint64)
	}
	return w
}

// Counts returns how many requests were refused, by code.
func (p *Writer) Counts() map[fanfare.Code]uint64 {
	counts := make(map[fanfare.Code]uint64, len(p.counts))
	for code, n := range p.counts {
		counts[code] = n.Load()
	}
	return counts
}

// Reasons returns how many requests were refused, by reason, where the code does not say enough.
func (p *Writer) Reasons() map[fanfare.Reason]uint64 {
	counts := make(map[fanfare.Reason]uint64, len(p.reasons))
	for reason, n := range p.reasons {
		counts[reason] = n.Load()
	}
	return counts
}

// Public is the public text of an error, with its setting as the operator knows it.
func (p *Writer) Public(err *fanfare.Error) string { return err.Public(p.SettingName) }

// Settings names settings in a log record.
func (p *Writer) Settings(settings ...fanfare.Setting) slog.Attr {
	names := make([]string, len(settings))
	for i, s := range settings {
		if names[i] = string(s); p.SettingName != nil {
			names[i] = p.SettingName(s)
		}
	}
	return slog.String("setting", strings.Join(names, ", "))
}

// Reason is the reason of an error, for a log record.
func Reason(err error) slog.Attr {
	if public, ok := errors.AsType[*fanfare.Error](err); ok && public.Reason != "" {
		return slog.String("reason", string(public.Reason))
	}
	return slog.Attr{}
}

// Document makes the document of err, and counts it. An error that is not a *fanfare.Error is
// internal: its text is logged and not shown.
func (p *Writer) Document(err error) (d Document, retryAfter time.Duration) {
	public, ok := errors.AsType[*fanfare.Error](err)
	if !ok {
		public = &fanfare.Error{Code: fanfare.CodeInternal,
			Detail: "something went wrong in the hub; its log says more", Err: err}
	}
	if public.Code == fanfare.CodeInternal {
		p.logger.Error("internal error", slog.Any("err", err))
	}
	if n := p.counts[public.Code]; n != nil {
		n.Add(1)
	}
	if n := p.reasons[public.Reason]; n != nil {
		n.Add(1)
	}
	status := statuses[public.Code]
	d = Document{Title: http.StatusText(status), Status: status, Code: public.Code, Detail: p.Public(public),
		State: public.State}
	if public.Code == fanfare.CodePreconditionFailed {
		d.Latest = latest(public.Latest)
	}
	retryAfter = public.RetryAfter
	if retryAfter == 0 && (status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests) {
		retryAfter = 2 * time.Second
	}
	return d, retryAfter
}

func latest(p fanfare.Position) json.RawMessage {
	if p == 0 {
		return json.RawMessage("null")
	}
	return json.RawMessage(`"` + p.String() + `"`)
}

// Write answers r with err. The caller has written nothing yet, and sets Allow for
// CodeMethodNotAllowed.
func (p *Writer) Write(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		err = fanfare.Unavailable("the request was given up", err) // by its sender, who does not see this answer
	}
	d, retryAfter := p.Document(err)
	if p.OnRefused != nil {
		p.OnRefused(r, err)
	}
	body, merr := json.Marshal(d)
	if merr != nil {
		body = []byte(`{"title":"Internal Server Error","status":500,"code":"internal","detail":""}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if d.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", challenge(err)) // RFC 6750, section 3
	}
	if retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((retryAfter+time.Second-1)/time.Second)))
	}
	body = append(body, '\n')
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(d.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

// challenge names the credentials that the hub accepts, and says, if the request had some, that
// they were not accepted.
func challenge(err error) string {
	if public, ok := errors.AsType[*fanfare.Error](err); ok && public.Reason != fanfare.ReasonNoCredentials &&
		public.Reason != "" {
		return `Bearer realm="fanfare", error="invalid_token"`
	}
	return `Bearer realm="fanfare"`
}
