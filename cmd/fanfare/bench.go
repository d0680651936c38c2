package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare/internal/load"
)

type benchCmd struct {
	target
	Workload    string  `arg:"" enum:"idle,fanout,own,resume" help:"idle: streams that hear nothing; fanout: all hear one channel; own: each hears its own; resume: all come back at once."`
	Streams     int     `default:"1000" help:"Streams to open."`
	Publishers  int     `default:"4" help:"Connections that publish."`
	Rate        float64 `help:"Publishes a second, all together; 0: as fast as they are acknowledged."`
	DataBytes   int     `default:"200" help:"Bytes of an event's data."`
	Missed      int     `default:"200" help:"resume: events that each stream has missed."`
	Wait        span    `default:"10s" help:"Measure for so long."`
	Pid         int     `help:"The hub's process, on this machine, for its CPU time and memory." placeholder:"PID"`
	StreamPath  string  `default:"/v1/events?channel={channel}" help:"Path of a stream: to compare with other servers."`
	PublishPath string  `default:"/v1/channels/{channel}" help:"Path of a publish."`
	JSON        bool    `help:"Print the figures as JSON; times in nanoseconds."`
}

// Help implements kong.HelpProvider.
func (benchCmd) Help() string {
	return `Example: fanfare bench fanout --streams 5000 --pid $(pgrep -f 'fanfare serve')

Opens streams and publishes, from one thread, and prints what came of it: to size a machine, not for a hub that serves people. Its
events go to channels below bench/ and stay until retention removes them. Give the hub and the bench different processors, with
taskset. Both need as many open files as there are streams. Plain HTTP only.`
}

func (c *benchCmd) Run(ctx context.Context, std *stdio) error {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "http" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return &exitError{exitUsage, fmt.Errorf("--url %q: want http://host:port: TLS would measure TLS", c.URL)}
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "80")
	}
	o := load.Options{
		Addr: host, StreamPath: c.StreamPath, PublishPath: c.PublishPath, Streams: c.Streams, Publishers: c.Publishers, Rate: c.Rate,
		DataBytes: c.DataBytes, Missed: c.Missed, Wait: time.Duration(c.Wait), PID: c.Pid,
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
