package publish

import (
	"net/http"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/units"
)

// Times are the times that a publish may come with: how long the event lives, and when it is
// published. The zero Times are none.
type Times struct {
	TTL time.Duration // 0: for ever
	At  time.Time     // when it is published; zero: now, or after In
	In  time.Duration // how long after it is stored it is published; 0: now, or at At
}

// ReadTimes reads what a publisher wrote as ttl and deliverAt: a duration such as 10m, and a time
// such as 2026-11-27T03:00:00Z or a text such as `in 10m`. A text that is nil was not given. now is
// the log's time.
func ReadTimes(ttl, deliverAt *string, now func() time.Time) (t Times, err error) {
	if ttl != nil {
		if t.TTL, err = span("ttl", *ttl); err != nil {
			return t, err
		}
		if t.TTL == 0 {
			return t, fanfare.Invalid("ttl is 0, it is from 1s to 365d")
		}
		if err = fanfare.CheckTTL(t.TTL); err != nil {
			return t, err
		}
	}
	if deliverAt == nil {
		return t, nil
	}
	if in, relative := strings.CutPrefix(*deliverAt, "in "); relative {
		if t.In, err = span("deliverAt", strings.TrimSpace(in)); err == nil {
			err = CheckIn(t.In)
		}
		return t, err
	}
	if t.At, err = time.Parse(time.RFC3339, *deliverAt); err != nil {
		return t, fanfare.Invalid("deliverAt is %.64q: want a time with a zone, such as 2026-11-27T03:00:00Z "+
			"or 2026-11-27T03:00:00+02:00 (in a query the + is written %%2B), or how long from now, such as `in 10m`",
			*deliverAt)
	}
	return t, fanfare.CheckDeliverAt(t.At, now())
}

// CheckIn refuses with CodeInvalid how long from now an event cannot be published.
func CheckIn(in time.Duration) error {
	if in <= 0 || in > fanfare.MaxDeferral {
		return fanfare.Invalid("deliverAt is in %v: want more than 0, and at most 365d", in)
	}
	return nil
}

// Span reads a duration that has to lie between two others, such as 10m, of a member or parameter.
func Span(what, text string, least, most time.Duration, name string) (time.Duration, error) {
	d, err := span(what, text)
	if err == nil && (d < least || d > most) {
		err = fanfare.Invalid("%s is %v, it is %s", what, d, name)
	}
	return d, err
}

// span reads a duration: numbers with ms, s, m, h or d.
func span(what, text string) (time.Duration, error) {
	bad := fanfare.Invalid("%s is %.64q: want a duration such as 500ms, 90s, 10m, 12h or 7d", what, text)
	for _, unit := range strings.FieldsFunc(text, func(r rune) bool { return (r >= '0' && r <= '9') || r == '.' }) {
		switch unit {
		case "ms", "s", "m", "h", "d":
		default:
			return 0, bad
		}
	}
	if text == "" || strings.Trim(text, "0123456789.") == "" {
		return 0, bad
	}
	d, err := units.ParseDuration(text)
	if err != nil {
		return 0, bad
	}
	return d, nil
}

// QueryTimes reads the times from a query string.
func QueryTimes(q map[string][]string, now func() time.Time) (Times, error) {
	var given [2]*string
	for i, name := range []string{"ttl", "deliverAt"} {
		switch values := q[name]; len(values) {
		case 0:
		case 1:
			given[i] = &values[0]
		default:
			return Times{}, fanfare.Invalid("%s is given %d times", name, len(values))
		}
	}
	return ReadTimes(given[0], given[1], now)
}

// Times reads the members ttl and deliverAt.
func (o Object) Times(now func() time.Time) (Times, error) {
	var given [2]*string
	for i, name := range []string{"ttl", "deliverAt"} {
		raw, ok := o.find(name)
		if !ok {
			continue
		}
		if raw[0] != '"' {
			return Times{}, fanfare.Invalid(`%s must be a text, such as "10m"`, name)
		}
		value := text(raw)
		given[i] = &value
	}
	return ReadTimes(given[0], given[1], now)
}

// Parts are what the times add to the fingerprint of an idempotency key: nothing when there are
// none.
func (t Times) Parts() (parts []string) {
	if t.TTL != 0 {
		parts = append(parts, "ttl", t.TTL.String())
	}
	switch {
	case t.In != 0:
		parts = append(parts, "in", t.In.String())
	case !t.At.IsZero():
		parts = append(parts, "at", t.At.UTC().Format(time.RFC3339Nano))
	}
	return parts
}

// Add puts the times of event i into a batch of n events, whose conditions have been added.
func (t Times) Add(b *fanfare.Batch, i, n int) error {
	if t.TTL != 0 {
		if b.TTL == nil {
			b.TTL = make([]time.Duration, n)
		}
		b.TTL[i] = t.TTL
	}
	if t.At.IsZero() && t.In == 0 {
		return nil
	}
	if b.DeliverAt, b.DeliverIn = t.At, t.In; b.If != nil {
		return fanfare.Invalid("deliverAt and a condition are both given: " +
			"a condition is decided when a publish is stored")
	}
	return nil
}

// NotInArrays refuses a time of delivery for an event of an array: an array is stored at one
// moment.
func (t Times) NotInArrays() error {
	if t.At.IsZero() && t.In == 0 {
		return nil
	}
	return fanfare.Invalid("deliverAt is given for an event of an array: publish it by itself, or as a line of NDJSON")
}

// WriteScheduled answers the publish of an event that is to be published later.
func WriteScheduled(w http.ResponseWriter, r *http.Request, receipt fanfare.Receipt) {
	status := http.StatusAccepted
	if receipt.Replayed {
		status = Status(w, receipt)
	}
	WriteJSON(w, r, status, AppendScheduled(nil, receipt))
}

// AppendScheduled appends that answer.
func AppendScheduled(b []byte, receipt fanfare.Receipt) []byte {
	b = append(append(b, `{"scheduled":"`...), receipt.Scheduled.String()...)
	b = append(b, `","deliverAt":"`...)
	return append(receipt.DeliverAt.UTC().AppendFormat(b, time.RFC3339Nano), `"}`...)
}
