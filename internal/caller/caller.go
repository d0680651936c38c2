// Package caller describes the sender of a request: its principal, its address, and the errors for
// requests that it may not make.
package caller

import (
	"net/netip"

	"github.com/fanfare-hub/fanfare"
)

// Caller is the sender of a request: a principal and an address. Each open stream holds one, so it
// holds no text.
type Caller struct {
	Who *fanfare.Principal
	// From is the peer's address and port, or the address that a trusted proxy says, with port 0.
	// It is not valid for a Unix socket.
	From    netip.AddrPort
	Limited bool // limits count by the address: it is neither loopback nor a trusted proxy's own
	Direct  bool // the peer is no proxy: neither loopback, a Unix socket, nor a trusted one
}

// Remote returns From as text, for records; "@" for a Unix socket.
func (c Caller) Remote() string {
	switch {
	case !c.From.IsValid():
		return "@"
	case c.From.Port() == 0:
		return c.From.Addr().String()
	}
	return c.From.String()
}

// Network returns the caller's IPv4 address, or its IPv6 network; not valid for a Unix socket.
func (c Caller) Network() netip.Addr { return Network(c.From.Addr()) }

// CountedAs returns the Network that limits count by; not valid if the caller counts for none.
func (c Caller) CountedAs() netip.Addr {
	if !c.Limited {
		return netip.Addr{}
	}
	return c.Network()
}

// Network is the address that limits count by: an IPv4 address, or the /64 of an IPv6 address,
// because each customer has many addresses in one /64.
func Network(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// Name is the name that limits and idempotency keys belong to: the subject with its realm, or the
// token's id if the token has no subject; "" for all callers without credentials. An API key's name
// and a token's subject are never the same name.
func (c Caller) Name() string {
	switch {
	case c.Who == nil:
		return ""
	case c.Who.Subject == "":
		return c.Who.TokenID
	case c.Who.Realm == "":
		return c.Who.Subject
	}
	return c.Who.Realm + "\x00" + c.Who.Subject
}

// Owner is Name, or, for a caller without credentials, the address.
func (c Caller) Owner() string {
	if name := c.Name(); name != "" {
		return name
	}
	if address := c.CountedAs(); address.IsValid() {
		return "@" + address.String()
	}
	return ""
}

// Refused is the private half of a refusal's error: the caller that was refused.
type Refused struct{ Caller Caller }

// Error implements error.
func (r *Refused) Error() string { return "refused to " + r.Caller.Remote() }

// Refuse notes the refused caller in an error. It leaves nil, and errors that are not public,
// unchanged.
func (c Caller) Refuse(err error) error {
	if e, ok := err.(*fanfare.Error); ok && e.Err == nil {
		named := *e
		named.Err = &Refused{c}
		return &named
	}
	return err
}

// denied is 401 for a caller without credentials, because a token may help, and 403 for a caller
// with them. The format and args name the action that the caller has no right to.
func (c Caller) denied(format string, args ...any) error {
	if c.Who.Anonymous() {
		e := fanfare.Errorf(fanfare.CodeUnauthenticated, "a token is needed "+format, args...)
		e.Reason, e.Err = fanfare.ReasonNoCredentials, &Refused{c}
		return e
	}
	e := fanfare.Errorf(fanfare.CodeForbidden, "there is no right "+format, args...)
	e.Reason, e.Err = fanfare.ReasonNoRight, &Refused{c}
	return e
}

// MayNot returns why the caller may not do what the format and args name.
func (c Caller) MayNot(format string, args ...any) error { return c.denied(format, args...) }

// MayPublish returns nil, or why the caller may not publish to c.
func (c Caller) MayPublish(ch fanfare.Channel) error {
	if c.Who.Unlimited || c.Who.May(fanfare.ActionPublish, ch) {
		return nil
	}
	return c.denied("to publish to channel %q", ch)
}

// MayPublishAnything returns nil, or why the caller may publish nowhere: then a body need not be
// read.
func (c Caller) MayPublishAnything() error {
	if c.Who.Unlimited || len(c.Who.Grants[fanfare.ActionPublish]) > 0 {
		return nil
	}
	return c.denied("to publish")
}

// MayPublishAll returns nil, or why the caller may not publish to all channels of one of the
// patterns.
func (c Caller) MayPublishAll(patterns ...fanfare.Pattern) error {
	for _, p := range patterns {
		if !c.Who.MayAll(fanfare.ActionPublish, p) {
			return c.denied("to publish to channel %q", p)
		}
	}
	return nil
}

// MaySubscribe returns nil, or why the caller may not listen to one of the patterns, or read them.
func (c Caller) MaySubscribe(patterns ...fanfare.Pattern) error {
	for _, p := range patterns {
		if !c.Who.MayAll(fanfare.ActionSubscribe, p) {
			return c.denied("to subscribe to channel %q", p)
		}
	}
	return nil
}

// MayBe returns nil if the caller may act as the owner of the channel own, or may listen to all of
// the owner's channels; a caller that may only listen looks. Otherwise it returns the reason; what
// names the owner in it. A caller that owns another channel may do neither, whatever its other
// rights.
func (c Caller) MayBe(own fanfare.Channel, channels []fanfare.Pattern, what string) error {
	other := c.Who.Self != fanfare.Pattern{}
	if c.Who.Is(own) || (!other && c.MaySubscribe(channels...) == nil) {
		return nil
	}
	return c.denied("to act for %s", what)
}

// Operator returns nil, or why the caller may not make an operator's call.
func (c Caller) Operator() error {
	if c.Who.Operator() {
		return nil
	}
	return c.denied("to make this call: it takes `admin` on `**`")
}
