package main

import (
	"net/url"
	"strings"
)

// withoutPassword hides what comes before the @ in a URL, which may be a password: all of it but a name that has a password after
// it. Where the text is no URL, as one with a % or a / in its password is none, all before the last @ goes: what cannot be told
// apart is not shown. Text without // stays what it is.
func withoutPassword(text string) string {
	scheme, rest, found := strings.Cut(text, "//")
	if !found {
		return text
	}
	at := strings.LastIndexByte(rest, '@')
	if at < 0 {
		return text
	}
	u, err := url.Parse(text)
	if err == nil && u.User != nil && !strings.ContainsRune(u.Host+u.Path+u.Opaque, '@') {
		if _, has := u.User.Password(); has {
			return u.Redacted()
		}
	}
	if err == nil && u.User == nil && u.Host != "" && u.Port() == "" {
		return text // an @ of the path or query
	}
	return scheme + "//***" + rest[at:]
}

// parseTarget reads the address of a hub. An @ behind the host is refused: the / or ? before it belongs to a password, which would be
// sent, and shown, as a path.
func parseTarget(text string) (*url.URL, bool) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.Contains(u.Path+u.RawQuery+u.Fragment, "@") {
		return nil, false
	}
	return u, true
}

// shownURL is withoutPassword for text that should be a URL, and may lack its beginning.
func shownURL(text string) string {
	if strings.Contains(text, "//") {
		return withoutPassword(text)
	}
	if at := strings.LastIndexByte(text, '@'); at >= 0 {
		return "***" + text[at:]
	}
	return text
}
