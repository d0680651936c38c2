package fanfare

import (
	"strings"
	"time"
)

// Action is something that a principal may do on channels.
type Action string

// The actions. Their names stand in tokens and in settings.
const (
	ActionPublish   Action = "publish"
	ActionSubscribe Action = "subscribe" // streams and history
	ActionPresence  Action = "presence"  // see the other listeners
	ActionAck       Action = "ack"       // answer events
	ActionAdmin     Action = "admin"     // end streams and revoke tokens; on `**`: all of an operator's calls
)

// Actions returns all of them.
func Actions() []Action {
	return []Action{ActionPublish, ActionSubscribe, ActionPresence, ActionAck, ActionAdmin}
}

// Grants are the patterns on which each action is allowed. A `**` does not reach channels that
// begin with '$'.
type Grants map[Action][]Pattern

// Principal is the caller of a request, and its rights. A Principal never changes after it was
// made; several requests share it.
type Principal struct {
	Subject   string    // the name of the caller; "" is none
	Realm     string    // the authority for the subject: equal subjects of two realms are two principals
	TokenID   string    // of the token or key that said so, to revoke it by; "" when there was none
	IssuedAt  time.Time // of the token; zero when it does not say
	Expires   time.Time // when the rights end; zero: never
	Ends      time.Time // when streams end, if that is not Expires; see StreamsEnd
	Unlimited bool      // everything is allowed: there is no authentication, or another program has decided
	Grants    Grants
	// the principal's own channel, by which an adapter recognises it; with wildcards, any of these
	// channels: a token that a fleet shares
	Self Pattern

	// Ticket is the id of the ticket that the request brought: one stream at a time is served under
	// it. "" is none.
	Ticket string
	// Key is the fingerprint of the key that verified the token; "" is none. Rights end when that
	// key is taken away.
	Key string
	// Session is the login by cookie that the request, or its ticket, belongs to; "" is none.
	// TicketMade is when the ticket was made.
	Session    string
	TicketMade time.Time
}

// Anonymous tells whether the request had no credentials.
func (p *Principal) Anonymous() bool { return p.Subject == "" && p.TokenID == "" }

// StreamsEnd is when streams of the principal end at the latest (P8); zero: never. It is Expires,
// or, when clocks that differ had the token pass a little later, the end of that leeway.
func (p *Principal) StreamsEnd() time.Time {
	if !p.Ends.IsZero() {
		return p.Ends
	}
	return p.Expires
}

// May tells whether the action is allowed on a channel. It does not allocate.
func (p *Principal) May(a Action, c Channel) bool {
	if p.Unlimited {
		return true
	}
	for _, granted := range p.Grants[a] {
		if granted.Match(c) {
			return true
		}
	}
	return false
}

// MayAll tells whether the action is allowed on every channel of a pattern: one grant must cover
// the whole of it.
func (p *Principal) MayAll(a Action, q Pattern) bool {
	if p.Unlimited {
		return true
	}
	for _, granted := range p.Grants[a] {
		if granted.Covers(q) {
			return true
		}
	}
	return false
}

// Is tells whether c is the principal's own channel: its token says so, or it has no limits. Events
// that it receives there count as received.
func (p *Principal) Is(c Channel) bool { return p.Unlimited || p.Self.Match(c) }

// Operator tells whether the principal may make an operator's calls: `admin` on `**`.
func (p *Principal) Operator() bool { return p.MayAll(ActionAdmin, Pattern{text: "**", wild: true}) }

// Covers tells whether p matches, in a subscription, every channel that q matches.
func (p Pattern) Covers(q Pattern) bool {
	if !p.wild {
		return p == q
	}
	if p.text[0] == '*' && strings.HasPrefix(q.text, "$") {
		return false // a leading wildcard does not reach reserved channels
	}
	a, b := p.text, q.text
	for {
		x, restA, moreA := strings.Cut(a, "/")
		y, restB, moreB := strings.Cut(b, "/")
		switch {
		case x == "**":
			return true // there is at least the segment y
		case y == "**" && q.wild:
			return false // q matches longer names, or other segments
		case x != "*" && x != y:
			return false
		case moreA != moreB:
			return false
		case !moreA:
			return true
		}
		a, b = restA, restB
	}
}
