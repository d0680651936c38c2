package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// commandsTest is what a back office and its PCs know of commands while the hub is killed.
type commandsTest struct {
	*testing.T
	mu      sync.Mutex
	expires map[string]time.Time // of all commands whose sending was acknowledged
	tried   map[string]string    // the answers that were sent
	final   map[string]string    // those that were acknowledged, and the final states that were seen
}

// TestCommandsAcrossKills: commands are sent and answered while the hub is killed again and again.
// Each command that was acknowledged is there afterwards, with exactly one final state (P1): the
// answer that was acknowledged, or an answer that was sent, or, where none was, that it has
// expired.
func TestCommandsAcrossKills(t *testing.T) {
	t.Parallel()
	const rounds = 5
	c := &commandsTest{T: t, expires: map[string]time.Time{}, tried: map[string]string{}, final: map[string]string{}}
	data := t.TempDir()
	for round := range rounds {
		h := serve(t, "127.0.0.1:0", data)
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				c.work(h.url("/v1/stores/1/pcs/2/commands"),
					rand.New(rand.NewPCG(uint64(round), uint64(w))))
			})
		}
		time.Sleep(time.Duration(200+rand.IntN(300)) * time.Millisecond) // somewhere in the middle
		h.kill()
		wg.Wait()
	}
	h := serve(t, "127.0.0.1:0", data)
	defer h.stop()
	c.wait(h.url("/v1/stores/1/pcs/2/commands"))
	counts := map[string]int{}
	for reference := range c.expires {
		counts[c.check(h.url("/v1/stores/1/pcs/2/commands/"), reference)]++
	}
	t.Logf("%d commands: %v; %d final answers acknowledged", len(c.expires), counts, len(c.final))
	if counts["expired"] == 0 || counts["done"] == 0 || len(c.expires) < 4*rounds {
		t.Error("this tests less than it should")
	}
}

// call sends a request, and returns the answer's status and body; 0 when the hub is dead.
func call(method, url, body string) (int, map[string]any) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	var answer map[string]any
	if err != nil || json.Unmarshal(text, &answer) != nil {
		return 0, nil
	}
	return resp.StatusCode, answer
}

// work sends commands and answers some of them, until the hub is dead.
func (c *commandsTest) work(url string, rng *rand.Rand) {
	for {
		status, sent := call("POST", url, `{"event":"REBOOT","expires":"2s"}`)
		if status != 201 {
			return
		}
		reference := sent["referenceId"].(string)
		expires, err := time.Parse(time.RFC3339, sent["expires"].(string))
		if err != nil {
			c.Error(err)
		}
		c.mu.Lock()
		c.expires[reference] = expires
		c.mu.Unlock()
		answer := []string{"done", "failed", "", "received"}[rng.IntN(4)]
		if answer == "" {
			continue
		}
		if answer != "received" {
			c.mu.Lock()
			c.tried[reference] = answer
			c.mu.Unlock()
		}
		status, _ = call("POST", url+"/"+reference+"/ack", fmt.Sprintf(`{"status":%q}`, answer))
		if status == 200 && answer != "received" {
			c.mu.Lock()
			c.final[reference] = answer
			c.mu.Unlock()
		}
		if status == 0 {
			return
		}
	}
}

// wait waits until all commands have expired that have not been answered.
func (c *commandsTest) wait(url string) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		open := 0
		for _, state := range []string{"pending", "received"} {
			_, page := call("GET", url+"?limit=1000&state="+state, "")
			list, _ := page["commands"].([]any)
			open += len(list)
		}
		if open == 0 {
			return
		}
	}
	c.Fatal("commands do not expire")
}

// check returns a command's final state.
func (c *commandsTest) check(url, reference string) string {
	status, one := call("GET", url+reference, "")
	if status != 200 {
		c.Errorf("%s was acknowledged, and is gone: %d", reference, status)
		return "gone"
	}
	state := one["state"].(string)
	finals := 0
	history, _ := one["history"].([]any)
	for _, change := range history {
		if s := change.(map[string]any)["state"]; s != "received" {
			finals++
		}
	}
	switch acked := c.final[reference]; {
	case finals != 1:
		c.Errorf("%s has %d final states: %v", reference, finals, history)
	case acked != "" && state != acked:
		c.Errorf("%s was acknowledged as %s, and is %s", reference, acked, state)
	case state != "expired" && state != c.tried[reference]:
		c.Errorf("%s is %s, and %q was sent", reference, state, c.tried[reference])
	}
	return state
}
