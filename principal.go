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
	ActionPresence  Action = "presence"  // hear who else listens
	ActionAck       Action = "ack"       // answer events
	ActionAdmin     Action = "admin"     // end streams and revoke tokens; on `**`: all of an operator's calls
)

// Actions returns all of them.
func Actions() []Action {
	return []Action{ActionPublish, ActionSubscribe, ActionPresence, ActionAck, ActionAdmin}
}

// Grants are the patterns on which each action is allowed. A `**` does not reach channels that begin with '$'.
type Grants map[Action][]Pattern

// Device is a store's PC. The zero Device is none.
type Device struct{ Store, PC string }

// MaxStoreIDBytes is the longest storeId or pcId.
const MaxStoreIDBytes = 64

// CheckStoreID checks a storeId or pcId, which parameter names: 1 to MaxStoreIDBytes of A–Z a–z 0–9 . _ ~ -. The error has
// CodeInvalid.
func CheckStoreID(parameter, id string) error {
	ok := id != "" && len(id) <= MaxStoreIDBytes
	for i := 0; ok && i < len(id); i++ {
		c := id[i]
		ok = c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '~' || c == '-'
	}
	if !ok {
		return Invalid("%s must have 1 to %d of the characters A-Z a-z 0-9 . _ ~ -", parameter, MaxStoreIDBytes)
	}
	return nil
}

// Channels are the channels of a PC's stream: its own, its store's, and that of all stores.
func (d Device) Channels() [3]string {
	return [3]string{"stores/" + d.Store + "/pcs/" + d.PC, "stores/" + d.Store, "stores"}
}

// covers tells whether pc is the device, or one of those that it stands for.
func (d Device) covers(pc Device) bool {
	return d != Device{} && (d.Store == "*" || d.Store == pc.Store) && (d.PC == "*" || d.PC == pc.PC)
}

// Principal is who sends a request, and what they may do. Nobody changes one after it was made; several requests share it.
type Principal struct {
	Subject   string    // who; "" is nobody in particular
	Realm     string    // who vouches for the subject: equal subjects of two realms are two principals
	TokenID   string    // of the token or key that said so, to revoke it by; "" when there was none
	IssuedAt  time.Time // of the token; zero when it does not say
	Expires   time.Time // when the rights end; zero: never
	Ends      time.Time // when streams end, where that is not Expires; see StreamsEnd
	Unlimited bool      // everything is allowed: nobody has to say who they are, or another program has decided
	Grants    Grants
	Device    Device // the PC that it is; an id `*` stands for any: a token that a fleet shares. See Is and MayBe

	// Ticket is the id of the ticket that the request brought: one stream at a time is served under it. "" is none.
	Ticket string
	// Key is the fingerprint of the key that verified the token; "" is none. Rights end when that key is taken away.
	Key string
	// Session is the login by cookie that the request, or its ticket, belongs to; "" is none. TicketMade is when the ticket was made.
	Session    string
	TicketMade time.Time
}

// Anonymous tells whether the request did not say who sends it.
func (p *Principal) Anonymous() bool { return p.Subject == "" && p.TokenID == "" }

// StreamsEnd is when streams of the principal end at the latest (P8); zero: never. It is Expires, or, when clocks that differ
// had the token pass a little later, the end of that leeway.
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

// MayAll tells whether the action is allowed on every channel of a pattern: one grant must cover the whole of it.
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

// Is tells whether the principal acts as a PC: it has that PC's token, or no limits. What it hears counts as heard by the PC, and
// it marks the PC as alive.
func (p *Principal) Is(d Device) bool {
	return p.Unlimited || p.Device.covers(d)
}

// MayBe tells whether the principal may open a PC's stream: it is that PC, or may subscribe to all of the PC's channels. Who may
// only subscribe looks on: the PC misses nothing by it.
func (p *Principal) MayBe(d Device) bool {
	if p.Is(d) {
		return true
	}
	if p.Device != (Device{}) {
		return false // it is another PC, whatever else it may do
	}
	for _, name := range d.Channels() {
		if !p.May(ActionSubscribe, Channel{name}) {
			return false
		}
	}
	return true
}

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
