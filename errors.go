package fanfare

import (
	"errors"
	"fmt"
	"time"
)

// Code is the kind of an Error; each protocol translates it by one table.
type Code string

// The codes. They are part of the HTTP contract and never change.
const (
	CodeInvalid            Code = "invalid"
	CodeUnauthenticated    Code = "unauthenticated"
	CodeForbidden          Code = "forbidden"
	CodeNotFound           Code = "not_found"
	CodeMethodNotAllowed   Code = "method_not_allowed"
	CodeConflict           Code = "conflict"
	CodePreconditionFailed Code = "precondition_failed"
	CodeExpired            Code = "expired"
	CodeTooLarge           Code = "too_large"
	CodeUnsupported        Code = "unsupported_media_type"
	CodeRateLimited        Code = "rate_limited"
	CodeOverloaded         Code = "overloaded"
	CodeUnavailable        Code = "unavailable"
	CodeInternal           Code = "internal"
)

// Error is an error with a public half, which may be shown to the caller, and a private half, which
// may not.
type Error struct {
	Code       Code
	Detail     string        // public: one sentence that names the field or parameter and the limit
	Latest     Position      // public: with CodePreconditionFailed the channel's newest event; zero: it has none
	State      string        // public: with CodeConflict and CodeExpired the state of the command that was answered
	Setting    Setting       // public: the setting that an operator would change, shown after Detail; "" is none
	RetryAfter time.Duration // public: when another try may help; zero when it says nothing
	Reason     Reason        // private: why, in one word, for counters and the audit trail
	Err        error         // private: the cause, for the log
}

// Reason says in one word why something was refused; it is a metric's label. "" is none: the code
// says enough.
type Reason string

// The reasons.
const (
	ReasonNoCredentials  Reason = "no_credentials"     // the call needs credentials, and the request has none
	ReasonBadToken       Reason = "bad_token"          // a token, key or ticket that is not valid
	ReasonExpiredToken   Reason = "expired_token"      // one that was
	ReasonRevokedToken   Reason = "revoked_token"      // one that was revoked
	ReasonNoRight        Reason = "no_right"           // the principal is known, and may not
	ReasonForeignOrigin  Reason = "foreign_origin"     // a page of an origin that is not listed
	ReasonUnknownHost    Reason = "unknown_host"       // a host that is not listed
	ReasonPublishRate    Reason = "publish_rate"       // events a second
	ReasonPublishBytes   Reason = "publish_bytes_rate" // bytes a second
	ReasonStreamRate     Reason = "stream_rate"        // new streams a second
	ReasonMaxStreams     Reason = "max_streams"
	ReasonPerAddress     Reason = "max_streams_per_address"
	ReasonPerSubject     Reason = "max_streams_per_subject"
	ReasonPerChannel     Reason = "max_streams_per_channel"
	ReasonMaxRevocations Reason = "max_revocations"
	ReasonSlowBody       Reason = "slow_body"          // a body that did not come in time
	ReasonMaxInflight    Reason = "max_inflight_bytes" // requests under way hold too much
)

// Reasons returns all of them.
func Reasons() []Reason {
	return []Reason{
		ReasonNoCredentials, ReasonBadToken, ReasonExpiredToken, ReasonRevokedToken, ReasonNoRight, ReasonForeignOrigin,
		ReasonUnknownHost,
		ReasonPublishRate, ReasonPublishBytes, ReasonStreamRate, ReasonMaxStreams, ReasonPerAddress, ReasonPerSubject,
		ReasonPerChannel,
		ReasonMaxRevocations, ReasonSlowBody, ReasonMaxInflight,
	}
}

// Error returns both halves, for logs.
func (e *Error) Error() string {
	text := string(e.Code) + ": " + e.Public(nil)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Public returns the public half as one text: Detail, and after it the Setting as name spells it. A
// nil name leaves the Setting as it is.
func (e *Error) Public(name func(Setting) string) string {
	switch {
	case e.Setting == "":
		return e.Detail
	case name == nil:
		return e.Detail + " (" + string(e.Setting) + ")"
	default:
		return e.Detail + " (" + name(e.Setting) + ")"
	}
}

// Unwrap returns the private half.
func (e *Error) Unwrap() error { return e.Err }

// Invalid returns an error with CodeInvalid; the format makes its public detail.
func Invalid(format string, args ...any) *Error {
	return &Error{Code: CodeInvalid, Detail: fmt.Sprintf(format, args...)}
}

// Errorf returns an error with the code; the format makes its public detail.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Unavailable returns an error with CodeUnavailable for a trouble of the log that should pass.
func Unavailable(detail string, cause error) *Error {
	return &Error{Code: CodeUnavailable, Detail: detail, RetryAfter: 2 * time.Second, Err: cause}
}

// CodeOf returns the code of the first *Error in err's chain, CodeInternal when there is none, ""
// for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}
