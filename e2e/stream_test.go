package e2e

import (
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/fanfare-hub/fanfare/sse"
)

// streamUntil reads a stream from a position until the event with the id until, or to its end, and
// returns its messages.
func streamUntil(t *testing.T, url, lastID, until string) (events []storedEvent) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Error(err)
		return nil
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer resp.Body.Close()
	for d := sse.NewDecoder(resp.Body); ; {
		e, err := d.Next()
		if errors.Is(err, io.EOF) && until == "" {
			return events
		}
		if err != nil {
			t.Errorf("the stream ended: %v", err)
			return events
		}
		if e.Type == "gap" {
			t.Errorf("a gap: %s", e.Data)
		}
		if e.Type == "heartbeat" {
			continue
		}
		events = append(events, storedEvent{ID: e.LastEventID, Event: e.Type, Data: e.Data})
		if e.LastEventID == until {
			return events
		}
	}
}

func metrics(t *testing.T, h *hubProcess) string {
	t.Helper()
	resp, err := client.Get(h.url("/metrics"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
