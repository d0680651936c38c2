// Package hubclient is how the examples' publishers speak to the hub: plain HTTP, with the standard
// library.
package hubclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// Event is what is published.
type Event struct {
	Channel string `json:"channel"`
	Event   string `json:"event,omitempty"`
	Data    any    `json:"data"`
}

// Hub is where a publisher sends events.
type Hub struct {
	URL       string
	TokenFile string // holds the token or API key, where the hub asks for one
}

// Flags adds the flags -hub and -token-file, which set the Hub once they are parsed.
func Flags() *Hub {
	h := &Hub{}
	flag.StringVar(&h.URL, "hub", "http://127.0.0.1:8082", "the hub")
	flag.StringVar(&h.TokenFile, "token-file", "", "file with the token or API key, where the hub asks for one")
	return h
}

// Do sends a request, with the token.
func (h *Hub) Do(req *http.Request) (*http.Response, error) {
	if h.TokenFile != "" {
		token, err := os.ReadFile(h.TokenFile)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	return http.DefaultClient.Do(req)
}

// Publish publishes one event.
func (h *Hub) Publish(ctx context.Context, e Event) error {
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL+"/v1/events", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := h.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return Refusal(resp)
}

// Refusal returns why the hub refused a request, and closes the answer's body then; otherwise nil.
func Refusal(resp *http.Response) error {
	if resp.StatusCode < 300 {
		return nil
	}
	defer resp.Body.Close()
	var problem struct{ Detail string }
	if json.NewDecoder(resp.Body).Decode(&problem) != nil || problem.Detail == "" {
		return fmt.Errorf("the hub answered %s", resp.Status)
	}
	return fmt.Errorf("the hub refuses it: %s", problem.Detail)
}

// Stream publishes events as they come, over one request (NDJSON): the hub answers a line for each
// line. It ends when events is closed, or with an error.
func (h *Hub) Stream(ctx context.Context, events <-chan Event) error {
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
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL+"/v1/events", body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := h.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := Refusal(resp); err != nil {
		return err
	}
	answers := bufio.NewScanner(resp.Body)
	for answers.Scan() {
		var answer struct{ Code, Detail string }
		if json.Unmarshal(answers.Bytes(), &answer) == nil && answer.Code != "" {
			return fmt.Errorf("the hub refused a line (%s): %s", answer.Code, answer.Detail)
		}
	}
	return answers.Err()
}
