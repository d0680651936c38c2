package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/server"
)

func pcPath(store, pc string) string {
	return "/v1/stores/event-sources?storeId=" + store + "&pcId=" + pc
}

// send sends a command to one PC and returns its id and referenceId.
func (f *fixture) send(store, pc, event string) (id, reference string) {
	f.t.Helper()
	a := f.call("POST", "/v1/stores/"+store+"/pcs/"+pc+"/events", `{"objectId":"o1","event":"`+event+`"}`)
	if a.status != 201 {
		f.t.Fatalf("send: %+v", a)
	}
	return a.json("id"), a.json("referenceId")
}

// commands reads n commands, and returns their inner events.
func (c *client) commands(n int) (events []string) {
	c.t.Helper()
	for range n {
		events = append(events, innerEvent(c.t, c.next().Data))
	}
	return events
}

func innerEvent(t testing.TB, data string) string {
	t.Helper()
	var outer struct{ Data string }
	var inner struct{ Event string }
	if err := json.Unmarshal([]byte(data), &outer); err != nil {
		t.Fatalf("%q: %v", data, err)
	}
	if err := json.Unmarshal([]byte(outer.Data), &inner); err != nil {
		t.Fatalf("%q: %v", outer.Data, err)
	}
	return inner.Event
}

func (f *fixture) pc(store, pc string) *client {
	f.t.Helper()
	c := f.stream(pcPath(store, pc))
	if e := c.any(); e.Type != "sse" || e.Data != "CONNECTED" || e.LastEventID == "" {
		f.t.Fatalf("the first event of a store stream is %+v", e)
	}
	return c
}

// command reads the next one.
func (w *wired) command() string {
	w.f.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		if time.Now().After(deadline) {
			w.f.t.Fatal("no command came for a minute")
		}
		block := w.until("\n\n")
		for line := range strings.SplitSeq(block, "\n") {
			if data, ok := strings.CutPrefix(line, "data: {\"eventType\""); ok {
				return innerEvent(w.f.t, "{\"eventType\""+data)
			}
		}
	}
}

// pcOf is pc on a connection of its own.
func (f *fixture) pcOf(store, pc string) *wired {
	f.t.Helper()
	w := f.open(pcPath(store, pc))
	w.until("CONNECTED\n\n")
	return w
}

func TestStoreCommands(t *testing.T) {
	if eachKind(t, TestStoreCommands) {
		return
	}
	f := start(t, server.Options{})
	here, other, elsewhere := f.pc("4.2_~-", "7"), f.pc("4.2_~-", "8"), f.pc("43", "7")
	reference := regexp.MustCompile(`"referenceId":"(` + positionText + `)"`)
	for _, c := range []struct {
		path, body string
		want       string
		hear       []*client
	}{
		{"/v1/stores/4.2_~-/pcs/7/events", `{"objectId":"o1","event":"REBOOT"}`,
			`{"eventType":"COMMAND","username":"4.2_~-#7","referenceType":"ON","referenceId":"R","data":"{\"storeId\":\"4.2_~-\",\"objectId\":\"o1\",\"event\":\"REBOOT\"}","isBroadcast":false}`, []*client{here}},
		{"/v1/stores/4.2_~-/events", `{"objectId":"<ü>","event":"SYNC","eventType":"INFO","referenceType":"OFF"}`,
			`{"eventType":"INFO","username":"4.2_~-","referenceType":"OFF","referenceId":"R","data":"{\"storeId\":\"4.2_~-\",\"objectId\":\"<ü>\",\"event\":\"SYNC\"}","isBroadcast":true}`, []*client{here, other}},
		{"/v1/stores/events", `{"event":"UPDATE"}`,
			`{"eventType":"COMMAND","username":"","referenceType":"ON","referenceId":"R","data":"{\"storeId\":\"\",\"objectId\":\"\",\"event\":\"UPDATE\"}","isBroadcast":true}`, []*client{here, other, elsewhere}},
	} {
		a := f.call("POST", c.path, c.body)
		if a.status != 201 ||
			!regexp.MustCompile(`^{"id":"`+positionText+`","referenceId":"`+positionText+`"}$`).MatchString(a.body) {
			t.Fatalf("%s: %+v", c.path, a)
		}
		for _, pc := range c.hear {
			e := pc.next()
			if m := reference.FindStringSubmatch(e.Data); m == nil || m[1] != a.json("referenceId") ||
				e.LastEventID != a.json("id") || e.Type != "sse" {
				t.Errorf("%s: heard %+v, answered %s", c.path, e, a.body)
			}
			if diff := cmp.Diff(c.want, reference.ReplaceAllString(e.Data, `"referenceId":"R"`)); diff != "" {
				t.Error(diff)
			}
		}
	}
	for _, c := range []*client{here, other, elsewhere} {
		c.quiet()
	}
	// Encoded once for both APIs: the native API hears and keeps the same.
	native := f.stream("/v1/events?channel=stores/**&replay=all")
	if e := native.next(); e.Type != "sse" || !strings.Contains(e.Data, "REBOOT") {
		t.Errorf("%+v", e)
	}
}

func TestStoreRefusals(t *testing.T) {
	f := start(t, server.Options{Publish: server.PublishOptions{MaxRequestBytes: 1000}})
	for _, c := range []struct{ path, body, detail string }{
		{"/v1/stores/1/pcs/2/events", `{}`, "event"}, {"/v1/stores/1/pcs/2/events", `{"event":""}`, "event"},
		{"/v1/stores/1/pcs/2/events", `{"event":7}`, "event"},
		{"/v1/stores/1/pcs/2/events", `{"event":"A","event":"B"}`, "event"}, {"/v1/stores/1/pcs/2/events", ``, "empty"},
		{"/v1/stores/1/pcs/2/events", `[]`, "object"},
		{"/v1/stores/1/pcs/2/events", `{"event":"A","objectId":{}}`, "objectId"},
		{"/v1/stores/1/pcs/a%2Fb/events", `{"event":"A"}`, "pcId"},
		{"/v1/stores/*/events", `{"event":"A"}`, "storeId"},
		{"/v1/stores/" + strings.Repeat("x", 65) + "/pcs/1/events", `{"event":"A"}`, "storeId must have 1 to 64"},
		{"/v1/stores//events", `{"event":"A"}`, "storeId"}, {"/v1/stores/1/pcs//events", `{"event":"A"}`, "pcId"},
	} {
		f.call("POST", c.path, c.body).wantProblem(t, 400, "invalid", c.detail)
	}
	f.call("POST", "/v1/stores/events", strings.Repeat(" ", 1001)).wantProblem(t, 413, "too_large",
		"--max-request-bytes")
	if n := f.log.Stats().Events; n != 0 {
		t.Errorf("%d events stored", n)
	}
}

func TestRespondAsync(t *testing.T) {
	if eachKind(t, TestRespondAsync) {
		return
	}
	f := start(t, server.Options{})
	pc := f.pc("1", "2")
	for _, prefer := range []string{"respond-async", "wait=10, Respond-Async; x=1"} {
		a := f.call("POST", "/v1/stores/1/pcs/2/events", `{"event":"REBOOT"}`, "Prefer: "+prefer)
		if a.status != 202 || a.header.Get("Preference-Applied") != "respond-async" ||
			!regexp.MustCompile(`^{"referenceId":"`+positionText+`"}$`).MatchString(a.body) {
			t.Fatalf("%+v", a)
		}
		if e := pc.next(); !strings.Contains(e.Data, a.json("referenceId")) {
			t.Errorf("%+v", e)
		}
	}
	f.call("POST", "/v1/stores/1/pcs/2/events", `{}`, "Prefer: respond-async").wantProblem(t, 400, "invalid", "event")
	f.stop(0)
	f.lo.MinFreeBytes = 1 << 62
	f.up("127.0.0.1:0")
	a := f.call("POST", "/v1/stores/1/events", `{"event":"REBOOT"}`, "Prefer: respond-async")
	if a.status != 202 && a.status != 503 {
		t.Errorf("%+v", a)
	}
	for deadline := time.Now().Add(time.Minute); a.status == 202 &&
		!strings.Contains(f.call("GET", "/metrics", "").body, "fanfare_async_publishes_failed_total 1"); {
		if time.Now().After(deadline) {
			t.Fatal("a failure after 202 is not counted")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestHealth(t *testing.T) {
	f := start(t, server.Options{})
	if a := f.call("GET", "/v1/health", ""); a.status != 200 || a.body != `{"status":"ok"}` {
		t.Errorf("%+v", a)
	}
	a := f.call("GET", "/v1/health?storeId=1&pcId=2", "")
	at, err := time.Parse(time.RFC3339, a.json("lastSeen"))
	if a.status != 200 || a.json("status") != "ok" || err != nil || time.Since(at) > time.Minute {
		t.Errorf("%+v", a)
	}
	f.call("GET", "/v1/health?storeId=1", "").wantProblem(t, 400, "invalid", "pcId")
	f.call("GET", "/v1/health?pcId=1", "").wantProblem(t, 400, "invalid", "storeId")
	f.call("GET", "/v1/health?storeId=1&pcId=/", "").wantProblem(t, 400, "invalid", "pcId")
}

// untilKept waits until the position kept under a name is not below that of an event.
func (f *fixture) untilKept(name, id string) {
	f.t.Helper()
	want, err := fanfare.ParsePosition(id)
	if err != nil {
		f.t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		kept, ok, err := f.log.Kept(context.Background(), name)
		if ok && kept.Position >= want {
			return
		}
		if err != nil || time.Now().After(deadline) {
			f.t.Fatalf("kept as %s: %+v %v, want %s", name, kept, err, id)
		}
	}
}

// TestKeptPositionAfterCleanEnds: the older client never sends a position; across clean ends and a
// restart between two streams it gets everything once.
func TestKeptPositionAfterCleanEnds(t *testing.T) {
	if eachKind(t, TestKeptPositionAfterCleanEnds) {
		return
	}
	f := start(t, server.Options{Stores: server.StoreOptions{Lifetime: 700 * time.Millisecond}})
	f.send("1", "2", "before it was ever seen")
	n := 0
	next := func() string { n++; return fmt.Sprint(n) }
	var sent, got []string
	for round := range 12 {
		c := f.pc("1", "2")
		sent = append(sent, next())
		f.send("1", "2", sent[len(sent)-1])
		for _, e := range c.rest() {
			if e.Type == "sse" {
				got = append(got, innerEvent(t, e.Data))
			}
		}
		if c.err.Error() != "EOF" {
			t.Errorf("round %d ended with %v", round, c.err)
		}
		sent = append(sent, next())
		f.send("1", "2", sent[len(sent)-1]) // between two streams
		if round%4 == 3 {
			f.restart()
		}
	}
	// The last two, where the last stream had ended before its own was sent.
	got = append(got, f.pc("1", "2").commands(len(sent)-len(got))...)
	if diff := cmp.Diff(sent, got); diff != "" {
		t.Errorf("(-sent +got):\n%s", diff)
	}
}

// TestKeptPositionOfAnIdleStream moves on with the log, so that a quiet PC does not age into a gap.
func TestKeptPositionOfAnIdleStream(t *testing.T) {
	if eachKind(t, TestKeptPositionOfAnIdleStream) {
		return
	}
	f := start(t, server.Options{Stores: server.StoreOptions{Lifetime: 3 * time.Second}}, "**=count:1")
	c := f.pc("1", "2")
	var list []fanfare.Message
	for range 20 {
		list = append(list, message("elsewhere", "x"))
	}
	// at once: the disk may be slow, and the stream's time is short
	if _, err := f.srv.Publish(t.Context(), list...); err != nil {
		t.Fatal(err)
	}
	c.rest()
	again := f.stream(pcPath("1", "2"))
	newest := f.history("channel=elsewhere").Events[0].ID
	if e := again.any(); e.LastEventID != newest {
		t.Errorf("starts at %s, want the newest %s", e.LastEventID, newest)
	}
	again.quiet()
}

// overwhelmedPC opens the stream of PC 2 of store 1, reads one command, and is then sent eight
// large ones, more than the kernel takes for a peer that does not read.
func (f *fixture) overwhelmedPC() (pc *wired, sent []string) {
	f.t.Helper()
	pc = f.open(pcPath("1", "2"))
	pc.until("CONNECTED\n\n")
	f.send("1", "2", "read")
	pc.until("read")
	pc.stops()
	for i := range 8 {
		sent = append(sent, fmt.Sprint(i, strings.Repeat("x", 900_000)))
		f.send("1", "2", sent[i])
	}
	return pc, sent
}

// TestKeptPositionAfterABreak: the connection is reset while the PC had not read all; what its TCP
// had not acknowledged comes again, and nothing is lost.
func TestKeptPositionAfterABreak(t *testing.T) {
	if eachKind(t, TestKeptPositionAfterABreak) {
		return
	}
	f := start(t, server.Options{})
	pc, sent := f.overwhelmedPC()
	pc.reset()
	f.untilStreams(0)
	c := f.pc("1", "2")
	var got []string
	for len(got) == 0 || got[len(got)-1] != sent[7] {
		got = append(got, c.commands(1)...)
	}
	if len(got) < 7 { // the peer's kernel may have acknowledged one that it never handed up
		t.Errorf("%d of 8 unread commands came after the break", len(got))
	}
	for i, e := range got {
		if e != sent[8-len(got)+i] {
			t.Fatalf("command %d of %d is another", i, len(got))
		}
	}
	c.quiet()
}

// TestKeptPositionOnAUsedConnection: what an earlier answer on the same connection brought is no
// part of the stream.
func TestKeptPositionOnAUsedConnection(t *testing.T) {
	if eachKind(t, TestKeptPositionOnAUsedConnection) {
		return
	}
	f := start(t, server.Options{})
	pc := f.wire()
	pc.call("GET", "/metrics", "") // some thousand bytes
	pc.begin(pcPath("1", "2"))
	pc.until("CONNECTED\n\n")
	pc.stops()
	var sent []string
	for i := range 8 {
		sent = append(sent, fmt.Sprint(i, strings.Repeat("x", 900_000)))
		f.send("1", "2", sent[i])
	}
	pc.reset()
	f.untilStreams(0)
	c := f.pc("1", "2")
	if got := c.commands(1)[0]; got[0] > '1' { // the peer's kernel may have acknowledged the first
		t.Errorf("starts with command %.1s", got)
	}
}

// TestKeptPositionOfAHalfDeadStream: the old stream still counts as open when the PC comes back.
func TestKeptPositionOfAHalfDeadStream(t *testing.T) {
	if eachKind(t, TestKeptPositionOfAHalfDeadStream) {
		return
	}
	f := start(t, server.Options{})
	f.overwhelmedPC()
	c := f.pc("1", "2")
	events := c.commands(7)
	if !strings.HasPrefix(events[6], "7") && !strings.HasPrefix(events[6], "6") { // one may have been acknowledged
		t.Errorf("the seventh is %.3s", events[6])
	}
}

func TestKeptPositionEndsAndGaps(t *testing.T) {
	if eachKind(t, TestKeptPositionEndsAndGaps) {
		return
	}
	f := start(t, server.Options{Stores: server.StoreOptions{Lifetime: 5 * time.Second, ResumeFor: time.Hour}},
		"**=count:2")
	c := f.pc("1", "2")
	first, _ := f.send("1", "2", "a")
	c.rest()
	for _, event := range []string{"b", "c", "d"} {
		f.send("1", "2", event)
	}
	c = f.stream(pcPath("1", "2"))
	if e := c.any(); e.Data != "CONNECTED" || e.LastEventID != first {
		t.Errorf("%+v, want %s", e, first)
	}
	e := c.any()
	var g gap
	if err := json.Unmarshal([]byte(e.Data), &g); err != nil || g.Reason != "trimmed" || g.Requested != first ||
		g.Oldest <= first {
		t.Errorf("a kept position that has been trimmed is a gap: %+v", e)
	}
	if diff := cmp.Diff([]string{"c", "d"}, c.commands(2)); diff != "" {
		t.Error(diff)
	}
	c.close()

	g2 := start(t, server.Options{Stores: server.StoreOptions{ResumeFor: -1, Lifetime: 5 * time.Second}})
	g2.pc("1", "2").rest()
	g2.send("1", "2", "not kept")
	c = g2.pc("1", "2")
	g2.send("1", "2", "new")
	if diff := cmp.Diff([]string{"new"}, c.commands(1)); diff != "" {
		t.Error(diff)
	}
}

// TestStoreGapReplay: after a gap an old REBOOT does not run again.
func TestStoreGapReplay(t *testing.T) {
	if eachKind(t, TestStoreGapReplay) {
		return
	}
	f := newFixture(t, server.Options{Stores: server.StoreOptions{GapReplay: time.Minute}}, "**=count:3")
	pass := f.ownClock()
	f.begin()
	var ids []string
	for _, event := range []string{"a", "b", "c", "d"} {
		id, _ := f.send("1", "2", event)
		ids = append(ids, id)
	}
	pass(2 * time.Minute) // they have to age
	f.send("1", "2", "young")
	c := f.stream(pcPath("1", "2")+"&lastEventId="+ids[0], "Last-Event-ID: "+ids[0])
	c.any()
	if e := c.any(); e.Type != "gap" {
		t.Fatalf("%+v", e)
	}
	if diff := cmp.Diff([]string{"young"}, c.commands(1)); diff != "" {
		t.Error(diff)
	}
	// Without a gap everything retained comes, however old.
	c = f.stream(pcPath("1", "2"), "Last-Event-ID: "+ids[2])
	c.any()
	if diff := cmp.Diff([]string{"d", "young"}, c.commands(2)); diff != "" {
		t.Error(diff)
	}
}

// TestStorePositionFromTheClient wins over the kept one.
func TestStorePositionFromTheClient(t *testing.T) {
	if eachKind(t, TestStorePositionFromTheClient) {
		return
	}
	f := start(t, server.Options{})
	c := f.pc("1", "2")
	first, _ := f.send("1", "2", "a")
	f.send("1", "2", "b")
	c.commands(2)
	c.close()
	for query, want := range map[string][]string{"&lastEventId=" + first: {"b"}, "&lastEventId=conn": nil} {
		c := f.stream(pcPath("1", "2") + query)
		c.any()
		if diff := cmp.Diff(want, c.commands(len(want))); diff != "" {
			t.Error(diff)
		}
		c.quiet()
		c.close()
	}
}
