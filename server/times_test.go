package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/server"
)

// startWithClock starts a hub whose log's clock passes when the test says so.
func startWithClock(t *testing.T, o server.Options, rules ...string) (*fixture, func(time.Duration)) {
	t.Helper()
	f := newFixture(t, o, rules...)
	pass := f.ownClock()
	f.begin()
	return f, pass
}

// TestTTLOnStreams: a stream that is there gets an event that lives for a while; one that comes
// when the event is over does not, and hears of no gap, whether it resumes from memory or, after a
// restart, from the log.
func TestTTLOnStreams(t *testing.T) {
	if eachKind(t, TestTTLOnStreams) {
		return
	}
	f, pass := startWithClock(t, server.Options{})
	before := f.publish("q/a", "0")[0]
	live := f.stream("/v1/events?channel=q/*&heartbeatEvent=false")
	f.publish("q/a?ttl=10m", "1")
	f.publish("q/b", "2")
	f.publish("q/b?ttl=1h", "3")
	live.wantData("1", "2", "3")
	live.close()
	pass(11 * time.Minute)
	for _, from := range []string{"memory", "the log"} {
		for query, want := range map[string][]string{
			"channel=q/*&lastEventId=" + before:                {"2", "3"},
			"channel=q/a&channel=q/b&lastEventId=" + before:    {"2", "3"},
			"channel=q/*&replay=all":                           {"0", "2", "3"},
			"channel=q/*&replay=2":                             {"2", "3"},
			"channel=q/*&replay=latest":                        {"0", "3"},
			"channel=q/*&conflate=true&lastEventId=" + before:  {"3"},
			"channel=q/*&replay=latest&conflate=true":          {"0", "3"},
			"channel=q/a&channel=q/b&replay=all&conflate=true": {"0", "3"},
		} {
			t.Run(from+" "+query, func(t *testing.T) {
				c := f.stream("/v1/events?heartbeatEvent=false&" + query)
				defer c.close()
				c.wantData(want...)
			})
		}
		if from == "memory" {
			f.restart()
		}
	}
}

// wantData reads the stream's next events, which have these data; a gap is one that does not.
func (c *client) wantData(want ...string) {
	c.t.Helper()
	for i, data := range want {
		if e := c.next(); e.Data != data {
			c.t.Fatalf("event %d is %s %q, want %q", i, e.Type, e.Data, data)
		}
	}
}

// TestTTLElsewhere: history, the state, counts and conditions leave out what is over; before that,
// history and the state say when it will be.
func TestTTLElsewhere(t *testing.T) {
	f, pass := startWithClock(t, server.Options{})
	id := f.publish("a", "1")[0]
	a := f.call("POST", "/v1/events", `{"channel":"a","data":"2","ttl":"90s"}`)
	second := a.json("id")
	f.call("POST", "/v1/events", `[{"channel":"only","data":"3","ttl":"1h30m"},{"channel":"b","data":"4"}]`)
	for _, path := range []string{"/v1/history?channel=a", "/v1/latest?channel=a"} {
		var page struct {
			Events []struct{ ID, Data, Time, Expires string }
		}
		if err := json.Unmarshal([]byte(f.call("GET", path, "").body), &page); err != nil {
			t.Fatal(err)
		}
		last := page.Events[len(page.Events)-1]
		at, _ := time.Parse(time.RFC3339, last.Time)
		over, _ := time.Parse(time.RFC3339, last.Expires)
		if last.ID != second || over.Sub(at) != 90*time.Second ||
			(len(page.Events) > 1 && page.Events[0].Expires != "") {
			t.Errorf("%s: %+v", path, page)
		}
	}
	f.call("POST", "/v1/channels/a", "x", `If-Match: "`+id+`"`).wantNotMet(t, second)
	pass(2 * time.Minute)
	if got := strings.Join(f.dataOf("a"), " "); got != "1" {
		t.Errorf("history: %s", got)
	}
	if list, _ := f.state("channel=**"); !slices.Equal(list, []string{"a=1", "b=4", "only=3"}) {
		t.Errorf("the state: %v", list)
	}
	pass(2 * time.Hour)
	if list, _ := f.state("channel=**"); !slices.Equal(list, []string{"a=1", "b=4"}) {
		t.Errorf("the state: %v", list)
	}
	if body := f.call("GET", "/v1/channels?pattern=**", "").body; !strings.Contains(body, `"channel":"a","latest":"`+id+
		`","count":1,"bytes":1`) || strings.Contains(body, "only") {
		t.Errorf("the channels: %s", body)
	}
	f.call("POST", "/v1/channels/only", "5", "If-None-Match: *").wantID(t)
	f.call("POST", "/v1/channels/a", "x", `If-Match: "`+second+`"`).wantNotMet(t, id)
	f.call("POST", "/v1/channels/a", "6", `If-Match: "`+id+`"`).wantID(t)
}

func (a answer) wantID(t *testing.T) {
	t.Helper()
	if a.status != 201 || a.json("id") == "" {
		t.Errorf("%+v", a)
	}
}

// TestTTLAndKeys: another ttl, or another time of delivery, is another event under a key.
func TestTTLAndKeys(t *testing.T) {
	f := start(t, server.Options{})
	for i, query := range []string{"", "?ttl=10m", "?deliverAt=in+10m", "?deliverAt=in+10m&ttl=10m"} {
		key := fmt.Sprintf("Idempotency-Key: k%d", i)
		first := f.call("POST", "/v1/channels/a"+query, "x", key)
		again := f.call("POST", "/v1/channels/a"+query, "x", key)
		if first.status/100 != 2 || again.status != 200 || first.body != again.body ||
			again.header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("%s: %+v, then %+v", query, first, again)
		}
		for _, other := range []string{"", "?ttl=10m", "?ttl=11m", "?deliverAt=in+10m", "?deliverAt=in+11m"} {
			if other != query {
				f.call("POST", "/v1/channels/a"+other, "x", key).wantProblem(t, 409, "conflict", "")
			}
		}
	}
}

// TestSchedule: an event for later is shown, is no event before its time, can be canceled once, and
// is published at its time, in order, also after a stop.
func TestSchedule(t *testing.T) {
	if eachKind(t, TestSchedule) {
		return
	}
	f, pass := startWithClock(t, server.Options{})
	c := f.stream("/v1/events?channel=**&heartbeatEvent=false")
	later := func(query, data string) string {
		t.Helper()
		a := f.call("POST", "/v1/channels/stores/1?event=k&"+query, data)
		if a.status != 202 || len(a.json("scheduled")) != 13 || a.header.Get("Etag") != "" {
			t.Fatalf("%s: %+v", query, a)
		}
		return a.json("scheduled")
	}
	at := f.log.Now().Add(30 * time.Minute)
	second := later("deliverAt="+url.QueryEscape(at.In(time.FixedZone("", 7200)).Format(time.RFC3339Nano)), "2")
	later("deliverAt=in+10m&ttl=1h", "1")
	gone := later("deliverAt=in+20m", "x")
	later("deliverAt=in+1h&ttl=1s", "over")
	list := f.call("GET", "/v1/scheduled?channel=stores/*&limit=2", "")
	var page struct {
		Scheduled []struct{ Scheduled, Channel, Event, Data, DeliverAt, TTL string }
		Next      string
	}
	if err := json.Unmarshal([]byte(list.body), &page); err != nil || len(page.Scheduled) != 2 || page.Next == "" ||
		page.Scheduled[0].Data != "1" || page.Scheduled[0].TTL != "1h0m0s" || page.Scheduled[0].Event != "k" ||
		page.Scheduled[1].Scheduled != gone {
		t.Fatalf("%v %+v", err, list)
	}
	rest := f.call("GET", "/v1/scheduled?channel=stores/*&limit=2&after="+page.Next, "")
	if !strings.Contains(rest.body, second) || strings.Contains(rest.body, gone) || rest.json("next") != "" {
		t.Errorf("%+v", rest)
	}
	one := f.call("GET", "/v1/scheduled/"+second, "")
	if got, err := time.Parse(time.RFC3339, one.json("deliverAt")); err != nil || !got.Equal(at) ||
		one.json("data") != "2" {
		t.Errorf("%+v", one)
	}
	if a := f.call("DELETE", "/v1/scheduled/"+gone, ""); a.status != 204 || a.body != "" {
		t.Errorf("%+v", a)
	}
	f.call("DELETE", "/v1/scheduled/"+gone, "").wantProblem(t, 404, "not_found", gone)
	f.call("GET", "/v1/scheduled/"+gone, "").wantProblem(t, 404, "not_found", gone)
	if got := f.dataOf("stores/1"); got != nil {
		t.Errorf("published before its time: %v", got)
	}
	pass(10 * time.Minute)
	c.wantData("1")
	pass(20 * time.Minute)
	c.wantData("2")
	c.close()
	f.stop(0)
	pass(time.Hour)
	f.up(f.addr())
	eventually(t, func() bool { return !strings.Contains(f.call("GET", "/v1/scheduled?channel=**", "").body, "over") })
	if got := strings.Join(f.dataOf("stores/1"), " "); got != "2" { // 1 lived for an hour from its time on
		t.Errorf("the channel has %s", got)
	}
	metrics := f.call("GET", "/metrics", "").body
	if !strings.Contains(metrics, "\nfanfare_scheduled_events 0\n") {
		t.Error("events are counted that wait")
	}
}

func eventually(t *testing.T, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
	}
}

// TestScheduleLines: each line of NDJSON may have a time of its own.
func TestScheduleLines(t *testing.T) {
	f := start(t, server.Options{})
	a := f.call("POST", "/v1/events", strings.Join([]string{
		`{"channel":"a","data":"1"}`,
		`{"channel":"a","data":"2","deliverAt":"in 10m"}`,
		`{"channel":"a","data":"3","ttl":"10m"}`,
		`{"channel":"a","data":"4","deliverAt":"in 10m","ifLatest":null}`,
		`{"channel":"a","data":"5","ttl":"0s"}`,
	}, "\n"), "Content-Type: application/x-ndjson")
	lines := strings.Split(a.body, "\n")
	if len(lines) != 5 || !strings.Contains(lines[0], `"id"`) || !strings.Contains(lines[1], `"scheduled"`) ||
		!strings.Contains(lines[2], `"id"`) || !strings.Contains(lines[3], "condition") ||
		!strings.Contains(lines[4], "ttl") {
		t.Errorf("%s", a.body)
	}
	if got := strings.Join(f.dataOf("a"), " "); got != "1 3" {
		t.Errorf("stored: %s", got)
	}
}

// TestScheduleRights: looking at what is scheduled, and canceling it, takes the right to publish to
// its channel.
func TestScheduleRights(t *testing.T) {
	f := start(t, withLogin(logins(map[string]*fanfare.Principal{
		"all":  {Subject: "all", Grants: grants(fanfare.ActionPublish, "**")},
		"a":    {Subject: "a", Grants: grants(fanfare.ActionPublish, "a/*")},
		"hear": {Subject: "hear", Grants: grants(fanfare.ActionSubscribe, "**")},
	})))
	as := func(who string) string { return "Authorization: Bearer " + who }
	mine := f.call("POST", "/v1/channels/a/1?deliverAt=in+1h", "x", as("a")).json("scheduled")
	other := f.call("POST", "/v1/channels/b?deliverAt=in+1h", "x", as("all")).json("scheduled")
	f.call("POST", "/v1/channels/b?deliverAt=in+1h", "x", as("a")).wantProblem(t, 403, "forbidden", "")
	for _, c := range []struct {
		method, path, who string
		status            int
	}{
		{"GET", "/v1/scheduled?channel=a/*", "a", 200},
		{"GET", "/v1/scheduled?channel=**", "a", 403},
		{"GET", "/v1/scheduled?channel=a/*", "hear", 403},
		{"GET", "/v1/scheduled?channel=**", "all", 200},
		{"GET", "/v1/scheduled/" + mine, "a", 200},
		{"GET", "/v1/scheduled/" + other, "a", 403},
		{"DELETE", "/v1/scheduled/" + other, "a", 403},
		{"DELETE", "/v1/scheduled/" + mine, "hear", 403},
		{"DELETE", "/v1/scheduled/" + mine, "a", 204},
		{"DELETE", "/v1/scheduled/" + other, "all", 204},
	} {
		if a := f.call(c.method, c.path, "", as(c.who)); a.status != c.status {
			t.Errorf("%s %s as %s: %d, want %d", c.method, c.path, c.who, a.status, c.status)
		}
	}
	if a := f.call("GET", "/v1/scheduled?channel=**", ""); a.status != 401 {
		t.Errorf("nobody: %+v", a)
	}
	secret := f.call("POST", "/v1/channels/merger?deliverAt=in+1h", "x", as("all")).json("scheduled")
	for _, method := range []string{"GET", "DELETE"} { // P8
		a := f.call(method, "/v1/scheduled/"+secret, "", as("a"))
		if a.status != 403 || strings.Contains(a.body, "merger") {
			t.Errorf("the refusal names the channel: %+v", a)
		}
	}
}

func TestBadTimes(t *testing.T) {
	f := start(t, server.Options{})
	past := url.QueryEscape(f.log.Now().Add(-time.Second).Format(time.RFC3339Nano))
	for _, query := range []string{
		"ttl=0", "ttl=0s", "ttl=-5m", "ttl=366d", "ttl=365d1ms", "ttl=999ms", "ttl=NaN", "ttl=NaNs", "ttl=10", "ttl=",
		"ttl=10us",
		"ttl=1h-30m", "ttl=10m&ttl=10m", "ttl=Inf", "ttl=99999999999999999999d", "ttl=m", "ttl=1e3s",
		"deliverAt=" + past, "deliverAt=2026-02-30T03:00:00Z", "deliverAt=2099-01-01T03:00:00Z",
		"deliverAt=2026-12-01T03:00:00",
		"deliverAt=", "deliverAt=in", "deliverAt=in+0s", "deliverAt=in+-5m", "deliverAt=in+366d", "deliverAt=10m",
		"deliverAt=03:00",
		"deliverAt=in+NaN", "deliverAt=in+1h&deliverAt=in+2h",
	} {
		name, _, _ := strings.Cut(query, "=")
		f.call("POST", "/v1/channels/a?"+query, "x").wantProblem(t, 400, "invalid", name)
	}
	for member, name := range map[string]string{
		`"ttl":10`: "ttl", `"ttl":null`: "ttl", `"ttl":"0"`: "ttl", `"ttl":""`: "ttl", `"ttl":[]`: "ttl",
		`"tll":"10m"`:            "ttl",
		`"deliverAt":1790000000`: "deliverAt", `"deliverAt":null`: "deliverAt", `"deliverat":"in 10m"`: "deliverAt",
		`"deliverAt":"in 10m","ifLatest":null`: "deliverAt",
	} {
		f.call("POST", "/v1/events", `{"channel":"a","data":"x",`+member+`}`).wantProblem(t, 400, "invalid", name)
	}
	f.call("POST", "/v1/events", `[{"channel":"a","data":"x","deliverAt":"in 10m"}]`).
		wantProblem(t, 400, "invalid", "array")
	f.call("POST", "/v1/events?ttl=10m", `{"channel":"a","data":"x"}`).wantProblem(t, 400, "invalid", "body")
	f.call("POST", "/v1/channels/a?deliverAt=in+10m", "x", "If-None-Match: *").wantProblem(t, 400, "invalid",
		"condition")
	f.call("POST", "/v1/channels/$a?deliverAt=in+10m", "x").wantProblem(t, 403, "forbidden", "$")
	for _, path := range []string{
		"/v1/scheduled", "/v1/scheduled?channel=a*", "/v1/scheduled?channel=a&limit=0",
		"/v1/scheduled?channel=a&limit=1001",
		"/v1/scheduled?channel=a&after=x", "/v1/scheduled?channel=a&after=" + strings.Repeat("7",
			26), "/v1/scheduled?chanel=a",
	} {
		f.call("GET", path, "").wantProblem(t, 400, "invalid", "")
	}
	for _, id := range []string{"x", "0000000000000", "1M86KMDZX0007", "%00", "1M86KMDZX0007/x", ""} {
		f.call("GET", "/v1/scheduled/"+id, "").wantProblem(t, 404, "not_found", "")
		f.call("DELETE", "/v1/scheduled/"+id, "").wantProblem(t, 404, "not_found", "")
	}
	f.call("POST", "/v1/scheduled/1M86KMDZX0007", "").wantProblem(t, 405, "method_not_allowed", "GET")
	if got := f.dataOf("a"); got != nil {
		t.Errorf("stored: %v", got)
	}
	if a := f.call("GET", "/v1/scheduled?channel=**", ""); a.body != `{"scheduled":[]}` {
		t.Errorf("scheduled: %+v", a)
	}
}

// TestProgramTimes: a Go program publishes with the same times, and gets the same errors.
func TestProgramTimes(t *testing.T) {
	f, pass := startWithClock(t, server.Options{})
	publish := func(m ...fanfare.Message) (fanfare.Receipt, error) { return f.srv.Publish(t.Context(), m...) }
	m := fanfare.Message{Channel: "a", Data: "x"}
	for _, change := range []func(*fanfare.Message){
		func(m *fanfare.Message) { m.TTL = -time.Second },
		func(m *fanfare.Message) { m.TTL = time.Millisecond },
		func(m *fanfare.Message) { m.TTL = fanfare.MaxTTL + 1 },
		func(m *fanfare.Message) { m.DeliverAt = f.log.Now() },
		func(m *fanfare.Message) { m.DeliverIn = -time.Second },
		func(m *fanfare.Message) { m.DeliverIn = fanfare.MaxDeferral + 1 },
		func(m *fanfare.Message) { m.DeliverIn, m.DeliverAt = time.Hour, f.log.Now().Add(time.Hour) },
		func(m *fanfare.Message) { m.DeliverIn, m.If = time.Hour, fanfare.IfNone() },
	} {
		bad := m
		change(&bad)
		if r, err := publish(bad); fanfare.CodeOf(err) != fanfare.CodeInvalid {
			t.Errorf("%+v: %+v %v", bad, r, err)
		}
	}
	laterOn := fanfare.Message{Channel: "a", Data: "later", DeliverIn: time.Hour, TTL: time.Hour, Key: "k"}
	if _, err := publish(m, laterOn); fanfare.CodeOf(err) != fanfare.CodeInvalid {
		t.Errorf("one of several: %v", err)
	}
	r, err := publish(laterOn)
	again, err2 := publish(laterOn)
	if err != nil || err2 != nil || r.Scheduled == 0 || again.Scheduled != r.Scheduled || !again.Replayed {
		t.Fatalf("%+v %v, then %+v %v", r, err, again, err2)
	}
	mortal := m
	mortal.TTL = 2 * time.Hour
	if _, err := publish(mortal, m); err != nil {
		t.Fatal(err)
	}
	pass(time.Hour)
	got := []string{}
	for d, err := range f.srv.Subscribe(t.Context(), fanfare.Subscription{Patterns: []string{"a"}, All: true}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, d.Event.Data)
		if want := d.Event.Data == "x" && len(got) == 2; d.Event.Expires.IsZero() != want {
			t.Errorf("%+v", d.Event)
		}
		if len(got) == 3 {
			break
		}
	}
	if strings.Join(got, " ") != "x x later" {
		t.Errorf("heard %v", got)
	}
}

// logins identifies callers by their bearer tokens; all others may do nothing.
func logins(who map[string]*fanfare.Principal) server.AuthFunc {
	return func(r *http.Request) (*fanfare.Principal, error) {
		if p := who[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]; p != nil {
			return p, nil
		}
		return &fanfare.Principal{}, nil
	}
}

func grants(a fanfare.Action, pattern string) fanfare.Grants {
	p, err := fanfare.ParsePattern(pattern)
	if err != nil {
		panic(err)
	}
	return fanfare.Grants{a: {p}}
}
