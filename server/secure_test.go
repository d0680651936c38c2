package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/server"
)

const secret = "a secret of the tests, long enough for HS256"

// token makes one; grants are given as action, pattern, action, pattern…
func token(subject string, lasts time.Duration, grants ...string) string {
	return signedFor(secret, subject, lasts, grants...)
}

// signed is token with another secret, for an hour; iss may stand among the grants.
func signed(secret, subject string, grants ...string) string {
	return signedFor(secret, subject, time.Hour, grants...)
}

func signedFor(secret, subject string, lasts time.Duration, grants ...string) string {
	claim, issuer := map[string]any{}, any(nil)
	for i := 0; i < len(grants); i += 2 {
		switch grants[i] {
		case "device":
			claim["device"] = grants[i+1]
			continue
		case "iss":
			issuer = grants[i+1]
			continue
		}
		list, _ := claim[grants[i]].([]string)
		claim[grants[i]] = append(list, grants[i+1])
	}
	// Parts of a second, or tests would wait for whole ones.
	exp := json.Number(fmt.Sprintf("%.3f", float64(time.Now().Add(lasts).UnixMilli())/1000))
	t := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": subject, "exp": exp, "iat": time.Now().Unix(), "jti": "jti-of-" +
			subject, "fanfare": claim, "iss": issuer,
	})
	text, err := t.SignedString([]byte(secret))
	if err != nil {
		panic(err)
	}
	return text
}

func bearer(token string) string { return "Authorization: Bearer " + token }

// secured starts a hub that asks who sends a request.
func secured(t testing.TB, o server.Options, ao auth.Options) *fixture {
	t.Helper()
	ao.Keys = append(ao.Keys, auth.Key{Algorithm: "HS256", Text: secret})
	a, err := auth.New(ao)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	o.Access.Auth = a
	return startAny(t, o)
}

// TestWhatNeedsWhat: each call with no token, with a token that may, and with one that may do
// everything else.
func TestWhatNeedsWhat(t *testing.T) {
	f := secured(t, server.Options{LogLevel: new(slog.LevelVar)},
		auth.Options{Anonymous: mustGrants(t, "subscribe=public/**")})
	all := []string{"publish", "**", "subscribe", "**", "admin", "stores/**", "presence", "**", "ack", "**"}
	everything := token("everything", time.Hour, all...)
	admin := token("admin", time.Hour, "admin", "**")
	pc := token("pc", time.Hour, "device", "stores/42/pcs/7")
	command := `{"objectId":"o","event":"REBOOT"}`
	for _, c := range []struct {
		method, path, body         string
		nobody, everything, admin  int
		pc                         int
		publishA, hearA, storesOne int
	}{
		{"GET", "/livez", "", 200, 200, 200, 200, 200, 200, 200},
		{"GET", "/readyz", "", 200, 200, 200, 200, 200, 200, 200},
		{"GET", "/v1/health", "", 200, 200, 200, 200, 200, 200, 200},
		{"GET", "/openapi.yaml", "", 200, 200, 200, 200, 200, 200, 200},
		{"GET", "/", "", 200, 200, 200, 200, 200, 200, 200},
		{"GET", "/console/app.js", "", 200, 200, 200, 200, 200, 200, 200},
		{"OPTIONS", "/v1/events", "", 204, 204, 204, 204, 204, 204, 204},
		// what anybody may, everybody may
		{"HEAD", "/v1/events?channel=public/x", "", 200, 200, 200, 200, 200, 200, 200},
		{"HEAD", "/v1/events?channel=a", "", 401, 200, 403, 403, 403, 200, 403},
		{"HEAD", "/v1/events?channel=a&channel=b", "", 401, 200, 403, 403, 403, 403, 403},
		{"HEAD", "/v1/events?channel=*", "", 401, 200, 403, 403, 403, 403, 403},
		{"HEAD", "/v1/events?channel=**", "", 401, 200, 403, 403, 403, 403, 403},
		{"HEAD", "/v1/events?channel=$internal/x", "", 401, 403, 403, 403, 403, 403, 403},
		{"GET", "/v1/history?channel=a", "", 401, 200, 403, 403, 403, 200, 403},
		{"GET", "/v1/history?channel=public/a", "", 200, 200, 200, 200, 200, 200, 200},
		{"POST", "/v1/channels/a", "x", 401, 201, 403, 403, 201, 403, 403},
		{"POST", "/v1/channels/public/a", "x", 401, 201, 403, 403, 403, 403, 403},
		{"POST", "/v1/events", `{"channel":"a","data":"x"}`, 401, 201, 403, 403, 201, 403, 403},
		{"POST", "/v1/events", `[{"channel":"a","data":"x"},{"channel":"b","data":"x"}]`, 401, 201, 403, 403, 403, 403,
			403},
		{"POST", "/v1/stores/events", command, 401, 201, 403, 403, 403, 403, 403},
		{"POST", "/v1/stores/1/events", command, 401, 201, 403, 403, 403, 403, 201},
		{"POST", "/v1/stores/1/pcs/2/events", command, 401, 201, 403, 403, 403, 403, 201},
		{"POST", "/v1/stores/42/pcs/7/events", command, 401, 201, 403, 403, 403, 403, 201},
		{"POST", "/v1/channels/stores/1", "x", 401, 201, 403, 403, 403, 403, 201},
		{"POST", "/v1/channels/stores", "x", 401, 201, 403, 403, 403, 403, 403}, // stores/** does not cover stores
		{"HEAD", "/v1/stores/event-sources?storeId=42&pcId=7", "", 401, 200, 403, 200, 403, 403, 403},
		{"HEAD", "/v1/stores/event-sources?storeId=42&pcId=8", "", 401, 200, 403, 403, 403, 403, 403},
		{"HEAD", "/v1/stores/event-sources?storeId=43&pcId=7", "", 401, 200, 403, 403, 403, 403, 403},
		{"GET", "/v1/health?storeId=42&pcId=7", "", 401, 200, 403, 200, 403, 403, 403},
		{"GET", "/v1/health?storeId=42&pcId=8", "", 401, 200, 403, 403, 403, 403, 403},
		{"HEAD", "/v1/events?channel=stores/42/pcs/7", "", 401, 200, 403, 403, 403, 403, 403},
		{"GET", "/v1/history?channel=stores/42", "", 401, 200, 403, 403, 403, 403, 403},
		{"GET", "/metrics", "", 401, 403, 200, 403, 403, 403, 403},
		{"GET", "/v1/stats", "", 401, 403, 200, 403, 403, 403, 403},
		{"GET", "/v1/admin/retention", "", 401, 403, 200, 403, 403, 403, 403},
		{"GET", "/v1/admin/log-level", "", 401, 403, 200, 403, 403, 403, 403},
		{"POST", "/v1/admin/log-level", `{"level":"info"}`, 401, 403, 200, 403, 403, 403, 403},
		{"POST", "/v1/admin/backup", `{"dir":"relative"}`, 401, 403, 400, 403, 403, 403, 403},
		{"POST", "/v1/admin/disconnect", `{"channel":"x"}`, 401, 200, 200, 403, 403, 403, 403},
		{"POST", "/v1/admin/revoke", `{"stream":999}`, 401, 200, 200, 403, 403, 403, 403},
		{"POST", "/v1/tickets", `{"channels":["a"]}`, 401, 201, 403, 403, 403, 201, 403},
		{"POST", "/v1/tickets", `{"channels":["a","b"]}`, 401, 201, 403, 403, 403, 403, 403},
	} {
		for name, w := range map[string]struct {
			token  string
			status int
		}{
			"nobody": {"", c.nobody}, "everything": {everything, c.everything}, "admin": {admin, c.admin}, "pc": {pc,
				c.pc},
			"publishA":  {token("publishA", time.Hour, "publish", "a"), c.publishA},
			"hearA":     {token("hearA", time.Hour, "subscribe", "a"), c.hearA},
			"storesOne": {token("stores", time.Hour, "publish", "stores/**"), c.storesOne},
		} {
			var header []string
			if w.token != "" {
				header = append(header, bearer(w.token))
			}
			a := f.call(c.method, c.path, c.body, header...)
			if a.status != w.status {
				t.Errorf("%s %s as %s: %d %s, want %d", c.method, c.path, name, a.status, a.body, w.status)
			}
			if challenge := a.header.Get("WWW-Authenticate"); (a.status == 401) != (challenge != "") ||
				strings.Contains(challenge, "error=") {
				t.Errorf("%s %s as %s: %d with WWW-Authenticate %q", c.method, c.path, name, a.status, challenge)
			}
			if c.nobody == 200 || c.nobody == 204 || c.method == "HEAD" {
				continue
			}
			if a := f.call(c.method, c.path, c.body, bearer(w.token+"x")); a.status != 401 ||
				!strings.Contains(a.header.Get("WWW-Authenticate"), "invalid_token") {
				t.Errorf("%s %s with a bad token: %d %v", c.method, c.path, a.status, a.header)
			}
		}
	}
}

func mustGrants(t testing.TB, texts ...string) fanfare.Grants {
	t.Helper()
	g, err := auth.ParseGrants(texts)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// ends waits for a stream's end, which has been asked for, and wants nothing but heartbeats before
// it.
func (c *client) ends(t *testing.T, what string) {
	t.Helper()
	began := time.Now()
	for _, e := range c.rest() {
		if e.Type != "heartbeat" {
			t.Errorf("%s: %+v came", what, e)
		}
	}
	if took := time.Since(began); took > 30*time.Second { // a second, on a machine that has time
		t.Errorf("%s: the stream ended after %s", what, took)
	}
}

func (f *fixture) metric(t *testing.T, line string, header ...string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		body := f.call("GET", "/metrics", "", header...).body
		if strings.Contains(body, line+"\n") {
			return
		}
		if time.Now().After(deadline) {
			name, _, _ := strings.Cut(line, " ")
			for _, l := range strings.Split(body, "\n") {
				if strings.HasPrefix(l, name) {
					t.Errorf("want %s, have %s", line, l)
				}
			}
			t.Errorf("no %s", line)
			return
		}
	}
}

// TestRightsEnd (P8): a stream ends with its token, and a client that takes nothing ends too; who
// comes back with the token gets 401.
func TestRightsEnd(t *testing.T) {
	if eachKind(t, TestRightsEnd) {
		return
	}
	f := secured(t, server.Options{}, auth.Options{Leeway: time.Millisecond})
	admin := bearer(token("root", time.Hour, "admin", "**", "publish", "**"))
	short := token("short", 2500*time.Millisecond, "subscribe", "a")
	c := f.stream("/v1/events?channel=a", bearer(short))
	c.any()
	// One who takes nothing: there is more than its connection holds.
	f.open("/v1/events?channel=a", bearer(short)).stops()
	for range 6 {
		if a := f.call("POST", "/v1/channels/a", strings.Repeat("x", 900<<10), admin); a.status != 201 {
			t.Fatal(a)
		}
	}
	for range c.rest() {
	}
	f.metric(t, `fanfare_streams_ended_total{reason="expired"} 2`, admin)
	f.metric(t, `fanfare_streams_open{adapter="native"} 0`, admin)
	f.call("GET", "/v1/events?channel=a", "", bearer(short), "Accept: text/event-stream").wantProblem(t, 401,
		"unauthenticated", "has expired")
}

// TestDisconnectAndRevoke (P8): by subject, token, channel, and stream, within a second; an
// administrator of some channels reaches only those; what was revoked is refused.
func TestDisconnectAndRevoke(t *testing.T) {
	if eachKind(t, TestDisconnectAndRevoke) {
		return
	}
	f := secured(t, server.Options{}, auth.Options{})
	root := bearer(token("root", time.Hour, "admin", "**", "publish", "**"))
	some := bearer(token("some", time.Hour, "admin", "b/**"))
	open := func(subject, channel string) (*client, string) {
		header := bearer(token(subject, time.Hour, "subscribe", "a", "subscribe", "b/**"))
		c := f.stream("/v1/events?channel="+channel, header)
		c.any()
		return c, header
	}
	end := func(call, body, by string, streams int) {
		t.Helper()
		if a := f.call("POST", "/v1/admin/"+call, body, by); a.status != 200 ||
			a.json("streams") != fmt.Sprint(streams) {
			t.Errorf("%s %s: %d %s, want %d", call, body, a.status, a.body, streams)
		}
	}
	ada, adaToken := open("ada", "a")
	bob, _ := open("bob", "b/1")
	eve, eveToken := open("eve", "b/**&channel=a")
	end("disconnect", `{"subject":"nobody"}`, root, 0)
	end("disconnect", `{"subject":"ada","channel":"b/1"}`, root, 0)
	end("disconnect", `{"channel":"a"}`, some, 0)
	end("disconnect", `{"channel":"**"}`, some, 1) // bob's; eve listens to a too
	bob.ends(t, "bob")
	if bob.retry == 0 {
		t.Error("a disconnected stream does not say when to come back")
	}
	// and nothing beyond what an administrator of b/** is for
	bobToken := bearer(token("bob", time.Hour, "subscribe", "b/**"))
	bob = f.stream("/v1/events?channel=b/1", bobToken)
	bob.any()
	end("disconnect", `{"channel":"b/2"}`, root, 1) // eve's pattern hears it
	eve.ends(t, "eve")
	end("disconnect", `{"subject":"ada"}`, root, 1)
	ada.ends(t, "ada")
	ada = f.stream("/v1/events?channel=a", adaToken) // it may come back
	ada.any()
	end("revoke", `{"tokenId":"jti-of-ada"}`, root, 1)
	ada.ends(t, "ada, revoked")
	f.call("HEAD", "/v1/events?channel=a", "", adaToken)
	f.call("GET", "/v1/history?channel=a", "", adaToken).wantProblem(t, 401, "unauthenticated", "revoked")
	// of bob's token, which an administrator of b/** reaches through its stream
	end("revoke", `{"subject":"bob"}`, some, 1)
	bob.ends(t, "bob, revoked")
	f.call("GET", "/v1/history?channel=b/1", "", bobToken).wantProblem(t, 401, "unauthenticated", "revoked")
	end("revoke", `{"subject":"eve"}`, some, 0)
	if a := f.call("GET", "/v1/history?channel=a", "", eveToken); a.status != 200 {
		t.Errorf("eve was revoked by an administrator who does not reach her: %+v", a)
	}
	end("revoke", `{"subject":"eve"}`, root, 0)
	f.call("GET", "/v1/history?channel=a", "", eveToken).wantProblem(t, 401, "unauthenticated", "revoked")
	// By the stream's number.
	kim, kimToken := open("kim", "a")
	var stats struct{ Open []struct{ ID uint64 } }
	_ = json.Unmarshal([]byte(f.call("GET", "/v1/stats", "", root).body), &stats)
	if len(stats.Open) != 1 {
		t.Fatalf("%+v", stats)
	}
	end("revoke", fmt.Sprintf(`{"stream":%d}`, stats.Open[0].ID), root, 1)
	kim.ends(t, "kim")
	f.call("GET", "/v1/history?channel=a", "", kimToken).wantProblem(t, 401, "unauthenticated", "revoked")
	f.metric(t, `fanfare_streams_ended_total{reason="disconnected"} 3`, root)
	f.metric(t, `fanfare_streams_ended_total{reason="revoked"} 3`, root)
	f.metric(t, `fanfare_revocations 4`, root)
	for body, detail := range map[string]string{`{}`: "subject, tokenId, channel or stream", `{"channel":"a**"}`: "'*'",
		`{"subject":"x","for":"soon"}`: "for must be", `[]`: "JSON object",
		`{"subject":"x","subjct":"y"}`: `did you mean "subject"`, `{"subject":""}`: "subject is empty",
		`{"subject":null}`: "subject is empty", `{"channel":"**","subject":"a","subject":"b"}`: "given twice",
		`{"Subject":"x"}`: `did you mean "subject"`, `{"stream":0}`: "above zero",
		`{"stream":"7"}`: "above zero", `{"subject":7}`: "must be a string"} {
		f.call("POST", "/v1/admin/revoke", body, root).wantProblem(t, 400, "invalid", detail)
	}
	// A store's administrator ends the streams of its PCs, and of no other store's.
	seven := f.stream("/v1/stores/event-sources?storeId=42&pcId=7",
		bearer(token("pc7", time.Hour, "device", "stores/42/pcs/7")))
	if e := seven.any(); e.Data != "CONNECTED" {
		t.Errorf("%+v", e)
	}
	end("disconnect", `{"channel":"stores/42/pcs/7"}`, bearer(token("b", time.Hour, "admin", "stores/43/**")), 0)
	end("disconnect", `{"channel":"stores/42/pcs/7"}`, bearer(token("c", time.Hour, "admin", "stores/42/**")), 1)
	seven.ends(t, "the PC")
	// It lasts across a restart.
	f.restart()
	f.call("GET", "/v1/history?channel=a", "", adaToken).wantProblem(t, 401, "unauthenticated", "revoked")
}

// TestRevokeWithoutRoom: where there is no room for a revocation, that is said before anything
// ends.
func TestRevokeWithoutRoom(t *testing.T) {
	if eachKind(t, TestRevokeWithoutRoom) {
		return
	}
	f := secured(t, server.Options{Access: server.AccessOptions{MaxRevocations: 1}}, auth.Options{})
	root := bearer(token("root", time.Hour, "admin", "**"))
	if a := f.call("POST", "/v1/admin/revoke", `{"subject":"somebody"}`, root); a.status != 200 {
		t.Fatal(a)
	}
	c := f.stream("/v1/events?channel=a", bearer(token("ada", time.Hour, "subscribe", "a")))
	c.any()
	f.call("POST", "/v1/admin/revoke", `{"subject":"ada"}`, root).wantProblem(t, 503, "overloaded", "--max-revocations")
	if a := f.call("POST", "/v1/admin/disconnect", `{"subject":"ada"}`, root); a.json("streams") != "1" {
		t.Errorf("%+v: the stream had ended, and nothing was revoked", a)
	}
	c.ends(t, "ada")
}

// TestIssuerIsDownForStreams: a stream is not refused for good while the issuer's keys are not
// known yet: an EventSource would stop.
func TestIssuerIsDownForStreams(t *testing.T) {
	f := start(t, withLogin(func(*http.Request) (*fanfare.Principal, error) {
		return nil, fanfare.Unavailable("the keys are not known yet", nil)
	}))
	a := f.call("GET", "/v1/events?channel=a", "", "Accept: text/event-stream")
	if a.status != 200 || !strings.HasPrefix(a.body, "retry: ") {
		t.Errorf("%+v", a)
	}
	f.call("GET", "/v1/events?channel=a", "").wantProblem(t, 503, "unavailable", "not known yet")
	f.call("GET", "/v1/history?channel=a", "").wantProblem(t, 503, "unavailable", "not known yet")
	a = f.call("GET", "/v1/stores/event-sources?storeId=1&pcId=2", "", "Accept: text/event-stream")
	if a.status != 200 || !strings.HasPrefix(a.body, "retry: ") {
		t.Errorf("%+v", a)
	}
}

// TestReplayAgainstTodaysRights (P8): whoever had more rights yesterday resumes with those of
// today.
func TestReplayAgainstTodaysRights(t *testing.T) {
	if eachKind(t, TestReplayAgainstTodaysRights) {
		return
	}
	f := secured(t, server.Options{}, auth.Options{})
	publisher := bearer(token("pub", time.Hour, "publish", "**"))
	both := bearer(token("ada", time.Hour, "subscribe", "a", "subscribe", "b"))
	onlyA := bearer(token("ada", time.Hour, "subscribe", "a"))
	c := f.stream("/v1/events?channel=a&channel=b", both)
	start := c.any().LastEventID
	c.close()
	for i, channel := range []string{"b", "a", "b", "a"} {
		f.call("POST", "/v1/channels/"+channel, fmt.Sprint(channel, i), publisher)
	}
	f.call("GET", "/v1/events?channel=a&channel=b&lastEventId="+start, "", onlyA).wantProblem(t, 403, "forbidden",
		`"b"`)
	f.call("GET", "/v1/events?channel=*&lastEventId="+start, "", onlyA).wantProblem(t, 403, "forbidden", `"*"`)
	f.stream("/v1/events?channel=a&lastEventId="+start, onlyA).want("a1", "a3")
	f.stream("/v1/events?channel=a&channel=b&lastEventId="+start, both).want("b0", "a1", "b2", "a3")
}

// TestAPIKeyRevokedWhileStreaming (P8): a key that leaves its file ends its streams.
func TestAPIKeyRevokedWhileStreaming(t *testing.T) {
	if eachKind(t, TestAPIKeyRevokedWhileStreaming) {
		return
	}
	file := filepath.Join(t.TempDir(), "keys.json")
	text, key, err := auth.CreateAPIKey(auth.APIKey{Name: "board", Subscribe: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := auth.WriteAPIKeys(file, []auth.APIKey{key}); err != nil {
		t.Fatal(err)
	}
	f := secured(t, server.Options{}, auth.Options{APIKeyFile: file, Watch: 10 * time.Millisecond})
	direct := f.stream("/v1/events?channel=a", bearer(text))
	direct.any()
	ticketURL := f.call("POST", "/v1/tickets", `{"channels":["a"]}`, bearer(text)).json("url")
	byTicket := f.stream(ticketURL)
	byTicket.any()
	if err := auth.WriteAPIKeys(file, nil); err != nil {
		t.Fatal(err)
	}
	direct.ends(t, "the key's stream")
	byTicket.ends(t, "the ticket's stream")
	f.call("GET", ticketURL, "").wantProblem(t, 401, "unauthenticated", "API key")
	f.call("GET", "/v1/history?channel=a", "", bearer(text)).wantProblem(t, 401, "unauthenticated", "API key")
}

// TestTicketStreams: one stream at a time over its reconnects and a restart, for its channels only.
func TestTicketStreams(t *testing.T) {
	if eachKind(t, TestTicketStreams) {
		return
	}
	f := secured(t, server.Options{Access: server.AccessOptions{TicketKey: []byte(strings.Repeat("k",
		auth.TicketKeyBytes))}, Streams: server.StreamOptions{Lifetime: 300 * time.Millisecond}}, auth.Options{})
	ada := bearer(token("ada", time.Hour, "subscribe", "a", "subscribe", "b/**", "publish", "a", "admin", "**"))
	made := f.call("POST", "/v1/tickets", `{"channels":["a","b/**"]}`, ada)
	link := made.json("url")
	if made.status != 201 || made.json("ticket") == "" || made.json("expires") == "" ||
		!strings.HasPrefix(link, "/v1/events?") || strings.Contains(made.body, `\u0026`) {
		t.Fatalf("%+v", made)
	}
	last := ""
	var got []string
	for life := 0; len(got) < 3 && life < 30; life++ { // an EventSource repeats its URL, and sends what it saw last
		c := f.stream(link, "Last-Event-ID: "+last)
		if life < 3 {
			f.call("POST", "/v1/channels/a", fmt.Sprint("in life ", life), ada)
		}
		for _, e := range c.rest() {
			if e.Type == "message" {
				got = append(got, e.Data)
			}
			last = e.LastEventID
		}
	}
	if want := "in life 0,in life 1,in life 2"; strings.Join(got, ",") != want {
		t.Errorf("%q", got)
	}
	f.o.Streams.Lifetime = time.Hour
	f.restart()
	older := f.stream(link)
	older.any()
	newer := f.stream(link)
	newer.any()
	older.ends(t, "the older stream")
	f.call("POST", "/v1/channels/a", "for the newer", ada)
	newer.want("for the newer")
	f.metric(t, `fanfare_streams_ended_total{reason="replaced"} 1`, ada)

	q := url.QueryEscape(made.json("ticket"))
	f.call("GET", "/v1/events?channel=a&ticket="+q, "").wantProblem(t, 403, "forbidden", "other channels")
	f.call("GET", "/v1/events?channel=c&ticket="+q, "").wantProblem(t, 403, "forbidden", "other channels")
	f.call("GET", "/v1/events?ticket="+q, "").wantProblem(t, 400, "invalid", "channel is missing")
	f.call("GET", "/v1/history?channel=a&ticket="+q, "").wantProblem(t, 401, "unauthenticated", "token is needed")
	f.call("POST", "/v1/events?ticket="+q, `{"channel":"a","data":"x"}`).wantProblem(t, 401, "unauthenticated",
		"token is needed")
	f.call("POST", "/v1/tickets?ticket="+q, `{"channels":["a"]}`).wantProblem(t, 401, "unauthenticated",
		"token is needed")
	f.call("GET", "/v1/events?channel=a&ticket=ft_x", "").wantProblem(t, 401, "unauthenticated", "ticket is not valid")
	// a header counts more
	f.call("GET", link, "", bearer("nonsense")).wantProblem(t, 401, "unauthenticated", "token is not valid")
	f.call("POST", "/v1/tickets", `{"channels":"a"}`, ada).wantProblem(t, 400, "invalid", "channels")
	f.call("POST", "/v1/tickets", `{}`, ada).wantProblem(t, 400, "invalid", "channels")
	f.call("POST", "/v1/tickets", `{"channels":["a**"]}`, ada).wantProblem(t, 400, "invalid", "'*'")
	// Revoked with its token.
	f.call("POST", "/v1/admin/revoke", `{"subject":"ada"}`, bearer(token("root", time.Hour, "admin", "**")))
	newer.ends(t, "the revoked stream")
	f.call("GET", link, "").wantProblem(t, 401, "unauthenticated", "revoked")
}

// TestTicketTakesItsOwnPlace: a reconnect by ticket is let in where a limit is reached, for it ends
// the older stream.
func TestTicketTakesItsOwnPlace(t *testing.T) {
	if eachKind(t, TestTicketTakesItsOwnPlace) {
		return
	}
	f := secured(t, server.Options{Streams: server.StreamOptions{MaxPerSubject: 1, MaxPerChannel: 1}}, auth.Options{})
	ada := bearer(token("ada", time.Hour, "subscribe", "a", "publish", "a"))
	link := f.call("POST", "/v1/tickets", `{"channels":["a"]}`, ada).json("url")
	older := f.stream(link)
	older.any()
	f.call("GET", "/v1/events?channel=a", "", ada).wantProblem(t, 503, "overloaded", "--max-streams-per-subject")
	newer := f.stream(link)
	newer.any()
	older.ends(t, "the older stream")
	f.call("POST", "/v1/channels/a", "x", ada)
	newer.want("x")
	f.call("GET", "/v1/events?channel=a", "", ada).wantProblem(t, 503, "overloaded", "--max-streams-per-subject")
}

// TestTicketsOpenedAtOnce: of many streams of one ticket one lives, and it is one that can be
// heard.
func TestTicketsOpenedAtOnce(t *testing.T) {
	if eachKind(t, TestTicketsOpenedAtOnce) {
		return
	}
	f := secured(t, server.Options{}, auth.Options{})
	ada := bearer(token("ada", time.Hour, "subscribe", "a", "publish", "a", "admin", "**"))
	link := f.call("POST", "/v1/tickets", `{"channels":["a"]}`, ada).json("url")
	clients := make([]*client, 20)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() { clients[i] = f.stream(link) })
	}
	all.Wait()
	f.metric(t, `fanfare_streams_open{adapter="native"} 1`, ada)
	f.metric(t, `fanfare_streams_ended_total{reason="replaced"} 19`, ada)
	f.call("POST", "/v1/channels/a", "heard", ada)
	heard := make(chan bool, len(clients))
	for _, c := range clients {
		go func() {
			for e := range c.events {
				if e.Data == "heard" {
					heard <- true
				}
			}
		}()
	}
	select {
	case <-heard:
	case <-time.After(time.Minute):
		t.Error("nobody heard the event")
	}
}

// TestCookie: set by the hub, read by no script, and of no use to another site's page.
func TestCookie(t *testing.T) {
	f := secured(t, server.Options{Access: server.AccessOptions{Origins: []string{"https://app.example.com"}}},
		auth.Options{})
	ada := token("ada", time.Hour, "subscribe", "a", "publish", "a")
	begun := f.call("POST", "/v1/session", "", bearer(ada))
	set := begun.header.Get("Set-Cookie")
	for _, want := range []string{"__Host-fanfare=" + ada, "Path=/", "HttpOnly", "Secure", "SameSite=Strict",
		"Max-Age=35"} {
		if !strings.Contains(set, want) {
			t.Errorf("%s is missing in %s", want, set)
		}
	}
	if begun.status != 204 || strings.Contains(set, "Domain") {
		t.Errorf("%+v", begun)
	}
	cookie := "Cookie: __Host-fanfare=" + ada
	for _, c := range []struct {
		method, path, origin string
		status               int
	}{
		{"GET", "/v1/history?channel=a", "", 200},
		{"GET", "/v1/history?channel=a", "SELF", 200},
		{"GET", "/v1/history?channel=a", "https://app.example.com", 200},
		{"GET", "/v1/history?channel=a", "https://evil.example", 403},
		{"HEAD", "/v1/events?channel=a", "https://evil.example", 403},
		{"POST", "/v1/channels/a", "SELF", 201},
		{"POST", "/v1/channels/a", "https://app.example.com", 201},
		{"POST", "/v1/channels/a", "", 403},
		{"POST", "/v1/channels/a", "null", 403},
		{"POST", "/v1/channels/a", "https://evil.example", 403},
		{"POST", "/v1/channels/a", "https://app.example.com.evil.example", 403},
		{"POST", "/v1/tickets", "", 403},
		{"DELETE", "/v1/session", "", 403},
		{"DELETE", "/v1/session", "SELF", 204},
	} {
		header := []string{cookie}
		if c.origin == "SELF" {
			c.origin = "http://" + f.addr()
		}
		if c.origin != "" {
			header = append(header, "Origin: "+c.origin)
		}
		body := "x"
		if c.path == "/v1/tickets" {
			body = `{"channels":["a"]}`
		}
		if a := f.call(c.method, c.path, body, header...); a.status != c.status {
			t.Errorf("%s %s from %q: %d %s, want %d", c.method, c.path, c.origin, a.status, a.body, c.status)
		}
	}
	f.call("POST", "/v1/session", "", cookie, "Origin: http://"+f.addr()).wantProblem(t, 401, "unauthenticated",
		"header Authorization")
	f.call("POST", "/v1/session", "", bearer("nonsense")).wantProblem(t, 401, "unauthenticated", "not valid")
	big := token("ada"+strings.Repeat("x", 1000), time.Hour, "subscribe", strings.Repeat("y", 500), "subscribe",
		strings.Repeat("z", 500), "subscribe", strings.Repeat("u", 500), "subscribe", strings.Repeat("v", 500))
	f.call("POST", "/v1/session", "", bearer(big)).wantProblem(t, 413, "too_large", "4000")
}

// TestQueryToken: taken only where that is switched on.
func TestQueryToken(t *testing.T) {
	q := "/v1/history?channel=a&access_token=" + token("ada", time.Hour, "subscribe", "a")
	secured(t, server.Options{}, auth.Options{}).call("GET", q, "").wantProblem(t, 401, "unauthenticated",
		"token is needed")
	if a := secured(t, server.Options{Access: server.AccessOptions{QueryToken: true}}, auth.Options{}).call("GET", q,
		""); a.status != 200 {
		t.Errorf("%+v", a)
	}
}

// TestRights: another program says who somebody is, and what they may do.
func TestRights(t *testing.T) {
	if eachKind(t, TestRights) {
		return
	}
	p, err := fanfare.ParsePattern("a/**")
	if err != nil {
		t.Fatal(err)
	}
	f := start(t, withLogin(func(r *http.Request) (*fanfare.Principal, error) {
		switch r.Header.Get("X-User") {
		case "":
			return nil, nil
		case "ada":
			return &fanfare.Principal{Subject: "ada", Grants: fanfare.Grants{fanfare.ActionSubscribe: {p}}}, nil
		}
		return nil, fmt.Errorf("who is that")
	}))
	f.call("GET", "/v1/history?channel=a/1", "").wantProblem(t, 401, "unauthenticated", "token is needed")
	f.call("GET", "/v1/history?channel=a/1", "", "X-User: eve").wantProblem(t, 401, "unauthenticated",
		"not authenticated")
	f.call("GET", "/v1/history?channel=b", "", "X-User: ada").wantProblem(t, 403, "forbidden", `"b"`)
	if a := f.call("GET", "/v1/history?channel=a/1", "", "X-User: ada"); a.status != 200 {
		t.Errorf("%+v", a)
	}
	link := f.call("POST", "/v1/tickets", `{"channels":["a/1"]}`, "X-User: ada").json("url")
	f.stream(link).any()
}

// TestNDJSONEndsWithTheToken (P8): a body that lasts longer than its token stores nothing after the
// token's end.
func TestNDJSONEndsWithTheToken(t *testing.T) {
	f := secured(t, server.Options{}, auth.Options{Leeway: time.Millisecond})
	r, w := io.Pipe()
	req, _ := http.NewRequest("POST", f.url("/v1/events"), r)
	req.Header.Set("Content-Type", "application/x-ndjson")
	ends := time.Now().Add(5 * time.Second)
	req.Header.Set("Authorization", "Bearer "+token("ada", time.Until(ends), "publish", "a"))
	go func() {
		_, _ = io.WriteString(w, `{"channel":"a","data":"in time"}`+"\n"+`{"channel":"b","data":"elsewhere"}`+"\n")
		time.Sleep(time.Until(ends.Add(time.Second))) // a token's end is a whole second
		_, _ = io.WriteString(w, `{"channel":"a","data":"late"}`+"\n")
		_ = w.Close()
	}()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) != 3 || !strings.Contains(lines[0], `"id"`) || !strings.Contains(lines[1], `"status":403`) ||
		!strings.Contains(lines[2], `"status":401`) {
		t.Errorf("%s", b)
	}
}

// lockedBuffer is what a logger writes to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestAuditAndSecrets: who connected, published, was refused and was cut stands in the trail under
// stable names; and no token, key or ticket stands in it, nor in a metric or an answer.
func TestAuditAndSecrets(t *testing.T) {
	if eachKind(t, TestAuditAndSecrets) {
		return
	}
	log := &lockedBuffer{}
	logger := slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	f := secured(t, server.Options{Logger: logger, AuditRate: 100, AccessLog: 1,
		Access: server.AccessOptions{QueryToken: true}, Streams: server.StreamOptions{MaxPerSubject: 2}},
		auth.Options{Logger: logger})
	keyText, _, err := auth.CreateAPIKey(auth.APIKey{Name: "x", Publish: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	ada := token("ada", time.Hour, "subscribe", "a", "publish", "a")
	root := token("root", time.Hour, "admin", "**")
	made := f.call("POST", "/v1/tickets", `{"channels":["a"]}`, bearer(ada))
	ticket := made.json("ticket")
	bad := ada[:len(ada)-3] + "abc"
	c := f.stream(made.json("url"))
	c.any()
	other := f.stream("/v1/events?channel=a&access_token=" + ada)
	other.any()
	var answers strings.Builder
	note := func(a answer) { fmt.Fprint(&answers, a.header, a.body) }
	// a third stream of the subject: no room
	note(f.call("GET", "/v1/events?channel=a", "", bearer(ada), "Accept: text/event-stream"))
	note(f.call("POST", "/v1/channels/a", "secret data", bearer(ada)))
	note(f.call("POST", "/v1/channels/b", "secret data", bearer(ada)))
	note(f.call("POST", "/v1/channels/b?access_token="+bad, "secret data"))
	note(f.call("GET", "/v1/history?channel=a&access_token="+bad, ""))
	note(f.call("GET", "/v1/events?channel=a&ticket="+ticket[:50], ""))
	note(f.call("GET", "/v1/nothing?access_token="+ada, ""))
	note(f.call("POST", "/v1/channels/a", "x", bearer(keyText)))
	note(f.call("GET", "/v1/history?channel=a", "", "Authorization: Basic "+ada))
	note(f.call("GET", "/metrics", "", bearer(root)))
	note(f.call("GET", "/v1/stats", "", bearer(root)))
	note(f.call("POST", "/v1/admin/disconnect", `{"subject":"ada"}`, bearer(root)))
	c.rest()
	for deadline := time.Now().Add(time.Minute); strings.Count(log.String(), `"msg":"stream.ended"`) < 2 &&
		time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // the end is written down when the client has it
	}
	for _, want := range []string{
		`"msg":"stream.opened"`, `"msg":"stream.ended"`, `"msg":"stream.refused"`, `"msg":"publish.stored"`,
		`"msg":"request.refused"`, `"msg":"ticket.made"`, `"msg":"admin.disconnect"`,
		`"subject":"ada"`, `"tokenId":"jti-of-ada"`, `"reason":"no_right"`, `"reason":"bad_token"`,
		`"reason":"max_streams_per_subject"`, `"reason":"disconnected"`, `"channel":"a"`,
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the trail lacks %s", want)
		}
	}
	for where, text := range map[string]string{"the log": log.String(), "an answer": answers.String()} {
		for what, secret := range map[string]string{
			"the token": ada, "its signature": ada[strings.LastIndex(ada,
				".")+1:], "the admin's token": root, "a bad token": bad[len(bad)-20:],
			"the ticket": ticket[10:40], "the API key": keyText[25:], "the data": "secret data",
		} {
			if strings.Contains(text, secret) {
				t.Errorf("%s stands in %s", what, where)
			}
		}
	}
}

// TestAuditIsSampled: a flood leaves out records, says how many, and never an operator's acts.
func TestAuditIsSampled(t *testing.T) {
	log := &lockedBuffer{}
	f := secured(t, server.Options{Logger: slog.New(slog.NewJSONHandler(log, nil)), AuditRate: 5}, auth.Options{})
	root := bearer(token("root", time.Hour, "admin", "**"))
	began := time.Now()
	for range 200 {
		f.call("GET", "/v1/history?channel=a", "")
		f.call("POST", "/v1/admin/disconnect", `{"subject":"x"}`, root)
	}
	seconds := int(time.Since(began).Seconds()) + 2
	if n := strings.Count(log.String(), `"msg":"request.refused"`); n > 5*seconds || n < 5 {
		t.Errorf("%d records of 200 refusals in %d s", n, seconds)
	}
	if n := strings.Count(log.String(), `"msg":"admin.disconnect"`); n != 200 {
		t.Errorf("%d records of 200 acts", n)
	}
	for deadline := time.Now().Add(time.Minute); !strings.Contains(log.String(),
		`"leftOut":`); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing says how many were left out")
		}
		f.call("GET", "/v1/history?channel=a", "")
	}
}
