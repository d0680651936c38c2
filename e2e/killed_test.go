package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/sse"
)

// TestKilledAtAnyMoment (P1): a hub that is killed while it starts, while its log's files come and
// go, or while it ends, is not taken for one whose files have gone back in time: the next start
// refuses nothing and reports no loss. FANFARE_KILLS is the number of kills of each kind of log.
func TestKilledAtAnyMoment(t *testing.T) {
	kills := 20
	if text := os.Getenv("FANFARE_KILLS"); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for _, durability := range []string{"sync", "async"} {
		for _, limit := range []string{"", "24MB"} { // a small log writes and deletes tables all the time
			t.Run(fmt.Sprintf("%s %s", durability, limit), func(t *testing.T) {
				t.Parallel()
				args := []string{"serve", "--addr", "127.0.0.1:0", "--data", t.TempDir(), "--durability", durability}
				if limit != "" {
					args = append(args, "--max-log-bytes", limit)
				}
				last := ""
				for round := range kills {
					killedOnce(t, round, args, &last)
				}
			})
		}
	}
}

// killedOnce starts a hub and kills it. last is the newest id that was acknowledged.
func killedOnce(t *testing.T, round int, args []string, last *string) {
	t.Helper()
	how := []string{"starting", "running", "ending"}[rand.IntN(3)]
	if how == "starting" {
		var said bytes.Buffer
		cmd := exec.Command(binary, args...)
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := time.Duration(rand.IntN(60)) * time.Millisecond
		time.Sleep(after)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		checkCalm(t, fmt.Sprintf("round %d, killed %v after the start", round, after), said.String(), cmd.ProcessState)
		return
	}
	h := serveWith(t, exec.Command(binary, args...))
	if *last != "" {
		checkNothingLost(t, h, *last)
	}
	var mu sync.Mutex
	var publishers sync.WaitGroup
	data := strings.Repeat("x", 1+rand.IntN(100_000))
	for range 8 {
		publishers.Go(func() {
			for {
				id, err := publish(h.url("/v1/channels/c"), data)
				if err != nil {
					return // the hub is dead
				}
				mu.Lock()
				*last = max(*last, id)
				mu.Unlock()
			}
		})
	}
	time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
	if how == "ending" {
		_ = h.cmd.Process.Signal(syscall.SIGTERM)
		time.Sleep(time.Duration(rand.IntN(120)) * time.Millisecond)
	}
	h.kill()
	publishers.Wait()
	checkCalm(t, fmt.Sprintf("round %d, %s", round, how), h.log.String(), h.cmd.ProcessState)
}

// checkNothingLost resumes after an event that was acknowledged, and wants no gap before the next
// one.
func checkNothingLost(t *testing.T, h *hubProcess, last string) {
	t.Helper()
	end := h.publish("c", "the end")
	req, err := http.NewRequest(http.MethodGet, h.url("/v1/events?channel=c"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Last-Event-ID", last)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for d := sse.NewDecoder(resp.Body); ; {
		e, err := d.Next()
		if err != nil || e.Type == "gap" {
			t.Fatalf("%s was acknowledged, and then came %+v, %v", last, e, err)
		}
		if e.Data == "the end" && e.LastEventID == end {
			return
		}
	}
}

func checkCalm(t *testing.T, when, said string, state *os.ProcessState) {
	t.Helper()
	if code := state.ExitCode(); strings.Contains(said, "level=ERROR") || code > 0 {
		t.Fatalf("%s: exit code %d, and the hub said %s", when, code, said)
	}
}
