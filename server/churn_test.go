package server_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/server"
)

// churn is many raw clients that come, behave badly and go, while others publish.
type churn struct {
	*fixture
	until time.Time

	mu     sync.Mutex
	gone   []net.Conn          // left open, and read no more
	orders map[string][]string // ids of each channel, in the log's order; set at the end
	seen   []sighting
}

// sighting is what one client has seen on its streams, one continuing where the other ended.
type sighting struct {
	channel string
	start   string   // id of the first event
	ids     []string // after it
	stayed  bool     // it read to the end
}

const (
	churnChannels = 20
	largeData     = 20_000 // bytes of one event in ten
)

func (c *churn) channel(n int) string { return fmt.Sprintf("churn/%d", n%churnChannels) }

// publishers publish until the time is over: small events, and on one channel in ten large ones,
// which fill the buffers of who stalls.
func (c *churn) publishers(wg *sync.WaitGroup) {
	large := strings.Repeat("x", largeData)
	for p := range 4 {
		wg.Go(func() {
			for i := p; time.Now().Before(c.until); i += 4 {
				data := fmt.Sprint(i)
				if i%10 == 0 {
					data += large
				}
				c.publish(c.channel(i), data)
				time.Sleep(100 * time.Millisecond) // the rate: 40 events a second
			}
		})
	}
}

// client opens one stream after the other until the time is over.
func (c *churn) client(n int) {
	for time.Now().Before(c.until) {
		s := sighting{channel: c.channel(n + rand.IntN(3))}
		switch rand.IntN(8) {
		case 0, 1, 2, 3: // one that stays: it comes back until the end
			s.stayed = true
			for {
				conn, r, ok := c.open(&s, n)
				if !ok {
					break
				}
				over := c.read(conn, r, &s, time.Hour)
				_ = conn.Close()
				if over {
					break
				}
			}
		case 4: // closes
			c.visit(&s, n, func(conn peer, r *bufio.Reader) {
				c.read(conn, r, &s, time.Duration(rand.IntN(2000))*time.Millisecond)
			})
		case 5: // resets
			c.visit(&s, n, func(conn peer, r *bufio.Reader) {
				c.read(conn, r, &s, time.Duration(rand.IntN(2000))*time.Millisecond)
				conn.reset()
			})
		case 6: // closes its sending half, and hears on
			c.visit(&s, n, func(conn peer, r *bufio.Reader) {
				conn.half()
				c.read(conn, r, &s, time.Duration(rand.IntN(4000))*time.Millisecond)
			})
		case 7: // stalls, and goes on, or is never heard of again
			conn, r, ok := c.open(&s, n)
			if !ok {
				break
			}
			conn.stops()
			if rand.IntN(4) == 0 {
				c.mu.Lock()
				c.gone = append(c.gone, conn)
				c.mu.Unlock()
				break
			}
			// it does nothing meanwhile: that is what it is about
			time.Sleep(time.Duration(rand.IntN(3000)) * time.Millisecond)
			conn.goesOn()
			c.read(conn, r, &s, time.Duration(rand.IntN(1000))*time.Millisecond)
			_ = conn.Close()
		}
		c.mu.Lock()
		c.seen = append(c.seen, s)
		c.mu.Unlock()
	}
}

// peer is a client's connection, or, over HTTP/2, its stream on a connection of its own.
type peer interface {
	net.Conn
	reset() // has Close be a reset
	half()  // closes the sending half, where there is one
	stops() // does not read any more, where that is not enough to read nothing of the body
	goesOn()
}

func (c *churn) visit(s *sighting, n int, do func(peer, *bufio.Reader)) {
	if conn, r, ok := c.open(s, n); ok {
		do(conn, r)
		_ = conn.Close()
	}
}

// open connects, after what has been seen.
func (c *churn) open(s *sighting, n int) (peer, *bufio.Reader, bool) {
	if c.kind.h2 {
		return c.openHTTP2(s)
	}
	return c.openHTTP1(s, n)
}

// openHTTP1 sends more than the request at once with some, and speaks HTTP/1.0 with others.
func (c *churn) openHTTP1(s *sighting, n int) (peer, *bufio.Reader, bool) {
	request := fmt.Sprintf("GET /v1/events?channel=%s HTTP/1.%d\r\nHost: localhost\r\n", s.channel, min(n%5, 1))
	if last := s.last(); last != "" {
		request += "Last-Event-ID: " + last + "\r\n"
	}
	request += []string{"\r\n", "Connection: close\r\n\r\n", "\r\nGET / HTTP/1.1\r\n"}[rand.IntN(3)]
	conn, r := c.dial("")
	_ = conn.SetDeadline(time.Time{})
	p := &http1Peer{Conn: conn, tcp: tcpOf(conn)}
	_ = p.tcp.SetReadBuffer(4 << 10) // so that who stalls is noticed
	_, err := io.WriteString(conn, request)
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	status, err2 := r.ReadString('\n')
	if err != nil || err2 != nil || !strings.Contains(status, " 200 ") {
		c.t.Errorf("no stream: %v %v %q", err, err2, status)
		_ = conn.Close()
		return nil, nil, false
	}
	return p, r, true
}

type http1Peer struct {
	net.Conn
	tcp *net.TCPConn
}

func (p *http1Peer) reset() {
	_ = p.tcp.SetLinger(0)
	_ = p.tcp.Close() // TLS would say goodbye
}

func (p *http1Peer) stops()  {}
func (p *http1Peer) goesOn() {}

func (p *http1Peer) half() {
	if secure, ok := p.Conn.(*tls.Conn); ok {
		_ = secure.CloseWrite()
	}
	_ = p.tcp.CloseWrite()
}

func (c *churn) openHTTP2(s *sighting) (peer, *bufio.Reader, bool) {
	var header []string
	if last := s.last(); last != "" {
		header = append(header, "Last-Event-ID: "+last)
	}
	var w *wired
	for try := 1; ; try++ {
		w = c.wire()
		resp, err := w.try("GET", "/v1/events?channel="+s.channel, "", header...)
		w.resp = resp
		if err == nil && resp.StatusCode == http.StatusOK {
			break
		}
		w.close()
		if try == 10 { // net/http gives the client two seconds for its first frame, which a busy machine may need
			c.t.Errorf("no stream: %v", err)
			return nil, nil, false
		}
	}
	ours, theirs := net.Pipe() // a body has no deadlines
	go func() {
		_, _ = io.Copy(theirs, w.resp.Body)
		_ = theirs.Close()
	}()
	return &http2Peer{Conn: ours, w: w}, bufio.NewReader(ours), true
}

type http2Peer struct {
	net.Conn
	w *wired
}

func (p *http2Peer) reset() { p.w.reset() }
func (p *http2Peer) half()  {}

// stops has the connection stall, or the stream alone.
func (p *http2Peer) stops() {
	if rand.IntN(2) == 0 {
		p.w.stops()
	}
}
func (p *http2Peer) goesOn() { p.w.goesOn() }

func (p *http2Peer) Close() error {
	_ = p.Conn.Close()
	p.w.close()
	return nil
}

func (s *sighting) last() string {
	if len(s.ids) > 0 {
		return s.ids[len(s.ids)-1]
	}
	return s.start
}

// read notes the ids that come, for some time; true when everything has come that was published.
func (c *churn) read(conn net.Conn, r *bufio.Reader, s *sighting, most time.Duration) bool {
	began := time.Now()
	heartbeat, id := false, ""
	for {
		_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		line, err := r.ReadString('\n')
		for err != nil && os.IsTimeout(err) && !c.enough(s, began, most) { // in the middle of a line, perhaps
			_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			var more string
			more, err = r.ReadString('\n')
			line += more
		}
		if err != nil {
			return c.enough(s, began, most)
		}
		switch text, isID := strings.CutPrefix(strings.TrimSpace(line), "id: "); {
		case isID:
			id, heartbeat = text, false
		case strings.HasPrefix(line, "event: heartbeat"):
			heartbeat = true
		case strings.HasPrefix(line, "data: ") && !strings.HasPrefix(line, "data: {"):
			data := strings.TrimRight(line[len("data: "):], "\n")
			number := strings.TrimRight(data, "x")
			if n, err := strconv.Atoi(number); err != nil || len(data)-len(number) != largeData*(1-min(n%10, 1)) {
				c.t.Errorf("an event came as %d bytes: %.50q", len(data), data)
			}
		case line == "\n" && id != "": // the event is whole
			switch {
			case heartbeat && s.start == "":
				s.start = id
			case !heartbeat:
				s.ids = append(s.ids, id)
			}
			id = ""
		}
		if time.Since(began) > most {
			return false
		}
	}
}

// enough is true when the reader has what it came for.
func (c *churn) enough(s *sighting, began time.Time, most time.Duration) bool {
	if most < time.Hour {
		return time.Since(began) > most
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	order := c.orders[s.channel]
	return c.orders != nil && (len(order) == 0 || s.last() >= order[len(order)-1])
}

// check holds what was seen against the log.
func (c *churn) check() (events int) {
	for _, s := range c.seen {
		order := c.orders[s.channel]
		from, found := slices.BinarySearch(order, s.start)
		if found {
			from++
		}
		rest := order[from:]
		if s.start == "" && !s.stayed {
			continue // it had seen nothing when it went
		}
		if s.start == "" || len(s.ids) > len(rest) || !slices.Equal(s.ids, rest[:len(s.ids)]) {
			c.t.Errorf("%s after %q: got %d ids, %v…, want %v…", s.channel, s.start, len(s.ids),
				s.ids[:min(5, len(s.ids))], rest[:min(5, len(rest))])
		} else if s.stayed && len(s.ids) != len(rest) {
			c.t.Errorf("%s after %q: who stayed got %d of %d events", s.channel, s.start, len(s.ids), len(rest))
		}
		events += len(s.ids)
	}
	return events
}

// openSockets counts connections and epoll sets; the log's files come and go.
func openSockets(t *testing.T) (n int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range list {
		what, _ := os.Readlink("/proc/self/fd/" + one.Name())
		if strings.HasPrefix(what, "socket:") || strings.HasPrefix(what, "anon_inode:") {
			n++
		}
	}
	return n
}

// churning is how many clients come at once, by the kind of their connections: as many as two
// processors can do.
var churning = map[string]int{"detached": 1000, "used": 150, "attached": 150, "TLS": 100, "attached TLS": 60,
	"HTTP2": 60, "h2c": 60}

// TestChurn: for half a minute, many clients connect, read, stall, close, half-close, reset and are
// never heard of again, while others publish. Every stream sees exactly its channel's events, in
// order (P2, P3), whatever the others do (P5), and at the end nothing is left.
func TestChurn(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("streams are detached on Linux only")
	}
	sockets := openSockets(t)
	if eachKindAlone(t, TestChurn) {
		for deadline := time.Now().Add(time.Minute); openSockets(t) > sockets; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d sockets were open, now %d", sockets, openSockets(t))
			}
		}
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{StallLimit: 2 * time.Second, Heartbeat: time.Second,
		Lifetime: 5 * time.Second, TailBytes: 1 << 20}})
	length, clients := 10*time.Second, churning[f.kind.name]
	if os.Getenv("FANFARE_LONG") != "" {
		length = time.Minute
	}
	c := &churn{fixture: f, until: time.Now().Add(length)}
	var publishers, all sync.WaitGroup
	c.publishers(&publishers)
	for n := range clients {
		all.Go(func() { c.client(n) })
	}
	publishers.Wait()
	orders := map[string][]string{}
	for n := range churnChannels {
		orders[c.channel(n)] = f.allIDs(c.channel(n))
	}
	c.mu.Lock()
	c.orders = orders
	c.mu.Unlock()
	all.Wait()
	t.Logf("%d clients came, %d events were read", len(c.seen), c.check())
	for _, conn := range c.gone {
		_ = conn.Close()
	}
	f.metric(t, `fanfare_streams_open{adapter="native"} 0`)
	f.metric(t, "fanfare_tail_bytes 0")
}

// allIDs returns the ids of all of a channel's events.
func (f *fixture) allIDs(channel string) (ids []string) {
	f.t.Helper()
	after := ""
	for {
		page := f.history("limit=1000&channel=" + channel + after)
		for _, e := range page.Events {
			ids = append(ids, e.ID)
		}
		if page.Next == "" {
			return ids
		}
		after = "&after=" + page.Next
	}
}
