package fanfare

import (
	"strings"
	"unicode/utf8"
)

// MaxNameBytes is the longest channel or pattern, in bytes of UTF-8.
const MaxNameBytes = 512

// Channel is the name of a channel: 1 to MaxNameBytes bytes of UTF-8 without control characters and
// without '*'. A '/' separates segments, which may be empty. Two channels are the same when they
// compare equal with ==. The zero Channel is no channel; every other value came from ParseChannel
// and is valid.
type Channel struct{ name string }

// ParseChannel checks name and returns it as a Channel, or an error with CodeInvalid that says what
// is wrong.
func ParseChannel(name string) (Channel, error) {
	if err := checkName("channel", name); err != nil {
		return Channel{}, err
	}
	if strings.Contains(name, "*") {
		return Channel{}, Invalid("channel %q has a '*': wildcards may stand in subscriptions only", clip(name))
	}
	return Channel{name: name}, nil
}

// String returns the name.
func (c Channel) String() string { return c.name }

// Reserved tells whether the name begins with '$': such channels belong to the hub itself.
func (c Channel) Reserved() bool { return strings.HasPrefix(c.name, "$") }

func checkName(what, name string) error {
	switch {
	case name == "":
		return Invalid("%s is empty", what)
	case len(name) > MaxNameBytes:
		return Invalid("%s is %d bytes long, the limit is %d", what, len(name), MaxNameBytes)
	case !utf8.ValidString(name):
		return Invalid("%s is not valid UTF-8", what)
	}
	if hasControl(name) {
		return Invalid("%s %q has a control character", what, clip(name))
	}
	return nil
}

// hasControl reports C0 and C1 control characters and DEL (Unicode category Cc).
func hasControl(s string) bool {
	for _, r := range s {
		if r < 0x20 || (r >= 0x7f && r <= 0x9f) {
			return true
		}
	}
	return false
}

// clip shortens text for use in an error.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
