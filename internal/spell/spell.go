// Package spell finds the known name that the author of an unknown one probably meant.
package spell

import "strings"

// synonyms are the names that other services use for known names of the hub.
var synonyms = map[string]string{
	"type": "event", "kind": "event",
	"topic":   "channel",
	"payload": "data", "message": "data", "body": "data",
	"key": "idempotencyKey",
}

// Nearest returns the known name that word probably stands for, and "" when none is near. A name is
// near when it differs in case or in separators alone, when word is a synonym of it, or when it
// takes one edit to get from one to the other: a letter more or less, or two letters swapped. Names
// of eight letters and more may take two edits, another letter among them; of shorter ones another
// letter makes another word: pcIp is not pcId. A word that is known is near itself.
func Nearest(word string, known ...string) string {
	folded := fold(word)
	best, fewest := "", 3
	for _, name := range known {
		if name == word {
			return name
		}
		if n := edits(folded, fold(name)); n <= allowed(folded, name) && n < fewest &&
			!otherLetter(folded, fold(name)) {
			best, fewest = name, n
		}
	}
	if best != "" {
		return best
	}
	meant := synonyms[strings.ToLower(word)]
	for _, name := range known {
		if name == meant {
			return name
		}
	}
	return ""
}

// fold leaves out case and separators: idempotency_key and Idempotency-Key are the same name.
func fold(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// allowed is how many edits may lie between two names. Short ones must fit exactly: `v` and `t` are
// everybody's.
func allowed(word, name string) int {
	switch n := min(len(word), len(name)); {
	case n < 4:
		return 0
	case n < 8:
		return 1
	}
	return 2
}

// otherLetter tells whether two words of the same length, short ones or with their last letters
// apart, differ in one letter.
func otherLetter(a, b string) bool {
	if len(a) != len(b) || a == b {
		return false
	}
	differ, last := 0, 0
	for i := range len(a) {
		if a[i] != b[i] {
			differ, last = differ+1, i
		}
	}
	return differ == 1 && (len(a) < 8 || last == len(a)-1)
}

// longest is longer than any known name.
const longest = 64

// edits counts the edits between two words, up to three: the optimal string alignment distance.
func edits(a, b string) int {
	const many = 3
	if len(a) > longest || len(b) > longest || len(a)-len(b) >= many || len(b)-len(a) >= many {
		return many
	}
	var before, last, row [longest + 1]int
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			same := 1
			if a[i-1] == b[j-1] {
				same = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+same)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return min(last[len(b)], many)
}
