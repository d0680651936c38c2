package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func all(*http.Request) bool { return true }

func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"POST /v1/channels/a?x=1 HTTP/1.1\r\nHost: localhost:80\r\nContent-Length: 3\r\n\r\nabcPOST /",
		"POST /v1/events HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nX-a:  b \r\nx-A: c\r\nConnection: " +
			"Keep-Alive\r\n\r\n",
		"POST //a/../%2f HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 00\r\nA_b:\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
		"POST /a HTTP/1.1\nHost: a\nContent-Length: 1\n\na",
		"POST /%zz HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na", "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		compare(t, b)
		compare(t, append([]byte("POST /"), b...))
		compare(t, append([]byte("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"), b...))
	})
}

// compare holds what is made of a request against what net/http makes of it, in each piece that its
// bytes may come in.
func compare(t *testing.T, b []byte) {
	r := new(request)
	used, v := parse(b, r, all)
	if v == foreign {
		return
	}
	if v == partial {
		if bytes.Contains(b, []byte("\r\n\r\n")) && used <= len(b) {
			t.Fatalf("%q: more is waited for, though %d bytes are enough", b, used)
		}
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(bytes.NewReader(b))
	want, err := http.ReadRequest(in)
	if err != nil {
		t.Fatalf("%q: net/http says %v", b, err)
	}
	wantBody, err := io.ReadAll(want.Body)
	if err != nil {
		t.Fatalf("%q: net/http says %v", b, err)
	}
	rest, _ := io.ReadAll(in)
	got := fmt.Sprintf(
		"%s %s %s %+v %q %q %v %v %d %d.%d %v %q %v",
		r.Method,
		r.RequestURI,
		r.Proto,
		*r.URL,
		r.Host,
		body,
		r.Close,
		r.TransferEncoding,
		r.ContentLength,
		r.ProtoMajor,
		r.ProtoMinor,
		r.Trailer,
		b[used:],
		r.Header,
	)
	if w := fmt.Sprintf("%s %s %s %+v %q %q %v %v %d %d.%d %v %q %v", want.Method, want.RequestURI, want.Proto,
		*want.URL, want.Host, wantBody, want.Close, want.TransferEncoding, want.ContentLength, want.ProtoMajor,
		want.ProtoMinor, want.Trailer, rest, want.Header); got != w {
		t.Fatalf("%q\n got %s\nwant %s", b, got, w)
	}
	for i := range used {
		if _, v := parse(b[:i], new(request), all); v != partial {
			t.Fatalf("%q: the first %d bytes alone are %d", b, i, v)
		}
	}
}

// TestWhatIsOurs: the simplest shape, and nothing that two readers might read in two ways.
func TestWhatIsOurs(t *testing.T) {
	const host, length = "Host: localhost\r\n", "Content-Length: 1\r\n"
	for head, want := range map[string]verdict{
		"POST /a HTTP/1.1\r\n" + host + length:                                                   whole,
		"POST /a?b=c%20d HTTP/1.1\r\n" + host + length + "Accept: */*\r\nX-Y_z: \"a, b\"\r\n":    whole,
		"POST /a HTTP/1.1\r\n" + host + length + "Connection: keep-alive\r\n":                    whole,
		"GET /a HTTP/1.1\r\n" + host:                                                             foreign,
		"PUT /a HTTP/1.1\r\n" + host + length:                                                    foreign,
		"POST /a HTTP/1.0\r\n" + host + length:                                                   foreign,
		"POST /a HTTP/1.1 \r\n" + host + length:                                                  foreign,
		"POST  /a HTTP/1.1\r\n" + host + length:                                                  foreign,
		"POST http://a/ HTTP/1.1\r\n" + host + length:                                            foreign,
		"POST * HTTP/1.1\r\n" + host + length:                                                    foreign,
		"POST /a#b HTTP/1.1\r\n" + host + length:                                                 foreign,
		"POST /\x80 HTTP/1.1\r\n" + host + length:                                                foreign,
		"POST /a HTTP/1.1\r\n" + length:                                                          foreign,
		"POST /a HTTP/1.1\r\n" + host + host + length:                                            foreign,
		"POST /a HTTP/1.1\r\nHost: a/b\r\n" + length:                                             foreign,
		"POST /a HTTP/1.1\r\n" + host:                                                            foreign,
		"POST /a HTTP/1.1\r\n" + host + length + length:                                          foreign,
		"POST /a HTTP/1.1\r\n" + host + "Content-Length: 1, 1\r\n":                               foreign,
		"POST /a HTTP/1.1\r\n" + host + "Content-Length: +1\r\n":                                 foreign,
		"POST /a HTTP/1.1\r\n" + host + "Content-Length: 0x1\r\n":                                foreign,
		"POST /a HTTP/1.1\r\n" + host + "Content-Length: 65537\r\n":                              foreign,
		"POST /a HTTP/1.1\r\n" + host + "Content-Length:\r\n":                                    foreign,
		"POST /a HTTP/1.1\r\n" + host + "Content-Length: 99999999999999\r\n":                     foreign,
		"POST /a HTTP/1.1\r\n" + host + length + "Transfer-Encoding: x\r\n":                      foreign,
		"POST /a HTTP/1.1\r\n" + host + length + "Transfer-Encoding : x\r\n":                     foreign,
		"POST /a HTTP/1.1\r\n" + host + length + "transfer-encoding: x\r\n":                      foreign,
		"POST /a HTTP/1.1\r\n" + host + length + "Expect: 100-continue\r\n":                      foreign,
		"POST /a HTTP/1.1\r\n" + host + length + "Connection: close\r\n":                         foreign,
		"POST /a HTTP/1.1\r\n" + host + length + "Connection: x, keep-alive\r\n":                 foreign,
		"POST /a HTTP/1.1\r\n" + host + length + "Upgrade: h2c\r\n":                              foreign,
		"POST /a HTTP/1.1\r\n" + host + length + "A: b\r\n c: d\r\n":                             foreign,
		"POST /a HTTP/1.1\r\n" + host + length + " A: b\r\n":                                     foreign,
		"POST /a HTTP/1.1\r\n" + host + length + "A: b\tc\r\n":                                   foreign,
		"POST /a HTTP/1.1\r\n" + host + length + "A: b\x00\r\n":                                  foreign,
		"POST /a HTTP/1.1\r\n" + host + length + "A: b\rc\r\n":                                   foreign,
		"POST /a HTTP/1.1\r\n" + host + length + "A: b\nc: d\r\n":                                foreign,
		"POST /a HTTP/1.1\r\n" + host + length + "A(b): c\r\n":                                   foreign,
		"POST /a HTTP/1.1\r\n" + host + length + ": c\r\n":                                       foreign,
		"POST /a HTTP/1.1\r\n" + host + length + "A\r\n":                                         foreign,
		"POST /a HTTP/1.1\r\n" + host + length + strings.Repeat("A: b\r\n", headerLines):         foreign,
		"POST /a HTTP/1.1\r\n" + host + length + "A: " + strings.Repeat("b", headBytes) + "\r\n": foreign,
		"\r\nPOST /a HTTP/1.1\r\n" + host + length:                                               foreign,
	} {
		b := []byte(head + "\r\nx")
		if _, v := parse(b, new(request), all); v != want {
			t.Errorf("%q: %d, want %d", head, v, want)
		}
		compare(t, b)
	}
	ours := []byte("POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
	if _, v := parse(ours, new(request), func(r *http.Request) bool { return r.URL.Path != "/a" }); v != foreign {
		t.Error("a request that nobody takes is ours")
	}
	long := []byte("POST /a HTTP/1.1\r\nHost: a\r\nA: " + strings.Repeat("b", headBytes))
	if _, v := parse(long[:headBytes-1], new(request), all); v != partial {
		t.Errorf("a long head that may still end: %d", v)
	}
	if _, v := parse(long, new(request), all); v != foreign {
		t.Errorf("a head that is too long already: %d", v)
	}
}

func TestManyHeaderLines(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n")
	want := http.Header{"Content-Length": {"0"}}
	for i := range 40 {
		name := fmt.Sprintf("X-%d", i%30)
		fmt.Fprintf(&b, "%s: %d\r\n", name, i)
		want.Add(name, fmt.Sprint(i))
	}
	b.WriteString("\r\n")
	r := new(request)
	if _, v := parse(b.Bytes(), r, all); v != whole {
		t.Fatal(v)
	}
	if diff := cmp.Diff(want, r.Header); diff != "" {
		t.Error(diff)
	}
}
