// Package query reads the parameters that all adapters share.
package query

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/spell"
	"github.com/fanfare-hub/fanfare/internal/units"
)

// Parse reads the query string of an endpoint that knows the named parameters. A string that cannot
// be decoded is CodeInvalid. An unknown parameter passes, because services add their own. A
// parameter that is nearly a known one is CodeInvalid, because it would have no effect where its
// author expects one.
func Parse(r *http.Request, known ...string) (url.Values, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	if strings.Count(r.URL.RawQuery, "&") >= maxParameters {
		return nil, fanfare.Invalid("the query string has more than %d parameters", maxParameters)
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, &fanfare.Error{Code: fanfare.CodeInvalid, Detail: "the query string is malformed", Err: err}
	}
	for name := range q {
		if near := spell.Nearest(name, known...); near != "" && near != name && !slices.Contains(ofAll, name) {
			return nil, fanfare.Invalid("the parameter %.64q is not known: did you mean %q?", name, near)
		}
	}
	return q, nil
}

// maxParameters is how many parameters a query string may have: each is looked at by itself.
// Streams have a hundred channels.
const maxParameters = 1000

// InBody refuses parameters that have the names of a body's members, or nearly: they would do
// nothing.
func InBody(r *http.Request, members ...string) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	q, err := Parse(r, members...)
	if err != nil {
		return err
	}
	for _, name := range members {
		if q.Has(name) {
			return fanfare.Invalid("%s is given in the query: it belongs into the body", name)
		}
	}
	return nil
}

// ofAll are the parameters that identify the caller; every endpoint knows them.
var ofAll = []string{"ticket", "access_token"}

// startNames are the parameters that Start reads.
var startNames = []string{"lastEventId", "last_event_id", "lastEventID"}

// StreamNames are the parameters that streams of all adapters know, with those of one adapter.
func StreamNames(own ...string) []string {
	return append(append(own, "heartbeat", "heartbeatEvent"), startNames...)
}

// MaxChannels is how many channels and patterns one stream may name.
const MaxChannels = 100

// Patterns reads the patterns of a native stream: channel, once for each channel or pattern.
func Patterns(q url.Values) ([]fanfare.Pattern, error) {
	channels := q["channel"]
	if len(channels) == 0 {
		return nil, fanfare.Invalid("channel is missing: name at least one, as in ?channel=greetings")
	}
	return ParsePatterns(channels)
}

// ParsePatterns is fanfare.ParsePatterns, with the limits of a stream.
func ParsePatterns(channels []string) ([]fanfare.Pattern, error) {
	if len(channels) > MaxChannels {
		return nil, fanfare.Invalid("channel is given %d times, the limit is %d", len(channels), MaxChannels)
	}
	return fanfare.ParsePatterns(channels)
}

// olderConnectedID is the id that the older system gave its CONNECTED event: no position.
const olderConnectedID = "conn"

// Start reads where a client wants to carry on: the header Last-Event-ID, else one of the query
// parameters that clients which cannot send it use. The header wins even when it is garbage; an
// empty value is none.
func Start(r *http.Request, q url.Values) hub.Start {
	text := r.Header.Get("Last-Event-ID")
	for _, name := range startNames {
		if none(text) {
			text = q.Get(name)
		}
	}
	if none(text) {
		return hub.Start{}
	}
	after, err := fanfare.ParsePosition(text)
	if err != nil {
		return hub.Start{From: hub.FromUnknown, Requested: text}
	}
	return hub.Start{From: hub.FromAfter, After: after}
}

func none(text string) bool { return text == "" || text == olderConnectedID }

// Heartbeat reads heartbeat=1…60, in seconds; 0 when it is not given.
func Heartbeat(q url.Values) (time.Duration, error) {
	if !q.Has("heartbeat") {
		return 0, nil
	}
	n, err := strconv.Atoi(q.Get("heartbeat"))
	if err != nil || n < 1 || n > 60 {
		return 0, fanfare.Invalid("heartbeat must be a whole number of seconds from 1 to 60")
	}
	return time.Duration(n) * time.Second, nil
}

// Time reads a moment: RFC 3339, such as 2026-11-22T10:00:00Z, or how long ago, such as 10m or 2d.
// The log, not the machine's clock, decides which events are that old, so how long ago is returned
// as it is; it is at least a nanosecond.
func Time(name, text string) (at time.Time, ago time.Duration, err error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, 0, nil
	}
	if d, err := units.ParseDuration(text); err == nil && d >= 0 {
		return time.Time{}, max(d, 1), nil
	}
	return time.Time{}, 0,
		fanfare.Invalid("%s must be a time such as 2026-11-22T10:00:00Z, or how long ago, such as 10m or 2d", name)
}

// Bool reads `true` or `false`, and whether it was given.
func Bool(q url.Values, name string) (value, given bool, err error) {
	if !q.Has(name) {
		return false, false, nil
	}
	switch q.Get(name) {
	case "true":
		return true, true, nil
	case "false":
		return false, true, nil
	}
	return false, true, fanfare.Invalid("%s must be true or false", name)
}

// Limit reads limit, a number from 1 on.
func Limit(q url.Values, byDefault, most int) (int, error) {
	if !q.Has("limit") {
		return byDefault, nil
	}
	n, err := strconv.Atoi(q.Get("limit"))
	if err != nil || n < 1 || n > most {
		return 0, fanfare.Invalid("limit must be a number from 1 to %d", most)
	}
	return n, nil
}
