package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// run is one run. One goroutine does everything.
type run struct {
	ctx      context.Context
	o        Options
	addr     *net.TCPAddr
	channels []string
	loop     loop
	report   Report

	streams    []*conn
	publishers []*conn
	began      time.Time
	used       usage
	memory     int64 // the server's, before
	publishing bool
	left       int     // publishes to go, when limited
	turns      int     // publishes begun
	idleOnes   []*conn // publishers that wait for the rate
	paced      time.Time
	ready      int // streams that have had their first event
	acks       []time.Duration
	delays     []time.Duration
}

// conn is a connection: a stream, or a publisher.
type conn struct {
	fd       int
	stream   bool
	dead     bool // reads no more once it has begun
	channel  string
	answered bool   // the head has come
	newline  bool   // the last byte was LF
	first    bool   // the first event has come
	note     bool   // the next event's id is wanted
	position string // the id that was
	buffered []byte // the part of an answer or of the first event that has come
	sent     time.Time
}

const samplesMost = 1 << 20

func (r *run) close() {
	r.closeAll()
	r.loop.shut()
}

func (r *run) closeAll() {
	for _, c := range append(r.streams, r.publishers...) {
		r.loop.close(c.fd)
	}
	r.streams, r.publishers, r.idleOnes = nil, nil, nil
}

// request makes a request's head.
func (r *run) request(method, path, channel string, n int, more ...string) []byte {
	path = strings.NewReplacer("{channel}", channel, "{n}", strconv.Itoa(n)).Replace(path)
	b := method + " " + path + " HTTP/1.1\r\nHost: " + r.o.Addr + "\r\n"
	for _, line := range append(more, r.o.Header...) {
		b += line + "\r\n"
	}
	return []byte(b + "\r\n")
}

// openStreams opens streams and waits until each has had its first event. As many connect at once
// as a server's queue takes.
func (r *run) openStreams(n int, after string) error {
	const atOnce = 100
	began, ready, opened := time.Now(), r.ready, 0
	more := []string{"Accept: text/event-stream"}
	if after != "" {
		more = append(more, "Last-Event-ID: "+after)
	}
	for r.ready-ready < n {
		for opened < n && opened-(r.ready-ready) < atOnce {
			c := &conn{stream: true, channel: r.channels[opened%len(r.channels)], dead: opened >= r.o.Streams-r.o.Dead}
			if err := r.connect(c, r.request("GET", r.o.StreamPath, c.channel, opened, more...)); err != nil {
				return fmt.Errorf("open stream %d: %w", opened, err)
			}
			r.streams = append(r.streams, c)
			opened++
		}
		if err := r.turn(0); err != nil {
			return err
		}
		if time.Since(began) > time.Minute+r.o.Wait {
			return fmt.Errorf("only %d of %d streams have begun", r.ready-ready, n)
		}
	}
	r.report.OpenedIn = time.Since(began)
	return nil
}

func (r *run) connect(c *conn, request []byte) (err error) {
	if c.fd, err = r.loop.dial(r.addr, c.dead); err != nil {
		return err
	}
	if err := r.loop.add(c); err != nil {
		return err
	}
	return r.loop.write(c.fd, request)
}

func (r *run) openPublishers(n int) error {
	for range n {
		c := &conn{}
		var err error
		if c.fd, err = r.loop.dial(r.addr, false); err != nil {
			return err
		}
		if err := r.loop.add(c); err != nil {
			return err
		}
		r.publishers = append(r.publishers, c)
	}
	return nil
}

func (r *run) startPublishers() {
	r.paced = time.Now()
	r.idleOnes = append(r.idleOnes[:0], r.publishers...)
}

// pace has idle publishers publish, as fast as the rate allows.
func (r *run) pace() error {
	for len(r.idleOnes) > 0 && r.publishing {
		if r.o.Rate > 0 {
			if time.Now().Before(r.paced) {
				return nil
			}
			r.paced = r.paced.Add(time.Duration(float64(time.Second) / r.o.Rate))
		}
		if r.report.Workload == Resume {
			if r.left == 0 {
				return nil
			}
			r.left--
		}
		c := r.idleOnes[0]
		r.idleOnes = r.idleOnes[1:]
		if err := r.publish(c); err != nil {
			return err
		}
	}
	return nil
}

// stamp stands before the time of a publish, in nanoseconds since 1970, at the beginning of its
// data.
const stamp = "t="

func (r *run) publish(c *conn) error {
	channel := r.channels[r.turns%len(r.channels)]
	r.turns++
	body := make([]byte, 0, r.o.DataBytes)
	c.sent = time.Now()
	body = append(body, stamp...)
	body = strconv.AppendInt(body, c.sent.UnixNano(), 10)
	for len(body) < r.o.DataBytes {
		body = append(body, 'x')
	}
	request := r.request("POST", r.o.PublishPath, channel, 0, "Content-Type: text/plain",
		"Content-Length: "+strconv.Itoa(len(body)))
	return r.loop.write(c.fd, append(request, body...))
}

// begin begins to measure.
func (r *run) begin() {
	r.report.Publishes, r.report.Deliveries, r.report.Refused = 0, 0, 0
	r.acks, r.delays = r.acks[:0], r.delays[:0]
	r.used, _ = usageOf(r.o.PID)
	r.began = time.Now()
}

func (r *run) end() {
	r.report.Took = time.Since(r.began)
	if now, ok := usageOf(r.o.PID); ok {
		r.report.CPU = now.cpu - r.used.cpu
	}
	r.report.Ack, r.report.Delay = percentiles(r.acks), percentiles(r.delays)
}

// turn handles events of the sockets, for some time, at least once.
func (r *run) turn(wait time.Duration) error {
	for deadline := time.Now().Add(wait); ; {
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		if err := r.pace(); err != nil {
			return err
		}
		most := min(time.Until(deadline), 5*time.Millisecond)
		if r.publishing && r.o.Rate > 0 && len(r.idleOnes) > 0 {
			// below a millisecond it does not wait: publishes would come in bursts
			most = min(most, time.Until(r.paced))
		}
		if err := r.loop.wait(most, r.came); err != nil {
			return err
		}
		if !time.Now().Before(deadline) {
			return nil
		}
	}
}

// came takes the bytes that have come on a connection; an empty b is its end.
func (r *run) came(c *conn, b []byte) error {
	switch {
	case len(b) == 0 && c.stream && !c.first:
		return errNoRoom
	case len(b) == 0 && c.stream:
		r.report.Ended++
		return nil
	case len(b) == 0:
		return errors.New("the server has closed a publisher's connection")
	case c.stream:
		return r.streamed(c, b)
	}
	return r.answered(c, b)
}

// streamed counts the events of a stream by the blank lines that end them.
func (r *run) streamed(c *conn, b []byte) error {
	if !c.answered || !c.first {
		return r.beginning(c, b)
	}
	if c.newline && b[0] == '\n' {
		r.report.Deliveries++
	}
	c.newline = b[len(b)-1] == '\n'
	now := time.Now().UnixNano()
	for rest := b; ; {
		i := bytes.Index(rest, []byte("\n\n"))
		if i < 0 {
			break
		}
		if r.report.Deliveries++; r.report.Deliveries%sampleEvery == 0 {
			r.sample(rest[:i], now)
		}
		rest = rest[i+2:]
	}
	if i := bytes.Index(b, []byte("id: ")); c.note && i >= 0 {
		c.position, _, _ = strings.Cut(string(b[i+4:]), "\n")
		c.note = false
	}
	return nil
}

// sampleEvery is of how many deliveries one is timed.
const sampleEvery = 16

// sample notes the delay of an event, if all of it is there.
func (r *run) sample(b []byte, now int64) {
	i := bytes.Index(b, []byte("data: "+stamp))
	const digits = 19
	begin := i + len("data: "+stamp)
	if i < 0 || len(b) < begin+digits || len(r.delays) == samplesMost {
		return
	}
	if at, err := strconv.ParseInt(string(b[begin:begin+digits]), 10, 64); err == nil {
		r.delays = append(r.delays, time.Duration(now-at))
	}
}

var errNoRoom = errors.New("a stream was ended before its first event: does the server have room for as many?")

// beginning waits for the head and the first block: an event that says where the stream begins, or,
// with other servers, a comment.
func (r *run) beginning(c *conn, b []byte) error {
	c.buffered = append(c.buffered, b...)
	head := bytes.Index(c.buffered, []byte("\r\n\r\n"))
	if head < 0 {
		return nil
	}
	if !c.answered {
		c.answered = true
		if status := c.buffered[:bytes.IndexByte(c.buffered, '\r')]; !bytes.Contains(status, []byte(" 200 ")) {
			return fmt.Errorf("a stream was refused: %s", status)
		}
	}
	body := c.buffered[head+4:]
	end := bytes.Index(body, []byte("\n\n"))
	if end < 0 && bytes.HasSuffix(body, []byte("\r\n0\r\n\r\n")) {
		return errNoRoom // the last chunk
	}
	if end < 0 {
		return nil
	}
	rest := body[end+2:]
	c.first, c.buffered = true, nil
	r.ready++
	if c.dead {
		r.loop.forget(c)
		return nil
	}
	if len(rest) > 0 {
		return r.streamed(c, rest)
	}
	return nil
}

// answered takes a publisher's answer, which must say how long it is.
func (r *run) answered(c *conn, b []byte) error {
	c.buffered = append(c.buffered, b...)
	head := bytes.Index(c.buffered, []byte("\r\n\r\n"))
	if head < 0 {
		return nil
	}
	length := 0
	for _, line := range bytes.Split(c.buffered[:head], []byte("\r\n")) {
		if name, value, ok := bytes.Cut(line, []byte(": ")); ok && bytes.EqualFold(name, []byte("Content-Length")) {
			length, _ = strconv.Atoi(string(value))
		}
	}
	if len(c.buffered) < head+4+length {
		return nil
	}
	if status := bytes.Fields(c.buffered[:head]); len(status) > 1 && status[1][0] == '2' {
		r.report.Publishes++
	} else {
		r.report.Refused++
	}
	if len(r.acks) < samplesMost {
		r.acks = append(r.acks, time.Since(c.sent))
	}
	c.buffered = c.buffered[:0]
	r.idleOnes = append(r.idleOnes, c)
	return r.pace()
}
