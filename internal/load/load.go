// Package load drives a hub with many streams and publishers from one thread, and measures the hub.
// It speaks HTTP/1.1 over plain TCP and waits with epoll, so that it needs fewer resources than the
// hub. It works against any server of Server-Sent Events that takes publishes by POST; the paths
// are options.
package load

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Options describe a run. Those without a default are required.
type Options struct {
	Addr   string   // host:port
	Header []string // further header lines of each request, "Name: value"
	// {channel} stands for the channel's name, {n} for the stream's number; default that of the
	// native API
	StreamPath  string
	PublishPath string        // the same, without {n}
	Streams     int           // to open
	Publishers  int           // connections that publish
	Rate        float64       // publishes a second of all together; 0: flat out
	DataBytes   int           // of an event, at least 32; default 200
	Missed      int           // events that each stream has missed, with Resume; default 200
	OwnChannels bool          // with Resume: each stream has a channel of its own
	Dead        int           // of the streams, with FanOut and Own: they never read again once they have begun
	Wait        time.Duration // how long to measure; default 10 s
	PID         int           // the server's, for its CPU time and memory; 0: not known

	// Between, if set, is called by Resume between publishing and coming back, with all connections
	// closed: to restart the server. It returns the new PID, 0 when it is not known.
	Between func(context.Context) (pid int, err error)
}

// OptionError says which option cannot be.
type OptionError struct{ text string }

// Error implements error.
func (e *OptionError) Error() string { return e.text }

// Workload is the kind of load.
type Workload string

// The workloads.
const (
	Idle   Workload = "idle"   // streams that hear nothing
	FanOut Workload = "fanout" // all streams hear one channel
	Own    Workload = "own"    // each stream hears a channel of its own
	Resume Workload = "resume" // all streams come back at once, and have missed events
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
	case o.Dead < 0 || (o.Dead > 0 && o.Dead >= o.Streams):
		return o, &OptionError{"there must be fewer dead streams than streams"}
	case o.DataBytes < 32:
		return o, &OptionError{"an event must have at least 32 bytes of data: they hold a time"}
	case o.Streams < 0 || o.Publishers < 0 || o.Missed < 1 || o.Rate < 0:
		return o, &OptionError{"the numbers of streams and publishers and the rate must not be negative, and there " +
			"must be missed events"}
	}
	for _, line := range o.Header {
		if strings.ContainsAny(line, "\r\n") || !strings.Contains(line, ": ") {
			return o, &OptionError{fmt.Sprintf("header %q: want Name: value", line)}
		}
	}
	return o, nil
}

// Run does a workload, until ctx ends. It takes Wait and the time to connect and disconnect.
func Run(ctx context.Context, w Workload, o Options) (Report, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Report{}, err
	}
	switch {
	case w != Resume && (o.OwnChannels || o.Between != nil):
		return Report{}, &OptionError{"channels of their own, and something to do in between, are for the " +
			"workload resume"}
	case w != FanOut && w != Own && o.Dead > 0:
		return Report{}, &OptionError{"dead streams are for the workloads fanout and own"}
	}
	addr, err := net.ResolveTCPAddr("tcp", o.Addr)
	if err != nil {
		return Report{}, err
	}
	r := &run{ctx: ctx, o: o, addr: addr, channels: channels(w == Own || (w == Resume && o.OwnChannels), o.Streams),
		report: Report{Workload: w, Streams: o.Streams}}
	if err := r.loop.open(); err != nil {
		return Report{}, err
	}
	defer r.close()
	before, _ := usageOf(o.PID)
	r.memory = before.memory
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
	if after, ok := usageOf(r.o.PID); ok && err == nil {
		r.report.Measured = true
		r.report.MemoryBytes = after.memory - r.memory
	}
	return r.report, err
}

// channels are the names that a workload's streams hear, new ones for each run.
func channels(own bool, streams int) []string {
	prefix := "bench/" + strconv.FormatInt(time.Now().UnixNano(), 36)
	if !own || streams == 0 {
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
	kernel := kernelBytes()
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
	if r.o.Dead == 0 {
		return nil
	}
	err := r.turn(time.Second) // until only the dead have something left to read
	r.report.Dead, r.report.KernelBytes = r.o.Dead, kernelBytes()-kernel
	return err
}

// resume publishes the events that the streams will have missed, and then opens the streams.
func (r *run) resume() error {
	if err := r.openStreams(1, ""); err != nil {
		return err
	}
	if err := r.openPublishers(max(r.o.Publishers, 1)); err != nil {
		return err
	}
	position, err := r.miss()
	if err != nil {
		return err
	}
	if r.o.Between != nil {
		if err := r.between(); err != nil {
			return err
		}
	}
	want := r.o.Streams * r.o.Missed
	r.begin()
	if err := r.openStreams(r.o.Streams, position); err != nil {
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

// miss publishes an event, which says where the streams will begin, and then those that they miss.
func (r *run) miss() (position string, err error) {
	first := r.streams[0]
	missed := r.o.Missed * len(r.channels)
	r.publishing, r.left, first.note = true, 1, true
	r.startPublishers()
	deadline := time.Now().Add(r.o.Wait + time.Duration(missed)*time.Millisecond)
	for more := missed; r.report.Publishes < missed+1 || r.report.Deliveries < r.o.Missed+1; {
		if err := r.turn(time.Millisecond); err != nil {
			return "", err
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("in %v only %d of %d events could be published, and %d of %d were delivered",
				r.o.Wait, r.report.Publishes, missed+1,
				r.report.Deliveries, r.o.Missed+1)
		}
		if !first.note {
			r.left, more = r.left+more, 0
		}
	}
	r.publishing = false
	return first.position, nil
}

// between closes all connections, has Between do its work, and waits until the server listens.
func (r *run) between() error {
	r.closeAll()
	pid, err := r.o.Between(r.ctx)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", r.addr.String(), time.Second)
		if err == nil {
			_ = conn.Close()
			break
		}
		if r.ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("the server does not listen again: %w", err)
		}
	}
	r.o.PID = pid
	now, _ := usageOf(pid)
	r.memory = now.memory
	return nil
}
