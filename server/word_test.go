package server_test

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/server"
)

// TestOperatorEndsAnything (P8): also a stream that listens to a channel of the hub's own, which no administrator's pattern covers.
func TestOperatorEndsAnything(t *testing.T) {
	if eachKind(t, TestOperatorEndsAnything) {
		return
	}
	f := secured(t, server.Options{}, auth.Options{})
	root := bearer(token("root", time.Hour, "admin", "**"))
	eve := bearer(token("eve", time.Hour, "subscribe", "a", "subscribe", "$presence/**"))
	for _, call := range []string{"disconnect", "revoke"} {
		for i, body := range []string{`{"subject":"eve"}`, `{"channel":"a"}`, `{"tokenId":"jti-of-eve"}`} {
			if call == "revoke" && i > 0 {
				break // the token is refused by now
			}
			c := f.stream("/v1/events?channel=a&channel=$presence/**", eve)
			c.any()
			some := bearer(token("some", time.Hour, "admin", "a", "admin", "*/**"))
			if a := f.call("POST", "/v1/admin/"+call, body, some); a.json("streams") != "0" {
				t.Errorf("%s %s by an administrator of a: %s", call, body, a.body)
			}
			if a := f.call("POST", "/v1/admin/"+call, body, root); a.json("streams") != "1" {
				t.Errorf("%s %s: %d %s", call, body, a.status, a.body)
			}
			c.ends(t, call+" "+body)
		}
	}
	f.call("GET", "/v1/history?channel=a", "", eve).wantProblem(t, 401, "unauthenticated", "revoked")
}

// TestRevokedTokenEndsAllItsStreams (P8): whoever revokes by channel refuses the token, and with it ends its other streams.
func TestRevokedTokenEndsAllItsStreams(t *testing.T) {
	if eachKind(t, TestRevokedTokenEndsAllItsStreams) {
		return
	}
	f := secured(t, server.Options{}, auth.Options{})
	ada := bearer(token("ada", time.Hour, "subscribe", "a", "subscribe", "b"))
	one, other := f.stream("/v1/events?channel=a", ada), f.stream("/v1/events?channel=b", ada)
	one.any()
	other.any()
	root := bearer(token("root", time.Hour, "admin", "**"))
	if a := f.call("POST", "/v1/admin/revoke", `{"channel":"a"}`, root); a.json("streams") != "2" || a.json("revoked") != "1" {
		t.Errorf("%+v", a)
	}
	one.ends(t, "the stream of a")
	other.ends(t, "the stream of b")
}

// TestRevocationIsShown: the page's figures name what a stream's token is revoked by.
func TestRevocationIsShown(t *testing.T) {
	if eachKind(t, TestRevocationIsShown) {
		return
	}
	f := secured(t, server.Options{}, auth.Options{})
	f.stream("/v1/events?channel=a", bearer(token("ada", time.Hour, "subscribe", "a"))).any()
	if a := f.call("GET", "/v1/stats", "", bearer(token("root", time.Hour, "admin", "**"))); !strings.Contains(a.body, `"tokenId":"jti-of-ada"`) {
		t.Error(a.body)
	}
}

// TestMisspeltMembers: a member that nobody knows does nothing where its writer expects something, on every call that takes JSON.
func TestMisspeltMembers(t *testing.T) {
	f := start(t, server.Options{})
	for _, c := range []struct{ path, body, detail string }{
		{"/v1/events", `{"channel":"a","data":"x","type":"tick"}`, `did you mean "event"`},
		{"/v1/events", `{"channel":"a","data":"x","idempotency_key":"k"}`, `did you mean "idempotencyKey"`},
		{"/v1/events", `{"channel":"a","data":"x","Event":"tick"}`, `did you mean "event"`},
		{"/v1/events", `{"channel":"a","data":"x","id":"1"}`, "the members are channel, event, data, idempotencyKey"},
		{"/v1/events", `{"channel":"a","data":"x","data":"y"}`, "given twice"},
		{"/v1/events", `[{"channel":"a","data":"x"},{"chanel":"a","data":"x"}]`, "event 1 of the array: "},
		{"/v1/stores/1/pcs/2/events", `{"objectId":"o","event":"REBOOT","eventtype":"COMMAND"}`, `did you mean "eventType"`},
		{"/v1/stores/1/events", `{"objectID":"o","event":"REBOOT"}`, `did you mean "objectId"`},
		{"/v1/stores/events", `{"objectId":"o","event":"REBOOT","wait":"10s"}`, "is not known"},
		{"/v1/tickets", `{"channels":["a"],"ttl":"1h"}`, "is not known"},
		{"/v1/tickets", `{"channel":["a"]}`, `did you mean "channels"`},
		{"/v1/admin/backup", `{"Dir":"/tmp/x"}`, `did you mean "dir"`},
		{"/v1/admin/backup", `{"dir":""}`, "dir is empty"},
		{"/v1/admin/disconnect", `{"channel":"**","subjct":"eve"}`, `did you mean "subject"`},
		{"/v1/admin/disconnect", `{"channel":"**","for":"1h"}`, "is not known"},
		{"/v1/admin/revoke", `{"channel":"**","token":"eve"}`, "is not known"},
	} {
		f.call("POST", c.path, c.body).wantProblem(t, 400, "invalid", c.detail)
	}
	a := f.call("POST", "/v1/events", `{"channel":"a","data":"1"}`+"\n"+`{"channel":"a","type":"x","data":"2"}`+"\n"+`{"channel":"a","data":"3"}`, "Content-Type: application/x-ndjson")
	if lines := strings.Split(strings.TrimSpace(a.body), "\n"); len(lines) != 3 || !strings.Contains(lines[1], `did you mean`) || !strings.Contains(lines[1], `"line":2`) {
		t.Errorf("%s", a.body)
	}
	// What is inside data is the publisher's.
	if a := f.call("POST", "/v1/events", `{"channel":"a","data":{"type":"x","type":"y","Data":1}}`); a.status != 201 {
		t.Errorf("%+v", a)
	}
}

// TestMisspeltParameters: what services add passes; what is nearly a known parameter does not.
func TestMisspeltParameters(t *testing.T) {
	f := start(t, server.Options{})
	for path, meant := range map[string]string{
		"/v1/events?channel=a&replays=all":                       "replay",
		"/v1/events?channel=a&Replay=all":                        "replay",
		"/v1/events?channel=a&last-event-id=1":                   "lastEventId",
		"/v1/events?channels=a":                                  "channel",
		"/v1/events?channel=a&heartbeat_event=true":              "heartbeatEvent",
		"/v1/history?channel=a&limt=5":                           "limit",
		"/v1/history?channel=a&aftr=5":                           "after",
		"/v1/stores/event-sources?storeId=1&pcId=2&lasteventid=": "lastEventId",
		"/v1/stores/event-sources?storeid=1&pcId=2":              "storeId",
		"/v1/health?storeId=1&pcID=2":                            "pcId",
		"/v1/stats?stream=5":                                     "streams",
		"/v1/admin/retention?rules=a=age:1d":                     "rule",
	} {
		f.call("GET", path, "").wantProblem(t, 400, "invalid", `did you mean "`+meant+`"`)
	}
	f.call("POST", "/v1/channels/a?type=tick", "x").wantProblem(t, 400, "invalid", `did you mean "event"`)
	f.call("POST", "/v1/channels/a?idempotencyKey=k", "x").wantProblem(t, 400, "invalid", "Idempotency-Key")
	f.call("POST", "/v1/events?type=tick", `{"channel":"a","data":"x"}`).wantProblem(t, 400, "invalid", `did you mean "event"`)
	f.call("POST", "/v1/events?event=tick", `{"channel":"a","data":"x"}`).wantProblem(t, 400, "invalid", "belongs into the body")
	f.call("POST", "/v1/stores/1/events?event=REBOOT", `{"event":"x"}`).wantProblem(t, 400, "invalid", "belongs into the body")
	f.call("POST", "/v1/admin/disconnect?subject=eve", `{"channel":"**"}`).wantProblem(t, 400, "invalid", "belongs into the body")
	for _, path := range []string{
		"/v1/events?channel=a&utm_source=x&_=123&v=2", "/v1/events?channel=a&lastEventId=&last_event_id=&lastEventID=",
		"/v1/stores/event-sources?storeId=1&pcId=2&appVersion=3&token=x&pcIp=10.0.0.1&storeIp=10.0.0.2", "/v1/events?channel=a&access_token=x&ticket=",
	} {
		if a := f.call("HEAD", path, ""); a.status != 200 {
			t.Errorf("%s: %+v", path, a)
		}
	}
}

// TestSessionEndsItsStreams (P8): who signs out is not listened for any more, whether the stream came by cookie or by a ticket.
func TestSessionEndsItsStreams(t *testing.T) {
	if eachKind(t, TestSessionEndsItsStreams) {
		return
	}
	f := secured(t, server.Options{}, auth.Options{})
	ada := token("ada", time.Hour, "subscribe", "a", "publish", "a")
	cookie, own := "Cookie: __Host-fanfare="+ada, "Origin: "+f.url("")
	byCookie := f.stream("/v1/events?channel=a", cookie)
	byCookie.any()
	link := f.call("POST", "/v1/tickets", `{"channels":["a"]}`, cookie, own).json("url")
	byTicket := f.stream(link)
	byTicket.any()
	unopened := f.call("POST", "/v1/tickets", `{"channels":["a"]}`, cookie, own).json("url")
	byHeader := f.stream("/v1/events?channel=a", bearer(ada))
	byHeader.any()
	if a := f.call("DELETE", "/v1/session", "", cookie, own); a.status != 204 {
		t.Fatalf("%+v", a)
	}
	byCookie.ends(t, "the cookie's stream")
	byTicket.ends(t, "the ticket's stream")
	f.call("GET", link, "").wantProblem(t, 401, "unauthenticated", "session")
	f.call("GET", unopened, "").wantProblem(t, 401, "unauthenticated", "session")
	f.call("POST", "/v1/channels/a", "x", bearer(ada))
	byHeader.want("x") // the token is good still
	again := f.call("POST", "/v1/tickets", `{"channels":["a"]}`, cookie, own).json("url")
	f.stream(again).any() // so is a new login with it
}

// TestRemovedKey (P8): a key that is taken away takes with it the tokens that it verified, their streams, and tickets.
func TestRemovedKey(t *testing.T) {
	if eachKind(t, TestRemovedKey) {
		return
	}
	dir := t.TempDir()
	file := dir + "/secret"
	writeFile(t, file, strings.Repeat("first ", 10))
	f := secured(t, server.Options{TicketKey: []byte(strings.Repeat("k", auth.TicketKeyBytes))}, auth.Options{Keys: []auth.Key{{Algorithm: "HS256", File: file}}, Watch: 10 * time.Millisecond})
	other := bearer(token("bob", time.Hour, "subscribe", "a", "publish", "a")) // by the settings' own key
	ada := bearer(signed(strings.Repeat("first ", 10), "ada", "subscribe", "a"))
	stays := f.stream("/v1/events?channel=a", other)
	stays.any()
	direct := f.stream("/v1/events?channel=a", ada)
	direct.any()
	link := f.call("POST", "/v1/tickets", `{"channels":["a"]}`, ada).json("url")
	byTicket := f.stream(link)
	byTicket.any()
	// Of the same length, as a key that is rolled is; the hub goes by what is in the file.
	writeFile(t, file, strings.Repeat("other ", 10))
	direct.ends(t, "the token's stream")
	byTicket.ends(t, "the ticket's stream")
	f.call("GET", link, "").wantProblem(t, 401, "unauthenticated", "taken away")
	f.restart()
	f.call("GET", link, "").wantProblem(t, 401, "unauthenticated", "taken away")
	f.call("POST", "/v1/channels/a", "x", other)
}

// TestKeysAndTokensAreTwoRealms: an API key and a token of the same name share no idempotency key, and no two issuers' tokens do.
func TestKeysAndTokensAreTwoRealms(t *testing.T) {
	text, key, err := auth.CreateAPIKey(auth.APIKey{Name: "ada", Publish: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	f := secured(t, server.Options{}, auth.Options{APIKeys: []auth.APIKey{key}})
	for i, who := range []string{text, token("ada", time.Hour, "publish", "a"), signed(secret, "ada", "publish", "a", "iss", "https://one"), signed(secret, "ada", "publish", "a", "iss", "https://two")} {
		if a := f.call("POST", "/v1/channels/a", fmt.Sprint("event ", i), bearer(who), "Idempotency-Key: k"); a.status != 201 {
			t.Errorf("%d: %+v", i, a)
		}
	}
}

// TestHostsWithAuthentication: they are checked when at least one is given.
func TestHostsWithAuthentication(t *testing.T) {
	ada := bearer(token("ada", time.Hour, "subscribe", "a"))
	f := secured(t, server.Options{AllowedHosts: []string{"push.example.com"}}, auth.Options{})
	f.call("GET", "/v1/history?channel=a", "", ada, "Host: evil.example").wantProblem(t, 403, "forbidden", "--allowed-host")
	for _, host := range []string{"push.example.com", "PUSH.example.com:444", "localhost"} {
		if a := f.call("GET", "/v1/history?channel=a", "", ada, "Host: "+host); a.status != 200 {
			t.Errorf("%s: %+v", host, a)
		}
	}
	for _, probe := range []string{"/livez", "/readyz"} { // a kubelet names the address
		if a := f.call("GET", probe, "", "Host: 10.1.2.3:8082"); a.status != 200 {
			t.Errorf("%s: %+v", probe, a)
		}
	}
	if a := secured(t, server.Options{}, auth.Options{}).call("GET", "/v1/history?channel=a", "", ada, "Host: any.example"); a.status != 200 {
		t.Errorf("%+v", a)
	}
}

// TestHostsAndOriginsThatNeverMatch: each is refused, or spelt as browsers do.
func TestHostsAndOriginsThatNeverMatch(t *testing.T) {
	for _, c := range []struct{ host, origin, detail string }{
		{"https://push.example.com", "", "the host alone: push.example.com"},
		{"*.example.com", "", "wildcards"},
		{"push example", "", "name of a host"},
		{"pušh.example.com", "", "xn--"},
		{"", "https://*.example.com", "wildcards"},
		{"", "https://a.example.com/app", "scheme://host"},
		{"", "app.example.com", "scheme://host"},
		{"", "https://u:p@a.example.com", "scheme://host"},
	} {
		var hosts, origins []string
		if c.host != "" {
			hosts = []string{c.host}
		} else {
			origins = []string{c.origin}
		}
		err := server.CheckHosts(hosts, origins)
		if e, ok := errors.AsType[*fanfare.Error](err); !ok || !strings.Contains(e.Detail, c.detail) {
			t.Errorf("%s%s: %v, want %q", c.host, c.origin, err, c.detail)
		}
	}
	if err := server.CheckHosts(nil, []string{"chrome-extension://abcdef", "capacitor://localhost", "tauri://localhost"}); err != nil {
		t.Errorf("pages of other schemes: %v", err)
	}
	f := start(t, server.Options{CORSOrigins: []string{"https://App.example.com:443/", "http://b.example.com:80"}})
	for _, origin := range []string{"https://app.example.com", "http://b.example.com"} {
		if a := f.call("GET", "/v1/history?channel=a", "", "Origin: "+origin); a.header.Get("Access-Control-Allow-Origin") != origin {
			t.Errorf("%s: %v", origin, a.header)
		}
	}
}

// TestMetricsForOperators: on their own listener nobody is asked who they are.
func TestMetricsForOperators(t *testing.T) {
	f := secured(t, server.Options{}, auth.Options{})
	f.call("GET", "/metrics", "").wantProblem(t, 401, "unauthenticated", "admin")
	for path, want := range map[string]int{"/metrics": 200, "/livez": 200, "/readyz": 200, "/v1/stats": 404} {
		w := httptest.NewRecorder()
		f.srv.Admin().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != want {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	w := httptest.NewRecorder()
	f.srv.Admin().ServeHTTP(w, httptest.NewRequest("POST", "/metrics", nil))
	if w.Code != 405 || w.Header().Get("Allow") == "" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
