package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestConditionRaceAcrossKills: 64 writers race for each place in one channel, and the hub is
// killed again and again. The stored events are one chain: each event names the one before it, as
// its condition did. All acknowledged events are in it (P1), and no writer was told of an event
// that is not.
func TestConditionRaceAcrossKills(t *testing.T) {
	t.Parallel()
	const writers, rounds = 64, 5
	data := t.TempDir()
	var mu sync.Mutex
	acked, told := map[string]string{}, map[string]bool{} // id → the one before; ids in refusals
	refused := 0
	for range rounds {
		h := serve(t, "127.0.0.1:0", data)
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				latest := "" // nothing is known: the first answer says it
				for {
					id, other, err := publishAfter(h.url("/v1/channels/chain"), latest)
					if err != nil {
						return // the hub is dead
					}
					mu.Lock()
					if id != "" {
						acked[id] = latest
						latest = id
					} else {
						refused++
						told[other] = true
						latest = other
					}
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(200+rand.IntN(300)) * time.Millisecond) // somewhere in the middle
		h.kill()
		wg.Wait()
	}
	h := serve(t, "127.0.0.1:0", data)
	defer h.stop()
	before, stored := "", map[string]bool{"": true}
	for _, e := range h.history("chain") {
		if e.Data != "after "+before {
			t.Fatalf("%s has %q, and comes after %q", e.ID, e.Data, before)
		}
		if was, ok := acked[e.ID]; ok && was != before {
			t.Fatalf("%s was acknowledged after %q, and comes after %q", e.ID, was, before)
		}
		before = e.ID
		stored[e.ID] = true
	}
	for id := range acked {
		if !stored[id] {
			t.Errorf("%s was acknowledged, and is gone", id)
		}
	}
	for id := range told {
		if !stored[id] {
			t.Errorf("a refusal named %s, which is not there", id)
		}
	}
	t.Logf("%d events in the chain, %d acknowledged; %d publishes refused", len(stored)-1, len(acked), refused)
	if len(acked) < 10*rounds || refused < 10*rounds {
		t.Error("there was no race: the test tests nothing")
	}
}

// publishAfter publishes for the place after latest, or for the first place. It returns the id, or
// the one that stands in the way; an error is the transport's.
func publishAfter(url, latest string) (id, other string, err error) {
	req, err := http.NewRequest("POST", url, strings.NewReader("after "+latest))
	if err != nil {
		return "", "", err
	}
	if req.Header.Set("If-Match", `"`+latest+`"`); latest == "" {
		req.Header.Del("If-Match")
		req.Header.Set("If-None-Match", "*")
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	var o struct{ ID, Latest string }
	if err := json.NewDecoder(resp.Body).Decode(&o); err != nil {
		return "", "", err
	}
	if (resp.StatusCode != 201 || o.ID == "") && resp.StatusCode != 412 {
		return "", "", fmt.Errorf("%d", resp.StatusCode)
	}
	return o.ID, o.Latest, nil
}
