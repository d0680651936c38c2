package fanfare_test

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseChannel(t *testing.T) {
	for _, name := range []string{"a", "stores/42/pcs/7", "https://e.com/a", "/", "//", "$ack", "ü",
		strings.Repeat("x", 512), "a b", "..", "a%2Fb", "\u2028"} {
		c, err := fanfare.ParseChannel(name)
		if err != nil || c.String() != name || c.Reserved() != (name[0] == '$') {
			t.Errorf("%q: %v, %v", name, c, err)
		}
	}
	for _, name := range []string{"", strings.Repeat("x", 513), "a\nb", "a\x00", "\x7f", "\u0085", "*", "a/*", "a*",
		"\xff"} {
		if _, err := fanfare.ParseChannel(name); fanfare.CodeOf(err) != fanfare.CodeInvalid {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestParsePattern(t *testing.T) {
	for _, text := range []string{"a", "*", "**", "a/*", "a/**", "*/b/**", "$x/*", "a//*", "*/*"} {
		if p, err := fanfare.ParsePattern(text); err != nil || p.String() != text {
			t.Errorf("%q: %v, %v", text, p, err)
		}
	}
	for _, text := range []string{"", "a*", "*a", "a/b*", "**/a", "a/**/b", "***", "a/***", "a\n"} {
		if _, err := fanfare.ParsePattern(text); fanfare.CodeOf(err) != fanfare.CodeInvalid {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, channel string
		match, all       bool
	}{
		{"stores/**", "stores", false, false}, {"stores/**", "stores/1", true, true}, {"stores/**", "stores/1/pcs/2",
			true, true},
		{"stores/*", "stores/1", true, true}, {"stores/*", "stores/1/2", false, false}, {"stores/*", "stores/", true,
			true},
		{"**", "a", true, true}, {"**", "$a", false, true}, {"*", "$a", false, true}, {"*/x", "$a/x", false,
			true}, {"$a/*", "$a/x", true, true},
		{"a/*/c", "a/b/c", true, true}, {"a/*/c", "a/b/d", false, false}, {"*/*", "a", false, false}, {"a", "a", true,
			true}, {"a", "ab", false, false},
	} {
		p, err := fanfare.ParsePattern(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		ch, err := fanfare.ParseChannel(c.channel)
		if err != nil {
			t.Fatal(err)
		}
		if p.Match(ch) != c.match || p.MatchAll(ch) != c.all {
			t.Errorf("%s on %s: %v %v", c.pattern, c.channel, p.Match(ch), p.MatchAll(ch))
		}
	}
}

func TestPositionText(t *testing.T) {
	numbers := []fanfare.Position{0, 1, 31, 32, 1 << 20, 1 << 60, 1<<63 - 1, 1 << 63, 1<<64 - 1}
	var texts []string
	for _, n := range numbers {
		text := n.String()
		if back, err := fanfare.ParsePosition(text); err != nil || back != n || len(text) != fanfare.PositionTextBytes {
			t.Errorf("%d: %q, %v, %v", n, text, back, err)
		}
		texts = append(texts, text)
	}
	if !sort.StringsAreSorted(texts) {
		t.Errorf("text order is not numeric order: %v", texts)
	}
	for _, text := range []string{"", "0", "000000000000", "00000000000000", "G000000000000", "000000000000i",
		"000000000000U", "000000000000 ", "conn"} {
		if _, err := fanfare.ParsePosition(text); fanfare.CodeOf(err) != fanfare.CodeInvalid {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestEventType(t *testing.T) {
	for in, want := range map[string]string{"": "message", "message": "message", "x y": "x y",
		strings.Repeat("a", 128): strings.Repeat("a", 128)} {
		if k, err := fanfare.ParseEventType(in); err != nil || k.String() != want ||
			k.IsDefault() != (want == "message") {
			t.Errorf("%q: %v, %v", in, k, err)
		}
	}
	for _, in := range []string{"open", "error", "gap", "heartbeat", "a\n", "a\r", "a\x00", "\u009f",
		strings.Repeat("a", 129), "\xff"} {
		if _, err := fanfare.ParseEventType(in); fanfare.CodeOf(err) != fanfare.CodeInvalid {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func FuzzPosition(f *testing.F) {
	f.Add("1M86KMDZX0000")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := fanfare.ParsePosition(text); err == nil && p.String() != text {
			t.Fatalf("%q is read as %v: two texts for one position", text, p)
		}
	})
}

// slowMatch is the definition of Pattern.MatchAll on split segments.
func slowMatch(pattern, name []string) bool {
	switch {
	case len(pattern) == 0:
		return len(name) == 0
	case pattern[0] == "**":
		return len(name) >= 1
	case len(name) == 0:
		return false
	}
	return (pattern[0] == "*" || pattern[0] == name[0]) && slowMatch(pattern[1:], name[1:])
}

func FuzzPattern(f *testing.F) {
	f.Add("a/*/**", "a/b/c/d")
	f.Fuzz(func(t *testing.T, text, name string) {
		p, perr := fanfare.ParsePattern(text)
		c, cerr := fanfare.ParseChannel(name)
		if perr != nil || cerr != nil {
			t.Skip()
		}
		if got, want := p.MatchAll(c), slowMatch(strings.Split(text, "/"), strings.Split(name, "/")); got != want {
			t.Fatalf("%q on %q: %v, want %v", text, name, got, want)
		}
		if p.MatchAll(c) && !strings.HasPrefix(name, p.LiteralPrefix()) {
			t.Fatalf("%q matches %q, which does not begin with %q", text, name, p.LiteralPrefix())
		}
	})
}

func ExampleParsePattern() {
	p, _ := fanfare.ParsePattern("stores/**")
	for _, name := range []string{"stores", "stores/42", "stores/42/pcs/7"} {
		c, _ := fanfare.ParseChannel(name)
		fmt.Println(name, p.Match(c))
	}
	// Output:
	// stores false
	// stores/42 true
	// stores/42/pcs/7 true
}

func FuzzRule(f *testing.F) {
	for _, text := range []string{"**=age:7d", "a=b=count:1", "x/*=count:3,age:1h30m,bytes:10MiB", "=count:1",
		"a=bytes:99999999999999999999", "a=age:1d1ns"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := fanfare.ParseRule(text)
		if err != nil {
			return
		}
		if again, err := fanfare.ParseRule(r.String()); err != nil || again != r {
			t.Errorf("%q is written as %q, which is read as %+v, %v", text, r, again, err)
		}
	})
}

// TestCovers: a grant covers a subscription exactly when it matches every channel that the
// subscription matches. All patterns of up to three segments are held against all channels of up to
// five.
func TestCovers(t *testing.T) {
	var patterns []fanfare.Pattern
	var channels []fanfare.Channel
	var grow func(prefix string, depth int)
	grow = func(prefix string, depth int) {
		for _, segment := range []string{"a", "b", "*", "**", "$a", ""} {
			text := prefix + segment
			if p, err := fanfare.ParsePattern(text); err == nil {
				patterns = append(patterns, p)
			}
			if depth < 3 && segment != "**" {
				grow(text+"/", depth+1)
			}
		}
	}
	grow("", 1)
	var name func(prefix string, depth int)
	name = func(prefix string, depth int) {
		for _, segment := range []string{"a", "b", "c", "$a", "$b", ""} {
			if c, err := fanfare.ParseChannel(prefix + segment); err == nil {
				channels = append(channels, c)
			}
			if depth < 4 {
				name(prefix+segment+"/", depth+1)
			}
		}
	}
	name("", 1)
	matched := make([][]bool, len(patterns))
	for i, p := range patterns {
		for _, c := range channels {
			matched[i] = append(matched[i], p.Match(c))
		}
	}
	wrong := 0
	for i, p := range patterns {
		for j, q := range patterns {
			want := true
			for k, m := range matched[j] {
				if m && !matched[i][k] {
					want = false
					break
				}
			}
			if p.Covers(q) != want {
				if wrong++; wrong < 20 {
					t.Errorf("%q covers %q: %v", p, q, !want)
				}
			}
		}
	}
	t.Logf("%d patterns, %d channels", len(patterns), len(channels))
}

// TestPatternsOnce: the order stays, each pattern is there once, and one that is none is named.
func TestPatternsOnce(t *testing.T) {
	got, err := fanfare.ParsePatterns([]string{"a", "b/*", "a", "c", "b/*", "a"})
	var texts []string
	for _, p := range got {
		texts = append(texts, p.String())
	}
	if want := []string{"a", "b/*", "c"}; err != nil || !slices.Equal(texts, want) {
		t.Errorf("%v %v, want %v", texts, err, want)
	}
	if _, err := fanfare.ParsePatterns([]string{"a", "b*"}); fanfare.CodeOf(err) != fanfare.CodeInvalid ||
		!strings.Contains(err.Error(), "b*") {
		t.Error(err)
	}
}
