package e2e

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestKillNine is P1 with the real binary: kill -9 under 16 concurrent publishers, ten times; all
// that was acknowledged is there, once and in place, and whoever resumes before any new publish
// gets the rest (P3).
func TestKillNine(t *testing.T) {
	t.Parallel()
	for _, durability := range []string{"sync", "async"} {
		t.Run(durability, func(t *testing.T) { killNine(t, durability) })
	}
}

func killNine(t *testing.T, durability string) {
	data := t.TempDir()
	acked := map[string]string{} // data → id
	for round := range 10 {
		h := serve(t, "127.0.0.1:0", data, "--durability", durability)
		checkStored(t, h, acked)
		if said := h.log.String(); strings.Contains(said, "level=ERROR") {
			t.Errorf("nothing was lost, and the hub says %s", said)
		}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for p := range 16 {
			wg.Go(func() {
				for i := 0; ; i++ {
					text := fmt.Sprintf("%d.%d.%d", round, p, i)
					id, err := publish(h.url("/v1/channels/c"+fmt.Sprint(p%4)), text)
					if err != nil {
						return // the hub is dead
					}
					mu.Lock()
					acked[text] = id
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(100+rand.IntN(300)) * time.Millisecond) // somewhere in the middle
		h.kill()
		wg.Wait()
	}
	h := serve(t, "127.0.0.1:0", data, "--durability", durability)
	checkStored(t, h, acked)
	resumeFromEverywhere(t, h)
	h.stop()
	h = serve(t, "127.0.0.1:0", data, "--durability", durability, "--no-detach-streams") // the other kind of stream
	resumeFromEverywhere(t, h)
	h.stop()
	t.Logf("%d acknowledged events survived ten kills", len(acked))
	if len(acked) < 100 {
		t.Errorf("only %d events were acknowledged: the test tests nothing", len(acked))
	}
}

func checkStored(t *testing.T, h *hubProcess, acked map[string]string) {
	t.Helper()
	stored := map[string]string{}
	for c := range 4 {
		last := ""
		for _, e := range h.history(fmt.Sprint("c", c)) {
			if stored[e.Data] != "" || e.ID <= last {
				t.Fatalf("%+v stands after %s; the same data at %q", e, last, stored[e.Data])
			}
			stored[e.Data], last = e.ID, e.ID
		}
	}
	for text, id := range acked {
		if stored[text] != id {
			t.Fatalf("%s was acknowledged at %s and stands at %q", text, id, stored[text])
		}
	}
}

// resumeFromEverywhere resumes at some stored events, before any new publish, and compares with the
// history.
func resumeFromEverywhere(t *testing.T, h *hubProcess) {
	t.Helper()
	events := h.history("c1")
	for _, at := range []int{0, len(events) / 2, len(events) - 2} {
		got := streamUntil(t, h.url("/v1/events?channel=c1"), events[at].ID, events[len(events)-1].ID)
		want := events[at+1:]
		if len(got) != len(want) {
			t.Fatalf("resume after event %d of %d: %d events, want %d", at, len(events), len(got), len(want))
		}
		for i := range got {
			if got[i].ID != want[i].ID || got[i].Data != want[i].Data {
				t.Fatalf("resume after event %d: %+v, want %+v", at, got[i], want[i])
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	data := t.TempDir()
	h := serve(t, "127.0.0.1:0", data)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"serve", "--addr", "127.0.0.1:0", "--data", data}, "one process at a time"},
		{[]string{"serve", "--addr", "0.0.0.0:0", "--data", t.TempDir()}, "authentication"},
		{[]string{"serve", "--addr", ":0", "--data", t.TempDir()}, "authentication"},
		{[]string{"serve", "--addr", h.addr, "--data", t.TempDir()}, "listen on " + h.addr},
		{[]string{"serve", "--no-such-flag"}, "no-such-flag"},
		{[]string{"serve", "--retention", "x"}, "--retention"},
		{[]string{"serve", "--durability", "maybe"}, "durability"},
		{[]string{"serve", "--heartbeat", "soon"}, "heartbeat"},
	} {
		out, err := exec.Command(binary, c.args...).CombinedOutput()
		text := string(out)
		if err == nil || !strings.Contains(text, c.want) || strings.Contains(text, "goroutine") ||
			strings.Count(text, "\n") > 2 {
			t.Errorf("%v: %v, %q; want a sentence with %q", c.args, err, text, c.want)
		}
	}
	h.stop()
}

// TestDrainOfTheProcess is P7: SIGTERM ends the process with 0 when the last stream has ended, or
// soon after the window.
func TestDrainOfTheProcess(t *testing.T) {
	h := serve(t, "127.0.0.1:0", t.TempDir(), "--drain-window", "1s")
	began := time.Now()
	streams := make(chan int, 20)
	for range 20 {
		go func() {
			n := len(streamUntil(t, h.url("/v1/events?channel=a"), "", ""))
			streams <- n
		}()
	}
	for strings.Count(metrics(t, h), `fanfare_streams_open{adapter="native"} 20`) == 0 {
		if time.Since(began) > time.Minute {
			t.Fatal("the streams did not open")
		}
		time.Sleep(10 * time.Millisecond)
	}
	began = time.Now()
	h.stop()
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the process took %v to end", took)
	}
	for range 20 {
		<-streams
	}
	again := serve(t, h.addr, t.TempDir())
	again.stop()
}

// TestKeptPositionsSurviveKillNine: a PC that sends no position carries on after a kill -9 of the
// hub, also when its stream had been idle for longer than positions are kept after their end.
func TestKeptPositionsSurviveKillNine(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"--detach-streams", "--no-detach-streams"} {
		t.Run(kind, func(t *testing.T) { keptKillNine(t, kind) })
	}
}

func keptKillNine(t *testing.T, kind string) {
	needCurl(t)
	data := t.TempDir()
	args := []string{"--store-resume-for", "8s", kind}
	h := serve(t, "127.0.0.1:0", data, args...)
	url := func() string { return h.url("/v1/stores/event-sources?storeId=1&pcId=2") }
	first := make(chan []storedEvent, 1)
	reading := start(t, "curl", "-sN", url())
	for !strings.Contains(reading.next(time.Minute), "CONNECTED") {
	}
	sendCommand(t, h.url("/v1/stores/1/pcs/2/events"), "", "A")
	for !strings.Contains(reading.next(time.Minute), "COMMAND") {
	}
	time.Sleep(9 * time.Second) // idle: the position has to be kept fresh
	h.kill()
	h = serve(t, "127.0.0.1:0", data, args...)
	reference := sendCommand(t, h.url("/v1/stores/1/pcs/2/events"), "", "B")
	last := h.history("stores/1/pcs/2")
	go func() { first <- streamUntil(t, url(), "", last[len(last)-1].ID) }()
	select {
	case got := <-first:
		if len(got) != 2 || got[0].Data != "CONNECTED" || !strings.Contains(got[1].Data, reference) {
			t.Errorf("after the kill the PC got %+v", got)
		}
	case <-time.After(time.Minute):
		t.Error("the PC did not get what came after the kill")
	}
}
