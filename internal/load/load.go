// Package load drives a hub with many streams and publishers from one thread, and measures what comes of it. It speaks HTTP/1.1 over
// plain TCP and waits with epoll, so that it needs less than what it measures. It works against anything that serves
// Server-Sent Events and takes publishes by POST; how their paths look is set.
package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Options describe a run. Those without a default are required.
type Options struct {
	Addr        string        // host:port
	Header      []string      // further header lines of each request, "Name: value"
	StreamPath  string        // {channel} stands for the channel's name; default that of the native API
	PublishPath string        // the same
	Streams     int           // to open
	Publishers  int           // connections that publish
	Rate        float64       // publishes a second of all together; 0: flat out
	DataBytes   int           // of an event, at least 32; default 200
	Missed      int           // events that each stream has missed, with Resume; default 200
	Wait        time.Duration // measure for so long; default 10 s
	PID         int           // the server's, for its CPU time and memory; 0: not known
}

// OptionError says which option cannot be.
type OptionError struct{ text string }

// Error implements error.
func (e *OptionError) Error() string { return e.text }

// Workload is what to do.
type Workload string

// The workloads.
const (
	Idle   Workload = "idle"   // streams that hear nothing
	FanOut Workload = "fanout" // all streams hear one channel
	Own    Workload = "own"    // each stream hears a channel of its own
	Resume Workload = "resume" // all streams come back at once, and have missed events of one channel
)

// Workloads lists them.
var Workloads = []Workload{Idle, FanOut, Own, Resume}

func (o Options) withDefaults() (Options, error) {
	if o.StreamPath == "" {
		o.StreamPath = "/v1/events?channel={channel}"
	}
	if o.PublishPath == "" {
		o.PublishPath = "/v1/channels/{channel}"
	}
	if o.DataBytes == 0 {
		o.DataBytes = 200
	}
	if o.Missed == 0 {
		o.Missed = 200
	}
	if o.Wait == 0 {
		o.Wait = 10 * time.Second
	}
	switch {
	case o.DataBytes < 32:
		return o, &OptionError{"an event must have at least 32 bytes of data: they hold a time"}
	case o.Streams < 0 || o.Publishers < 0 || o.Missed < 1 || o.Rate < 0:
		return o, &OptionError{"the numbers of streams and publishers and the rate must not be negative, and there must be missed events"}
	}
	for _, line := range o.Header {
		if strings.ContainsAny(line, "\r\n") || !strings.Contains(line, ": ") {
			return o, &OptionError{fmt.Sprintf("header %q: want Name: value", line)}
		}
	}
	return o, nil
}

// Run does a workload, until ctx ends. It takes Wait and the time to connect and let go.
func Run(ctx context.Context, w Workload, o Options) (Report, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Report{}, err
	}
	addr, err := net.ResolveTCPAddr("tcp", o.Addr)
	if err != nil {
		return Report{}, err
	}
	r := &run{ctx: ctx, o: o, addr: addr, channels: channels(w, o.Streams), report: Report{Workload: w, Streams: o.Streams}}
	if err := r.loop.open(); err != nil {
		return Report{}, err
	}
	defer r.close()
	before, _ := usageOf(o.PID)
	switch w {
	case Idle:
		err = r.idle()
	case FanOut, Own:
		err = r.flow()
	case Resume:
		err = r.resume()
	default:
		err = fmt.Errorf("workload %q: want one of %v", w, Workloads)
	}
	if after, ok := usageOf(o.PID); ok && err == nil {
		r.report.Measured = true
		r.report.MemoryBytes = after.memory - before.memory
	}
	return r.report, err
}

// channels are the names that a workload's streams hear, new ones for each run.
func channels(w Workload, streams int) []string {
	prefix := "bench/" + strconv.FormatInt(time.Now().UnixNano(), 36)
	if w != Own {
		return []string{prefix}
	}
	list := make([]string, streams)
	for i := range list {
		list[i] = prefix + "/" + strconv.Itoa(i)
	}
	return list
}

// idle opens the streams, and looks at the memory at the end.
func (r *run) idle() error {
	if err := r.openStreams(r.o.Streams, ""); err != nil {
		return err
	}
	return r.turn(r.o.Wait)
}

// flow has the publishers publish while the streams hear.
func (r *run) flow() error {
	if err := r.openStreams(r.o.Streams, ""); err != nil {
		return err
	}
	if err := r.openPublishers(r.o.Publishers); err != nil {
		return err
	}
	r.publishing = true
	r.startPublishers()
	if err := r.turn(r.o.Wait / 10); err != nil { // until it flows evenly
		return err
	}
	r.begin()
	if err := r.turn(r.o.Wait); err != nil {
		return err
	}
	r.end()
	r.publishing = false
	return nil
}

// resume publishes what will have been missed, and opens the streams after that.
func (r *run) resume() error {
	if err := r.openStreams(1, ""); err != nil {
		return err
	}
	if err := r.openPublishers(max(r.o.Publishers, 1)); err != nil {
		return err
	}
	r.publishing, r.left = true, r.o.Missed+1
	r.streams[0].note = true // the first of them says where the others begin
	r.startPublishers()
	deadline := time.Now().Add(r.o.Wait)
	for r.report.Publishes < r.o.Missed+1 || r.streams[0].note {
		if err := r.turn(10 * time.Millisecond); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("only %d of %d events could be published in %v", r.report.Publishes, r.o.Missed, r.o.Wait)
		}
	}
	r.publishing = false
	for r.report.Deliveries < r.o.Missed+1 { // the first stream has heard all
		if err := r.turn(time.Millisecond); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("not all that was published has been delivered")
		}
	}
	want := r.o.Streams * r.o.Missed
	r.begin()
	if err := r.openStreams(r.o.Streams, r.streams[0].position); err != nil {
		return err
	}
	for deadline := time.Now().Add(r.o.Wait); r.report.Deliveries < want; {
		if err := r.turn(5 * time.Millisecond); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("only %d of %d missed events came in %v", r.report.Deliveries, want, r.o.Wait)
		}
	}
	r.end()
	return nil
}
