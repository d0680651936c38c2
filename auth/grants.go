package auth

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/fleet"
)

// deviceAction is written like an action. It makes its bearer a store's PC or, with `*`, each PC of
// a fleet that shares a token.
const deviceAction = "device"

// Grant is one line of grants: an action, or device, and the pattern on which it is allowed. In
// Where, {claim} stands for a claim of the token; {a.b} for a member of an object.
type Grant struct {
	Action string
	Where  string
}

// ParseGrant reads ACTION=PATTERN, such as `subscribe=users/{sub}/**` or
// `device=stores/{storeId}/pcs/{pcId}`.
func ParseGrant(text string) (Grant, error) {
	action, where, ok := strings.Cut(text, "=")
	if !ok || (action != deviceAction && !slices.Contains(fanfare.Actions(), fanfare.Action(action))) {
		return Grant{}, fanfare.Invalid("grant %q: want ACTION=PATTERN, the action one of publish, subscribe, "+
			"presence, ack, admin, device", text)
	}
	g := Grant{action, where}
	// A claim's value has no character that means something in a pattern, so any value shows
	// whether this is one.
	probe, ok := g.fill(func(string) (string, bool) { return "x", true })
	if !ok {
		return Grant{}, fanfare.Invalid("grant %q: a brace is not closed, or names nothing", text)
	}
	if action == deviceAction {
		if _, ok := fleet.ParseDevice(probe); !ok {
			return Grant{}, fanfare.Invalid("grant %q: a device is stores/S/pcs/P, such as "+
				"device=stores/{storeId}/pcs/{pcId} or device=stores/*/pcs/*", text)
		}
		return g, nil
	}
	if _, err := fanfare.ParsePattern(probe); err != nil {
		return Grant{}, fanfare.Invalid("grant %q: %s", text, detail(err))
	}
	return g, nil
}

func detail(err error) string {
	if e, ok := err.(*fanfare.Error); ok {
		return e.Detail
	}
	return err.Error()
}

// ParseGrants reads grants without claims in them, such as those of callers without a token.
func ParseGrants(texts []string) (fanfare.Grants, error) {
	grants := fanfare.Grants{}
	for _, text := range texts {
		g, err := ParseGrant(text)
		if err != nil {
			return nil, err
		}
		if g.Action == deviceAction {
			return nil, fanfare.Invalid("grant %q: a device needs a token", text)
		}
		p, err := fanfare.ParsePattern(g.Where)
		if err != nil {
			return nil, fanfare.Invalid("grant %q: %s", text, detail(err))
		}
		grants[fanfare.Action(g.Action)] = append(grants[fanfare.Action(g.Action)], p)
	}
	return grants, nil
}

// fill replaces each {claim} by its value; false when a value is missing, or could match more than
// itself.
func (g Grant) fill(value func(name string) (string, bool)) (string, bool) {
	var b strings.Builder
	rest := g.Where
	for {
		before, after, found := strings.Cut(rest, "{")
		b.WriteString(before)
		if !found {
			return b.String(), true
		}
		name, left, closed := strings.Cut(after, "}")
		if !closed || name == "" {
			return "", false
		}
		v, ok := value(name)
		if !ok || !plain(v) {
			return "", false
		}
		b.WriteString(v)
		rest = left
	}
}

// plain tells whether a value matches itself alone when it stands in a pattern. Bytes that were not
// valid UTF-8 in a token are U+FFFD here, so that values which differ would be equal.
func plain(value string) bool { return value != "" && !strings.ContainsAny(value, "/*$\ufffd") }

// addTo fills the grant with a token's claims and adds it to p. A grant that cannot be filled, or
// is no pattern then, adds nothing.
func (g Grant) addTo(p *fanfare.Principal, value func(name string) (string, bool)) {
	where, ok := g.fill(value)
	if !ok {
		return
	}
	if g.Action == deviceAction {
		if own, ok := fleet.ParseDevice(where); ok {
			p.Self = own
		}
		return
	}
	if pattern, err := fanfare.ParsePattern(where); err == nil {
		p.Grants[fanfare.Action(g.Action)] = append(p.Grants[fanfare.Action(g.Action)], pattern)
	}
}

// claimValue finds a claim by its name, or by a path of names with dots: text as it is, whole
// numbers in decimal.
func claimValue(claims map[string]any, name string) (string, bool) {
	v, ok := claims[name]
	for !ok {
		first, rest, found := strings.Cut(name, ".")
		if !found {
			return "", false
		}
		inner, isObject := claims[first].(map[string]any)
		if !isObject {
			return "", false
		}
		claims, name = inner, rest
		v, ok = claims[name]
	}
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		if _, err := v.Int64(); err == nil {
			return v.String(), true
		}
	}
	return "", false
}

// grantMembers are the members of the grants that a token brings.
var grantMembers = []string{"publish", "subscribe", "presence", "ack", "admin", deviceAction}

// claimGrants reads a token's own grants: {"publish":[…],…,"device":"stores/S/pcs/P"}. It fills in
// {sub} alone. It refuses a member of another name, which the issuer believes to give a right.
func claimGrants(claim any, p *fanfare.Principal, value func(string) (string, bool)) error {
	o, ok := claim.(map[string]any)
	if !ok {
		return fanfare.Errorf(fanfare.CodeUnauthenticated, "the token's grants are not a JSON object")
	}
	onlySub := func(name string) (string, bool) {
		if name != "sub" {
			return "", false
		}
		return value(name)
	}
	for _, name := range slices.Sorted(maps.Keys(o)) {
		if err := unknownMember(name, grantMembers); err != nil {
			return fanfare.Errorf(fanfare.CodeUnauthenticated, "the token's grants: %s", detail(err))
		}
	}
	for _, action := range fanfare.Actions() {
		list, there := o[string(action)]
		if !there || list == nil {
			continue
		}
		patterns, ok := list.([]any)
		if !ok || len(patterns) > maxPatterns {
			return fanfare.Errorf(fanfare.CodeUnauthenticated,
				"the token's grants: %s must be a list of at most %d patterns", action, maxPatterns)
		}
		for _, one := range patterns {
			text, ok := one.(string)
			if !ok {
				return fanfare.Errorf(fanfare.CodeUnauthenticated, "the token's grants: %s must be a list of patterns",
					action)
			}
			Grant{string(action), text}.addTo(p, onlySub)
		}
	}
	if device, there := o[deviceAction]; there && device != nil {
		text, ok := device.(string)
		if !ok {
			return fanfare.Errorf(fanfare.CodeUnauthenticated, "the token's grants: device must be a string")
		}
		Grant{deviceAction, text}.addTo(p, onlySub)
	}
	return nil
}

// maxPatterns is how many patterns one action may have in a token.
const maxPatterns = 1000
