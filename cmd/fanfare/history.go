package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

type historyCmd struct {
	target
	Channel string `arg:"" help:"The channel; no pattern."`
	After   string `help:"Only events after this id, or from this time on, such as 2026-11-22T10:00:00Z." placeholder:"ID|TIME"`
	Since   string `help:"Only events of this last stretch of time, such as 10m; the same as --after." placeholder:"TIME"`
	Limit   int    `default:"0" help:"Most events to print; 0 prints all."`
	JSON    bool   `name:"json" help:"Print a JSON object a line, as the hub gives it."`
}

// Help implements kong.HelpProvider.
func (historyCmd) Help() string {
	return `Example: fanfare history greetings --limit 20

Prints id, time, type and data, with tabs between; a line end in data shows as \n.`
}

type historyPage struct {
	Events []json.RawMessage `json:"events"`
	Next   string            `json:"next"`
	Gap    json.RawMessage   `json:"gap"`
}

func (c *historyCmd) Run(ctx context.Context, std *stdio) error {
	if c.Limit < 0 {
		return &exitError{exitUsage, fmt.Errorf("--limit must not be negative")}
	}
	const pageSize = 500
	if c.After != "" && c.Since != "" {
		return &exitError{exitUsage, fmt.Errorf("--after and --since are both given: want one of them")}
	}
	after := c.After + c.Since
	for printed := 0; ; {
		size := pageSize
		if c.Limit > 0 {
			size = min(size, c.Limit-printed)
		}
		query := url.Values{"channel": {c.Channel}, "limit": {strconv.Itoa(size)}}
		if after != "" {
			query.Set("after", after)
		}
		page, err := c.page(ctx, "/v1/history", query)
		if err != nil {
			return err
		}
		if page.Gap != nil {
			fmt.Fprintln(std.err, "fanfare: warning: events are missing:", string(page.Gap))
		}
		for _, e := range page.Events {
			if err := printEvent(std, e, c.JSON, historyFields); err != nil {
				return err
			}
		}
		printed += len(page.Events)
		if page.Next == "" || (c.Limit > 0 && printed >= c.Limit) {
			return nil
		}
		after = page.Next
	}
}

// page reads a page of events.
func (t *target) page(ctx context.Context, path string, query url.Values) (page historyPage, err error) {
	req, err := t.request(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return page, err
	}
	body, err := t.do(req)
	if err != nil {
		return page, asExit(err)
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return page, fmt.Errorf("the hub's answer is not JSON: %w", err)
	}
	return page, nil
}

// each calls f for the items of a list, which are in a member of its pages.
func (t *target) each(
	ctx context.Context, path string, query url.Values, member string, f func(json.RawMessage) error,
) error {
	for {
		req, err := t.request(ctx, http.MethodGet, path, query, nil)
		if err != nil {
			return err
		}
		body, err := t.do(req)
		if err != nil {
			return asExit(err)
		}
		var page map[string]json.RawMessage
		var items []json.RawMessage
		var next string
		err = json.Unmarshal(body, &page)
		if err == nil {
			err = json.Unmarshal(page[member], &items)
		}
		if err == nil && page["next"] != nil {
			err = json.Unmarshal(page["next"], &next)
		}
		if err != nil {
			return fmt.Errorf("the hub's answer is not JSON: %w", err)
		}
		for _, item := range items {
			if err := f(item); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		query.Set("after", next)
	}
}

func historyFields(e shownEvent) []string { return []string{e.ID, e.Time, e.Event, e.Data} }

// printEvent prints an event as the hub gives it, or its fields with tabs between.
func printEvent(std *stdio, raw json.RawMessage, asJSON bool, fields func(shownEvent) []string) error {
	if asJSON {
		_, err := fmt.Fprintf(std.out, "%s\n", raw)
		return err
	}
	var e shownEvent
	if err := json.Unmarshal(raw, &e); err != nil {
		return fmt.Errorf("the hub's answer is not JSON: %w", err)
	}
	data := strconv.Quote(e.Data)
	e.Data = data[1 : len(data)-1]
	_, err := fmt.Fprintln(std.out, strings.Join(fields(e), "\t"))
	return err
}

// shownEvent is an event of a page. The line ends in its data are escaped.
type shownEvent struct{ ID, Channel, Time, Event, Data string }
