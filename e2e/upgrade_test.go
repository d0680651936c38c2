package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// heldSocket is a listening socket that outlives the hubs that it is handed to, as systemd's is.
type heldSocket struct {
	addr string
	file *os.File
}

func holdSocket(t *testing.T) *heldSocket {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return &heldSocket{l.Addr().String(), f}
}

// serve starts a hub with the socket as file descriptor 3; LISTEN_PID has to be the process's own.
func (s *heldSocket) serve(t *testing.T, data string, args ...string) *hubProcess {
	t.Helper()
	h := &hubProcess{t: t, log: &tailBuffer{}, done: make(chan error, 1), addr: s.addr}
	script := `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=fanfare.socket exec "$@"`
	h.cmd = exec.Command("sh", append([]string{"-c", script, "sh", binary, "serve", "--data", data}, args...)...)
	h.cmd.ExtraFiles = []*os.File{s.file}
	h.cmd.Stderr = h.log
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.kill)
	go func() { h.done <- h.cmd.Wait() }()
	return h
}

// ready waits until a new connection is answered.
func ready(t *testing.T, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("not ready: %v", err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("not ready: %s", resp.Status)
	}
}

// upgrade is the traffic through the restarts.
type upgrade struct {
	addr     string
	refused  atomic.Int64 // connections that were not taken
	broken   atomic.Int64 // publishes that had to be sent again
	wrong    atomic.Pointer[string]
	stopping atomic.Bool
	sent     []atomic.Int64 // by channel; the last one is the channel that all hear
	got      []atomic.Int64 // own events, by stream
	shared   []atomic.Int64 // events of the channel that all hear, by stream
	opened   atomic.Int64
	open     atomic.Int64
}

func (u *upgrade) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	u.wrong.CompareAndSwap(nil, &text)
}

func (u *upgrade) dial() (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", u.addr, 30*time.Second)
	if err != nil {
		u.refused.Add(1)
	}
	return conn, err
}

// listen is one client: it reconnects where it was, until ctx ends.
func (u *upgrade) listen(ctx context.Context, n int) {
	lastID := ""
	for ctx.Err() == nil {
		if err := u.stream(ctx, n, &lastID); err != nil && ctx.Err() == nil {
			u.fail("stream %d broke: %v", n, err)
			return
		}
		select {
		case <-time.After(time.Duration(50+rand.IntN(200)) * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (u *upgrade) stream(ctx context.Context, n int, lastID *string) error {
	conn, err := u.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	resume := ""
	if *lastID != "" {
		resume = "Last-Event-ID: " + *lastID + "\r\n"
	}
	_, err = fmt.Fprintf(conn,
		"GET /v1/events?channel=c/%d&channel=all HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n%s\r\n", n,
		resume)
	if err != nil {
		return err
	}
	in := bufio.NewReaderSize(conn, 2048)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", resp.Status)
	}
	u.opened.Add(1)
	u.open.Add(1)
	defer u.open.Add(-1)
	lines := bufio.NewReaderSize(resp.Body, 512)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF && line == "" {
			return nil // a clean end, after a whole event
		}
		if err != nil {
			return err
		}
		line = strings.TrimSuffix(line, "\n")
		switch name, value, _ := strings.Cut(line, ": "); {
		case name == "id":
			if value < *lastID {
				u.fail("stream %d: id %s after %s", n, value, *lastID)
			}
			*lastID = value
		case name == "event" && value != "heartbeat":
			u.fail("stream %d: %s", n, line)
		case name == "data" && strings.HasPrefix(value, "all "):
			u.expect(n, "all", &u.shared[n], value[4:])
		case name == "data" && value[0] != '{':
			u.expect(n, "own", &u.got[n], value)
		}
	}
}

// expect: each number is one more than the last.
func (u *upgrade) expect(n int, what string, last *atomic.Int64, text string) {
	got, err := strconv.ParseInt(text, 10, 64)
	if want := last.Add(1); err != nil || got != want {
		u.fail("stream %d, %s: got %q, want %d", n, what, text, want)
	}
}

// publish posts under an idempotency key until it is taken.
func (u *upgrade) publish(client *http.Client, channel, key, data string) {
	for {
		req, err := http.NewRequest(http.MethodPost, "http://"+u.addr+"/v1/channels/"+channel, strings.NewReader(data))
		if err != nil {
			u.fail("%v", err)
			return
		}
		req.Header.Set("Idempotency-Key", key)
		resp, err := client.Do(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode < 300 {
				return
			}
			err = fmt.Errorf("answered %s", resp.Status)
		}
		if u.broken.Add(1) > 1000 {
			u.fail("publishing does not work: %v", err)
			return
		}
		time.Sleep(20 * time.Millisecond) // as a client would before it tries again
	}
}

func (u *upgrade) published() (n int64) {
	for i := range u.sent {
		n += u.sent[i].Load()
	}
	return n
}

// TestUpgradesUnseen is P3 and P7 with the socket handed over: through ten restarts under load no
// connection is refused, and nothing is lost or repeated.
func TestUpgradesUnseen(t *testing.T) {
	const streams, restarts, publishers = 2000, 10, 4
	socket := holdSocket(t)
	data := t.TempDir()
	args := []string{"--drain-window", "1s", "--admin-addr", "127.0.0.1:" + freePort(t)}
	h := socket.serve(t, data, args...)
	ready(t, "http://"+socket.addr+"/readyz")
	u := &upgrade{addr: socket.addr, sent: make([]atomic.Int64, streams+1), got: make([]atomic.Int64, streams),
		shared: make([]atomic.Int64, streams)}
	ctx, cancel := context.WithCancel(t.Context())
	var listening, publishing sync.WaitGroup
	defer listening.Wait()
	defer cancel()
	for n := range streams {
		listening.Go(func() { u.listen(ctx, n) })
	}
	for deadline := time.Now().Add(60 * time.Second); u.opened.Load() < streams && u.wrong.Load() == nil; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d streams open", u.opened.Load(), streams)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for p := range publishers {
		publishing.Go(func() {
			transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn,
				error) {
				return u.dial()
			}}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			r := rand.New(rand.NewPCG(uint64(p), 1))
			for i := 0; !u.stopping.Load() && u.wrong.Load() == nil; i++ {
				n := r.IntN(streams/publishers)*publishers + p // nobody else's channels
				seq := u.sent[n].Add(1)
				u.publish(client, fmt.Sprint("c/", n), fmt.Sprintf("%d-%d", n, seq), fmt.Sprint(seq))
				if p == 0 && i%200 == 0 {
					seq := u.sent[streams].Add(1)
					u.publish(client, "all", fmt.Sprintf("all-%d", seq), fmt.Sprint("all ", seq))
				}
			}
		})
	}
	slowest := time.Duration(0)
	for range restarts {
		next := socket.serve(t, data, args...) // waits for the data directory
		h.stop()
		ended := time.Now()
		ready(t, "http://"+socket.addr+"/readyz")
		slowest = max(slowest, time.Since(ended))
		h = next
		before := u.published()
		for deadline := time.Now().Add(60 * time.Second); u.wrong.Load() == nil &&
			(u.open.Load() < streams || u.published() < before+500); {
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d streams are open again, %d publishes since", u.open.Load(), streams,
					u.published()-before)
			}
			time.Sleep(5 * time.Millisecond)
		}
		if wrong := u.wrong.Load(); wrong != nil {
			t.Fatalf("%s\n%s", *wrong, h.log)
		}
	}
	u.stopping.Store(true)
	publishing.Wait()
	total := int64(0)
	for n := range streams {
		total += u.sent[n].Load()
		for deadline := time.Now().Add(60 * time.Second); u.got[n].Load() < u.sent[n].Load() ||
			u.shared[n].Load() < u.sent[streams].Load(); {
			if wrong := u.wrong.Load(); wrong != nil {
				t.Fatal(*wrong)
			}
			if time.Now().After(deadline) {
				t.Fatalf("stream %d has %d of %d own events and %d of %d shared ones", n,
					u.got[n].Load(), u.sent[n].Load(), u.shared[n].Load(), u.sent[streams].Load())
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	if n := u.refused.Load(); n > 0 {
		t.Errorf("%d connections were refused", n)
	}
	if wrong := u.wrong.Load(); wrong != nil {
		t.Error(*wrong)
	}
	if u.opened.Load() < streams*(restarts+1) {
		t.Errorf("%d streams were opened: some were not ended by a restart", u.opened.Load())
	}
	t.Logf("%d publishes (%d sent again), %d shared events, %d streams opened; a hub served at the latest %v after "+
		"the one before had ended",
		total, u.broken.Load(), u.sent[streams].Load(), u.opened.Load(), slowest.Round(time.Millisecond))
	cancel()
	listening.Wait()
	h.stop()
}

// TestSecondHubWithoutASocketIsRefusedAtOnce, and one with a socket gives up when the data
// directory does not become free.
func TestSecondHubWaitsOnlyWithASocket(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	first := serve(t, "127.0.0.1:0", data)
	began := time.Now()
	// one that waited would wait for the drain window
	out, err := exec.Command(binary, "serve", "--addr", "127.0.0.1:0", "--data", data,
		"--drain-window", "2m").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "one process at a time") || time.Since(began) > time.Minute {
		t.Errorf("without a socket, after %v: %v, %s", time.Since(began), err, out)
	}
	second := holdSocket(t).serve(t, data, "--drain-window", "0s")
	select {
	case err := <-second.done:
		second.done <- err
		if err == nil || !strings.Contains(second.log.String(), "one process at a time") ||
			!strings.Contains(second.log.String(), "waiting for the data directory") {
			t.Errorf("with a socket: %v\n%s", err, second.log)
		}
	case <-time.After(time.Minute):
		t.Error("it waits for ever")
	}
	first.stop()
}

// TestNotify is what systemd hears: ready, reloading, alive, stopping.
func TestNotify(t *testing.T) {
	path := t.TempDir() + "/notify"
	bus, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "300000")
	h := serve(t, "127.0.0.1:0", t.TempDir())
	next := func(want string) {
		t.Helper()
		buf := make([]byte, 200)
		for {
			_ = bus.SetReadDeadline(time.Now().Add(time.Minute))
			n, err := bus.Read(buf)
			if err != nil {
				t.Fatalf("no %s: %v", want, err)
			}
			got := string(buf[:n])
			if strings.HasPrefix(got, want) {
				return
			}
			if got != "WATCHDOG=1" {
				t.Fatalf("%q, want %q", got, want)
			}
		}
	}
	next("READY=1")
	next("WATCHDOG=1")
	_ = h.cmd.Process.Signal(syscall.SIGHUP)
	next("RELOADING=1")
	next("READY=1")
	h.stop()
	next("STOPPING=1")
}

// TestReadOnlyDisk: a hub on a disk that may not be written to says so and does not start.
func TestReadOnlyDisk(t *testing.T) {
	script := `mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" serve --addr 127.0.0.1:0 --data "$1/$3"`
	if err := exec.Command("unshare", "-m", "true").Run(); err != nil {
		t.Skip("SKIPPED: mounts cannot be made here")
	}
	dir := t.TempDir()
	old := serve(t, "127.0.0.1:0", dir+"/old")
	old.publish("a", "kept")
	old.stop()
	for _, data := range []string{"new", "old"} {
		out, err := exec.Command("unshare", "-m", "sh", "-c", script, "sh", dir, binary, data).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "read-only file system") ||
			strings.Contains(string(out), "goroutine") {
			t.Errorf("%s: %v, %s", data, err, out)
		}
	}
	verify := `mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" verify --data "$1/old"`
	if out, err := exec.Command("unshare", "-m", "sh", "-c", verify, "sh", dir, binary).CombinedOutput(); err != nil ||
		!strings.Contains(string(out), "1 events in 1 channels") {
		t.Errorf("what may only be read can be verified: %v, %s", err, out)
	}
	again := serve(t, "127.0.0.1:0", dir+"/old")
	if out, err := exec.Command(binary, "history", "a", "--url", again.url("")).CombinedOutput(); err != nil ||
		!strings.Contains(string(out), "kept") {
		t.Errorf("%v, %s", err, out)
	}
	again.stop()
}
