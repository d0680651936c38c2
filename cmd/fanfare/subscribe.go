package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/sse"
)

type subscribeCmd struct {
	target
	Channel  []string `arg:"" help:"Channels or patterns, such as 'logs/*' or 'stores/**'."`
	Since    string   `help:"Start after this event id, with 'all' retained events, with the 'latest' of each channel, with the last N events, or at a time: 10m ago, or 2026-11-22T10:00:00Z." placeholder:"ID|all|latest|N|TIME"`
	Conflate bool     `help:"When this command lags, skip events that a newer one of their channel has replaced."`
	JSON     bool     `name:"json" help:"Print a JSON object a line: id, channel, event, data, time."`
}

// Help implements kong.HelpProvider.
func (subscribeCmd) Help() string {
	return `Example: fanfare subscribe 'logs/**' --since all --json

Prints the data of each event; with patterns, or more than one channel, the channel and a tab before it. Warnings, such as one of a gap, go to standard error. When the connection breaks it is
opened again, and nothing is lost or repeated.`
}

// silence is how long a hub may say nothing, not even a heartbeat, before the connection counts as
// broken.
const silence = 45 * time.Second

// subscription is one run of the command.
type subscription struct {
	cmd    *subscribeCmd
	std    *stdio
	lastID string
	retry  time.Duration
	opened bool // a stream has been open: from now on, connect again
}

func (c *subscribeCmd) Run(ctx context.Context, std *stdio) error {
	s := &subscription{cmd: c, std: std, retry: 3 * time.Second}
	failures := 0
	for {
		got, err := s.stream(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (!s.opened || !passing(err)):
			return asExit(err)
		case got:
			failures = 0
		default:
			failures++
		}
		if err != nil {
			fmt.Fprintln(std.err, "fanfare: the connection broke, trying again:", err)
		}
		wait := min(s.retry<<min(failures, 4), 30*time.Second)
		select {
		case <-time.After(wait/2 + rand.N(wait/2+1)):
		case <-ctx.Done():
			return nil
		}
	}
}

// stream reads one connection to its end; got tells whether anything came. A clean end is no error.
func (s *subscription) stream(ctx context.Context) (got bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := s.request(ctx)
	if err != nil {
		return false, err
	}
	client, err := s.cmd.client()
	if err != nil {
		return false, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		return false, asProblem(resp, body)
	}
	s.opened = true
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()
	d := sse.NewDecoder(resetOnRead{resp.Body, watchdog})
	d.Parser.LastEventID = s.lastID
	d.Parser.Handler.Retry = func(ms int64) { s.retry = time.Duration(ms) * time.Millisecond }
	for {
		e, err := d.Next()
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if errors.Is(err, sse.ErrTooLong) {
			return got, err
		}
		if err != nil {
			return got, &url.Error{Op: "Get", URL: withoutPassword(s.cmd.URL), Err: err}
		}
		got = true
		if err := s.print(e); err != nil {
			return got, err
		}
		s.lastID = e.LastEventID
	}
}

type resetOnRead struct {
	r        io.Reader
	watchdog *time.Timer
}

func (r resetOnRead) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.watchdog.Reset(silence)
	return n, err
}

func (s *subscription) request(ctx context.Context) (*http.Request, error) {
	query := url.Values{"channel": s.cmd.Channel, "heartbeat": {"15"}, "envelope": {"true"}}
	if s.cmd.Conflate {
		query.Set("conflate", "true")
	}
	if s.lastID == "" && s.cmd.Since != "" {
		_, notID := fanfare.ParsePosition(s.cmd.Since)
		_, notNumber := strconv.Atoi(s.cmd.Since)
		switch {
		case notID == nil:
			s.lastID = s.cmd.Since
		case s.cmd.Since == "all" || s.cmd.Since == "latest" || notNumber == nil:
			query.Set("replay", s.cmd.Since)
		default:
			query.Set("since", s.cmd.Since)
		}
	}
	req, err := s.cmd.request(ctx, http.MethodGet, "/v1/events", query, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", sse.MediaType)
	req.Header.Set("Cache-Control", "no-cache")
	if s.lastID != "" {
		req.Header.Set("Last-Event-ID", s.lastID)
	}
	return req, nil
}

func (s *subscription) print(e sse.Event) error {
	switch e.Type {
	case "heartbeat":
		return nil
	case "gap":
		_, err := fmt.Fprintln(s.std.err, "fanfare: warning: events are missing:", e.Data)
		return err
	}
	event := struct {
		ID      string `json:"id"`
		Channel string `json:"channel"`
		Event   string `json:"event"`
		Data    string `json:"data"`
		Time    string `json:"time"`
	}{ID: e.LastEventID}
	if err := json.Unmarshal([]byte(e.Data), &event); err != nil {
		return fmt.Errorf("the hub's event is not the JSON that was asked for: %w", err)
	}
	switch {
	case s.cmd.JSON:
		return json.NewEncoder(s.std.out).Encode(event)
	case s.many():
		_, err := fmt.Fprintln(s.std.out, event.Channel+"\t"+event.Data)
		return err
	}
	_, err := fmt.Fprintln(s.std.out, event.Data)
	return err
}

// many tells whether events of more than one channel may come.
func (s *subscription) many() bool {
	p, err := fanfare.ParsePattern(s.cmd.Channel[0])
	_, exact := p.Channel()
	return err == nil && (len(s.cmd.Channel) > 1 || !exact)
}
