package forwarded_test

import (
	"net/http"
	"net/netip"
	"testing"

	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare/internal/forwarded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func request(remote string, headers ...string) *http.Request {
	r := &http.Request{RemoteAddr: remote, Header: http.Header{}}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

// TestClient: whose word counts, how far, and in which header.
func TestClient(t *testing.T) {
	const x, f = "X-Forwarded-For", "Forwarded"
	trusting, err := forwarded.New([]string{"10.0.0.0/8", "192.0.2.1", "fd00::/8", "127.0.0.0/8"}, "")
	if err != nil {
		t.Fatal(err)
	}
	other, err := forwarded.New([]string{"10.0.0.0/8"}, "forwarded")
	if err != nil {
		t.Fatal(err)
	}
	unix, err := forwarded.New([]string{"unix"}, "")
	if err != nil {
		t.Fatal(err)
	}
	nobody := &forwarded.Resolver{}
	for name, c := range map[string]struct {
		r       *forwarded.Resolver
		req     *http.Request
		address string
		limited bool
	}{
		"the peer":              {nobody, request("203.0.113.7:1"), "203.0.113.7", true},
		"nobody is trusted":     {nobody, request("203.0.113.7:1", x, "1.2.3.4"), "203.0.113.7", true},
		"not this one":          {trusting, request("203.0.113.7:1", x, "1.2.3.4"), "203.0.113.7", true},
		"a stranger's loopback": {trusting, request("203.0.113.7:1", x, "127.0.0.1"), "203.0.113.7", true},
		"loopback":              {nobody, request("127.0.0.1:1"), "127.0.0.1", false},
		"IPv6 loopback":         {nobody, request("[::1]:1"), "::1", false},
		"mapped":                {nobody, request("[::ffff:203.0.113.7]:1"), "203.0.113.7", true},
		"a proxy":               {trusting, request("10.1.1.1:1", x, "203.0.113.7"), "203.0.113.7", true},
		"a mapped proxy": {trusting, request("[::ffff:10.1.1.1]:1", x, "203.0.113.7"), "203.0.113.7",
			true},
		"a proxy's own": {trusting, request("10.1.1.1:1"), "10.1.1.1", false},
		"proxies behind proxies": {trusting,
			request("10.1.1.1:1", x, "8.8.8.8, 203.0.113.7,192.0.2.1 , 10.9.9.9"), "203.0.113.7", true},
		"several headers": {trusting,
			request("10.1.1.1:1", x, "8.8.8.8", x, "203.0.113.7", x, "10.2.2.2"), "203.0.113.7", true},
		"forged by the client": {trusting, request("10.1.1.1:1", x, "10.0.0.1, 127.0.0.1, 203.0.113.7"),
			"203.0.113.7", true},
		"all proxies": {trusting, request("10.1.1.1:1", x, "10.0.0.1, 10.0.0.2"), "10.0.0.1", false},
		"garbage":     {trusting, request("10.1.1.1:1", x, "203.0.113.7, x"), "10.1.1.1", false},
		"garbage left of the client": {trusting, request("10.1.1.1:1", x, "x'; DROP, 203.0.113.7"), "203.0.113.7",
			true},
		"with a port": {trusting, request("10.1.1.1:1", x, "203.0.113.7:4711"), "203.0.113.7", true},
		"IPv6 with a port": {trusting, request("10.1.1.1:1", x, "[2001:db8::1]:4711"), "2001:db8::1",
			true},
		"IPv6 in brackets": {trusting, request("10.1.1.1:1", x, "[2001:db8::1]"), "2001:db8::1", true},
		"IPv6 with a zone": {trusting, request("10.1.1.1:1", x, "fe80::1%eth0"), "fe80::1", true},
		"empty":            {trusting, request("10.1.1.1:1", x, ""), "10.1.1.1", false},
		"Forwarded alone": {trusting, request("10.1.1.1:1", f, `for=203.0.113.7;proto=https;by=10.1.1.1`),
			"203.0.113.7", true},
		"Forwarded, quoted": {trusting, request("10.1.1.1:1", f, `for=8.8.8.8, For="[2001:db8::1]:4711"`),
			"2001:db8::1", true},
		"Forwarded, a comma in quotes": {trusting, request("10.1.1.1:1", f, `for=203.0.113.7;host="a,for=8.8.8.8"`),
			"203.0.113.7", true},
		"Forwarded, a quote in quotes": {trusting, request("10.1.1.1:1", f, `for=203.0.113.7;host="a\",for=8.8.8.8"`),
			"203.0.113.7", true},
		"a quote left open": {trusting, request("10.1.1.1:1", x, `", 203.0.113.7`), "203.0.113.7", true},
		"Forwarded, a quote left open": {trusting, request("10.1.1.1:1", f, `for="a, for=203.0.113.7`), "203.0.113.7",
			true},
		"Forwarded, open, then quoted": {trusting, request("10.1.1.1:1", f, `for="\", for="[2001:db8::1]:4711"`),
			"2001:db8::1", true},
		"Forwarded, unknown": {trusting, request("10.1.1.1:1", f, `for=8.8.8.8, for=unknown`), "10.1.1.1",
			false},
		"Forwarded, hidden": {trusting, request("10.1.1.1:1", f, `for=_gazonk`), "10.1.1.1", false},
		"both, X-Forwarded-For counts": {trusting, request("10.1.1.1:1", x, "203.0.113.7", f, "for=8.8.8.8"),
			"203.0.113.7", true},
		"both, Forwarded counts": {other, request("10.1.1.1:1", x, "8.8.8.8", f, "for=203.0.113.7"),
			"203.0.113.7", true},
		"the other one alone":           {other, request("10.1.1.1:1", x, "203.0.113.7"), "203.0.113.7", true},
		"a Unix socket":                 {trusting, request("@"), "", false},
		"a Unix socket with the header": {trusting, request("@", x, "203.0.113.7"), "", false},
		"a trusted Unix socket":         {unix, request("@", x, "203.0.113.7"), "203.0.113.7", true},
		"a trusted Unix socket, alone":  {unix, request("@"), "", false},
	} {
		a, limited := c.r.Client(c.req)
		want := netip.Addr{}
		if c.address != "" {
			want = netip.MustParseAddr(c.address)
		}
		if a != want || limited != c.limited {
			t.Errorf("%s: %v %v, want %s %v", name, a, limited, c.address, c.limited)
		}
	}
	for _, text := range []string{"", "x", "10.0.0.0/33", "fe80::1%eth0", "0.0.0.0.0"} {
		if _, err := forwarded.New([]string{text}, ""); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	if _, err := forwarded.New(nil, "X-Real-IP"); err == nil {
		t.Error("X-Real-IP was taken")
	}
}

func FuzzForwarded(f *testing.F) {
	f.Add("203.0.113.7, 10.0.0.1", `for="[2001:db8::1]:4711", for=10.0.0.1`)
	f.Add(`"`, `for="\`)
	f.Add(`"`, `for="a", x="`)
	r, err := forwarded.New([]string{"10.0.0.0/8"}, "")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, x, fwd string) {
		for _, headers := range [][]string{{"X-Forwarded-For", x}, {"Forwarded", fwd}} {
			// A stranger's headers change nothing.
			if a, limited := r.Client(request("203.0.113.9:1", headers...)); a.String() != "203.0.113.9" || !limited {
				t.Fatalf("%q: %v %v", headers, a, limited)
			}
			// The address that a proxy appends counts, after any text of the client.
			appended := headers[1] + ", 203.0.113.7"
			if headers[0] == "Forwarded" {
				appended = headers[1] + ", for=203.0.113.7"
			}
			if a, limited := r.Client(request("10.0.0.1:1", headers[0], appended)); a.String() != "203.0.113.7" ||
				!limited {
				t.Fatalf("%q: %v %v", appended, a, limited)
			}
			if a, limited := r.Client(request("10.0.0.1:1", headers...)); limited && (!a.IsValid() || a.IsLoopback()) {
				t.Fatalf("%q: %v", headers, a)
			}
		}
	})
}
