package main

import (
	"context"
	"net/url"
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
			if err := printEvent(std, e, c.JSON, latestFields); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		query.Set("after", page.Next)
	}
}

func latestFields(e shownEvent) []string { return []string{e.Channel, e.ID, e.Time, e.Event, e.Data} }
