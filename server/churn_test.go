package server_test

import (
	"bufio"
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

// publishers publish until the time is over: small events, and on one channel in ten large ones, which fill the buffers of who stalls.
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
			c.visit(&s, n, func(conn *net.TCPConn, r *bufio.Reader) {
				c.read(conn, r, &s, time.Duration(rand.IntN(2000))*time.Millisecond)
			})
		case 5: // resets
			c.visit(&s, n, func(conn *net.TCPConn, r *bufio.Reader) {
				c.read(conn, r, &s, time.Duration(rand.IntN(2000))*time.Millisecond)
				_ = conn.SetLinger(0)
			})
		case 6: // closes its sending half, and hears on
			c.visit(&s, n, func(conn *net.TCPConn, r *bufio.Reader) {
				_ = conn.CloseWrite()
				c.read(conn, r, &s, time.Duration(rand.IntN(4000))*time.Millisecond)
			})
		case 7: // stalls, and goes on, or is never heard of again
			conn, r, ok := c.open(&s, n)
			if !ok {
				break
			}
			if rand.IntN(4) == 0 {
				c.mu.Lock()
				c.gone = append(c.gone, conn)
				c.mu.Unlock()
				break
			}
			time.Sleep(time.Duration(rand.IntN(3000)) * time.Millisecond) // it does nothing meanwhile: that is what it is about
			c.read(conn, r, &s, time.Duration(rand.IntN(1000))*time.Millisecond)
			_ = conn.Close()
		}
		c.mu.Lock()
		c.seen = append(c.seen, s)
		c.mu.Unlock()
	}
}

func (c *churn) visit(s *sighting, n int, do func(*net.TCPConn, *bufio.Reader)) {
	if conn, r, ok := c.open(s, n); ok {
		do(conn, r)
		_ = conn.Close()
	}
}

// open connects, after what has been seen; some send more than their request at once, some speak HTTP/1.0.
func (c *churn) open(s *sighting, n int) (*net.TCPConn, *bufio.Reader, bool) {
	conn, err := net.Dial("tcp", c.addr())
	if err != nil {
		c.t.Error(err)
		return nil, nil, false
	}
	tcp := conn.(*net.TCPConn)
	_ = tcp.SetReadBuffer(4 << 10) // so that who stalls is noticed
	request := fmt.Sprintf("GET /v1/events?channel=%s HTTP/1.%d\r\nHost: localhost\r\n", s.channel, min(n%5, 1))
	if last := s.last(); last != "" {
		request += "Last-Event-ID: " + last + "\r\n"
	}
	request += []string{"\r\n", "Connection: close\r\n\r\n", "\r\nGET / HTTP/1.1\r\n"}[rand.IntN(3)]
	_, err = io.WriteString(tcp, request)
	r := bufio.NewReader(tcp)
	_ = tcp.SetReadDeadline(time.Now().Add(30 * time.Second))
	status, err2 := r.ReadString('\n')
	if err != nil || err2 != nil || !strings.Contains(status, " 200 ") {
		c.t.Errorf("no stream: %v %v %q", err, err2, status)
		_ = tcp.Close()
		return nil, nil, false
	}
	return tcp, r, true
}

func (s *sighting) last() string {
	if len(s.ids) > 0 {
		return s.ids[len(s.ids)-1]
	}
	return s.start
}

// read notes the ids that come, for some time; true when everything has come that was published.
func (c *churn) read(conn *net.TCPConn, r *bufio.Reader, s *sighting, most time.Duration) bool {
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
			c.t.Errorf("%s after %q: got %d ids, %v…, want %v…", s.channel, s.start, len(s.ids), s.ids[:min(5, len(s.ids))], rest[:min(5, len(rest))])
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
	http.DefaultClient.CloseIdleConnections() // of the test's own requests
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

// TestChurn: for a minute, 2,000 clients connect, read, stall, close, half-close, reset and are never heard of again, while others
// publish. Every stream sees exactly its channel's events, in order, whatever the others do, and at the end nothing is left.
func TestChurn(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("streams are detached on Linux only")
	}
	length, clients := time.Minute, 2000
	if testing.Short() {
		length, clients = 5*time.Second, 300
	}
	f := start(t, server.Options{StallLimit: 2 * time.Second, Heartbeat: time.Second, NativeLifetime: 5 * time.Second, TailBytes: 1 << 20})
	f.stream("/v1/events?channel=a").close() // the first one makes the shards
	f.publish("none", "x")                   // and this one what serves publishers
	sockets := openSockets(t)
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
	left := func(name string) string {
		for _, line := range strings.Split(f.call("GET", "/metrics", "").body, "\n") {
			if value, ok := strings.CutPrefix(line, name+" "); ok {
				return value
			}
		}
		return name + " is missing"
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		streams, tails, now := left(`fanfare_streams_open{adapter="native"}`), left("fanfare_tail_bytes"), openSockets(t)
		if streams == "0" && tails == "0" && now <= sockets {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s streams and %s tail bytes are left, and %d sockets were open, now %d", streams, tails, sockets, now)
		}
	}
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
