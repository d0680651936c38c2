package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Hosts and origins are compared as texts, so those of settings and of requests are first spelt in
// one way: lower case, no dot at the end, addresses as in RFC 5952, no default port. Settings with
// a host or origin that no request can have are refused, because they would match no request.

// requestHost spells the host that a request names: without its port and brackets.
func requestHost(hostport string) string {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.String()
	}
	return host
}

// shown returns a host or origin for an error, without a password that may stand in it.
func shown(text string) string {
	if at := strings.LastIndexByte(text, '@'); at >= 0 {
		return "***" + text[at:]
	}
	return text
}

// hostName reads the name of a host, with or without a port, as requests name it.
func hostName(text string) (string, error) {
	if strings.Contains(text, "://") {
		if u, err := url.Parse(text); err == nil && u.Host != "" {
			return "", fmt.Errorf("want the host alone: %s", u.Hostname())
		}
	}
	if err := checkPort(text); err != nil {
		return "", err
	}
	name := requestHost(text)
	if ip, err := netip.ParseAddr(name); err == nil {
		if ip.Zone() != "" {
			return "", errors.New("want the address without its zone, because no request names a zone")
		}
		return name, nil
	}
	return name, checkName(name)
}

// checkPort refuses a port that is not from 1 to 65535. A host without a port is fine.
func checkPort(hostport string) error {
	_, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil // none
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("the port %q is not a number from 1 to 65535", port)
	}
	return nil
}

// Limits of a host's name (RFC 1035, section 2.3.4).
const (
	maxNameBytes  = 253
	maxLabelBytes = 63
)

var errNoName = errors.New("want the name of a host, such as push.example.com")

// checkName refuses a text that is not the name of a host in lower case.
func checkName(name string) error {
	if strings.Contains(name, "*") {
		return errors.New("want the whole name of a host: there are no wildcards, so list each name")
	}
	for _, c := range name {
		switch {
		case c > 127:
			return errors.New("want the name as requests have it, in ASCII: xn--…")
		case (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_':
			return errNoName
		}
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > maxLabelBytes || len(name) > maxNameBytes {
			return errNoName
		}
	}
	// Browsers take a name that ends in a number for an address of IPv4, and spell it as four
	// numbers, or refuse it.
	if last := labels[len(labels)-1]; isNumber(last) {
		return errors.New("want an IPv4 address of four numbers, such as 10.0.0.7")
	}
	return nil
}

// isNumber tells whether browsers read a label as a number: of digits alone, or hexadecimal after
// 0x.
func isNumber(label string) bool {
	digits, hexadecimal := strings.CutPrefix(label, "0x")
	if !hexadecimal {
		return strings.Trim(label, "0123456789") == ""
	}
	return strings.Trim(digits, "0123456789abcdef") == ""
}

// originOf reads an origin and spells it as browsers do (RFC 6454, section 6.2): in lower case,
// without a default port.
func originOf(text string) (string, error) {
	u, err := url.Parse(strings.TrimSuffix(text, "/"))
	if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" ||
		u.Fragment != "" {
		return "", errors.New("want scheme://host[:port], such as https://app.example.com, or *")
	}
	name, err := hostName(u.Host)
	if err != nil {
		return "", err
	}
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	port := strings.TrimLeft(u.Port(), "0")
	if port != "" && u.Scheme+port != "http80" && u.Scheme+port != "https443" {
		name += ":" + port
	}
	return u.Scheme + "://" + name, nil
}
