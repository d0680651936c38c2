package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
)

type latestCmd struct {
	target
	Channel []string `arg:"" help:"Channels or patterns, such as 'quotes/*'."`
	JSON    bool     `name:"json" help:"Print a JSON object a line, as the hub gives it."`
}

// Help implements kong.HelpProvider.
func (latestCmd) Help() string {
	return `Example: fanfare latest 'quotes/*'

Prints the newest event of each channel, by name: channel, id, time, type and data, with tabs between; a line end in data shows as \n.`
}

func (c *latestCmd) Run(ctx context.Context, std *stdio) error {
	query := url.Values{"channel": c.Channel}
	for {
		page, err := c.page(ctx, "/v1/latest", query)
		if err != nil {
			return err
		}
		for _, e := range page.Events {
			if err := c.print(std, e); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		query.Set("after", page.Next)
	}
}

func (c *latestCmd) print(std *stdio, raw json.RawMessage) error {
	if c.JSON {
		_, err := fmt.Fprintf(std.out, "%s\n", raw)
		return err
	}
	var e struct{ ID, Channel, Time, Event, Data string }
	if err := json.Unmarshal(raw, &e); err != nil {
		return fmt.Errorf("the hub's answer is not JSON: %w", err)
	}
	data := strconv.Quote(e.Data)
	_, err := fmt.Fprintf(std.out, "%s\t%s\t%s\t%s\t%s\n", e.Channel, e.ID, e.Time, e.Event, data[1:len(data)-1])
	return err
}
