package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fanfare-hub/fanfare"
)

type publishCmd struct {
	target
	Channel  string  `arg:"" help:"The channel."`
	Data     *string `arg:"" optional:"" help:"The data; - publishes each line of standard input; without it all of standard input is one event."`
	Event    string  `empty:"" help:"The event's type; default message." placeholder:"TYPE"`
	IfLatest string  `help:"Publish only while the channel's newest event is the one with this id; none: only while it has no event." placeholder:"ID|none"`
	Key      string  `help:"Idempotency key, so that a second run publishes nothing; default a random one." placeholder:"KEY"`
	TTL      string  `name:"ttl" help:"How long the event lives, such as 10m: once that is over it is neither delivered nor shown; 1s to 365d." placeholder:"TIME"`
	At       string  `help:"Publish it then, and not now: the next 03:00 by this machine's clock, '2026-11-27 03:00', or 2026-11-27T03:00:00Z." placeholder:"TIME"`
	In       span    `help:"Publish it so long from now." placeholder:"TIME"`
	RetryFor span    `default:"1m" help:"How long to try again when the hub cannot be reached or cannot store."`
}

// Help implements kong.HelpProvider.
func (publishCmd) Help() string {
	return `Examples:
  fanfare publish greetings hello
  journalctl -f | fanfare publish logs/web1 -
  fanfare publish jobs/17 taken --if-latest none
  fanfare publish quotes/ACME 12.50 --ttl 10m
  fanfare publish stores/1 REBOOT --at 03:00

With --if-latest, of several that race one publishes, and the others are refused.
Prints the event's id; with --at or --in the id by which fanfare scheduled shows and cancels it; with -, prints the number of lines to standard error at the end.`
}

func (c *publishCmd) Run(ctx context.Context, std *stdio) error {
	if c.Data != nil && *c.Data == "-" {
		if c.IfLatest != "" {
			return &exitError{exitUsage, errors.New("--if-latest is for one event: the second line would not find it")}
		}
		if c.At != "" || c.In != 0 {
			return &exitError{exitUsage, errors.New("--at and --in are for one event")}
		}
		return c.lines(ctx, std)
	}
	if c.Data == nil {
		all, err := io.ReadAll(std.in)
		if err != nil {
			return fmt.Errorf("read standard input: %w", err)
		}
		if len(all) == 0 {
			return errors.New("standard input is empty, and nothing was published; an event without data is `fanfare " +
				"publish CHANNEL ''`")
		}
		text := string(all)
		c.Data = &text
	}
	key := c.Key
	if key == "" {
		key = newKey()
	}
	query := url.Values{}
	if c.Event != "" {
		query.Set("event", c.Event)
	}
	if c.TTL != "" {
		query.Set("ttl", c.TTL)
	}
	switch at, err := deliverAt(c.At, c.In, time.Now()); {
	case err != nil:
		return err
	case at != "":
		query.Set("deliverAt", at)
	}
	header := asType("text/plain; charset=utf-8")
	switch c.IfLatest {
	case "":
	case "none":
		header.Set("If-None-Match", "*")
	default:
		header.Set("If-Match", `"`+c.IfLatest+`"`)
	}
	answer, err := c.publish(ctx, channelPath(c.Channel), query, header, key, []byte(*c.Data),
		time.Duration(c.RetryFor))
	if err != nil {
		return err
	}
	var receipt struct{ ID, Scheduled string }
	if err := json.Unmarshal(answer, &receipt); err != nil {
		return fmt.Errorf("the hub's answer is not JSON: %w", err)
	}
	_, err = fmt.Fprintln(std.out, receipt.ID+receipt.Scheduled)
	return err
}

// A batch goes out when it is full, or a moment after its first line.
const (
	batchLines = 500
	batchBytes = 512 << 10
	batchPause = 20 * time.Millisecond
)

type lineEvent struct {
	Channel string `json:"channel"`
	Event   string `json:"event,omitempty"`
	Data    string `json:"data"`
	TTL     string `json:"ttl,omitempty"`
}

// lines publishes standard input line by line. Every batch has a key of its own, so a batch that
// was sent twice is stored once.
func (c *publishCmd) lines(ctx context.Context, std *stdio) error {
	// A fault that every line would have is reported before the first line is read.
	if _, err := fanfare.ParseChannel(c.Channel); err != nil {
		return err
	}
	if _, err := fanfare.ParseEventType(c.Event); err != nil {
		return err
	}
	lines := make(chan string, batchLines)
	var readErr error
	go func() {
		defer close(lines)
		readErr = readLines(std.in, lines, ctx.Done())
	}()
	published, refused := 0, 0
	defer func() { fmt.Fprintln(std.err, published, "lines published") }()
	for {
		batch, open := gather(ctx, lines)
		if len(batch) > 0 {
			n, err := c.sendLines(ctx, std, published+refused, batch)
			published += n
			if err != nil {
				return err
			}
			refused += len(batch) - n
		}
		if open {
			continue
		}
		switch {
		case ctx.Err() == nil && readErr != nil:
			return readErr
		case refused > 0:
			return &exitError{exitRefused, fmt.Errorf("%d lines were refused", refused)}
		}
		return nil
	}
}

// sendLines publishes a batch. When the hub refuses a part of it, such as a line that is too long,
// the lines go one by one, so that only the bad ones are left out; each of these is named.
func (c *publishCmd) sendLines(ctx context.Context, std *stdio, before int, batch []string) (published int, err error) {
	if !slices.ContainsFunc(batch, notText) { // JSON would have other characters in their place
		err = c.sendBatch(ctx, batch)
		if err == nil {
			return len(batch), nil
		}
		if !refusesData(err) {
			return 0, err
		}
	}
	for i := range batch {
		if notText(batch[i]) {
			fmt.Fprintf(std.err, "fanfare: line %d is left out: it is not valid UTF-8\n", before+i+1)
			continue
		}
		err := c.sendBatch(ctx, batch[i:i+1])
		switch {
		case err == nil:
			published++
		case refusesData(err):
			fmt.Fprintf(std.err, "fanfare: line %d is left out: %v\n", before+i+1, err)
		default:
			return published, err
		}
	}
	return published, nil
}

func notText(line string) bool { return !utf8.ValidString(line) }

// refusesData tells a refusal of the data from one of the publisher, or of the channel.
func refusesData(err error) bool {
	p, ok := errors.AsType[*problem](err)
	return ok && (p.Status == http.StatusBadRequest || p.Status == http.StatusRequestEntityTooLarge)
}

func (c *publishCmd) sendBatch(ctx context.Context, batch []string) error {
	events := make([]lineEvent, len(batch))
	for i, line := range batch {
		events[i] = lineEvent{c.Channel, c.Event, line, c.TTL}
	}
	body, err := json.Marshal(events)
	if err != nil {
		return err
	}
	// Lines that were read are sent even when the user has interrupted, because they are gone from
	// the pipe.
	_, err = c.publish(context.WithoutCancel(ctx), "/v1/events", nil, asType("application/json"), newKey(), body,
		time.Duration(c.RetryFor))
	return err
}

func readLines(in io.Reader, lines chan<- string, done <-chan struct{}) error {
	r := bufio.NewReaderSize(in, 64<<10)
	for {
		line, err := r.ReadString('\n')
		if line != "" {
			select {
			case lines <- strings.TrimRight(line, "\r\n"):
			case <-done:
				return nil
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read standard input: %w", err)
		}
	}
}

// gather waits for a line, and takes the lines that follow at once. open is false when no more will
// come.
func gather(ctx context.Context, lines <-chan string) (batch []string, open bool) {
	size := 0
	var pause <-chan time.Time
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return batch, false
			}
			batch = append(batch, line)
			size += len(line)
			if len(batch) >= batchLines || size >= batchBytes {
				return batch, true
			}
			if pause == nil {
				pause = time.After(batchPause)
			}
		case <-pause:
			return batch, true
		case <-ctx.Done():
			return batch, false
		}
	}
}
