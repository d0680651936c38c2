// Package rules holds the project's own rules, as tests whose messages say the remedy.
package rules

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const module = "github.com/fanfare-hub/fanfare"

type goPackage struct {
	ImportPath                         string
	Name                               string
	Imports, TestImports, XTestImports []string
	GoFiles, TestGoFiles, XTestGoFiles []string
	Dir                                string
}

// atLeast fails a check that has looked at so little that it has not looked: a path that has
// changed, say.
func atLeast(t *testing.T, least, n int, what string) {
	t.Helper()
	if n < least {
		t.Errorf("only %d %s were looked at, want %d at least: does this check still find them?", n, what, least)
	}
}

func packages(t *testing.T) (list []goPackage) {
	t.Helper()
	cmd := exec.Command("go", "list", "-json", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			atLeast(t, 35, len(list), "packages")
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

func standard(path string) bool { return !strings.Contains(strings.Split(path, "/")[0], ".") }

// layer says what a package may import besides the standard library.
type layer struct {
	may     []string // packages of ours, without the module's path; "" is the root
	others  []string // prefixes of other modules
	noHTTP  bool
	because string
}

var adapters = []string{"", "internal/hub", "sse", "internal/audit", "internal/caller", "internal/problem",
	"internal/publish", "internal/query", "internal/stream"}

// leaves know nothing of the project, and may be imported everywhere.
var leaves = []string{"histogram", "internal/units"}

var layers = map[string]layer{
	"":    {noHTTP: true, because: "the root package is nouns and promises"},
	"sse": {because: "the wire is a library of its own"},
	"internal/hub": {may: []string{""}, noHTTP: true,
		because: "the core has never heard of HTTP, the wire or an engine"},
	"logtest": {may: []string{""}, others: []string{"github.com/google/go-cmp"},
		because: "the suite knows the contract alone"},
	"pebblelog": {may: []string{""}, others: []string{"github.com/cockroachdb/pebble/v2"}, noHTTP: true,
		because: "an engine has never heard of a subscriber"},
	"internal/problem": {may: []string{""}, because: "adapters share it"},
	"internal/publish": {may: []string{"", "internal/audit", "internal/caller", "internal/limit", "internal/spell"},
		because: "adapters share it"},
	"internal/wire": {may: []string{"", "internal/hub", "sse"}, noHTTP: true,
		because: "how an event stands on a stream is in one place"},
	"internal/query": {may: []string{"", "internal/hub", "internal/spell"}, because: "adapters share it"},
	"internal/stream": {
		may: []string{"", "internal/hub", "sse", "internal/audit", "internal/caller", "internal/peer",
			"internal/poll", "internal/problem"},
		others: []string{"golang.org/x/sys", "golang.org/x/time"}, because: "adapters share it",
	},
	"auth": {
		may: []string{"", "internal/fleet", "internal/spell"}, others: []string{"github.com/golang-jwt/jwt/v5",
			"github.com/MicahParks/jwkset"},
		because: "it turns tokens into principals, and has never heard of what they are used for",
	},
	"internal/fleet": {may: []string{""}, noHTTP: true,
		because: "how the channels of stores and PCs are spelt is in one place"},
	"histogram":       {noHTTP: true, because: "it counts durations, whoever publishes the figures"},
	"internal/units":  {noHTTP: true, because: "times and sizes are read alike everywhere"},
	"internal/spell":  {noHTTP: true, because: "bodies, queries and settings share it"},
	"internal/caller": {may: []string{""}, noHTTP: true, because: "adapters share it"},
	"internal/audit":  {may: []string{"internal/caller"}, noHTTP: true, because: "adapters share it"},
	"internal/peer": {may: []string{"internal/poll"}, noHTTP: true, others: []string{"golang.org/x/sys"},
		because: "it knows connections, and nothing of what is on them"},
	"internal/poll": {noHTTP: true, others: []string{"golang.org/x/sys"}, because: "it knows sockets alone"},
	"internal/http1": {may: []string{"internal/limit", "internal/poll"}, others: []string{"golang.org/x/sys"},
		because: "it is net/http's handler on another way in, and knows no hub"},
	"internal/limit": {may: []string{""}, others: []string{"golang.org/x/time"},
		because: "only it knows token buckets"},
	"internal/load": {may: nil, noHTTP: true, others: []string{"golang.org/x/sys"},
		because: "it measures from outside, and other servers too"},
	"internal/forwarded": {may: []string{""}, because: "the trust in proxies is in one place"},
	"internal/commands": {may: []string{"", "internal/hub"}, noHTTP: true,
		because: "the life of a command is the same in all adapters"},
	"internal/httpapi": {may: adapters, because: "adapters have never heard of each other, nor of an engine"},
	"internal/storeapi": {may: append([]string{"internal/fleet", "internal/commands"}, adapters...),
		because: "adapters have never heard of each other, nor of an engine"},
	"internal/promstats": {may: []string{"", "internal/hub", "internal/stream"},
		others: []string{"github.com/prometheus/client_golang"}, because: "only it knows Prometheus"},
	"internal/stats": {may: adapters, because: "it reads what the core and the streams report"},
	"internal/adminapi": {may: append([]string{"internal/stats"}, adapters...),
		because: "an operator's calls reach the log by its contract alone"},
	"examples":         {because: "pages, embedded; their publishers are programs of their own"},
	"internal/console": {because: "pages use the public API"},
	"server": {
		may: append([]string{"internal/adminapi", "internal/console", "internal/stats", "examples",
			"internal/httpapi", "internal/storeapi", "internal/commands",
			"internal/promstats", "internal/forwarded", "internal/http1",
			"internal/limit", "internal/peer", "internal/wire", "auth"}, adapters...),
		because: "the front door knows adapters and no engine",
	},
}

// TestImports keeps the arrows pointing inward (DESIGN: who may import whom).
func TestImports(t *testing.T) {
	imports := 0
	defer func() { atLeast(t, 300, imports, "imports") }()
	for _, p := range packages(t) {
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		l, listed := layers[name]
		switch {
		case strings.HasPrefix(name, "cmd/"), strings.HasPrefix(name,
			"examples/"), name == "internal/rules", name == "e2e", strings.HasPrefix(name, "bench"):
			continue // there everything meets
		case !listed:
			t.Errorf("%s is in no layer: say in internal/rules what it may import, and why it is a package", name)
			continue
		}
		for _, path := range p.Imports {
			imports++
			ours, isOurs := strings.CutPrefix(path, module)
			ours = strings.TrimPrefix(ours, "/")
			switch {
			case isOurs && (slices.Contains(l.may, ours) || slices.Contains(leaves, ours)):
			case !isOurs && standard(path) && !(l.noHTTP && strings.HasPrefix(path, "net/http")):
			case !isOurs && !standard(path) && slices.ContainsFunc(l.others,
				func(o string) bool { return path == o || strings.HasPrefix(path, o+"/") }):
			default:
				t.Errorf("%s imports %s, which it must not: %s. Move the code, or pass in what it needs.", name, path,
					l.because)
			}
		}
	}
}

// sources calls f for every Go file of the project.
func sources(t *testing.T, f func(path string, fset *token.FileSet, file *ast.File)) {
	t.Helper()
	root, files := "../..", 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git" || d.Name() == ".tools" ||
			d.Name() == "data") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		f(filepath.ToSlash(rel), fset, file)
		files++
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	atLeast(t, 300, files, "files")
}

// TestSizes: files of 600 lines and functions of 80 at most, tests excepted.
func TestSizes(t *testing.T) {
	functions := 0
	defer func() { atLeast(t, 1000, functions, "functions") }()
	sources(t, func(path string, fset *token.FileSet, file *ast.File) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		if n := fset.Position(file.End()).Line; n > 600 {
			t.Errorf("%s has %d lines, the limit is 600: split it by what its parts are about", path, n)
		}
		for _, d := range file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				functions++
				if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; n > 80 {
					t.Errorf("%s: %s has %d lines, the limit is 80: give its steps names", path, fn.Name.Name, n)
				}
			}
		}
	})
}

// TestWidths: code of 120 columns and comments of 100 at most, a tab being four. Lines that cannot
// be broken are left out: raw strings, and drawings and code in comments, which are indented by a
// tab.
func TestWidths(t *testing.T) {
	const codeMost, commentMost = 120, 100
	lines := 0
	sources(t, func(path string, fset *token.FileSet, file *ast.File) {
		raw := map[int]bool{}
		ast.Inspect(file, func(n ast.Node) bool {
			if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING && text.Value[0] == '`' {
				for line := fset.Position(text.Pos()).Line; line <= fset.Position(text.End()).Line; line++ {
					raw[line] = true
				}
			}
			return true
		})
		b, err := os.ReadFile(filepath.Join("../..", path))
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(b), "\n") {
			lines++
			most, text := codeMost, strings.TrimSpace(line)
			if strings.HasPrefix(text, "//") {
				most = commentMost
			}
			width := utf8.RuneCountInString(line) + 3*strings.Count(line, "\t")
			if width > most && !raw[i+1] && !strings.HasPrefix(text, "//\t") && !strings.HasPrefix(text, "//go:") {
				t.Errorf("%s:%d has %d columns, the limit is %d", path, i+1, width, most)
			}
		}
	})
	atLeast(t, 30_000, lines, "lines")
}

// forbidden is what a package that can be mounted in another program must not touch.
var forbidden = map[string]string{
	"os.Exit": "return an error", "os.Getenv": "take an option", "os.LookupEnv": "take an option",
	"os.Environ": "take an option", "os.Args": "take an option",
	"flag.Parse": "take an option", "signal.Notify": "take a context", "signal.NotifyContext": "take a context",
	"log.Fatal": "return an error", "log.Printf": "take a logger",
	"slog.Default": "take a logger", "slog.SetDefault": "take a logger", "slog.Info": "use the logger that was given",
	"slog.Error":      "use the logger that was given",
	"http.HandleFunc": "return a handler", "http.Handle": "return a handler",
	"http.DefaultServeMux":         "return a handler",
	"prometheus.MustRegister":      "use a registry of your own",
	"prometheus.DefaultRegisterer": "use a registry of your own",
}

// TestMountable: outside cmd/ no init, environment, flag, signal, exit, global registry or default
// logger.
func TestMountable(t *testing.T) {
	uses := 0
	defer func() { atLeast(t, 5000, uses, "uses of a package or a value") }()
	sources(t, func(path string, fset *token.FileSet, file *ast.File) {
		if strings.HasPrefix(path, "cmd/") || strings.HasPrefix(path, "e2e/") || file.Name.Name == "main" ||
			strings.HasPrefix(path, "bench/") || strings.HasSuffix(path, "_test.go") {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil && n.Name.Name == "init" {
					t.Errorf("%s: func init: two hubs run in one process; do it where the thing is made",
						fset.Position(n.Pos()))
				}
			case *ast.SelectorExpr:
				uses++
				if x, ok := n.X.(*ast.Ident); ok {
					if remedy, ok := forbidden[x.Name+"."+n.Sel.Name]; ok {
						t.Errorf("%s: %s.%s: %s", fset.Position(n.Pos()), x.Name, n.Sel.Name, remedy)
					}
				}
			}
			return true
		})
	})
}

// TestNoFlags: texts outside cmd/ name no flag, since a program that hosts the hub has none. An
// error says which setting it is about by its field Setting, a log record by
// problem.Writer.Settings.
func TestNoFlags(t *testing.T) {
	flag := regexp.MustCompile(`(^|[^-\w])--[a-z]`)
	literals := 0
	sources(t, func(path string, fset *token.FileSet, file *ast.File) {
		if strings.HasPrefix(path, "cmd/") || strings.HasPrefix(path, "e2e/") || file.Name.Name == "main" ||
			strings.HasPrefix(path, "bench/") || strings.HasSuffix(path, "_test.go") ||
			path == "pebblelog/place.go" { // what it says of a damaged log is command lines, to be copied
			return
		}
		for _, group := range file.Comments {
			if flag.MatchString(group.Text()) {
				t.Errorf("%s: a comment names a flag: name the option, or what it sets", fset.Position(group.Pos()))
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING {
				if literals++; flag.MatchString(text.Value) {
					t.Errorf("%s: %s names a flag: set Error.Setting, or log problem.Writer.Settings",
						fset.Position(text.Pos()), text.Value)
				}
			}
			return true
		})
	})
	atLeast(t, 1000, literals, "texts")
}

// TestNames: no package is named after nothing.
func TestNames(t *testing.T) {
	for _, p := range packages(t) {
		if slices.Contains([]string{"util", "utils", "common", "helpers", "types", "models", "manager", "base",
			"shared"}, p.Name) {
			t.Errorf("package %s: name it after what it does", p.ImportPath)
		}
	}
}

// TestLeakChecks: every package with tests fails on a goroutine that is left over.
func TestLeakChecks(t *testing.T) {
	tested := 0
	defer func() { atLeast(t, 20, tested, "packages with tests") }()
	for _, p := range packages(t) {
		files := slices.Concat(p.TestGoFiles, p.XTestGoFiles)
		checked := len(files) == 0
		if !checked {
			tested++
		}
		for _, name := range files {
			b, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			checked = checked || strings.Contains(string(b), "goleak.VerifyTestMain(m")
		}
		if !checked {
			t.Errorf("%s has tests and no leak check: add func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }",
				p.ImportPath)
		}
	}
}

// TestExamples: each public package has an example that is checked.
func TestExamples(t *testing.T) {
	public := 0
	defer func() { atLeast(t, 7, public, "public packages") }()
	example := regexp.MustCompile(`(?s)\nfunc Example.*// Output:`)
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		if strings.HasPrefix(name, "internal/") || strings.HasPrefix(name, "cmd/") ||
			strings.HasPrefix(name, "examples") || name == "e2e" || strings.HasPrefix(name, "bench") {
			continue
		}
		public++
		found := false
		for _, file := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			b, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				t.Fatal(err)
			}
			found = found || example.Match(b)
		}
		if !found {
			t.Errorf("%s is public and has no checked example: write func Example… with an // Output", name)
		}
	}
}

// TestPackageComments: each package says what it is for, in a doc comment.
func TestPackageComments(t *testing.T) {
	documented, all := map[string]bool{}, map[string]bool{}
	sources(t, func(path string, _ *token.FileSet, file *ast.File) {
		dir := filepath.Dir(path)
		if strings.HasSuffix(file.Name.Name, "_test") {
			return
		}
		all[dir] = true
		documented[dir] = documented[dir] || file.Doc != nil
	})
	atLeast(t, 35, len(all), "packages")
	for dir := range all {
		if !documented[dir] {
			t.Errorf("package %s has no package comment", dir)
		}
	}
}

// TestPromisesAreTested: each promise is cited by at least one test.
func TestPromisesAreTested(t *testing.T) {
	cited := map[string]bool{}
	promise := regexp.MustCompile(`\bP[1-8]\b`)
	sources(t, func(path string, _ *token.FileSet, file *ast.File) {
		if !strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "internal/rules/") {
			return
		}
		for _, group := range file.Comments {
			for _, p := range promise.FindAllString(group.Text(), -1) {
				cited[p] = true
			}
		}
	})
	for _, p := range []string{"P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8"} {
		if !cited[p] {
			t.Errorf("no test cites %s: name the promise in the doc comment of the test that breaks with it", p)
		}
	}
}

// TestThreatModelNamesTests: each test that SECURITY.md names is there.
func TestThreatModelNamesTests(t *testing.T) {
	there := map[string]bool{}
	sources(t, func(path string, _ *token.FileSet, file *ast.File) {
		for _, d := range file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && strings.HasSuffix(path, "_test.go") {
				there[fn.Name.Name] = true
			}
		}
	})
	text, err := os.ReadFile("../../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Za-z0-9]+)`").FindAllStringSubmatch(string(text), -1)
	for _, m := range named {
		if !there[m[1]] {
			t.Errorf("SECURITY.md names %s, which is no test", m[1])
		}
	}
	atLeast(t, 20, len(named), "tests that SECURITY.md names")
}

// TestReadmeBegins with the two commands, and CI runs the second and nothing else.
func TestReadmeBegins(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	head := string(readme[:min(len(readme), 1500)])
	run, test := strings.Index(head, "make run"), strings.Index(head, "make test")
	if run < 0 || test < run {
		t.Error("the README begins with the two commands: make run, make test")
	}
	ci, err := os.ReadFile("../../.ci/run")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(strings.TrimSpace(string(ci)), "exec make test") {
		t.Error(".ci/run calls make test and nothing else")
	}
}
