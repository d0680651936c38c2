package server_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/server"
)

// TestWaitOutlastsLimits: a sender may wait for longer than the http.Server's limits of a request
// and its answer.
func TestWaitOutlastsLimits(t *testing.T) {
	if eachKind(t, TestWaitOutlastsLimits) {
		return
	}
	f := startWithin(t, 3*time.Second, server.Options{}) // a slow machine needs some of it to connect
	began := time.Now()
	a := f.ask(pcCommands, `,"wait":"4s"`)
	if took := time.Since(began); a.status != 202 || a.json("state") != "pending" || took < 4*time.Second {
		t.Errorf("after %v: %+v", took, a)
	}
}

// TestRepeatedAnswer: the same answer again is harmless, whatever its result is made of.
func TestRepeatedAnswer(t *testing.T) {
	oneKind(t, "answers are stored alike")
	f := start(t, server.Options{})
	for _, result := range []string{
		`"<b> & \u2028 \u00e9 é "`, `null`, `1.0`, `1e400`, `{"b":[1, 2],"a":{}}`, `""`, `"\u003c"`,
	} {
		reference := f.ask(pcCommands, "").json("referenceId")
		body := `{"status":"done","result":` + result + `,"error":"a<b>"}`
		first := f.ack(reference, body)
		if again := f.ack(reference, body); first.status != 200 || again.status != 200 || again.body != first.body {
			t.Errorf("%s: %+v, then %+v", result, first, again)
		}
	}
}

// TestExpiryStays: nobody cancels the expiry of a command, by which the hub finds the command.
func TestExpiryStays(t *testing.T) {
	oneKind(t, "the call is like that of any scheduled event")
	f := start(t, server.Options{})
	reference := f.ask(pcCommands, "").json("referenceId")
	a := f.call("DELETE", "/v1/scheduled/"+reference, "")
	a.wantProblem(t, 403, "forbidden", "cancel the command")
	f.wantState(reference, "pending", 0)
}

// TestListReadsWhatItShows: a list of few commands does not read the results of all, and a page has
// a megabyte of results or so, however many are asked for.
func TestListReadsWhatItShows(t *testing.T) {
	oneKind(t, "lists are made alike")
	f := start(t, server.Options{})
	const count = 40
	var want []string
	result := strings.Repeat("x", 60<<10)
	for i := range count {
		reference := f.ask(pcCommands, "").json("referenceId")
		want = append([]string{reference}, want...)
		if i%8 != 0 {
			f.ack(reference, `{"status":"done","result":"`+result+`"}`)
		}
	}
	pages := func(query string) (got []string, pages int) {
		for next := ""; pages == 0 || next != ""; pages++ {
			var page struct {
				Commands []struct{ ReferenceID string }
				Next     string
			}
			a := f.call("GET", pcCommands+query+next, "")
			if err := json.Unmarshal([]byte(a.body), &page); err != nil || len(a.body) > 2<<20 {
				t.Fatalf("%d bytes: %v", len(a.body), err)
			}
			for _, c := range page.Commands {
				got = append(got, c.ReferenceID)
			}
			if next = page.Next; next != "" {
				next = "&after=" + next
			}
		}
		return got, pages
	}
	if got, n := pages("?limit=1000"); !slices.Equal(got, want) || n < 2 {
		t.Errorf("%d pages: %v, want %v", n, got, want)
	}
	if got, _ := pages("?limit=7"); !slices.Equal(got, want) {
		t.Errorf("by sevens: %v, want %v", got, want)
	}
	if got, n := pages("?state=pending&limit=2"); len(got) != count/8 || n != 3 {
		t.Errorf("pending: %v on %d pages", got, n)
	}
	before := f.log.Stats().EventsRead
	f.call("GET", pcCommands+"?limit=1", "")
	if read := f.log.Stats().EventsRead - before; read > 20 {
		t.Errorf("for one command %d events were read", read)
	}
	f.call("GET", pcCommands+"?after=x", "").wantProblem(t, 400, "invalid", "after")
}

// TestCancelAmongMany: a command that is to be sent later is found among thousands of scheduled
// events of its channel.
func TestCancelAmongMany(t *testing.T) {
	oneKind(t, "the call is like that of TestCommandCancel")
	f := start(t, server.Options{})
	var lines strings.Builder
	one := `{"channel":"stores/s1/pcs/p1","data":"` + strings.Repeat("x", 2000) + `","deliverAt":"in 1h"}` + "\n"
	for range 500 {
		lines.WriteString(one)
	}
	ndjson := "Content-Type: application/x-ndjson"
	f.call("POST", "/v1/events", lines.String(), ndjson)
	reference := f.ask(pcCommands, `,"deliverAt":"in 1h"`).json("referenceId")
	f.call("POST", "/v1/events", lines.String(), ndjson)
	if a := f.call("DELETE", pcCommands+"/"+reference, ""); a.status != 200 || a.json("state") != "cancelled" {
		t.Errorf("%+v", a)
	}
	if n := f.log.Stats().Scheduled; n != 1000 {
		t.Errorf("%d events wait, want 1000", n)
	}
}

// TestCancelOneOfBroadcast: a broadcast that is cancelled for one PC goes on for the others.
func TestCancelOneOfBroadcast(t *testing.T) {
	oneKind(t, "the call is like that of TestCommandCancel")
	f := start(t, server.Options{})
	for _, first := range []string{"", "received"} {
		reference := f.ask("/v1/stores/s1/commands", "").json("referenceId")
		if first != "" {
			f.ack(reference, `{"status":"`+first+`"}`)
		}
		if a := f.call("DELETE", pcCommands+"/"+reference, ""); a.status != 200 || a.json("state") != "cancelled" {
			t.Errorf("after %q: %+v", first, a)
		}
		f.ack(reference, `{"status":"done"}`).wantProblem(t, 409, "conflict", "cancelled")
		other := "/v1/stores/s1/pcs/p2/commands/" + reference
		if a := f.call("GET", other, ""); a.json("state") != "pending" {
			t.Errorf("after %q the other PC's is %+v", first, a)
		}
		if a := f.call("POST", other+"/ack", `{"status":"done"}`); a.status != 200 {
			t.Errorf("after %q the other PC answers: %+v", first, a)
		}
		if a := f.call("GET", "/v1/stores/s1/commands/"+reference, ""); a.json("state") != "pending" {
			t.Errorf("after %q the broadcast is %+v", first, a)
		}
	}
}

// TestRedeliverScheduled: a command that was scheduled comes again like any other, once it was
// sent.
func TestRedeliverScheduled(t *testing.T) {
	oneKind(t, "the stream is that of TestRedeliver")
	f, pass := startWithClock(t, server.Options{})
	const path = "/v1/stores/event-sources?storeId=s1&pcId=p1"
	pc := f.stream(path)
	pc.next()
	var references []string
	for _, to := range []string{pcCommands, "/v1/stores/s1/commands"} {
		references = append(references, f.ask(to, `,"deliverAt":"in 1m","expires":"1h"`).json("referenceId"))
	}
	f.ask(pcCommands, `,"deliverAt":"in 2m"`)
	pass(time.Minute)
	last := ""
	for _, reference := range references {
		e := pc.next()
		if last = e.LastEventID; !strings.Contains(e.Data, reference) {
			t.Fatalf("want %s: %+v", reference, e)
		}
	}
	pc.close()
	again := f.stream(path + "&redeliver=pending&lastEventId=" + last)
	again.next()
	for _, reference := range references {
		if e := again.next(); !strings.Contains(e.Data, reference) || e.LastEventID != last {
			t.Errorf("want %s at %s: %+v", reference, last, e)
		}
	}
}

// TestManyWait: a hundred senders wait; those that leave cost nothing more, and a hub that drains
// tells the others where their commands stand.
func TestManyWait(t *testing.T) {
	if eachKind(t, TestManyWait) {
		return
	}
	f := start(t, server.Options{})
	const senders = 100
	ctx, leave := context.WithCancel(t.Context())
	var stay, gone sync.WaitGroup
	for i := range senders {
		if i%2 == 0 {
			stay.Go(func() {
				if a := f.ask(pcCommands, `,"wait":"60s"`); a.json("state") != "pending" || a.status/100 != 2 {
					t.Errorf("%+v", a)
				}
			})
			continue
		}
		gone.Go(func() {
			r, err := http.NewRequestWithContext(ctx, "POST", f.url(pcCommands),
				strings.NewReader(`{"event":"X","wait":"60s"}`))
			if err != nil {
				t.Error(err)
				return
			}
			if a, err := f.http.Do(r); err == nil {
				a.Body.Close()
				t.Errorf("an answer of %d", a.StatusCode)
			}
		})
	}
	eventually(t, func() bool { return f.log.Stats().Scheduled == senders }) // the expiries
	leave()
	gone.Wait()
	if err := f.srv.Drain(t.Context(), 0); err != nil {
		t.Error(err)
	}
	stay.Wait()
}
