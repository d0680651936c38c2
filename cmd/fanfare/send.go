package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"
)

type sendCmd struct {
	target
	Store         string `arg:"" help:"The store's id."`
	PC            string `arg:"" name:"pc" help:"The PC's id."`
	Object        string `arg:"" help:"The object that the command is about."`
	Event         string `arg:"" help:"The command, such as REBOOT."`
	EventType     string `default:"COMMAND" help:"The eventType member."`
	ReferenceType string `default:"ON" help:"The referenceType member."`
	Key           string `help:"Idempotency key, so that a second run sends nothing; default a random one." placeholder:"KEY"`
	Expires       span   `help:"Have the PC answer, until this long from now; default 10m with --wait." placeholder:"TIME"`
	Wait          span   `help:"Have the PC answer, and wait this long for the final answer, at most 60s." placeholder:"TIME"`
	RetryFor      span   `default:"1m" help:"How long to try again when the hub cannot be reached or cannot store."`
}

// Help implements kong.HelpProvider.
func (sendCmd) Help() string {
	return `Examples:
  fanfare send 42 7 o1 REBOOT
  fanfare send 42 7 o1 REBOOT --wait 10s --expires 1h

Prints the event's id and the command's referenceId. With --wait it prints the state as JSON, and exits with 0 when the PC has done the command, 4 when it failed or was cancelled, 5 when it expired, and 6 when no final answer came in time: "fanfare commands" then shows what becomes of it.`
}

func (c *sendCmd) Run(ctx context.Context, std *stdio) error {
	members := map[string]string{
		"objectId": c.Object, "event": c.Event, "eventType": c.EventType, "referenceType": c.ReferenceType,
	}
	kind := "/events"
	if c.Wait > 0 || c.Expires > 0 {
		kind = "/commands"
	}
	if c.Wait > 0 {
		members["wait"] = time.Duration(c.Wait).String()
	}
	if c.Expires > 0 {
		members["expires"] = time.Duration(c.Expires).String()
	}
	body, err := json.Marshal(members)
	if err != nil {
		return err
	}
	key := c.Key
	if key == "" {
		key = newKey()
	}
	path := "/v1/stores/" + url.PathEscape(c.Store) + "/pcs/" + url.PathEscape(c.PC) + kind
	answer, err := c.publish(ctx, path, nil, asType("application/json"), key, body, time.Duration(c.RetryFor))
	if err != nil {
		return err
	}
	var receipt struct{ ID, ReferenceID, State, Error string }
	if err := json.Unmarshal(answer, &receipt); err != nil {
		return fmt.Errorf("the hub's answer is not JSON: %w", err)
	}
	if c.Wait > 0 {
		_, _ = fmt.Fprintf(std.out, "%s\n", bytes.TrimSpace(answer))
		return stateError(receipt.State, receipt.Error)
	}
	_, err = fmt.Fprintln(std.out, receipt.ID, receipt.ReferenceID)
	return err
}

// stateError is the outcome of a command as an exit code.
func stateError(state, text string) error {
	switch state {
	case "done":
		return nil
	case "failed", "cancelled":
		return &exitError{exitFailed, fmt.Errorf("the command is %s: %s", state, text)}
	case "expired":
		return &exitError{exitExpired, errors.New("the command expired before the PC answered")}
	}
	return &exitError{exitUnknown, fmt.Errorf("the command is %s: no final answer came in time", state)}
}
