package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

type scheduledCmd struct {
	target
	Channel []string `arg:"" optional:"" help:"Channels or patterns, such as 'stores/**'; default all."`
	Cancel  string   `help:"Cancel the event with this id, so that it is never published." placeholder:"ID"`
	JSON    bool     `name:"json" help:"Print a JSON object a line, as the hub gives it."`
}

// Help implements kong.HelpProvider.
func (scheduledCmd) Help() string {
	return `Examples:
  fanfare publish stores/1 REBOOT --at 03:00
  fanfare scheduled 'stores/**'
  fanfare scheduled --cancel 1M86KMDZX0007

Prints the events that are to be published later, the next one first: id, time, channel, type and data, with tabs between; a line end in data shows as \n.`
}

func (c *scheduledCmd) Run(ctx context.Context, std *stdio) error {
	if c.Cancel != "" {
		if len(c.Channel) > 0 {
			return &exitError{exitUsage, errors.New("--cancel takes an id, and no channel")}
		}
		return c.cancel(ctx)
	}
	if len(c.Channel) == 0 {
		c.Channel = []string{"**"}
	}
	query := url.Values{"channel": c.Channel, "limit": {"1000"}}
	show := func(raw json.RawMessage) error { return c.print(std, raw) }
	return c.each(ctx, "/v1/scheduled", query, "scheduled", show)
}

func (c *scheduledCmd) print(std *stdio, raw json.RawMessage) error {
	if c.JSON {
		_, err := fmt.Fprintf(std.out, "%s\n", raw)
		return err
	}
	var e struct{ Scheduled, Channel, Event, Data, DeliverAt string }
	if err := json.Unmarshal(raw, &e); err != nil {
		return fmt.Errorf("the hub's answer is not JSON: %w", err)
	}
	data := strconv.Quote(e.Data)
	_, err := fmt.Fprintln(std.out,
		strings.Join([]string{e.Scheduled, e.DeliverAt, e.Channel, e.Event, data[1 : len(data)-1]}, "\t"))
	return err
}

func (c *scheduledCmd) cancel(ctx context.Context) error {
	req, err := c.request(ctx, http.MethodDelete, "/v1/scheduled/"+url.PathEscape(c.Cancel), nil, nil)
	if err != nil {
		return err
	}
	_, err = c.do(req)
	return asExit(err)
}

// deliverAt is what the hub is told for --at and --in: a time of day is the next such time, by this
// machine's clock and zone.
func deliverAt(at string, in span, now time.Time) (string, error) {
	switch {
	case at != "" && in != 0:
		return "", &exitError{exitUsage, errors.New("--at and --in are both given: want one of them")}
	case in < 0:
		return "", &exitError{exitUsage, errors.New("--in must not be negative")}
	case in != 0:
		return "in " + time.Duration(in).String(), nil
	case at == "":
		return "", nil
	}
	if t, err := time.Parse(time.RFC3339, at); err == nil {
		return t.Format(time.RFC3339Nano), nil
	}
	if t, err := time.ParseInLocation("2006-01-02 15:04", at, now.Location()); err == nil {
		return t.Format(time.RFC3339), nil
	}
	t, err := time.Parse("15:04", at)
	if err != nil {
		return "", &exitError{exitUsage,
			fmt.Errorf("--at %q: want 03:00, '2026-11-27 03:00' or 2026-11-27T03:00:00Z", at)}
	}
	next := time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), 0, 0, now.Location())
	if !next.After(now) {
		next = time.Date(now.Year(), now.Month(), now.Day()+1, t.Hour(), t.Minute(), 0, 0, now.Location())
	}
	return next.Format(time.RFC3339), nil
}
