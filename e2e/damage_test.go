package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fanfare-hub/fanfare/sse"
)

// left is what a hub leaves behind, after SIGTERM or kill -9.
func left(t *testing.T, kill bool) (data string, ids []string) {
	t.Helper()
	data = filepath.Join(t.TempDir(), "data")
	big := strings.Repeat("x", 100_000)
	fill := func(h *hubProcess) {
		for i := range 120 { // more than the log keeps in its WAL over a clean end
			ids = append(ids, h.publish("c", fmt.Sprint(i, big)))
		}
	}
	h := serve(t, "127.0.0.1:0", data)
	fill(h)
	h.stop()
	h = serve(t, "127.0.0.1:0", data)
	fill(h)
	ids = append(ids, h.publish("c", "the last"))
	if kill {
		h.kill()
	} else {
		h.stop()
	}
	return data, ids
}

func filesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// newest is the newest file of a kind in the log's folder.
func newest(t *testing.T, data, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(data, "log", pattern))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	return names[len(names)-1]
}

// run runs a command that ends by itself.
func run(args ...string) (said string, code int) {
	out, err := exec.Command(binary, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(out), exit.ExitCode()
	}
	return string(out), 0
}

// TestCutManifest: a log whose MANIFEST was cut is refused, however the hub ended, and nothing is
// changed; put back, it is whole.
func TestCutManifest(t *testing.T) {
	for _, kill := range []bool{false, true} {
		data, ids := left(t, kill)
		manifest := newest(t, data, "MANIFEST-*")
		whole, err := os.ReadFile(manifest)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(manifest, whole[:len(whole)-7], 0o600); err != nil {
			t.Fatal(err)
		}
		before := filesOf(t, data)
		for _, args := range [][]string{{"verify", "--data", data}, {"serve", "--addr", "127.0.0.1:0", "--data", data},
			{"serve", "--addr", "127.0.0.1:0", "--data", data}} {
			said, code := run(args...)
			if code != 1 || !strings.Contains(said, filepath.Base(manifest)+" is whole up to byte") {
				t.Errorf("%v: %d %s", args, code, said)
			}
			if args[0] == "serve" && !strings.Contains(said, "nothing was changed") {
				t.Errorf("%s", said)
			}
			// After SIGTERM all is in tables, and nothing names them any more.
			if advised := strings.Contains(said, "fanfare export --data "+data+" writes it"); args[0] == "serve" &&
				advised != kill {
				t.Errorf("kill -9: %v, and the advice: %s", kill, said)
			}
		}
		if said, _ := run("export", "--data", data, "-o", filepath.Join(t.TempDir(), "export")); kill &&
			!strings.Contains(said, fmt.Sprintf("%d events exported", len(ids))) {
			t.Errorf("export: %s", said)
		}
		if !maps.Equal(before, filesOf(t, data)) {
			t.Error("the refused start has changed files")
		}
		if err := os.WriteFile(manifest, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		h := serve(t, "127.0.0.1:0", data)
		if events := h.history("c"); len(events) != len(ids) {
			t.Errorf("%d of %d events", len(events), len(ids))
		}
		h.stop()
	}
}

// TestCutWAL: a log whose newest file was cut after a kill -9 starts, says at once what is lost,
// and a client that has seen it is told by a gap.
func TestCutWAL(t *testing.T) {
	data, ids := left(t, true)
	wal := newest(t, data, "*.log")
	b, err := os.ReadFile(wal)
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.TrimRight(b, "\x00")
	if err := os.WriteFile(wal, b[:len(b)-7], 0o600); err != nil {
		t.Fatal(err)
	}
	last := ids[len(ids)-1]
	if said, code := run("verify", "--data", data); code != 1 || !strings.Contains(said, "ends early") ||
		!strings.Contains(said, last) {
		t.Errorf("verify: %d %s", code, said)
	}
	h := serve(t, "127.0.0.1:0", data)
	if said := h.log.String(); !strings.Contains(said, `level=ERROR msg="the log ends early`) ||
		!strings.Contains(said, "lost_through="+last) {
		t.Errorf("the hub says %s", said)
	}
	if events := h.history("c"); len(events) != len(ids)-1 {
		t.Errorf("%d of %d events", len(events), len(ids))
	}
	if m := metrics(t, h); !strings.Contains(m, "\nfanfare_log_lost_events_total 1\n") {
		t.Error("the lost event is not counted")
	}
	if id := h.publish("c", "new"); id <= last {
		t.Errorf("id %s after %s", id, last)
	}
	if gap := gapAfter(t, h, last); !strings.Contains(gap, `"reason":"lost"`) || !strings.Contains(gap, last) {
		t.Errorf("who has seen %s hears %s", last, gap)
	}
	h.stop()
	if said, code := run("verify", "--data", data); code != 0 {
		t.Errorf("verify afterwards: %d %s", code, said)
	}
}

// gapAfter resumes, and returns the data of the gap that comes after the first event.
func gapAfter(t *testing.T, h *hubProcess, id string) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, h.url("/v1/events?channel=c"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Last-Event-ID", id)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	d := sse.NewDecoder(resp.Body)
	if _, err := d.Next(); err != nil {
		t.Fatal(err)
	}
	e, err := d.Next()
	if err != nil || e.Type != "gap" {
		t.Fatalf("%+v, %v", e, err)
	}
	return e.Data
}

// TestNoPermission: a data directory of another user is called that, and not in use.
func TestNoPermission(t *testing.T) {
	dir, err := os.MkdirTemp("", "fanfare-permission")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	data, program := filepath.Join(dir, "data"), filepath.Join(dir, "fanfare")
	b, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(data, 0o755), os.WriteFile(program, b, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	attr := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	} else if err := os.Chmod(data, 0o555); err != nil {
		t.Fatal(err)
	}
	refused := func(when string) {
		t.Helper()
		cmd := exec.Command(program, "serve", "--addr", "127.0.0.1:0", "--data", data)
		cmd.Dir, cmd.SysProcAttr = dir, attr
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "permission denied: it must be writable") ||
			strings.Contains(string(out), "in use") {
			t.Errorf("%s: %v %s", when, err, out)
		}
	}
	refused("a new directory")
	if os.Getuid() == 0 {
		h := serve(t, "127.0.0.1:0", data)
		refused("with another user's hub")
		h.stop()
		refused("with another user's log")
	}
}
