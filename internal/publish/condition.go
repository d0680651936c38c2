package publish

import (
	"net/http"
	"strings"

	"github.com/fanfare-hub/fanfare"
)

// HeaderCondition reads If-Match: "ID" and If-None-Match: * (RFC 9110, section 13.1), which say
// what the newest event of a channel must be. The RFC allows more: weak tags, lists, If-Match: *
// and If-None-Match: "ID". Those are CodeInvalid.
func HeaderCondition(r *http.Request) (c fanfare.Condition, err error) {
	match, none := r.Header["If-Match"], r.Header["If-None-Match"]
	switch {
	case match == nil && none == nil:
		return c, nil
	case match != nil && none != nil:
		return c, fanfare.Invalid("If-Match and If-None-Match are both given: no channel can meet both")
	case len(match) > 1 || len(none) > 1:
		return c, fanfare.Invalid("If-Match or If-None-Match is given twice: want one of them, once")
	case none != nil && none[0] != "*":
		return c, fanfare.Invalid("If-None-Match must be * : the channel has no event")
	case none != nil:
		return fanfare.IfNone(), nil
	}
	id, opened := strings.CutPrefix(match[0], `"`)
	id, closed := strings.CutSuffix(id, `"`)
	if !opened || !closed {
		return c, fanfare.Invalid(`If-Match must be one id in quotes, such as "1M86KMDZX0007"`)
	}
	return ifLatest("If-Match", id)
}

// NoHeaderCondition refuses the headers of HeaderCondition for a body whose events have conditions
// of their own: they would do nothing.
func NoHeaderCondition(r *http.Request) error {
	for _, name := range []string{"If-Match", "If-None-Match"} {
		if r.Header[name] != nil {
			return fanfare.Invalid("%s is for POST /v1/channels/…: here each event may have the member ifLatest", name)
		}
	}
	return nil
}

// Condition returns the member ifLatest: an id, or null for a channel without an event.
func (o Object) Condition() (c fanfare.Condition, err error) {
	raw, given := o.find("ifLatest")
	switch {
	case !given:
		return c, nil
	case string(raw) == "null":
		return fanfare.IfNone(), nil
	case raw[0] != '"':
		return c, fanfare.Invalid("ifLatest must be an id, or null")
	}
	return ifLatest("ifLatest", text(raw))
}

func ifLatest(what, id string) (c fanfare.Condition, err error) {
	p, err := fanfare.ParsePosition(id)
	if err != nil {
		return c, fanfare.Invalid("%s: %s", what, err.(*fanfare.Error).Detail)
	}
	if p == 0 {
		return c, fanfare.Invalid("%s: %s is no event's id", what, id)
	}
	return fanfare.IfLatest(p), nil
}

// AddCondition puts the condition of event i, which has its channel, into a batch of n events.
func AddCondition(b *fanfare.Batch, i, n int, c fanfare.Condition) error {
	if c == (fanfare.Condition{}) {
		return nil
	}
	channel := b.Events[i].Channel
	for j := range b.If {
		if _, given := b.If[j].Latest(); given && b.Events[j].Channel == channel {
			return fanfare.Invalid("channel %.64q has a second condition: all are decided before the first event",
				channel.String())
		}
	}
	if b.If == nil {
		b.If = make([]fanfare.Condition, n)
	}
	b.If[i] = c
	return nil
}

// ConditionalChannel is Channel for an event with a condition: there is none on a channel of the
// hub's own, whatever the caller may do.
func ConditionalChannel(name string, c fanfare.Condition) (fanfare.Channel, error) {
	if c != (fanfare.Condition{}) && strings.HasPrefix(name, "$") {
		return fanfare.Channel{}, fanfare.Invalid("channel %.64q begins with '$': it takes no condition", name)
	}
	return Channel(name)
}
