package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "fanfare-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "fanfare")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/fanfare").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// hubProcess is a running `fanfare serve`.
type hubProcess struct {
	t     *testing.T
	cmd   *exec.Cmd
	addr  string
	tls   bool
	greet []string // the lines that it printed
	log   *tailBuffer
	done  chan error
}

// tailBuffer keeps what a process says, for the report of a failure.
type tailBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *tailBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.b.Len() < 1<<20 {
		b.b.Write(p)
	}
	return len(p), nil
}

func (b *tailBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

var printedAddress = regexp.MustCompile(`https?://([0-9.]+:\d+)`)

// serve starts a hub; args follow --addr and --data.
func serve(t *testing.T, addr, data string, args ...string) *hubProcess {
	t.Helper()
	return serveWith(t, exec.Command(binary, append([]string{"serve", "--addr", addr, "--data", data}, args...)...))
}

func serveWith(t *testing.T, cmd *exec.Cmd) *hubProcess {
	t.Helper()
	h := &hubProcess{t: t, cmd: cmd, log: &tailBuffer{}, done: make(chan error, 1)}
	if h.cmd.Stderr == nil {
		h.cmd.Stderr = h.log
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.kill)
	lines := bufio.NewScanner(out)
	for len(h.greet) < 5 && lines.Scan() {
		h.greet = append(h.greet, lines.Text())
	}
	go func() {
		_, _ = io.Copy(io.Discard, out)
		h.done <- h.cmd.Wait()
	}()
	m := printedAddress.FindStringSubmatch(strings.Join(h.greet, "\n"))
	if m == nil {
		t.Fatalf("the hub did not say where it listens: %q\n%s", h.greet, h.log)
	}
	h.addr, h.tls = m[1], strings.HasPrefix(m[0], "https")
	return h
}

// kill is kill -9; it waits for the end.
func (h *hubProcess) kill() {
	_ = h.cmd.Process.Kill()
	err := <-h.done
	h.done <- err
}

// stop sends SIGTERM and checks the exit code.
func (h *hubProcess) stop() {
	h.t.Helper()
	_ = h.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-h.done:
		h.done <- err
		if err != nil {
			h.t.Errorf("SIGTERM: %v\n%s", err, h.log)
		}
	case <-time.After(time.Minute):
		_ = h.cmd.Process.Signal(syscall.SIGQUIT)
		time.Sleep(time.Second) // for its goroutines' stacks
		h.t.Fatalf("the hub does not end\n%s", h.log)
	}
}

func (h *hubProcess) url(path string) string {
	if h.tls {
		return "https://" + h.addr + path
	}
	return "http://" + h.addr + path
}

// publish publishes and returns the id; an error is the transport's or a refusal.
func publish(url, body string) (string, error) {
	resp, err := client.Post(url, "text/plain", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	var o struct{ ID string }
	if err := json.Unmarshal(b, &o); err != nil || o.ID == "" {
		return "", fmt.Errorf("%d %s", resp.StatusCode, b)
	}
	return o.ID, nil
}

func (h *hubProcess) publish(channel, body string) string {
	h.t.Helper()
	id, err := publish(h.url("/v1/channels/"+channel), body)
	if err != nil {
		h.t.Fatal(err)
	}
	return id
}

// client keeps no connection, so that no goroutine of it is left.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}

type storedEvent struct{ ID, Channel, Event, Data string }

// history reads all that is retained of a channel.
func (h *hubProcess) history(channel string) (events []storedEvent) {
	h.t.Helper()
	for after := ""; ; {
		resp, err := client.Get(h.url("/v1/history?limit=1000&channel=" + channel + after))
		if err != nil {
			h.t.Fatal(err)
		}
		var page struct {
			Events []storedEvent
			Next   string
		}
		err = json.NewDecoder(resp.Body).Decode(&page)
		_ = resp.Body.Close()
		if err != nil {
			h.t.Fatal(err)
		}
		events = append(events, page.Events...)
		if page.Next == "" {
			return events
		}
		after = "&after=" + page.Next
	}
}

// program is a helper process whose standard output is read line by line.
type program struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	errs  *tailBuffer
}

// start starts a program.
func start(t *testing.T, name string, args ...string) *program {
	t.Helper()
	return startWith(t, nil, name, args...)
}

// startWith is start, with variables of its own: tests that run at the same time share the
// process's.
func startWith(t *testing.T, env []string, name string, args ...string) *program {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &program{t: t, cmd: exec.CommandContext(ctx, name, args...), lines: make(chan string, 100_000),
		errs: &tailBuffer{}}
	p.cmd.Stderr = p.errs
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a browser has children
	p.cmd.Cancel = func() error { return syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		cancel()
		for range p.lines {
		}
	})
	return p
}

// next returns the next line.
func (p *program) next(within time.Duration) string {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			p.t.Fatalf("%s has ended: %s", p.cmd.Path, p.errs)
		}
		return line
	case <-time.After(within):
		p.t.Fatalf("%s printed nothing for %v: %s", p.cmd.Path, within, p.errs)
	}
	return ""
}
