package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```")

// TestDocs runs the commands of the README and the guides: each page against a hub of its own, from
// top to bottom. A problem document in an answer fails it too.
func TestDocs(t *testing.T) {
	t.Parallel()
	needCurl(t)
	pages, err := filepath.Glob("../docs/guide/*.md")
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, page := range append(pages, "../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		blocks := shellBlock.FindAllStringSubmatch(string(text), -1)
		if blocks == nil || filepath.Base(page) == "security.md" { // TestSecurityGuide runs that one
			continue
		}
		t.Run(filepath.Base(page), func(t *testing.T) {
			h := serve(t, "127.0.0.1:0", t.TempDir())
			for _, block := range blocks {
				script := strings.ReplaceAll(block[1], "127.0.0.1:8082", h.addr)
				cmd := exec.Command("bash", "-e", "-o", "pipefail", "-c", script)
				cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"),
					"FANFARE_URL=http://"+h.addr)
				out, err := cmd.CombinedOutput()
				if err != nil || strings.Contains(string(out), `"code":"`) ||
					strings.Contains(string(out), "fanfare: ") {
					t.Errorf("%s\n%v\n%s", script, err, out)
				}
				ran++
			}
			h.stop()
		})
	}
	if ran < 10 {
		t.Errorf("only %d blocks were run", ran)
	}
}

var link = regexp.MustCompile(`\]\(([^)#]+?)(?:#[^)]*)?\)`)

// fence is a block of code, in which a generic function's call looks like a link.
var fence = regexp.MustCompile("(?s)```.*?```")

// TestLinks: no page links to a file that is not there.
func TestLinks(t *testing.T) {
	var pages []string
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../docs/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	links := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(string(text), ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", page, m[1])
			}
		}
	}
	if len(pages) < 30 || links < 50 {
		t.Errorf("only %d links on %d pages were looked at", links, len(pages))
	}
}

// TestOpenAPIIsValid has an outside judge read the description of the API.
func TestOpenAPIIsValid(t *testing.T) {
	if exec.Command(".venv/bin/python", "-c", "import openapi_spec_validator").Run() != nil {
		t.Skip("SKIPPED: no openapi-spec-validator; e2e/setup says why")
	}
	out, err := exec.Command(".venv/bin/openapi-spec-validator", "../server/openapi.yaml").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
