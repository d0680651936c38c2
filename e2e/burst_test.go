package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/sse"
)

// burstKind is how PCs are connected.
type burstKind struct {
	name    string
	args    []string // of the hub
	tls, h2 bool
}

func burstKinds(t *testing.T) []burstKind {
	dir := t.TempDir()
	certificate(t, dir)
	https := []string{"--tls-cert", filepath.Join(dir, "push.example.com.pem"), "--tls-key",
		filepath.Join(dir, "push.example.com.key")}
	return []burstKind{
		{name: "detached"},
		{name: "attached", args: []string{"--no-detach-streams"}},
		{name: "TLS", args: https, tls: true},
		{name: "HTTP2", args: https, tls: true, h2: true},
		{name: "h2c", args: []string{"--h2c"}, h2: true},
	}
}

// client makes one with connections of its own.
func (k burstKind) client(t *testing.T) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(!k.h2)
	p.SetHTTP2(k.h2 && k.tls)
	p.SetUnencryptedHTTP2(k.h2 && !k.tls)
	transport := &http.Transport{Protocols: p, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		MaxIdleConnsPerHost: burstPublishers}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// TestBurstIsNotHeardAgain: PCs that send no position hear a burst of commands, and the hub is
// killed when the last one was heard. The positions that a PC has acknowledged were stored with the
// groups of the commands that came after them. So at most the commands of the last groups come
// again: a few for each publisher, not the burst.
func TestBurstIsNotHeardAgain(t *testing.T) {
	for _, kind := range burstKinds(t) {
		for _, pcs := range []int{1, 50} {
			// Two groups may be under way, and one is being acknowledged.
			t.Run(fmt.Sprintf("%s/%d PCs", kind.name, pcs),
				func(t *testing.T) { burst(t, kind, pcs, 0, 4*burstPublishers) })
		}
		t.Run(kind.name+"/a moment later", func(t *testing.T) { burst(t, kind, 50, 2*time.Second, 0) })
	}
}

const (
	burstCommands   = 1000
	burstPublishers = 16
)

// burst kills the hub some time after the last command was heard. Then at most `most` commands may
// come again.
func burst(t *testing.T, kind burstKind, pcs int, after time.Duration, most int) {
	data := t.TempDir()
	h := serve(t, "127.0.0.1:0", data, kind.args...)
	var heard sync.WaitGroup
	before := make([]map[string]bool, pcs) // by PC: ids
	var streams []*pcStream                // open until the hub is gone
	for pc := range pcs {
		s := openPC(t, kind.client(t), h, pc)
		streams = append(streams, s)
		heard.Go(func() { before[pc] = s.commands(burstCommands / pcs) })
	}
	commands := make(chan int)
	var publishers sync.WaitGroup
	sender := kind.client(t)
	for range burstPublishers {
		publishers.Go(func() {
			for i := range commands {
				if _, err := order(sender, h, i%pcs, fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range burstCommands {
		commands <- i
	}
	close(commands)
	publishers.Wait()
	heard.Wait()
	time.Sleep(after) // it is the hub's clock that must pass
	h.kill()
	for _, s := range streams {
		s.close()
	}

	h = serve(t, "127.0.0.1:0", data, kind.args...)
	again := 0
	for pc := range pcs {
		c := kind.client(t)
		last, err := order(c, h, pc, "last")
		if err != nil {
			t.Fatal(err)
		}
		s := openPC(t, c, h, pc)
		for e := s.next(); e.LastEventID != "" && e.LastEventID != last; e = s.next() {
			if !before[pc][e.LastEventID] {
				t.Errorf("PC %d gets %+v, which nobody sent", pc, e)
			}
			again++
		}
		s.close()
	}
	t.Logf("%d of %d commands came again", again, burstCommands)
	if again > most {
		t.Errorf("%d of %d commands came again, want at most %d", again, burstCommands, most)
	}
}

// order sends a command to a PC and returns its id.
func order(c *http.Client, h *hubProcess, pc int, event string) (id string, err error) {
	resp, err := c.Post(h.url(fmt.Sprintf("/v1/stores/1/pcs/%d/events", pc)), "application/json",
		strings.NewReader(`{"event":"`+event+`"}`))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	_, rest, ok := strings.Cut(string(b), `"id":"`)
	if err != nil || !ok || resp.StatusCode != http.StatusCreated {
		return "", fmt.Errorf("%s: %s, %w", resp.Status, b, err)
	}
	id, _, _ = strings.Cut(rest, `"`)
	return id, nil
}

// pcStream is a store PC's stream.
type pcStream struct {
	t    *testing.T
	resp *http.Response
	in   *sse.Decoder
}

func openPC(t *testing.T, c *http.Client, h *hubProcess, pc int) *pcStream {
	t.Helper()
	resp, err := c.Get(h.url(fmt.Sprintf("/v1/stores/event-sources?storeId=1&pcId=%d", pc)))
	if err != nil {
		t.Fatal(err)
	}
	s := &pcStream{t, resp, sse.NewDecoder(resp.Body)}
	if e := s.next(); e.Data != "CONNECTED" {
		t.Fatalf("%+v", e)
	}
	return s
}

// next returns the next event that is no heartbeat; one without an id when the stream has ended.
func (s *pcStream) next() sse.Event {
	s.t.Helper()
	for {
		switch e, err := s.in.Next(); {
		case err != nil:
			s.t.Errorf("the stream of a PC has ended: %v", err)
			return sse.Event{}
		case e.Type != "heartbeat":
			return e
		}
	}
}

// commands hears n commands, and returns their ids.
func (s *pcStream) commands(n int) map[string]bool {
	ids := map[string]bool{}
	for len(ids) < n {
		e := s.next()
		if e.LastEventID == "" {
			break
		}
		ids[e.LastEventID] = true
	}
	return ids
}

func (s *pcStream) close() { _ = s.resp.Body.Close() }
