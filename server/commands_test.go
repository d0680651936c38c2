package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/server"
)

const pcCommands = "/v1/stores/s1/pcs/p1/commands"

// ask sends a command that is to be answered.
func (f *fixture) ask(path, more string, header ...string) answer {
	f.t.Helper()
	a := f.call("POST", path, `{"event":"REBOOT","objectId":"o1"`+more+`}`, header...)
	if a.status != 201 && !strings.Contains(more, "wait") {
		f.t.Fatalf("%s: %+v", path, a)
	}
	return a
}

func (f *fixture) ack(reference, body string, header ...string) answer {
	f.t.Helper()
	return f.call("POST", pcCommands+"/"+reference+"/ack", body, header...)
}

// wantState checks where a command stands, and how many changes its history has.
func (f *fixture) wantState(reference, state string, changes int) answer {
	f.t.Helper()
	a := f.call("GET", pcCommands+"/"+reference, "")
	var c struct {
		History []struct{ State string }
	}
	if json.Unmarshal([]byte(a.body), &c) != nil || a.status != 200 || a.json("state") != state ||
		len(c.History) != changes ||
		a.json("referenceId") != reference || a.json("expires") == "" {
		f.t.Errorf("want %s after %d changes: %+v", state, changes, a)
	}
	return a
}

// TestCommand: a PC hears a command with the two more members, answers it, and the sender sees each
// state, across a restart; the older JSON is as it was.
func TestCommand(t *testing.T) {
	if eachKind(t, TestCommand) {
		return
	}
	f := start(t, server.Options{})
	pc := f.stream("/v1/stores/event-sources?storeId=s1&pcId=p1")
	pc.next()
	before := f.log.Now()
	sent := f.ask(pcCommands, `,"expires":"1h"`)
	reference := sent.json("referenceId")
	expires, err := time.Parse(time.RFC3339, sent.json("expires"))
	if err != nil || expires.Before(before.Add(time.Hour-time.Millisecond)) ||
		expires.After(f.log.Now().Add(time.Hour)) ||
		sent.json("state") != "pending" || sent.json("url") != pcCommands+"/"+reference {
		t.Errorf("%v %+v", err, sent)
	}
	e := pc.next()
	var heard struct {
		EventType, ReferenceID, Expires, Data string
		Ack                                   bool
	}
	if json.Unmarshal([]byte(e.Data), &heard) != nil || e.Type != "sse" || e.LastEventID != sent.json("id") ||
		!heard.Ack ||
		heard.Expires != sent.json("expires") || heard.ReferenceID != reference || heard.EventType != "COMMAND" {
		t.Errorf("heard %+v", e)
	}
	f.wantState(reference, "pending", 0)
	if a := f.ack(reference, `{"status":"received"}`); a.status != 200 || a.json("state") != "received" {
		t.Errorf("%+v", a)
	}
	if a := f.ack(reference, `{"status":"received"}`); a.status != 200 {
		t.Errorf("a repeat: %+v", a)
	}
	f.wantState(reference, "received", 1)
	pc.close()
	f.restart()
	done := `{"status":"done","result":{"uptime":7}}`
	for range 2 {
		if a := f.ack(reference, done); a.status != 200 || a.json("state") != "done" {
			t.Errorf("%+v", a)
		}
	}
	a := f.wantState(reference, "done", 2)
	if !strings.Contains(a.body, `"result":{"uptime":7}`) || a.json("id") != sent.json("id") {
		t.Errorf("%+v", a)
	}
	if a := f.ack(reference, `{"status":"received"}`); a.status != 200 || a.json("state") != "done" {
		t.Errorf("received after done: %+v", a)
	}
	for _, other := range []string{`{"status":"failed","error":"x"}`, `{"status":"done","result":8}`, `{"status":"done"}`} {
		a := f.ack(reference, other)
		a.wantProblem(t, 409, "conflict", "done")
		if a.json("state") != "done" {
			t.Errorf("%+v", a)
		}
	}
	f.wantState(reference, "done", 2)
	if a := f.call("GET", "/v1/scheduled?channel=**", ""); a.body != `{"scheduled":[]}` {
		t.Errorf("an expiry is left: %s", a.body)
	}
	if metrics := f.call("GET", "/metrics", "").body; !strings.Contains(metrics,
		"\nfanfare_commands_changed_total{state=\"done\"} 1\n") { // received was stored before the restart
		t.Error("the metric does not count the answer")
	}
}

// TestCommandExpires: without an answer in time a command has expired, is delivered no more, and
// cannot be answered.
func TestCommandExpires(t *testing.T) {
	oneKind(t, "the stream is that of the PC, which TestCommand has over each kind")
	f, pass := startWithClock(t, server.Options{})
	silent, received := f.ask(pcCommands, "").json("referenceId"), f.ask(pcCommands, "").json("referenceId")
	f.ack(received, `{"status":"received"}`)
	pass(10 * time.Minute)
	for i, reference := range []string{silent, received} {
		eventually(t, func() bool { return f.call("GET", pcCommands+"/"+reference, "").json("state") == "expired" })
		f.wantState(reference, "expired", i+1)
		a := f.ack(reference, `{"status":"done"}`)
		a.wantProblem(t, 410, "expired", "expired")
		if a.json("state") != "expired" {
			t.Errorf("%+v", a)
		}
		f.wantState(reference, "expired", i+1)
	}
	pc := f.stream("/v1/events?channel=stores/s1/pcs/p1&replay=all&heartbeatEvent=false")
	f.publish("stores/s1/pcs/p1", "after")
	pc.wantData("after")
}

// TestCommandCancel: a command that is not final is cancelled, and its PC is told; one that is to
// be sent later is never sent.
func TestCommandCancel(t *testing.T) {
	oneKind(t, "the stream is that of the PC, which TestCommand has over each kind")
	f, pass := startWithClock(t, server.Options{})
	pc := f.stream("/v1/stores/event-sources?storeId=s1&pcId=p1")
	pc.next()
	reference := f.ask(pcCommands, "").json("referenceId")
	pc.next()
	cancel := func(reference string) answer { return f.call("DELETE", pcCommands+"/"+reference, "") }
	if a := cancel(reference); a.status != 200 || a.json("state") != "cancelled" {
		t.Errorf("%+v", a)
	}
	if e := pc.next(); e.Type != "cancel" || e.Data != `{"referenceId":"`+reference+`"}` || e.LastEventID == "" {
		t.Errorf("%+v", e)
	}
	a := f.ack(reference, `{"status":"done"}`)
	a.wantProblem(t, 409, "conflict", "cancelled")
	if a := cancel(reference); a.status != 200 {
		t.Errorf("a repeat: %+v", a)
	}
	done := f.ask(pcCommands, "").json("referenceId")
	pc.next()
	f.ack(done, `{"status":"failed","error":"no power"}`)
	if a := cancel(done); a.status != 409 || a.json("state") != "failed" {
		t.Errorf("%+v", a)
	}
	later := f.ask(pcCommands, `,"deliverAt":"in 1h"`)
	if later.json("state") != "scheduled" || later.json("id") != "" {
		t.Errorf("%+v", later)
	}
	f.ack(later.json("referenceId"), `{"status":"done"}`).wantProblem(t, 404, "not_found", "")
	if a := cancel(later.json("referenceId")); a.status != 200 || a.json("state") != "cancelled" {
		t.Errorf("%+v", a)
	}
	sent := f.ask(pcCommands, `,"deliverAt":"in 2h","expires":"10m"`).json("referenceId")
	pass(2 * time.Hour)
	for e := pc.next(); ; e = pc.next() {
		if strings.Contains(e.Data, later.json("referenceId")) && e.Type == "sse" {
			t.Errorf("it was sent: %+v", e)
		}
		if strings.Contains(e.Data, sent) {
			break
		}
	}
	f.wantState(sent, "pending", 0)
	pass(11 * time.Minute)
	eventually(t, func() bool { return f.call("GET", pcCommands+"/"+sent, "").json("state") == "expired" })
}

// TestCommandWait: a sender waits for the final state, or for as long as it has said; however many
// wait, each is told of its own.
func TestCommandWait(t *testing.T) {
	oneKind(t, "the stream is that of the PC, which TestCommand has over each kind")
	f := start(t, server.Options{})
	if a := f.ask(pcCommands, `,"wait":"10ms"`); a.status != 202 || a.json("state") != "pending" {
		t.Errorf("%+v", a)
	}
	const senders = 50
	pc := f.stream("/v1/events?channel=stores/s1/pcs/p1&heartbeatEvent=false")
	var waits sync.WaitGroup
	for i := range senders {
		waits.Go(func() {
			a := f.ask(pcCommands, fmt.Sprintf(`,"wait":"60s","idempotencyKey":"k%d"`, i))
			if a.status != 200 || a.json("state") != "done" || a.json("result") != a.json("referenceId") {
				t.Errorf("%+v", a)
			}
		})
	}
	for range senders {
		var heard struct{ ReferenceID string }
		if err := json.Unmarshal([]byte(pc.next().Data), &heard); err != nil {
			t.Fatal(err)
		}
		f.ack(heard.ReferenceID, `{"status":"received"}`)
		f.ack(heard.ReferenceID, `{"status":"done","result":"`+heard.ReferenceID+`"}`)
	}
	waits.Wait()
}

// TestCommandRace: of answers, a cancel and the expiry that race, one is final, and all others are
// told so.
func TestCommandRace(t *testing.T) {
	f, pass := startWithClock(t, server.Options{})
	finals := map[string]int{}
	for i := range 40 {
		reference := f.ask(pcCommands, `,"expires":"1m"`).json("referenceId")
		pass(time.Minute - time.Millisecond)
		answers := make(chan answer, 4)
		var all sync.WaitGroup
		for j, one := range []func() answer{
			func() answer { return f.ack(reference, `{"status":"done"}`) },
			func() answer { return f.ack(reference, `{"status":"failed"}`) },
			func() answer { return f.call("DELETE", pcCommands+"/"+reference, "") },
			func() answer { pass(time.Millisecond); return answer{} },
		} {
			if (i+j)%3 > 0 || j == 3 {
				all.Go(func() { answers <- one() })
			}
		}
		all.Wait()
		close(answers)
		eventually(t, func() bool {
			state := f.call("GET", pcCommands+"/"+reference, "").json("state")
			return state != "pending" && state != "received"
		})
		final := f.call("GET", pcCommands+"/"+reference, "")
		finals[final.json("state")]++
		won := 0
		for a := range answers {
			switch {
			case a.status == 200 && a.json("state") == final.json("state"):
				won++
			case a.status != 0 && (a.status != 409 && a.status != 410 || a.json("state") != final.json("state")):
				t.Errorf("it is %s, and one was told %+v", final.json("state"), a)
			}
		}
		if (won == 1) != (final.json("state") != "expired") {
			t.Errorf("%d have won, and it is %s", won, final.json("state"))
		}
		f.wantState(reference, final.json("state"), 1)
	}
	t.Logf("%v", finals)
}

// TestCommandKeys: a command that is repeated under its key is sent once.
func TestCommandKeys(t *testing.T) {
	f := start(t, server.Options{})
	first := f.ask(pcCommands, `,"expires":"1h"`, "Idempotency-Key: k")
	again := f.call("POST", pcCommands, `{"event":"REBOOT","objectId":"o1","expires":"1h","wait":"1ms"}`, "Idempotency-Key: k")
	if again.json("referenceId") != first.json("referenceId") || again.json("id") != first.json("id") {
		t.Errorf("%+v, then %+v", first, again)
	}
	f.call("POST", pcCommands, `{"event":"REBOOT","objectId":"o1","expires":"2h"}`, "Idempotency-Key: k").
		wantProblem(t, 409, "conflict", "")
	if n := strings.Count(f.call("GET", "/metrics", "").body, "\nfanfare_scheduled_events 1\n"); n != 1 {
		t.Error("there is more than one expiry")
	}
	later := f.ask(pcCommands, `,"deliverAt":"in 1h"`, "Idempotency-Key: l")
	again = f.call("POST", pcCommands, `{"event":"REBOOT","objectId":"o1","deliverAt":"in 1h"}`, "Idempotency-Key: l")
	if again.status != 200 || again.json("referenceId") != later.json("referenceId") {
		t.Errorf("for later: %+v, then %+v", later, again)
	}
}

// TestAnswerOfOneThatLeaves: an answer whose body has come is stored, though its PC is gone by
// then, as one is that reboots.
func TestAnswerOfOneThatLeaves(t *testing.T) {
	f := start(t, server.Options{})
	reference := f.ask(pcCommands, "").json("referenceId")
	ctx, leave := context.WithCancel(t.Context())
	body := &leaving{Reader: strings.NewReader(`{"status":"done"}`), leave: leave}
	r := httptest.NewRequestWithContext(ctx, "POST", pcCommands+"/"+reference+"/ack", body)
	r.Host = f.addr()
	f.srv.ServeHTTP(httptest.NewRecorder(), r)
	if ctx.Err() == nil {
		t.Fatal("the PC has not left: this tests nothing")
	}
	f.wantState(reference, "done", 1)
}

// leaving is the body of a request whose sender is gone when it has been read.
type leaving struct {
	io.Reader
	leave func()
}

func (l *leaving) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	if err == io.EOF {
		l.leave()
	}
	return n, err
}

// TestCommandList: a PC's commands, newest first, by state, and by pages.
func TestCommandList(t *testing.T) {
	f := start(t, server.Options{})
	var references []string
	for range 5 {
		references = append(references, f.ask(pcCommands, "").json("referenceId"))
	}
	f.ask("/v1/stores/s1/pcs/p2/commands", "")
	f.ack(references[1], `{"status":"done"}`)
	f.ack(references[3], `{"status":"received"}`)
	list := func(query string) (list []string, next string) {
		t.Helper()
		a := f.call("GET", pcCommands+query, "")
		var page struct {
			Commands []struct{ ReferenceID, State string }
			Next     string
		}
		if err := json.Unmarshal([]byte(a.body), &page); err != nil || a.status != 200 {
			t.Fatalf("%s: %v %+v", query, err, a)
		}
		for _, c := range page.Commands {
			for i, reference := range references {
				if c.ReferenceID == reference {
					list = append(list, fmt.Sprint(i, " ", c.State))
				}
			}
		}
		return list, page.Next
	}
	for query, want := range map[string]string{
		"":                        "4 pending,3 received,2 pending,1 done,0 pending",
		"?state=done":             "1 done",
		"?state=pending":          "4 pending,2 pending,0 pending",
		"?state=expired":          "",
		"?limit=2":                "4 pending,3 received",
		"?after=" + references[3]: "2 pending,1 done,0 pending",
	} {
		if got, next := list(query); strings.Join(got, ",") != want ||
			(next != "") != strings.Contains(query, "limit") {
			t.Errorf("%s: %v %s, want %s", query, got, next, want)
		}
	}
	f.call("GET", pcCommands+"?state=x", "").wantProblem(t, 400, "invalid", "state")
}

// TestCommandBroadcast: a broadcast writes one event, and each PC answers for itself.
func TestCommandBroadcast(t *testing.T) {
	f, pass := startWithClock(t, server.Options{})
	for _, path := range []string{"/v1/stores/s1/commands", "/v1/stores/commands"} {
		before := f.log.Stats().Events
		reference := f.ask(path, "").json("referenceId")
		if n := f.log.Stats().Events - before; n != 1 {
			t.Errorf("%d events were written", n)
		}
		f.wantState(reference, "pending", 0)
		other := "/v1/stores/s1/pcs/p2/commands/" + reference
		if a := f.ack(reference, `{"status":"done"}`); a.status != 200 {
			t.Errorf("%+v", a)
		}
		f.wantState(reference, "done", 1)
		if a := f.call("GET", other, ""); a.json("state") != "pending" {
			t.Errorf("another PC: %+v", a)
		}
		pass(11 * time.Minute)
		eventually(t, func() bool { return f.call("GET", other, "").json("state") == "expired" })
		f.wantState(reference, "done", 1)
		f.call("POST", other+"/ack", `{"status":"done"}`).wantProblem(t, 410, "expired", "")
	}
}

// TestBroadcastLook: a broadcast shows where it stands for each PC that the hub knows, and for
// those that come, and can be cancelled for those that have not answered.
func TestBroadcastLook(t *testing.T) {
	oneKind(t, "the streams are there to be known")
	f := start(t, server.Options{})
	for _, pc := range []string{"s1&pcId=p1", "s1&pcId=p2", "s1&pcId=p3", "s2&pcId=p1"} {
		f.call("GET", "/v1/health?storeId="+pc, "")
	}
	look := func(path string) (counts map[string]int, pcs []string) {
		t.Helper()
		for after := ""; ; {
			a := f.call("GET", path+after, "")
			var page struct {
				Counts map[string]int
				PCs    []struct{ StoreID, PCID, State string }
				Next   string
			}
			if err := json.Unmarshal([]byte(a.body), &page); err != nil || a.status != 200 {
				t.Fatalf("%v %+v", err, a)
			}
			for _, pc := range page.PCs {
				pcs = append(pcs, pc.StoreID+"/"+pc.PCID+" "+pc.State)
			}
			if counts = page.Counts; page.Next == "" {
				return counts, pcs
			}
			after = "&after=" + url.QueryEscape(page.Next)
		}
	}
	store, all := f.ask("/v1/stores/s1/commands", ""), f.ask("/v1/stores/commands", "")
	eventually(t, func() bool { // health marks are stored soon
		counts, _ := look(all.json("url"))
		return counts["pending"] == 4
	})
	f.ack(store.json("referenceId"), `{"status":"done"}`)
	f.call("POST", "/v1/stores/s1/pcs/new/commands/"+store.json("referenceId")+"/ack", `{"status":"received"}`)
	counts, pcs := look(store.json("url") + "?limit=2")
	if fmt.Sprint(counts) != "map[done:1 pending:2 received:1]" ||
		strings.Join(pcs, ",") != "s1/new received,s1/p1 done,s1/p2 pending,s1/p3 pending" {
		t.Errorf("%v %v", counts, pcs)
	}
	if _, pcs := look(store.json("url") + "?state=done"); strings.Join(pcs, ",") != "s1/p1 done" {
		t.Errorf("%v", pcs)
	}
	pc := f.stream("/v1/stores/event-sources?storeId=s1&pcId=p2")
	pc.next()
	if a := f.call("DELETE", store.json("url"), ""); a.status != 200 || a.json("state") != "cancelled" {
		t.Errorf("%+v", a)
	}
	if e := pc.next(); e.Type != "cancel" || !strings.Contains(e.Data, store.json("referenceId")) {
		t.Errorf("%+v", e)
	}
	if counts, _ := look(store.json("url")); fmt.Sprint(counts) != "map[cancelled:3 done:1]" {
		t.Errorf("%v", counts)
	}
	f.call("POST", "/v1/stores/s1/pcs/p2/commands/"+store.json("referenceId")+"/ack", `{"status":"done"}`).
		wantProblem(t, 409, "conflict", "cancelled")
	if counts, _ := look(all.json("url")); fmt.Sprint(counts) != "map[pending:5]" {
		t.Errorf("%v", counts)
	}
}

// TestRedeliver: a PC that asks for it gets again, after CONNECTED, what it has heard and not
// finished, oldest first and with the start position as id, broadcasts included; then what is new.
func TestRedeliver(t *testing.T) {
	if eachKind(t, TestRedeliver) {
		return
	}
	f := start(t, server.Options{})
	const path = "/v1/stores/event-sources?storeId=s1&pcId=p1"
	pc := f.stream(path)
	pc.next()
	var references []string
	for _, to := range []string{pcCommands, "/v1/stores/s1/commands", pcCommands, "/v1/stores/commands", pcCommands,
		"/v1/stores/commands", "/v1/stores/s1/pcs/p2/commands", "/v1/stores/s2/commands"} {
		references = append(references, f.ask(to, "").json("referenceId"))
	}
	last := ""
	for range 6 {
		last = pc.next().LastEventID
	}
	f.ack(references[0], `{"status":"received"}`)
	f.ack(references[2], `{"status":"done"}`)
	f.ack(references[3], `{"status":"failed"}`)
	f.ask(pcCommands, `,"deliverAt":"in 1h"`)
	pc.close()
	f.restart()
	missed := f.ask(pcCommands, "").json("referenceId")
	again := f.stream(path + "&redeliver=pending&lastEventId=" + last)
	if e := again.next(); e.Data != "CONNECTED" || e.LastEventID != last {
		t.Fatalf("%+v", e)
	}
	for _, i := range []int{0, 1, 4, 5} {
		if e := again.next(); !strings.Contains(e.Data, references[i]) || e.LastEventID != last || e.Type != "sse" {
			t.Errorf("want command %d at %s: %+v", i, last, e)
		}
	}
	if e := again.next(); !strings.Contains(e.Data, missed) || e.LastEventID <= last {
		t.Errorf("want what came meanwhile: %+v", e)
	}
	plain := f.stream(path + "&look=true&lastEventId=" + last)
	plain.next()
	if e := plain.next(); !strings.Contains(e.Data, missed) {
		t.Errorf("without redeliver: %+v", e)
	}
	f.call("GET", path+"&redeliver=all", "").wantProblem(t, 400, "invalid", "redeliver")
}

func TestBadCommands(t *testing.T) {
	f := start(t, server.Options{})
	for _, more := range []string{
		`"expires":"0s"`, `"expires":0`, `"expires":"31d"`, `"expires":"-1m"`, `"expires":""`, `"expires":"soon"`, `"wait":"61s"`,
		`"wait":10`, `"wait":"1s","deliverAt":"in 1h"`, `"deliverAt":"yesterday"`, `"ttl":"1h"`, `"waitt":"1s"`,
	} {
		f.call("POST", pcCommands, `{"event":"REBOOT",`+more+`}`).wantProblem(t, 400, "invalid", "")
	}
	for _, path := range []string{"/v1/stores/s1/commands", "/v1/stores/commands"} {
		f.call("POST", path, `{"event":"REBOOT","wait":"1s"}`).wantProblem(t, 400, "invalid", "wait is for a command to one PC")
	}
	f.call("POST", pcCommands, `{"objectId":"x"}`).wantProblem(t, 400, "invalid", "event")
	f.call("POST", "/v1/stores/ü/pcs/p/commands", `{"event":"x"}`).wantProblem(t, 400, "invalid", "storeId")
	reference := f.ask(pcCommands, "").json("referenceId")
	for _, body := range []string{`{"status":"ok"}`, `{}`, `[]`, `x`, `{"status":"done","resullt":1}`, `{"status":7}`} {
		f.ack(reference, body).wantProblem(t, 400, "invalid", "")
	}
	f.ack(reference, `{"status":"done","result":"`+strings.Repeat("x", 65<<10)+`"}`).wantProblem(t, 413, "too_large", "result")
	plain := f.call("POST", "/v1/stores/s1/pcs/p1/events", `{"event":"REBOOT"}`).json("referenceId")
	for _, none := range []string{"x", "0000000000000", "0M86KMDZX0007", plain} {
		f.ack(none, `{"status":"done"}`).wantProblem(t, 404, "not_found", none)
		f.call("GET", pcCommands+"/"+none, "").wantProblem(t, 404, "not_found", none)
		f.call("DELETE", pcCommands+"/"+none, "").wantProblem(t, 404, "not_found", none)
	}
	f.call("POST", "/v1/stores/s1/pcs/p2/commands/"+reference+"/ack", `{"status":"done"}`).
		wantProblem(t, 404, "not_found", reference)
	f.wantState(reference, "pending", 0)
}

// TestCommandRights: a device answers for itself alone; others need `ack` to answer, `subscribe` to
// look, and `publish` to send and to cancel.
func TestCommandRights(t *testing.T) {
	self := func(pc string) *fanfare.Principal {
		p, err := fanfare.ParsePattern("stores/s1/pcs/" + pc)
		if err != nil {
			t.Fatal(err)
		}
		return &fanfare.Principal{Subject: pc, Self: p}
	}
	f := start(t, withLogin(logins(map[string]*fanfare.Principal{
		"p1": self("p1"), "p2": self("p2"),
		"office": {Subject: "office", Grants: grants(fanfare.ActionPublish, "stores/**")},
		"desk":   {Subject: "desk", Grants: grants(fanfare.ActionAck, "stores/s1/pcs/*")},
		"board":  {Subject: "board", Grants: grants(fanfare.ActionSubscribe, "stores/s1/pcs/*")},
	})))
	as := func(who string) string { return "Authorization: Bearer " + who }
	one := func() string { return pcCommands + "/" + f.ask(pcCommands, "", as("office")).json("referenceId") }
	for _, c := range []struct {
		method, path, body string
		may                string
	}{
		{"POST", "/ack", `{"status":"done"}`, "p1 desk"},
		{"GET", "", "", "p1 board"},
		{"DELETE", "", "", "office"},
	} {
		for _, who := range []string{"p1", "p2", "office", "desk", "board"} {
			want := 403
			if strings.Contains(c.may, who) {
				want = 200
			}
			if a := f.call(c.method, one()+c.path, c.body, as(who)); a.status != want {
				t.Errorf("%s %s as %s: %d, want %d: %s", c.method, c.path, who, a.status, want, a.body)
			}
		}
		if a := f.call(c.method, one()+c.path, c.body); a.status != 401 {
			t.Errorf("nobody: %+v", a)
		}
	}
	for who, want := range map[string]int{"office": 201, "p1": 403, "desk": 403, "board": 403} {
		if a := f.call("POST", pcCommands, `{"event":"REBOOT"}`, as(who)); a.status != want {
			t.Errorf("%s sends: %+v", who, a)
		}
	}
	done := one()
	f.call("POST", done+"/ack", `{"status":"done"}`, as("desk"))
	if a := f.call("GET", done, "", as("board")); a.json("by") != "desk" {
		t.Errorf("%+v", a)
	}
}
