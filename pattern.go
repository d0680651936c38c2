package fanfare

import (
	"slices"
	"strings"
)

// Pattern is a name in a subscription: an exact channel, or a name in which a whole segment '*'
// stands for one segment and a last segment '**' for one or more. A leading wildcard never matches
// a channel that begins with '$'. Patterns compare with ==. The zero Pattern matches nothing; every
// other value came from ParsePattern or ExactPattern.
type Pattern struct {
	text string
	wild bool
}

// ParsePattern checks text and returns it as a Pattern, or an error with CodeInvalid.
func ParsePattern(text string) (Pattern, error) {
	if err := checkName("channel", text); err != nil {
		return Pattern{}, err
	}
	if !strings.Contains(text, "*") {
		return Pattern{text: text}, nil
	}
	for rest, more := text, true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		switch {
		case !strings.Contains(segment, "*"), segment == "*":
		case segment == "**" && !more:
		case segment == "**":
			return Pattern{}, Invalid("channel %q: '**' may stand only as the last segment", clip(text))
		default:
			return Pattern{}, Invalid("channel %q: '*' may stand only as a whole segment", clip(text))
		}
	}
	return Pattern{text: text, wild: true}, nil
}

// ParsePatterns parses patterns, in their order, and leaves out those that are there already.
func ParsePatterns(texts []string) ([]Pattern, error) {
	patterns := make([]Pattern, 0, len(texts))
	for _, text := range texts {
		p, err := ParsePattern(text)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(patterns, p) {
			patterns = append(patterns, p)
		}
	}
	return patterns, nil
}

// ExactPattern is the pattern that matches c alone.
func ExactPattern(c Channel) Pattern { return Pattern{text: c.name} }

// String returns the text that was parsed.
func (p Pattern) String() string { return p.text }

// Channel returns the only channel that p matches, and false when p has wildcards.
func (p Pattern) Channel() (Channel, bool) {
	if p.wild {
		return Channel{}, false
	}
	return Channel{name: p.text}, true
}

// Match tells whether p matches c in a subscription: a leading wildcard does not match a reserved
// channel.
func (p Pattern) Match(c Channel) bool {
	if p.wild && c.Reserved() && p.text[0] == '*' {
		return false
	}
	return p.MatchAll(c)
}

// MatchAll is Match as rules of the operator see it: a leading wildcard matches reserved channels
// too.
func (p Pattern) MatchAll(c Channel) bool {
	if !p.wild {
		return p.text == c.name
	}
	pattern, name := p.text, c.name
	for {
		want, patternRest, patternMore := strings.Cut(pattern, "/")
		if want == "**" {
			return true // the segments left are one or more: name was cut at a '/', or is the whole name
		}
		have, nameRest, nameMore := strings.Cut(name, "/")
		if want != "*" && want != have {
			return false
		}
		if patternMore != nameMore {
			return false
		}
		if !patternMore {
			return true
		}
		pattern, name = patternRest, nameRest
	}
}

// Overlaps tells whether some channel may match both patterns, as rules of the operator see it.
func (p Pattern) Overlaps(q Pattern) bool {
	a, b := p.text, q.text
	for {
		x, restA, moreA := strings.Cut(a, "/")
		y, restB, moreB := strings.Cut(b, "/")
		switch {
		case (x == "**" && p.wild) || (y == "**" && q.wild):
			return true // there is at least this segment, and any number more
		case x != y && (x != "*" || !p.wild) && (y != "*" || !q.wild):
			return false
		case moreA != moreB:
			return false
		case !moreA:
			return true
		}
		a, b = restA, restB
	}
}

// LiteralPrefix returns the text before the first wildcard: every channel that p matches begins
// with it.
func (p Pattern) LiteralPrefix() string {
	if i := strings.IndexByte(p.text, '*'); i >= 0 {
		return p.text[:i]
	}
	return p.text
}

// MoreSpecific orders rules that match the same channel: an exact name before wildcards, then by
// the first segment in which they differ, a literal before '*' before '**'. It reports whether p is
// to be preferred to q.
func (p Pattern) MoreSpecific(q Pattern) bool {
	a, b := strings.Split(p.text, "/"), strings.Split(q.text, "/")
	for i := 0; i < len(a) && i < len(b); i++ {
		if x, y := segmentRank(a[i]), segmentRank(b[i]); x != y {
			return x < y
		}
	}
	return len(a) > len(b)
}

func segmentRank(segment string) int {
	switch segment {
	case "*":
		return 1
	case "**":
		return 2
	}
	return 0
}
