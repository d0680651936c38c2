package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare/internal/load"
)

type benchCmd struct {
	target
	Workload    string  `arg:"" enum:"idle,fanout,own,resume" help:"idle: streams that hear no events; fanout: all streams hear one channel; own: each stream hears its own channel; resume: all streams come back at once."`
	Streams     int     `default:"1000" help:"Streams to open."`
	Publishers  int     `default:"4" help:"Connections that publish."`
	Rate        float64 `help:"Publishes a second, all together; 0: as fast as they are acknowledged."`
	DataBytes   int     `default:"200" help:"Bytes of an event's data."`
	Missed      int     `default:"200" help:"resume: events that each stream has missed."`
	Own         bool    `help:"resume: each stream has a channel of its own."`
	Between     string  `help:"resume: run this in a shell before the streams come back, to restart the hub; if it prints a number, that is the hub's new PID." placeholder:"COMMAND"`
	Dead        int     `help:"fanout, own: this many of the streams never read."`
	Wait        span    `default:"10s" help:"How long to measure."`
	Pid         int     `help:"The hub's process, on this machine, for its CPU time and memory." placeholder:"PID"`
	StreamPath  string  `default:"/v1/events?channel={channel}" help:"Path of a stream, for other servers or for store streams; {n} is the stream's number."`
	PublishPath string  `default:"/v1/channels/{channel}" help:"Path of a publish."`
	JSON        bool    `help:"Print the figures as JSON; times in nanoseconds."`
}

// Help implements kong.HelpProvider.
func (benchCmd) Help() string {
	return `Example: fanfare bench fanout --streams 5000 --pid $(pgrep -f 'fanfare serve')

Opens streams and publishes, from one thread, and prints the figures. Use it to size a machine, not against a hub that serves
people. Its events go to channels below bench/ and stay until retention removes them. Give the hub and the bench different
processors, with taskset. Both need as many open files as there are streams. Plain HTTP only.`
}

func (c *benchCmd) Run(ctx context.Context, std *stdio) error {
	u, ok := parseTarget(c.URL)
	if !ok || u.Scheme != "http" || strings.Trim(u.Path, "/") != "" {
		return &exitError{exitUsage,
			fmt.Errorf("--url %q: want http://host:port; over TLS the bench would measure TLS", shownURL(c.URL))}
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "80")
	}
	o := load.Options{
		Addr: host, StreamPath: c.StreamPath, PublishPath: c.PublishPath, Streams: c.Streams, Publishers: c.Publishers,
		Rate:      c.Rate,
		DataBytes: c.DataBytes, Missed: c.Missed, OwnChannels: c.Own, Dead: c.Dead, Wait: time.Duration(c.Wait),
		PID: c.Pid,
	}
	if c.Between != "" {
		o.Between = c.between
	}
	req := &http.Request{Header: http.Header{}}
	if err := c.authorize(req); err != nil {
		return err
	}
	if token := req.Header.Get("Authorization"); token != "" {
		o.Header = append(o.Header, "Authorization: "+token)
	}
	report, err := load.Run(ctx, load.Workload(c.Workload), o)
	if _, ok := errors.AsType[*load.OptionError](err); ok {
		return &exitError{exitUsage, err}
	}
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(std.out).Encode(report)
	}
	_, err = fmt.Fprint(std.out, report)
	return err
}

// between runs the command of --between.
func (c *benchCmd) between(ctx context.Context) (pid int, err error) {
	out, err := exec.CommandContext(ctx, "sh", "-c", c.Between).Output() // #nosec G204 -- the user's own words
	if err != nil {
		return 0, fmt.Errorf("--between %q: %w", c.Between, err)
	}
	pid, _ = strconv.Atoi(strings.TrimSpace(string(out)))
	return pid, nil
}
