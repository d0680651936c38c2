package rules

import (
	"go/ast"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestMachineIsPure: the machine of package stream does no I/O, starts no goroutine, takes no lock
// and asks no clock (ADR 23).
func TestMachineIsPure(t *testing.T) {
	may := []string{
		"bytes", "context", "encoding/json", "errors", "math/rand/v2", "strings", "sync/atomic", "time",
		module, module + "/internal/hub", module + "/internal/poll", module + "/sse",
	}
	clocks := []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Sleep", "Tick"}
	files := 0
	sources(t, func(path string, fset *token.FileSet, file *ast.File) {
		name := filepath.Base(path)
		if !strings.HasSuffix(filepath.Dir(path), filepath.Join("internal", "stream")) ||
			!strings.HasPrefix(name, "machine") || strings.HasSuffix(name, "_test.go") {
			return
		}
		files++
		for _, i := range file.Imports {
			if p, _ := strconv.Unquote(i.Path.Value); !slices.Contains(may, p) {
				t.Errorf("%s imports %s: let the runner do that, or admission, and tell the machine", path, p)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			at := fset.Position(token.NoPos)
			if n != nil {
				at = fset.Position(n.Pos())
			}
			switch n := n.(type) {
			case *ast.GoStmt, *ast.SelectStmt, *ast.SendStmt:
				t.Errorf("%s: the machine starts no goroutine and waits for none", at)
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && (x.Name == "time" && slices.Contains(clocks, n.Sel.Name) ||
					x.Name == "poll" && n.Sel.Name != "Instant") {
					t.Errorf("%s: %s.%s: the runner tells the machine the time", at, x.Name, n.Sel.Name)
				}
			}
			return true
		})
	})
	atLeast(t, 3, files, "files of the machine")
}
