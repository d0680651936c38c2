package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// pcPath is the path of a PC's commands.
func pcPath(store, pc string) string {
	return "/v1/stores/" + url.PathEscape(store) + "/pcs/" + url.PathEscape(pc) + "/commands"
}

type ackCmd struct {
	target
	Store     string `arg:"" help:"The store's id."`
	PC        string `arg:"" name:"pc" help:"The PC's id."`
	Reference string `arg:"" help:"The command's referenceId."`
	Status    string `arg:"" help:"received, done or failed."`
	Result    string `help:"The result, as JSON." placeholder:"JSON"`
	Error     string `help:"What went wrong." placeholder:"TEXT"`
	RetryFor  span   `default:"1m" help:"How long to try again when the hub cannot be reached or cannot store."`
}

// Help implements kong.HelpProvider.
func (ackCmd) Help() string {
	return `Example: fanfare ack 42 7 0SBJXJ6FEH948 done --result '{"uptime":7}'

Prints where the command stands then, as JSON. The same answer again changes nothing.`
}

func (c *ackCmd) Run(ctx context.Context, std *stdio) error {
	answer := map[string]any{"status": c.Status}
	if c.Result != "" {
		if !json.Valid([]byte(c.Result)) {
			return &exitError{exitUsage, errors.New("--result is not JSON")}
		}
		answer["result"] = json.RawMessage(c.Result)
	}
	if c.Error != "" {
		answer["error"] = c.Error
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	path := pcPath(c.Store, c.PC) + "/" + url.PathEscape(c.Reference) + "/ack"
	out, err := c.publish(ctx, path, nil, asType("application/json"), "", body, time.Duration(c.RetryFor))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(std.out, "%s\n", bytes.TrimSpace(out))
	return err
}

type commandsCmd struct {
	target
	Store  string `arg:"" help:"The store's id."`
	PC     string `arg:"" name:"pc" help:"The PC's id."`
	State  string `help:"Only those that are scheduled, pending, received, done, failed, expired or cancelled." placeholder:"STATE"`
	Cancel string `help:"Cancel the command with this referenceId." placeholder:"REFERENCE"`
	JSON   bool   `name:"json" help:"Print a JSON object a line, as the hub gives it."`
}

// Help implements kong.HelpProvider.
func (commandsCmd) Help() string {
	return `Examples:
  fanfare commands 42 7 --state pending
  fanfare commands 42 7 --cancel 0SBJXJ6FEH948

Prints the commands that were sent to this PC and are to be answered, the newest first: referenceId, state, when it came there, and when the command expires, with tabs between.`
}

func (c *commandsCmd) Run(ctx context.Context, std *stdio) error {
	if c.Cancel != "" {
		req, err := c.request(ctx, http.MethodDelete, pcPath(c.Store, c.PC)+"/"+url.PathEscape(c.Cancel), nil, nil)
		if err != nil {
			return err
		}
		_, err = c.do(req)
		return asExit(err)
	}
	query := url.Values{"limit": {"1000"}}
	if c.State != "" {
		query.Set("state", c.State)
	}
	show := func(raw json.RawMessage) error { return c.print(std, raw) }
	return c.each(ctx, pcPath(c.Store, c.PC), query, "commands", show)
}

func (c *commandsCmd) print(std *stdio, raw json.RawMessage) error {
	if c.JSON {
		_, err := fmt.Fprintf(std.out, "%s\n", raw)
		return err
	}
	var one struct{ ReferenceID, State, At, Expires string }
	if err := json.Unmarshal(raw, &one); err != nil {
		return fmt.Errorf("the hub's answer is not JSON: %w", err)
	}
	_, err := fmt.Fprintln(std.out, strings.Join([]string{one.ReferenceID, one.State, one.At, one.Expires}, "\t"))
	return err
}
