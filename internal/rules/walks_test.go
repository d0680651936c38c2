package rules

import (
	"go/ast"
	"go/token"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// hop is one line of a walk in CONTRIBUTING.md.
type hop struct {
	number int
	file   string
	name   string // of a function, or TYPE.METHOD
}

// TestWalks holds the walks of CONTRIBUTING.md against the code: each hop's function is in its
// file, there are at most 15 of them, and none goes back to a package that the walk has left.
func TestWalks(t *testing.T) {
	text, err := os.ReadFile("../../CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	there := functions(t)
	walks, hops := 0, 0
	for section := range strings.SplitSeq(string(text), "\n### ") {
		title, list, _ := strings.Cut(section, "\n")
		walk := hopsOf(list)
		if len(walk) == 0 {
			continue
		}
		walks++
		hops += len(walk)
		if len(walk) > 15 {
			t.Errorf("%s has %d hops, the limit is 15: hand over more directly", title, len(walk))
		}
		left := map[string]bool{}
		for i, h := range walk {
			if h.number != i+1 {
				t.Errorf("%s: hop %d has the number %d", title, i+1, h.number)
			}
			if !there[h.file+" "+h.name] {
				t.Errorf("%s, hop %d: %s has no function %s: correct the walk", title, h.number, h.file, h.name)
			}
			if left[path.Dir(h.file)] {
				t.Errorf("%s, hop %d goes back to %s", title, h.number, path.Dir(h.file))
			}
			if i+1 < len(walk) && path.Dir(walk[i+1].file) != path.Dir(h.file) {
				left[path.Dir(h.file)] = true
			}
		}
	}
	atLeast(t, 2, walks, "walks")
	atLeast(t, 20, hops, "hops")
}

var hopLine = regexp.MustCompile("(?m)^([0-9]+)\\. `([^`]+\\.go)` `([A-Za-z.]+)`")

func hopsOf(list string) (walk []hop) {
	for _, m := range hopLine.FindAllStringSubmatch(list, -1) {
		n, _ := strconv.Atoi(m[1])
		walk = append(walk, hop{n, m[2], m[3]})
	}
	return walk
}

// functions are those of the project, each as "FILE NAME" or "FILE TYPE.METHOD".
func functions(t *testing.T) map[string]bool {
	t.Helper()
	there := map[string]bool{}
	sources(t, func(path string, _ *token.FileSet, file *ast.File) {
		for _, d := range file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			name := fn.Name.Name
			if fn.Recv != nil {
				of := fn.Recv.List[0].Type
				if pointer, ok := of.(*ast.StarExpr); ok {
					of = pointer.X
				}
				if generic, ok := of.(*ast.IndexExpr); ok {
					of = generic.X
				}
				if id, ok := of.(*ast.Ident); ok {
					name = id.Name + "." + name
				}
			}
			there[path+" "+name] = true
		}
	})
	return there
}
