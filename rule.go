package fanfare

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare/internal/units"
)

// Rule says which events of each channel that Pattern matches are retained; a leading wildcard
// matches reserved channels too. If several rules match a channel, the one with the most specific
// pattern applies alone.
type Rule struct {
	Pattern Pattern
	Count   int           // how many of the newest events of each channel; 0: any number
	Age     time.Duration // events younger than this; 0: of any age
	// how many bytes of data of the newest events of each channel, and always the last event; 0:
	// any number
	Bytes int64
	// the newest event of each channel, however old it is: Age leaves it
	Latest bool
}

// DefaultRetention keeps everything for seven days.
func DefaultRetention() []Rule {
	all, _ := ParsePattern("**")
	return []Rule{{Pattern: all, Age: 7 * 24 * time.Hour}}
}

// String is the text that ParseRule reads.
func (r Rule) String() string {
	var limits []string
	if r.Count > 0 {
		limits = append(limits, "count:"+strconv.Itoa(r.Count))
	}
	if r.Age > 0 {
		limits = append(limits, "age:"+formatDuration(r.Age))
	}
	if r.Bytes > 0 {
		limits = append(limits, "bytes:"+strconv.FormatInt(r.Bytes, 10))
	}
	if r.Latest {
		limits = append(limits, "latest")
	}
	return r.Pattern.String() + "=" + strings.Join(limits, ",")
}

// ParseRule reads `PATTERN=count:N,age:D,bytes:B`, with at least one of the three. D is a Go
// duration, in which `d` stands for 24 hours; B is a number of bytes, or one with a unit such as
// 64KiB or 10MB. Beside an age, `latest` keeps each channel's newest event however old it is.
func ParseRule(text string) (Rule, error) {
	at := strings.LastIndexByte(text, '=')
	if at < 0 {
		return Rule{}, Invalid("retention rule %q: want PATTERN=count:N,age:D,bytes:B", text)
	}
	pattern, err := ParsePattern(text[:at])
	if err != nil {
		return Rule{}, fmt.Errorf("retention rule %q: %w", text, err)
	}
	r := Rule{Pattern: pattern}
	for _, limit := range strings.Split(text[at+1:], ",") {
		name, value, _ := strings.Cut(limit, ":")
		switch strings.TrimSpace(name) {
		case "count":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || r.Count != 0 {
				return Rule{}, Invalid("retention rule %q: count must be a whole number from 1, once", text)
			}
			r.Count = n
		case "age":
			d, err := units.ParseDuration(value)
			if err != nil || d < time.Millisecond || r.Age != 0 {
				return Rule{}, Invalid("retention rule %q: age must be a time such as 90m or 7d, once", text)
			}
			r.Age = d
		case "bytes":
			n, err := units.ParseBytes(value)
			if err != nil || n < 1 || r.Bytes != 0 {
				return Rule{}, Invalid("retention rule %q: bytes must be a size such as 64KiB or 10MB, once", text)
			}
			r.Bytes = n
		case "latest":
			if value != "" || r.Latest {
				return Rule{}, Invalid("retention rule %q: latest stands alone, once", text)
			}
			r.Latest = true
		default:
			return Rule{}, Invalid("retention rule %q: %q is none of count, age, bytes and latest",
				text, limit)
		}
	}
	if r.Latest && r.Age == 0 {
		return Rule{}, Invalid("retention rule %q: latest goes with an age, from which it keeps the newest event", text)
	}
	return r, nil
}

// formatDuration writes whole days as such.
func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	text := d.String()
	text = strings.TrimSuffix(text, "0s")
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	if text == "" || !strings.ContainsAny(text[len(text)-1:], "hms") {
		return d.String()
	}
	return text
}

// RuleReport says how much a retention rule holds, and how much it would remove.
type RuleReport struct {
	Rule     Rule // the zero Rule for channels that no rule matches
	Channels uint64
	Events   uint64    // that readers see at present
	Bytes    uint64    // of their data
	Oldest   time.Time // of these; zero when there are none

	RemovesEvents uint64 // of Events: how many the rule would remove
	RemovesBytes  uint64
}
