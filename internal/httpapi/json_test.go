package httpapi

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// jsonText is what encoding/json makes of a string.
func jsonText(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// FuzzText holds the writer of strings against encoding/json, also when a string is written in
// pieces.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "abc", "\x00\x1f\x7f\b\f\n\r\t\"\\/<>&", "üß\u2028\u2029\u0085€😀", "\xff\xc3",
		"a\xe2\x80", "\xf0\x9f\x98", "\ufffd"} {
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, s string, n int) {
		want := jsonText(t, s)
		if got := `"` + string(appendText(nil, s)) + `"`; got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
		if got := textBytes(s); got != len(want)-2 {
			t.Errorf("%q: %d bytes, want %d", s, got, len(want)-2)
		}
		n = 4 + n&15
		var pieces []byte
		for rest := s; rest != ""; {
			var some string
			if some, rest = cutText(rest, n); some == "" {
				t.Fatalf("nothing was cut off %q", rest)
			}
			pieces = appendText(pieces, some)
		}
		if strings.ToValidUTF8(s, "") == s && `"`+string(pieces)+`"` != want {
			t.Errorf("%q in pieces of %d: %s, want %s", s, n, pieces, want)
		}
	})
}

// TestEventBytes: an event is never larger than it is taken for, and hardly smaller.
func TestEventBytes(t *testing.T) {
	c, err := fanfare.ParseChannel("a/ü\u2028\"")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []fanfare.Event{
		{Channel: c}, {Channel: c, Data: "\x01\n\"x", Time: time.Now()},
		{Channel: c, Data: "x", Time: time.Date(2026, 1, 1, 0, 0, 0, 123456789, time.UTC),
			Trace: strings.Repeat("0", 55)},
	} {
		b := appendEventTail(appendText(appendEventHead(nil, &e), e.Data), &e)
		if n := eventBytes(&e); len(b)+1 > n || len(b)+60 < n || !json.Valid(b) {
			t.Errorf("%s has %d bytes and is taken for %d", b, len(b), n)
		}
	}
}
