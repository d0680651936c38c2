package server_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fanfare-hub/fanfare/server"
)

// vanish has the client's kernel drop whatever comes for the connection: the peer is there no more,
// and nothing says so.
func (w *wired) vanish() {
	w.f.t.Helper()
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	w.control(func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: 1, Filter: &drop})
	})
}

// comeBack is the end of vanish.
func (w *wired) comeBack() {
	w.f.t.Helper()
	w.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) })
}

func (w *wired) control(f func(fd int) error) {
	w.f.t.Helper()
	raw, err := w.tcp.SyscallConn()
	var inner error
	if err == nil {
		err = raw.Control(func(fd uintptr) { inner = f(int(fd)) })
	}
	if err != nil || inner != nil {
		w.f.t.Fatal(err, inner)
	}
}

// queued is what the kernel holds of what the hub has written to a client's connection (SIOCOUTQ,
// as /proc/net/tcp has it).
func (f *fixture) queued(client *net.TCPConn) (bytes int) {
	f.t.Helper()
	table, err := os.Open("/proc/net/tcp")
	if err != nil {
		f.t.Fatal(err)
	}
	defer table.Close()
	local, remote := client.RemoteAddr().(*net.TCPAddr).Port, client.LocalAddr().(*net.TCPAddr).Port
	for lines := bufio.NewScanner(table); lines.Scan(); {
		var n, l, r, la, ra, state, tx, rx int
		if _, err := fmt.Sscanf(lines.Text(), "%d: %x:%x %x:%x %x %x:%x", &n, &la, &l, &ra, &r, &state, &tx,
			&rx); err == nil && l == local && r == remote {
			return tx
		}
	}
	f.t.Fatal("the connection is not in the kernel's table")
	return 0
}

// TestCommandIsNotRepeated: a PC that obeys REBOOT at once, and breaks its connection the instant
// it has read it, is not told to reboot again when it is back, nor again at the next boot (P3).
func TestCommandIsNotRepeated(t *testing.T) {
	if eachKind(t, TestCommandIsNotRepeated) {
		return
	}
	f := start(t, server.Options{})
	var got []string
	for boot := range 8 {
		pc := f.pcOf("1", "2")
		f.send("1", "2", fmt.Sprint("REBOOT ", boot))
		got = append(got, pc.command())
		pc.reset()
	}
	pc := f.pcOf("1", "2")
	f.send("1", "2", "the end")
	for got = append(got, pc.command()); got[len(got)-1] != "the end"; {
		got = append(got, pc.command())
	}
	want := strings.Split("REBOOT 0,REBOOT 1,REBOOT 2,REBOOT 3,REBOOT 4,REBOOT 5,REBOOT 6,REBOOT 7,the end", ",")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-sent +got):\n%s", diff)
	}
}

// TestAwayAtTheEnd: the PC's link is dead when its stream ends, by its lifetime or in a drain: what
// the kernel had taken for it, and could not bring it, counts as not received, and comes when it is
// back (P3, P7).
func TestAwayAtTheEnd(t *testing.T) {
	if eachKind(t, TestAwayAtTheEnd) {
		return
	}
	for name, end := range map[string]func(*fixture){
		"lifetime": func(f *fixture) { f.metric(f.t.(*testing.T), `fanfare_streams_ended_total{reason="lifetime"} 1`) },
		"drain":    (*fixture).restart,
	} {
		t.Run(name, func(t *testing.T) {
			o := server.Options{Streams: server.StreamOptions{Heartbeat: 200 * time.Millisecond}}
			if name == "lifetime" {
				o.Stores.Lifetime = 5 * time.Second
			}
			f := start(t, o)
			pc := f.pcOf("1", "2")
			f.send("1", "2", "before")
			pc.until("before")
			pc.vanish()
			f.send("1", "2", "first")
			f.send("1", "2", "second")
			end(f)
			pc.reset()
			f.o.Stores.Lifetime = 0
			again := f.pcOf("1", "2")
			var got []string
			for len(got) == 0 || got[len(got)-1] != "second" {
				got = append(got, again.command())
			}
			if diff := cmp.Diff([]string{"first", "second"}, got[max(len(got)-2, 0):]); diff != "" || len(got) > 3 {
				t.Errorf("(-want +got):\n%s%v", diff, got)
			}
		})
	}
}

// TestBackBeforeTheEndIsOver: a PC whose link was dead for a moment while its stream ended gets
// what had been sent, from its kernel, and then nothing twice (P3).
func TestBackBeforeTheEndIsOver(t *testing.T) {
	if eachKind(t, TestBackBeforeTheEndIsOver) {
		return
	}
	f := start(t, server.Options{Stores: server.StoreOptions{Lifetime: 5 * time.Second}})
	for attempt := range 10 {
		if got, inTime := f.backBeforeTheEndIsOver(fmt.Sprint(attempt)); inTime {
			if diff := cmp.Diff([]string{"first", "second", "third"}, got); diff != "" {
				t.Errorf("(-sent +got):\n%s", diff)
			}
			return
		}
	}
	t.Skip("the machine was never fast enough")
}

// backBeforeTheEndIsOver has a PC vanish shortly before its stream ends, and come back shortly
// after. It reports whether the machine was in time: the hub waits two seconds for the PC to
// acknowledge, and the kernel sends again what is lost after as long as it was lost.
func (f *fixture) backBeforeTheEndIsOver(pc string) (got []string, inTime bool) {
	f.t.Helper()
	const earliest, latest = 4500 * time.Millisecond, 5 * time.Second // of the stream's end
	w := f.pcOf("1", pc)
	opened := time.Now()
	time.Sleep(earliest - 300*time.Millisecond)
	w.vanish()
	f.send("1", pc, "first")
	f.send("1", pc, "second")
	if inTime = time.Since(opened) < earliest-50*time.Millisecond; !inTime {
		return nil, false
	}
	time.Sleep(latest + 100*time.Millisecond - time.Since(opened))
	if w.comeBack(); time.Since(opened) > latest+300*time.Millisecond {
		return nil, false
	}
	got = []string{w.command(), w.command()}
	if _, err := w.body.ReadByte(); err == nil {
		f.t.Error("the stream has not ended")
	}
	if time.Since(opened) > earliest+2*time.Second {
		return nil, false
	}
	again := f.pcOf("1", pc)
	f.send("1", pc, "third")
	return append(got, again.command()), true
}

// TestVanishedPeer (P5): a peer that has vanished without a word frees its slot within a heartbeat
// and the stall limit.
func TestVanishedPeer(t *testing.T) {
	if eachKind(t, TestVanishedPeer) {
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{Heartbeat: 300 * time.Millisecond,
		StallLimit: 3 * time.Second}})
	for _, path := range []string{"/v1/events?channel=a", pcPath("1", "2")} {
		w := f.open(path)
		w.until("\n\n")
		f.untilStreams(1)
		w.vanish()
		began := time.Now()
		f.untilStreams(0)
		if took := time.Since(began); took > 30*time.Second { // on a machine that is idle: one second
			t.Errorf("%s: after %v", path, took)
		}
	}
}

// TestNeverReadingReader (P5): what the kernel holds for a reader that never reads is bounded, on
// every kind of connection.
func TestNeverReadingReader(t *testing.T) {
	if eachKind(t, TestNeverReadingReader) {
		return
	}
	f := start(t, server.Options{})
	f.window = 16 << 20 // so that it is the kernel that says what is enough
	w := f.open("/v1/events?channel=a")
	w.until("\n\n")
	w.stops()
	for range 8 {
		f.publish("a", strings.Repeat("x", 900<<10))
	}
	// Until the kernel takes no more.
	last := -1
	for now := f.queued(w.tcp); now == 0 || now != last; now = f.queued(w.tcp) {
		last = now
		time.Sleep(100 * time.Millisecond)
	}
	if last > 160<<10 {
		t.Errorf("the kernel holds %d bytes", last)
	}
}

// holder is a listener whose connections can be kept from writing.
type holder struct {
	net.Listener

	mu      sync.Mutex
	held    string        // the client's address
	release chan struct{} // closed when it may go on
	waits   chan struct{} // gets one for each write that waits
}

func (h *holder) Accept() (net.Conn, error) {
	conn, err := h.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &heldConn{TCPConn: conn.(*net.TCPConn), h: h}, nil
}

func (h *holder) hold(client net.Addr) (release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	done := make(chan struct{})
	h.held, h.release = client.String(), done
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.held = ""
		close(done)
	})
}

type heldConn struct {
	*net.TCPConn
	h *holder
}

func (c *heldConn) Write(p []byte) (int, error) {
	c.h.mu.Lock()
	held, release := c.h.held == c.RemoteAddr().String(), c.h.release
	c.h.mu.Unlock()
	if held {
		c.h.waits <- struct{}{}
		<-release
	}
	return c.TCPConn.Write(p)
}

// TestWriteDelayedThenReset: a command is on its way in the hub, handed over by who wrote it, and
// has not reached the kernel when the connection breaks, or the stream ends. It comes again: never
// is it lost (P3). HTTP/2 says that it has written what it keeps in a buffer.
func TestWriteDelayedThenReset(t *testing.T) {
	if eachKind(t, TestWriteDelayedThenReset) {
		return
	}
	for name, o := range map[string]server.Options{"reset": {},
		"lifetime": {Stores: server.StoreOptions{Lifetime: 5 * time.Second}}} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, o)
			h := &holder{waits: make(chan struct{}, 100)}
			f.below = func(l net.Listener) net.Listener {
				h.Listener = l
				return h
			}
			f.begin()
			pc := f.pcOf("1", "2")
			release := h.hold(pc.tcp.LocalAddr())
			defer release()
			f.send("1", "2", "first")
			<-h.waits
			if f.kind.h2 {
				f.metric(t, "fanfare_events_delivered_total 1") // it believes so
			}
			if name == "lifetime" {
				time.Sleep(5200 * time.Millisecond)
			}
			pc.reset()
			release()
			f.untilStreams(0)
			again := f.pcOf("1", "2")
			if got := again.command(); got != "first" {
				t.Errorf("%q was lost", got)
			}
		})
	}
}

// opaque is a listener whose connections do not say what the system knows of them, as on a system
// that knows nothing.
type opaque struct{ net.Listener }

func (o opaque) Accept() (net.Conn, error) {
	conn, err := o.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return struct {
		net.Conn
		closeWriter
	}{conn, conn.(*net.TCPConn)}, nil
}

type closeWriter interface{ CloseWrite() error }

// TestWhereTheSystemTellsNothing: on HTTP/1 the end of a stream is known to have come when the
// client closes upon it, and after every other end, as over HTTP/2 always, everything since the
// stream's beginning comes again (P3).
func TestWhereTheSystemTellsNothing(t *testing.T) {
	if eachKind(t, TestWhereTheSystemTellsNothing) {
		return
	}
	f := newFixture(t, server.Options{Stores: server.StoreOptions{Lifetime: 4 * time.Second}})
	f.below = func(l net.Listener) net.Listener { return opaque{l} }
	f.begin()
	c := f.pc("1", "2")
	f.send("1", "2", "first")
	c.commands(1)
	c.rest() // and its connection is closed
	f.untilStreams(0)
	f.send("1", "2", "second")
	want := []string{"second"}
	if f.kind.h2 {
		want = []string{"first", "second"}
	}
	w := f.open(pcPath("1", "2"))
	var got []string
	for range want {
		got = append(got, w.command())
	}
	if !slices.Equal(got, want) {
		t.Errorf("after a clean end: %q, want %q", got, want)
	}
	w.reset()
	f.untilStreams(0)
	w = f.open(pcPath("1", "2"))
	for i, one := range want {
		if got := w.command(); got != one {
			t.Errorf("after a break, %d: %q", i, got)
		}
	}
	if f.kind.h2 {
		return
	}
	w.vanish()
	f.send("1", "2", "third")
	f.metric(t, `fanfare_streams_ended_total{reason="lifetime"} 2`)
	w.reset()
	w = f.open(pcPath("1", "2"))
	for got := w.command(); got != "third"; got = w.command() {
	}
}
