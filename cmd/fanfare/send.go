package main

import (
	"context"
	"encoding/json"
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
	RetryFor      span   `default:"1m" help:"How long to try again when the hub cannot be reached or cannot store."`
}

// Help implements kong.HelpProvider.
func (sendCmd) Help() string {
	return `Example: fanfare send 42 7 o1 REBOOT

Prints the event's id and the command's referenceId.`
}

func (c *sendCmd) Run(ctx context.Context, std *stdio) error {
	body, err := json.Marshal(map[string]string{
		"objectId": c.Object, "event": c.Event, "eventType": c.EventType, "referenceType": c.ReferenceType,
	})
	if err != nil {
		return err
	}
	key := c.Key
	if key == "" {
		key = newKey()
	}
	path := "/v1/stores/" + url.PathEscape(c.Store) + "/pcs/" + url.PathEscape(c.PC) + "/events"
	answer, err := c.publish(ctx, path, nil, asType("application/json"), key, body, time.Duration(c.RetryFor))
	if err != nil {
		return err
	}
	var receipt struct{ ID, ReferenceID string }
	if err := json.Unmarshal(answer, &receipt); err != nil {
		return fmt.Errorf("the hub's answer is not JSON: %w", err)
	}
	_, err = fmt.Fprintln(std.out, receipt.ID, receipt.ReferenceID)
	return err
}
