// Package hubclient is how the examples' publishers speak to the hub: plain HTTP, with the standard library.
package hubclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Event is what is published.
type Event struct {
	Channel string `json:"channel"`
	Event   string `json:"event,omitempty"`
	Data    any    `json:"data"`
}

// Publish publishes one event.
func Publish(ctx context.Context, hub string, e Event) error {
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hub+"/v1/events", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if resp.StatusCode >= 300 {
		return fmt.Errorf("the hub answered %s: %s", resp.Status, answer)
	}
	return nil
}

// Stream publishes events as they come, over one request (NDJSON): the hub answers a line for each line. It ends when events is
// closed, or with an error.
func Stream(ctx context.Context, hub string, events <-chan Event) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, w := io.Pipe()
	go func() {
		out := bufio.NewWriter(w)
		lines := json.NewEncoder(out)
		flush := time.NewTicker(20 * time.Millisecond)
		defer flush.Stop()
		for {
			var err error
			select {
			case e, ok := <-events:
				if !ok {
					_ = w.CloseWithError(out.Flush())
					return
				}
				err = lines.Encode(e)
			case <-flush.C:
				err = out.Flush()
			case <-ctx.Done():
				err = ctx.Err()
			}
			if err != nil {
				_ = w.CloseWithError(err)
				return
			}
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hub+"/v1/events", body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answers := bufio.NewScanner(resp.Body)
	for answers.Scan() {
		var answer struct{ Code, Detail string }
		if json.Unmarshal(answers.Bytes(), &answer) == nil && answer.Code != "" {
			return fmt.Errorf("the hub refused a line (%s): %s", answer.Code, answer.Detail)
		}
	}
	return answers.Err()
}
