package main

import (
	"net/url"
	"os"
	"strings"

	"github.com/fanfare-hub/fanfare/auth"
)

// withoutPassword hides the part of a URL before the @, which may hold a password. It shows a
// user's name only when a password follows it. When the text is no valid URL, for example because
// its password has a % or a / in it, all text from // to the last @ is hidden. Text without //
// stays as it is.
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

// parseTarget reads the address of a hub, to which paths are added. It refuses a query, and an @
// behind the host: the / before it is most likely part of a password, which would be sent, and
// shown, as a path.
func parseTarget(text string) (*url.URL, bool) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, false
	}
	return u, !strings.ContainsAny(text, "?#") && !strings.Contains(u.Path, "@")
}

// shownKey hides a text that may be the secret itself, written in place of its file's name.
func shownKey(text string) string {
	k, err := auth.ParseKey(text)
	if err == nil && !strings.HasPrefix(k.Algorithm, "HS") {
		return text
	}
	if _, err := os.Stat(k.File); err == nil {
		return text
	}
	head, _, found := strings.Cut(text, "=")
	if !found {
		return "***"
	}
	return head + "=***"
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
