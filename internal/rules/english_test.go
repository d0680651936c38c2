package rules

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// trip is a phrase at which a reader stops to ask which thing is meant.
type trip struct {
	phrase *regexp.Regexp
	remedy string
	// inTexts says that texts of the program must not have the phrase either. Other phrases begin a
	// sentence, and a text may begin in the middle of one; and a channel may be called news.
	inTexts bool
}

var trips = []trip{
	{regexp.MustCompile(`(?i)\blet(s|ting)? go\b`), "say free, drop, release, unlock or end", true},
	{regexp.MustCompile(`(?i)\bso many\b`), "name the number, as n events", true},
	{regexp.MustCompile(`(?i)\bnews\b`), "say events, changes or warnings", false},
	{begins("Whatever"), "begin with the noun, as a body of any length", false},
	{begins("Who"), "begin with the noun, as a client that", false},
	{begins("What"), "begin with the noun, as events that", false},
}

// begins matches a sentence that begins with a word, and is no question.
func begins(word string) *regexp.Regexp { return regexp.MustCompile(`^` + word + `\b.*[^?]$`) }

var sentenceEnd = regexp.MustCompile(`[.!?] `)

// tripsIn returns the phrases of a text that trip its reader, with their remedies.
func tripsIn(text string, comment bool) (found []string) {
	for text != "" {
		sentence := text
		if end := sentenceEnd.FindStringIndex(text); end != nil {
			sentence = text[:end[0]+1]
		}
		text = strings.TrimPrefix(text[len(sentence):], " ")
		for _, t := range trips {
			at := t.phrase.FindStringIndex(sentence)
			if at == nil || !comment && !t.inTexts || strings.HasPrefix(sentence[at[1]:], " that ") {
				continue // "so many that a limit is needed" is no number
			}
			found = append(found, fmt.Sprintf("%q: %s", sentence, t.remedy))
		}
	}
	return found
}

// TestEnglish: no comment has one of the phrases of trips, and no text of the program has one with
// inTexts. CONTRIBUTING.md says how to write instead.
func TestEnglish(t *testing.T) {
	files, comments, texts := 0, 0, 0
	sources(t, func(path string, fset *token.FileSet, file *ast.File) {
		if path == "internal/rules/english_test.go" {
			return
		}
		files++
		for _, group := range file.Comments {
			comments++
			for paragraph := range strings.SplitSeq(group.Text(), "\n\n") {
				if strings.HasPrefix(paragraph, "\t") {
					continue // a drawing, or code
				}
				for _, found := range tripsIn(strings.Join(strings.Fields(paragraph), " "), true) {
					t.Errorf("%s: %s", fset.Position(group.Pos()), found)
				}
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING {
				texts++
				for _, found := range tripsIn(text.Value, false) {
					t.Errorf("%s: %s", fset.Position(text.Pos()), found)
				}
			}
			return true
		})
	})
	atLeast(t, 350, files, "files")
	atLeast(t, 4_000, comments, "comments")
	atLeast(t, 15_000, texts, "texts")
}

// TestTrips: tripsIn finds the phrases in a comment and in a text, and nothing in plain sentences.
func TestTrips(t *testing.T) {
	for text, in := range map[string][]string{
		"It lets go of the lock.":                       {"comment", "text"},
		"read returns at most so many events":           {"comment", "text"},
		"no news":                                       {"comment"},
		"Whatever it says, it ends.":                    {"comment"},
		"It waits. Who comes first is first.":           {"comment"},
		"What is stored is durable.":                    {"comment"},
		"What follows":                                  {"comment"},
		"There are so many that a limit is needed.":     nil,
		"Who may publish? Every client with the right.": nil,
		"Is it? Who reads doc.go first? All do.":        nil,
		"Is it? Who reads doc.go first, knows.":         {"comment"},
		"It says what is stored, and who may read it.":  nil,
		"newsletter, outlet, let it go on":              nil,
	} {
		for _, where := range []string{"comment", "text"} {
			found := len(tripsIn(text, where == "comment")) > 0
			if want := slices.Contains(in, where); found != want {
				t.Errorf("%q in a %s: found %v, want %v", text, where, found, want)
			}
		}
	}
}
