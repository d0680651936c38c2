package server_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/server"
)

// wantNotMet checks a refusal: latest is the id in the problem document, or "null".
func (a answer) wantNotMet(t *testing.T, latest string) {
	t.Helper()
	a.wantProblem(t, 412, "precondition_failed", "")
	if latest != "null" {
		latest = `"` + latest + `"`
	}
	if !strings.Contains(a.body, `"latest":`+latest) || a.header.Get("Etag") != "" {
		t.Errorf("%s %v, want latest %s", a.body, a.header, latest)
	}
}

func TestConditionalPublish(t *testing.T) {
	f := start(t, server.Options{})
	raw := func(body string, header ...string) answer {
		return f.call("POST", "/v1/channels/a", body, header...)
	}
	other := f.publish("b", "x")[0]
	raw("x", `If-Match: "`+other+`"`).wantNotMet(t, "null")
	first := raw("1", "If-None-Match: *")
	id := first.json("id")
	if first.status != 201 || first.header.Get("Etag") != `"`+id+`"` {
		t.Fatalf("%+v", first)
	}
	raw("x", "If-None-Match: *").wantNotMet(t, id)
	raw("x", `If-Match: "`+other+`"`).wantNotMet(t, id)
	key := "Idempotency-Key: k"
	raw("2", key, `If-Match: "`+other+`"`).wantNotMet(t, id) // and is not remembered
	second := raw("2", key, "If-Match: "+first.header.Get("Etag"))
	if second.status != 201 || second.header.Get("Idempotent-Replayed") != "" {
		t.Fatalf("%+v", second)
	}
	again := raw("2", key, "If-Match: "+first.header.Get("Etag"))
	if again.status != 200 || again.json("id") != second.json("id") ||
		again.header.Get("Etag") != second.header.Get("Etag") {
		t.Errorf("a repeat: %+v", again)
	}
	raw("other", key, "If-Match: "+first.header.Get("Etag")).wantProblem(t, 409, "conflict", "Idempotency-Key")
	if got := strings.Join(f.dataOf("a"), " "); got != "1 2" {
		t.Errorf("a holds %s", got)
	}
	if !strings.Contains(f.call("GET", "/metrics", "").body, "\nfanfare_conditions_not_met_total 4\n") {
		t.Error("the metric does not count the 4 conditions that were not met")
	}
}

func TestConditionalMembers(t *testing.T) {
	f := start(t, server.Options{})
	post := func(body string, header ...string) answer { return f.call("POST", "/v1/events", body, header...) }
	first := post(`{"channel":"a","data":"1","ifLatest":null}`)
	id := first.json("id")
	if first.status != 201 || first.header.Get("Etag") != `"`+id+`"` {
		t.Fatalf("%+v", first)
	}
	post(`{"channel":"a","data":"x","ifLatest":null}`).wantNotMet(t, id)
	post(fmt.Sprintf(`{"channel":"b","data":"x","ifLatest":%q}`, id)).wantNotMet(t, "null")
	// An array is all or nothing, and its conditions are decided before its events.
	post(`[{"channel":"b","data":"x","ifLatest":null},{"channel":"a","data":"x","ifLatest":null}]`).wantNotMet(t, id)
	if got := f.dataOf("b"); got != nil {
		t.Fatalf("b holds %s", got)
	}
	array := fmt.Sprintf(`[{"channel":"a","data":"2"},{"channel":"a","data":"3","ifLatest":%q},`+
		`{"channel":"b","data":"4","ifLatest":null}]`, id)
	stored := post(array, "Idempotency-Key: k")
	again := post(array, "Idempotency-Key: k")
	if stored.status != 201 || again.status != 200 || again.body != stored.body {
		t.Fatalf("%+v, then %+v", stored, again)
	}
	if got := strings.Join(append(f.dataOf("a"), f.dataOf("b")...), " "); got != "1 2 3 4" {
		t.Errorf("stored: %s", got)
	}
}

// TestConditionalLines: each line of NDJSON is decided by itself, after the lines before it.
func TestConditionalLines(t *testing.T) {
	f := start(t, server.Options{})
	first := f.publish("a", "1")[0]
	a := f.call("POST", "/v1/events", strings.Join([]string{
		`{"channel":"a","data":"2"}`,
		`{"channel":"a","data":"x","ifLatest":"` + first + `"}`,
		`{"channel":"b","data":"3","ifLatest":null}`,
		`{"channel":"b","data":"x","ifLatest":null}`,
		`{"channel":"b","data":"x","ifLatest":7}`,
		`{"channel":"b","data":"4"}`,
	}, "\n"), "Content-Type: application/x-ndjson")
	var lines []struct {
		ID, Code, Latest string
		Line             int
	}
	for text := range strings.SplitSeq(a.body, "\n") {
		lines = append(lines, struct {
			ID, Code, Latest string
			Line             int
		}{})
		if err := json.Unmarshal([]byte(text), &lines[len(lines)-1]); err != nil {
			t.Fatal(err, a.body)
		}
	}
	if len(lines) != 6 || lines[1].Code != "precondition_failed" || lines[1].Latest != lines[0].ID ||
		lines[1].Line != 2 || lines[2].ID == "" || lines[3].Latest != lines[2].ID ||
		lines[4].Code != "invalid" || lines[5].ID == "" {
		t.Errorf("%+v", lines)
	}
	if got := strings.Join(append(f.dataOf("a"), f.dataOf("b")...), " "); got != "1 2 3 4" {
		t.Errorf("stored: %s", got)
	}
}

func TestBadConditions(t *testing.T) {
	f := start(t, server.Options{})
	id := f.publish("a", "1")[0]
	for _, c := range []struct {
		path, body, detail string
		header             []string
	}{
		{"/v1/channels/a", "x", "If-Match", []string{"If-Match: *"}},
		{"/v1/channels/a", "x", "If-Match", []string{`If-Match: W/"` + id + `"`}},
		{"/v1/channels/a", "x", "If-Match", []string{`If-Match: "` + id + `", "` + id + `"`}},
		{"/v1/channels/a", "x", "If-Match", []string{`If-Match: ` + id}},
		{"/v1/channels/a", "x", "If-Match", []string{`If-Match: "`}},
		{"/v1/channels/a", "x", "If-Match", []string{`If-Match: "` + strings.ToLower(id) + `"`}},
		{"/v1/channels/a", "x", "If-Match", []string{`If-Match: "x"`}},
		{"/v1/channels/a", "x", "If-Match", []string{`If-Match: ""`}},
		{"/v1/channels/a", "x", "no event's id", []string{`If-Match: "0000000000000"`}},
		{"/v1/channels/a", "x", "If-None-Match", []string{`If-None-Match: "` + id + `"`}},
		{"/v1/channels/a", "x", "If-None-Match", []string{`If-None-Match: "*"`}},
		{"/v1/channels/a", "x", "both", []string{"If-None-Match: *", `If-Match: "` + id + `"`}},
		{"/v1/channels/a?ifLatest=" + id, "x", "If-Match", nil},
		{"/v1/channels/a?iflatest=" + id, "x", "ifLatest", nil},
		{"/v1/channels/$a", "x", "'$'", []string{"If-None-Match: *"}},
		{"/v1/channels/a%2F*", "x", "'*'", []string{"If-None-Match: *"}},
		{"/v1/events", `{"channel":"a","data":"x"}`, "ifLatest", []string{"If-None-Match: *"}},
		{"/v1/events", `{"channel":"a","data":"x"}`, "ifLatest",
			[]string{"Content-Type: application/x-ndjson", "If-None-Match: *"}},
		{"/v1/events", `{"channel":"$a","data":"x","ifLatest":null}`, "'$'", nil},
		{"/v1/events", `{"channel":"a/*","data":"x","ifLatest":null}`, "'*'", nil},
		{"/v1/events", `{"channel":"a","data":"x","ifLatest":"x"}`, "ifLatest", nil},
		{"/v1/events", `{"channel":"a","data":"x","ifLatest":""}`, "ifLatest", nil},
		{"/v1/events", `{"channel":"a","data":"x","ifLatest":"*"}`, "ifLatest", nil},
		{"/v1/events", `{"channel":"a","data":"x","ifLatest":false}`, "ifLatest", nil},
		{"/v1/events", `{"channel":"a","data":"x","iflatest":null}`, `"ifLatest"`, nil},
		{"/v1/events?ifLatest=" + id, `{"channel":"a","data":"x"}`, "body", nil},
		{"/v1/events", `[{"channel":"a","data":"x","ifLatest":null},{"channel":"a","data":"y","ifLatest":null}]`,
			"second condition", nil},
	} {
		f.call("POST", c.path, c.body, c.header...).wantProblem(t, 400, "invalid", c.detail)
	}
	if got := f.dataOf("a"); len(got) != 1 {
		t.Errorf("a holds %q", got)
	}
	f.call("POST", "/v1/channels/$a", "x").wantProblem(t, 403, "forbidden", "'$'")
}

// TestConditionsOfPages: a page of another origin may send conditions, and sees the ETag.
func TestConditionsOfPages(t *testing.T) {
	f := start(t, server.Options{Access: server.AccessOptions{Origins: []string{"https://app.example.com"}}})
	origin := "Origin: https://app.example.com"
	pre := f.call("OPTIONS", "/v1/channels/a", "", origin, "Access-Control-Request-Method: POST")
	for _, name := range []string{"If-Match", "If-None-Match"} {
		if !strings.Contains(pre.header.Get("Access-Control-Allow-Headers"), name+",") {
			t.Errorf("%s is not allowed: %v", name, pre.header)
		}
	}
	a := f.call("POST", "/v1/channels/a", "x", origin, "If-None-Match: *")
	if !strings.Contains(a.header.Get("Access-Control-Expose-Headers"), "ETag") || a.header.Get("Etag") == "" {
		t.Errorf("%v", a.header)
	}
}

// TestConditionRace: of publishers that race over HTTP one wins, and the others are told who did.
func TestConditionRace(t *testing.T) {
	f := start(t, server.Options{})
	for round := range 5 {
		var wg sync.WaitGroup
		answers := make([]answer, 10)
		for i := range answers {
			wg.Go(func() {
				answers[i] = f.call("POST", fmt.Sprint("/v1/channels/race/", round), fmt.Sprint(i), "If-None-Match: *")
			})
		}
		wg.Wait()
		won, id := 0, f.history(fmt.Sprint("channel=race/", round)).Events[0].ID
		for _, a := range answers {
			if a.status == 201 && a.json("id") == id {
				won++
				continue
			}
			a.wantNotMet(t, id)
		}
		if won != 1 {
			t.Errorf("%d have won", won)
		}
	}
}

func TestProgramConditions(t *testing.T) {
	oneKind(t, "a program has no connection")
	f := start(t, server.Options{})
	publish := func(messages ...fanfare.Message) (fanfare.Receipt, error) {
		return f.srv.Publish(t.Context(), messages...)
	}
	first, err := publish(fanfare.Message{Channel: "a", Data: "1", If: fanfare.IfNone()})
	if err != nil {
		t.Fatal(err)
	}
	id := first.Positions[0]
	for _, c := range []fanfare.Condition{fanfare.IfNone(), fanfare.IfLatest(id - 1)} {
		_, err := publish(fanfare.Message{Channel: "b", Data: "x"}, fanfare.Message{Channel: "a", Data: "x", If: c})
		refused, ok := errors.AsType[*fanfare.Error](err)
		if !ok || refused.Code != fanfare.CodePreconditionFailed || refused.Latest != id {
			t.Errorf("%v", err)
		}
	}
	if _, err := publish(fanfare.Message{Channel: "a", Data: "2", If: fanfare.IfLatest(id)}); err != nil {
		t.Error(err)
	}
	for _, bad := range [][]fanfare.Message{
		{{Channel: "$a", If: fanfare.IfNone()}},
		{{Channel: "a", If: fanfare.IfNone()}, {Channel: "a", If: fanfare.IfLatest(id)}},
	} {
		if _, err := publish(bad...); fanfare.CodeOf(err) != fanfare.CodeInvalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if got := strings.Join(append(f.dataOf("a"), f.dataOf("b")...), " "); got != "1 2" {
		t.Errorf("stored: %s", got)
	}
}
