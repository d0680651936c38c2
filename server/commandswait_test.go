package server_test

import (
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
	f := startWithin(t, 200*time.Millisecond, server.Options{})
	began := time.Now()
	a := f.ask(pcCommands, `,"wait":"500ms"`)
	if took := time.Since(began); a.status != 202 || a.json("state") != "pending" || took < 500*time.Millisecond {
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
