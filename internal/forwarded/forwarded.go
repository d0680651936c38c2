// Package forwarded finds out from where a request really comes, behind proxies that are trusted to
// say so.
package forwarded

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/fanfare-hub/fanfare"
)

// The headers that a proxy may say it in.
const (
	XForwardedFor = "X-Forwarded-For"
	Forwarded     = "Forwarded" // RFC 7239
)

// Resolver knows the proxies. The zero Resolver trusts none. Its methods may be called from any
// goroutine.
type Resolver struct {
	trusted []netip.Prefix
	unix    bool   // every client of a Unix socket is trusted
	header  string // the one that counts where a request has both
}

// New returns a Resolver that trusts proxies at the addresses and ranges, such as 10.0.0.0/8;
// `unix` is every client of a Unix socket. header is the header that counts if a request has both;
// default X-Forwarded-For. A proxy sets one of them and passes the other one on as the client sent
// it, so the client can write the wrong one itself.
func New(trusted []string, header string) (*Resolver, error) {
	r := &Resolver{header: XForwardedFor}
	switch {
	case header == "", strings.EqualFold(header, XForwardedFor):
	case strings.EqualFold(header, Forwarded):
		r.header = Forwarded
	default:
		return nil, fanfare.Invalid("proxy header %q: want X-Forwarded-For or Forwarded", header)
	}
	for _, text := range trusted {
		if text == "unix" {
			r.unix = true
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, aerr := netip.ParseAddr(text)
			if aerr != nil || a.Zone() != "" {
				return nil, fanfare.Invalid("trusted proxy %q: want an address, a range such as 10.0.0.0/8, or unix",
					text)
			}
			p = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
		}
		r.trusted = append(r.trusted, p.Masked())
	}
	return r, nil
}

// Trusts tells whether an address is a trusted proxy's.
func (r *Resolver) Trusts(a netip.Addr) bool {
	return slices.ContainsFunc(r.trusted, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Client returns the address that a request comes from: the peer's, or, when that is a trusted
// proxy, the last address in the header that is not one. limited is false for addresses that stand
// for no client in particular: loopback, a trusted proxy's own, and an address that cannot be read.
func (r *Resolver) Client(req *http.Request) (a netip.Addr, limited bool) {
	a, ok := peer(req.RemoteAddr)
	if !ok && !r.unix {
		return netip.Addr{}, false
	}
	if ok && !r.Trusts(a) {
		return a, !a.IsLoopback()
	}
	values := req.Header[r.header]
	forwarded := r.header == Forwarded
	if len(values) == 0 {
		other := map[bool]string{true: XForwardedFor, false: Forwarded}[forwarded]
		values, forwarded = req.Header[http.CanonicalHeaderKey(other)], !forwarded
	}
	// From the right: each proxy appends the address that it heard from. The text left of the first
	// untrusted address was written by that client itself.
	for i := len(values) - 1; i >= 0; i-- {
		items := strings.Split(values[i], ",") // X-Forwarded-For knows no quotes
		if forwarded {
			items = split(values[i])
		}
		for j := len(items) - 1; j >= 0; j-- {
			text := strings.TrimSpace(items[j])
			if forwarded {
				text = forParameter(text)
			}
			next, ok := parseAddress(text)
			if !ok {
				return a, false // the proxy does not know the address, or hides it: no client in particular
			}
			if a = next; !r.Trusts(a) {
				return a, !a.IsLoopback()
			}
		}
	}
	return a, false
}

// Prefix returns the path below which a client sees the hub, such as /push, "" for the root: the
// prefix that a handler in front has removed (http.StripPrefix), and, if the peer is a trusted
// proxy, the prefix that the proxy says it has removed (X-Forwarded-Prefix).
func (r *Resolver) Prefix(req *http.Request) string {
	own := ""
	if seen, _, _ := strings.Cut(req.RequestURI, "?"); strings.HasPrefix(seen, "/") {
		if prefix, ok := strings.CutSuffix(seen, req.URL.EscapedPath()); ok && plainPath(prefix) {
			own = prefix
		}
	}
	a, ok := peer(req.RemoteAddr)
	if (ok && !r.Trusts(a)) || (!ok && !r.unix) {
		return own
	}
	said := strings.TrimSuffix(req.Header.Get("X-Forwarded-Prefix"), "/")
	if !plainPath(said) || said == own {
		return own
	}
	return said + own
}

// maxPrefix is the longest prefix that a proxy may say.
const maxPrefix = 256

// plainPath tells whether a text is a path and can be nothing else in a URL.
func plainPath(text string) bool {
	if len(text) > maxPrefix || !strings.HasPrefix(text, "/") || strings.HasPrefix(text, "//") ||
		strings.Contains(text, "..") {
		return false
	}
	for _, c := range text {
		plain := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			strings.ContainsRune("/-._~", c)
		if !plain {
			return false
		}
	}
	return true
}

func peer(remote string) (netip.Addr, bool) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return netip.Addr{}, false // a Unix socket
	}
	return parseAddress(host)
}

// split cuts a list at commas that stand outside of quotes. A list that ends within quotes is cut
// at every comma: a client may leave quotes open so that the proxy's addition is taken for a part
// of the client's own text.
func split(list string) (items []string) {
	quoted, begin := false, 0
	for i := 0; i < len(list); i++ {
		switch list[i] {
		case '"':
			quoted = !quoted
		case '\\':
			if quoted {
				i++
			}
		case ',':
			if !quoted {
				items = append(items, list[begin:i])
				begin = i + 1
			}
		}
	}
	if quoted {
		return strings.Split(list, ",")
	}
	return append(items, list[begin:])
}

// forParameter is the value of `for` in one element of a Forwarded header (RFC 7239, section 4); ""
// when there is none.
func forParameter(element string) string {
	for _, pair := range strings.Split(element, ";") {
		name, value, ok := strings.Cut(pair, "=")
		if ok && strings.EqualFold(strings.TrimSpace(name), "for") {
			return strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return ""
}

// parseAddress reads an address that may have brackets and a port.
func parseAddress(text string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	return netip.Addr{}, false
}
