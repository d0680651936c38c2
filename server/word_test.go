package server_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/internal/adminapi"
	"github.com/fanfare-hub/fanfare/server"
)

// TestOperatorEndsAnything (P8): also a stream that listens to a channel of the hub's own, which no
// administrator's pattern covers.
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

// TestRevokedTokenEndsAllItsStreams (P8): whoever revokes by channel refuses the token, and with it
// ends its other streams.
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
	if a := f.call("POST", "/v1/admin/revoke", `{"channel":"a"}`, root); a.json("streams") != "2" ||
		a.json("revoked") != "1" {
		t.Errorf("%+v", a)
	}
	one.ends(t, "the stream of a")
	other.ends(t, "the stream of b")
}

// TestAdministratorRevokesWhatIsTheirs (P8): who administers some channels refuses tokens that
// allow nothing beyond these; of other tokens they end the streams of theirs, the answer says so,
// and the token's other streams go on.
func TestAdministratorRevokesWhatIsTheirs(t *testing.T) {
	if eachKind(t, TestAdministratorRevokesWhatIsTheirs) {
		return
	}
	f := secured(t, server.Options{}, auth.Options{Anonymous: mustGrants(t, "subscribe=public/**")})
	some := bearer(token("some", time.Hour, "admin", "b/**", "admin", "stores/42/**"))
	for i, c := range []struct {
		grants  []string
		revoked bool
	}{
		{[]string{"subscribe", "b/**"}, true},
		{[]string{"subscribe", "b/1", "publish", "b/*/x", "admin", "b/1/**"}, true},
		{[]string{"subscribe", "b/**", "subscribe", "public/**"}, true}, // as everybody
		{[]string{"subscribe", "b/**", "device", "stores/42/pcs/7"}, true},
		{[]string{"subscribe", "b/**", "subscribe", "a"}, false},
		{[]string{"subscribe", "b/**", "publish", "a"}, false},
		{[]string{"subscribe", "b/**", "publish", "public/x"}, false}, // everybody hears it, and does not publish to it
		{[]string{"subscribe", "**"}, false},
		{[]string{"subscribe", "b/**", "presence", "$presence/**"}, false},
		{[]string{"subscribe", "b/**", "device", "stores/43/pcs/7"}, false},
		{[]string{"subscribe", "b/**", "device", "stores/*/pcs/7"}, false},
	} {
		name := fmt.Sprint("user", i)
		who := bearer(token(name, time.Hour, c.grants...))
		stream := f.stream("/v1/events?channel=b/1", who)
		stream.any()
		elsewhere := f.stream("/v1/events?channel=public/x", who)
		elsewhere.any()
		a := f.call("POST", "/v1/admin/revoke", `{"channel":"b/**"}`, some)
		stream.ends(t, name)
		status := f.call("GET", "/v1/history?channel=b/1", "", who).status
		if c.revoked {
			elsewhere.ends(t, name+" elsewhere")
			if a.body != `{"streams":2,"revoked":1}` || status != 401 {
				t.Errorf("%v: %s, then %d", c.grants, a.body, status)
			}
			continue
		}
		if a.body != `{"streams":1,"notRevoked":1}` || status != 200 {
			t.Errorf("%v: %s, then %d", c.grants, a.body, status)
		}
		elsewhere.quiet()
		if a := f.call("POST", "/v1/admin/disconnect", `{"subject":"`+name+`"}`,
			bearer(token("root", time.Hour, "admin", "**"))); a.json("streams") != "1" {
			t.Errorf("%v: the stream elsewhere has ended: %s", c.grants, a.body)
		}
	}
	// The hub does not know what the token behind a ticket allows.
	ada := bearer(token("ada", time.Hour, "subscribe", "b/**"))
	byTicket := f.stream(f.call("POST", "/v1/tickets", `{"channels":["b/1"]}`, ada).json("url"))
	byTicket.any()
	if a := f.call("POST", "/v1/admin/revoke", `{"subject":"ada"}`, some); a.body != `{"streams":1,"notRevoked":1}` {
		t.Errorf("by ticket: %s", a.body)
	}
	byTicket.ends(t, "the ticket's stream")
}

// meanwhile does something before the first revocation is done.
type meanwhile struct {
	adminapi.Revocations
	once func()
}

func (m *meanwhile) Revoke(ctx context.Context, tokens, subjects []string, until time.Time) error {
	err := m.Revocations.Revoke(ctx, tokens, subjects, until)
	if m.once != nil {
		m.once()
		m.once = nil
	}
	return err
}

// TestRevokeMeetsAFullListLater: a stream that opens while others are revoked, and for which there
// is no room any more, has the answer say what was done before.
func TestRevokeMeetsAFullListLater(t *testing.T) {
	oneKind(t, "the streams' kind does not matter to what the call answers")
	f := secured(t, server.Options{Access: server.AccessOptions{MaxRevocations: 1}}, auth.Options{})
	root := bearer(token("root", time.Hour, "admin", "**"))
	one := f.stream("/v1/events?channel=a", bearer(token("ada", time.Hour, "subscribe", "a")))
	one.any()
	f.srv.WrapRevocations(func(r adminapi.Revocations) adminapi.Revocations {
		return &meanwhile{r,
			func() { f.stream("/v1/events?channel=a", bearer(token("bob", time.Hour, "subscribe", "a"))).any() }}
	})
	a := f.call("POST", "/v1/admin/revoke", `{"channel":"a"}`, root)
	a.wantProblem(t, 503, "overloaded", "--max-revocations")
	if detail := a.json("detail"); strings.Contains(detail, "nothing") ||
		!strings.Contains(detail, "(revoked before: 1, streams ended: 2)") {
		t.Errorf("%s", detail)
	}
	one.ends(t, "ada")
}

// TestRevocationThatCannotBeStored: streams end all the same, and the answer says that they have.
func TestRevocationThatCannotBeStored(t *testing.T) {
	oneKind(t, "the streams' kind does not matter to what the call answers")
	f := secured(t, server.Options{}, auth.Options{})
	root := bearer(token("root", time.Hour, "admin", "**"))
	one := f.stream("/v1/events?channel=a", bearer(token("ada", time.Hour, "subscribe", "a")))
	one.any()
	f.srv.WrapRevocations(func(r adminapi.Revocations) adminapi.Revocations { return unstored{r} })
	a := f.call("POST", "/v1/admin/revoke", `{"channel":"a"}`, root)
	a.wantProblem(t, 503, "unavailable", "the disk is full (streams ended: 1, revoked until the hub starts again: 1)")
	one.ends(t, "ada")
}

// unstored revokes, and says what a log says that cannot store.
type unstored struct{ adminapi.Revocations }

func (u unstored) Revoke(ctx context.Context, tokens, subjects []string, until time.Time) error {
	_ = u.Revocations.Revoke(ctx, tokens, subjects, until)
	return fanfare.Unavailable("the disk is full", nil)
}

// TestRevocationIsShown: the page's figures name what a stream's token is revoked by.
func TestRevocationIsShown(t *testing.T) {
	if eachKind(t, TestRevocationIsShown) {
		return
	}
	f := secured(t, server.Options{}, auth.Options{})
	f.stream("/v1/events?channel=a", bearer(token("ada", time.Hour, "subscribe", "a"))).any()
	if a := f.call("GET", "/v1/stats", "", bearer(token("root", time.Hour, "admin", "**"))); !strings.Contains(a.body,
		`"tokenId":"jti-of-ada"`) {
		t.Error(a.body)
	}
}

// TestMisspeltMembers: a member that nobody knows does nothing where its writer expects something,
// on every call that takes JSON.
func TestMisspeltMembers(t *testing.T) {
	f := start(t, server.Options{})
	for _, c := range []struct{ path, body, detail string }{
		{"/v1/events", `{"channel":"a","data":"x","type":"tick"}`, `did you mean "event"`},
		{"/v1/events", `{"channel":"a","data":"x","idempotency_key":"k"}`, `did you mean "idempotencyKey"`},
		{"/v1/events", `{"channel":"a","data":"x","Event":"tick"}`, `did you mean "event"`},
		{"/v1/events", `{"channel":"a","data":"x","id":"1"}`, "the members are channel, event, data, idempotencyKey"},
		{"/v1/events", `{"channel":"a","data":"x","data":"y"}`, "given twice"},
		{"/v1/events", `[{"channel":"a","data":"x"},{"chanel":"a","data":"x"}]`, "event 1 of the array: "},
		{"/v1/stores/1/pcs/2/events", `{"objectId":"o","event":"REBOOT","eventtype":"COMMAND"}`,
			`did you mean "eventType"`},
		{"/v1/stores/1/events", `{"objectID":"o","event":"REBOOT"}`, `did you mean "objectId"`},
		{"/v1/stores/events", `{"objectId":"o","event":"REBOOT","wait":"10s"}`, "is not known"},
		{"/v1/tickets", `{"channels":["a"],"ttl":"1h"}`, "is not known"},
		{"/v1/tickets", `{"channel":["a"]}`, `did you mean "channels"`},
		{"/v1/admin/backup", `{"Dir":"/tmp/x"}`, `did you mean "dir"`},
		{"/v1/admin/backup", `{"dir":""}`, "dir is empty"},
		{"/v1/admin/disconnect", `{"channel":"**","subjct":"eve"}`, `did you mean "subject"`},
		{"/v1/admin/disconnect", `{"channel":"**","for":"1h"}`, "is not known"},
		{"/v1/admin/revoke", `{"channel":"**","token":"eve"}`, "is not known"},
		{"/v1/admin/disconnect", `[]`, `the body must be a JSON object, such as {"subject":"ada"}`},
		{"/v1/admin/revoke", `"eve"`, `the body must be a JSON object, such as {"subject":"ada"}`},
		{"/v1/admin/backup", `[]`, `the body must be a JSON object, such as {"dir":`},
		{"/v1/admin/log-level", `7`, `the body must be a JSON object, such as {"level":"debug"}`},
		{"/v1/tickets", `["a"]`, `the body must be a JSON object, such as {"channels":`},
		{"/v1/stores/1/pcs/2/events", `[]`, "the body must be a JSON object"},
		{"/v1/events", `[1]`, "an event must be a JSON object"},
	} {
		f.call("POST", c.path, c.body).wantProblem(t, 400, "invalid", c.detail)
	}
	a := f.call("POST", "/v1/events",
		`{"channel":"a","data":"1"}`+"\n"+`{"channel":"a","type":"x","data":"2"}`+"\n"+`{"channel":"a","data":"3"}`,
		"Content-Type: application/x-ndjson")
	if lines := strings.Split(strings.TrimSpace(a.body), "\n"); len(lines) != 3 ||
		!strings.Contains(lines[1], `did you mean`) || !strings.Contains(lines[1], `"line":2`) {
		t.Errorf("%s", a.body)
	}
	// Members inside data are the publisher's own.
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
	f.call("POST", "/v1/events?type=tick", `{"channel":"a","data":"x"}`).wantProblem(t, 400, "invalid",
		`did you mean "event"`)
	f.call("POST", "/v1/events?event=tick", `{"channel":"a","data":"x"}`).wantProblem(t, 400, "invalid",
		"belongs into the body")
	f.call("POST", "/v1/stores/1/events?event=REBOOT", `{"event":"x"}`).wantProblem(t, 400, "invalid",
		"belongs into the body")
	f.call("POST", "/v1/admin/disconnect?subject=eve", `{"channel":"**"}`).wantProblem(t, 400, "invalid",
		"belongs into the body")
	f.call("POST", "/v1/tickets?channels=a", `{"channels":["b"]}`).wantProblem(t, 400, "invalid",
		"belongs into the body")
	f.call("POST", "/v1/tickets?channel=a", `{"channels":["b"]}`).wantProblem(t, 400, "invalid",
		`did you mean "channels"`)
	for _, path := range []string{
		"/v1/events?channel=a&utm_source=x&_=123&v=2", "/v1/events?channel=a&lastEventId=&last_event_id=&lastEventID=",
		"/v1/stores/event-sources?storeId=1&pcId=2&appVersion=3&token=x&pcIp=10.0.0.1&storeIp=10.0.0.2",
		"/v1/events?channel=a&access_token=x&ticket=",
	} {
		if a := f.call("HEAD", path, ""); a.status != 200 {
			t.Errorf("%s: %+v", path, a)
		}
	}
}

// TestSessionEndsItsStreams (P8): who signs out is not listened for any more, whether the stream
// came by cookie or by a ticket.
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

// TestSigningOutWithAStaleCookie: a cookie whose token is good for nothing any more is taken away
// like any other, by a page of this host. A wrong header, and a page of another host, stay what
// they are.
func TestSigningOutWithAStaleCookie(t *testing.T) {
	f := secured(t, server.Options{Access: server.AccessOptions{MaxRevocations: 2}},
		auth.Options{Leeway: time.Millisecond})
	own, root := "Origin: "+f.url(""), bearer(token("root", time.Hour, "admin", "**"))
	f.call("POST", "/v1/admin/revoke", `{"tokenId":"jti-of-eve"}`, root)
	for name, value := range map[string]string{
		"expired": token("ada", -time.Hour, "subscribe", "a"), "revoked": token("eve", time.Hour, "subscribe", "a"),
		"of a key that is gone": signed(strings.Repeat("gone ", 10), "bob", "subscribe",
			"a"), "nonsense": "nonsense", "too long": strings.Repeat("x", 20<<10),
	} {
		cookie := "Cookie: __Host-fanfare=" + value
		f.call("GET", "/v1/history?channel=a", "", cookie, own).wantProblem(t, 401, "unauthenticated", "")
		a := f.call("DELETE", "/v1/session", "", cookie, own)
		if set := a.header.Get("Set-Cookie"); a.status != 204 || !strings.HasPrefix(set, "__Host-fanfare=;") ||
			!strings.Contains(set, "Max-Age=0") {
			t.Errorf("%s: %d %s %q", name, a.status, a.body, set)
		}
		for _, origin := range []string{"Origin: https://evil.example", "X-None: x"} {
			if a := f.call("DELETE", "/v1/session", "", cookie, origin); a.status != 403 ||
				a.header.Get("Set-Cookie") != "" {
				t.Errorf("%s, %s: %d %v", name, origin, a.status, a.header)
			}
		}
	}
	f.metric(t, "fanfare_revocations 1", root) // what is signed out of unknown cookies takes no room
	f.call("DELETE", "/v1/session", "", bearer("nonsense"), own).wantProblem(t, 401, "unauthenticated", "not valid")
}

// TestSigningOutWithoutRoom: the cookie goes and its streams end, and the answer says so.
func TestSigningOutWithoutRoom(t *testing.T) {
	oneKind(t, "the streams' kind does not matter to what the call answers")
	f := secured(t, server.Options{Access: server.AccessOptions{MaxRevocations: 1}}, auth.Options{})
	own := "Origin: " + f.url("")
	for i, who := range []string{"ada", "bob"} {
		cookie := "Cookie: __Host-fanfare=" + token(who, time.Hour, "subscribe", "a")
		c := f.stream("/v1/events?channel=a", cookie)
		c.any()
		a := f.call("DELETE", "/v1/session", "", cookie, own)
		c.ends(t, who)
		if i == 0 && a.status != 204 {
			t.Errorf("%+v", a)
		}
		if i == 1 {
			a.wantProblem(t, 503, "overloaded",
				"(--max-revocations): the cookie is taken away, and its streams have ended")
			if a.header.Get("Set-Cookie") == "" {
				t.Error("the cookie is still there")
			}
		}
	}
}

// TestRemovedKey (P8): a key that is taken away takes with it the tokens that it verified, their
// streams, and tickets.
func TestRemovedKey(t *testing.T) {
	if eachKind(t, TestRemovedKey) {
		return
	}
	dir := t.TempDir()
	file := dir + "/secret"
	writeFile(t, file, strings.Repeat("first ", 10))
	f := secured(t, server.Options{Access: server.AccessOptions{TicketKey: []byte(strings.Repeat("k",
		auth.TicketKeyBytes))}}, auth.Options{Keys: []auth.Key{{Algorithm: "HS256", File: file}},
		Watch: 10 * time.Millisecond})
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

// TestKeysAndTokensAreTwoRealms: an API key and a token of the same name share no idempotency key,
// and no two issuers' tokens do.
func TestKeysAndTokensAreTwoRealms(t *testing.T) {
	text, key, err := auth.CreateAPIKey(auth.APIKey{Name: "ada", Publish: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	f := secured(t, server.Options{}, auth.Options{APIKeys: []auth.APIKey{key}})
	for i, who := range []string{text, token("ada", time.Hour, "publish", "a"),
		signed(secret, "ada", "publish", "a", "iss", "https://one"), signed(secret, "ada", "publish", "a", "iss",
			"https://two")} {
		if a := f.call("POST", "/v1/channels/a", fmt.Sprint("event ", i), bearer(who),
			"Idempotency-Key: k"); a.status != 201 {
			t.Errorf("%d: %+v", i, a)
		}
	}
}

// TestHostsWithAuthentication: they are checked when at least one is given.
func TestHostsWithAuthentication(t *testing.T) {
	ada := bearer(token("ada", time.Hour, "subscribe", "a"))
	f := secured(t, server.Options{Access: server.AccessOptions{Hosts: []string{"push.example.com"}}}, auth.Options{})
	f.call("GET", "/v1/history?channel=a", "", ada, "Host: evil.example").wantProblem(t, 403, "forbidden",
		"--allowed-host")
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
	if a := secured(t, server.Options{}, auth.Options{}).call("GET", "/v1/history?channel=a", "", ada,
		"Host: any.example"); a.status != 200 {
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
		{".example.com", "", "name of a host"},
		{"push..example.com", "", "name of a host"},
		{"push.example.com..", "", "name of a host"},
		{strings.Repeat("a", 64) + ".example.com", "", "name of a host"},
		{strings.Repeat("a23456789.", 26) + "com", "", "name of a host"},
		{"push.example.com:65536", "", `port "65536"`},
		{"push.example.com:0", "", `port "0"`},
		{"push.example.com:", "", `port ""`},
		{"push.example.com:https", "", `port "https"`},
		{"[::1]:99999", "", `port "99999"`},
		{"fe80::1%eth0", "", "without its zone"},
		{"1:2", "", "four numbers"},
		{"1:2:3", "", "name of a host"},
		{"127.1", "", "four numbers"},
		{"010.0.0.7", "", "four numbers"},
		{"0x7f000001", "", "four numbers"},
		{"", "http://[fe80::1%25eth0]", "without its zone"},
		{"", "https://a.example.com:70000", `port "70000"`},
		{"", "https://a.example.com:", `port ""`},
		{"", "https://.example.com", "name of a host"},
		{"", "http://127.1:3000", "four numbers"},
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
	if err := server.CheckHosts(nil,
		[]string{"chrome-extension://abcdef", "capacitor://localhost", "tauri://localhost"}); err != nil {
		t.Errorf("pages of other schemes: %v", err)
	}
	f := start(t, server.Options{Access: server.AccessOptions{Origins: []string{"https://App.example.com:443/",
		"http://b.example.com:80"}}})
	for _, origin := range []string{"https://app.example.com", "http://b.example.com"} {
		if a := f.call("GET", "/v1/history?channel=a", "",
			"Origin: "+origin); a.header.Get("Access-Control-Allow-Origin") != origin {
			t.Errorf("%s: %v", origin, a.header)
		}
	}
}

// TestSpellingsOfHosts: a host and an origin are the same however a setting and a request spell
// them.
func TestSpellingsOfHosts(t *testing.T) {
	f := start(t, server.Options{
		Access: server.AccessOptions{Hosts: []string{"Push.Example.com.", "two.example.com:8443",
			"2001:DB8:0:0:0:0:0:7", "[2001:db8::8]:444", "::ffff:10.0.0.9", "10.0.0.7"},
			Origins: []string{"https://app.example.com.", "https://b.example.com:00443",
				"http://c.example.com:03000", "http://[2001:DB8:0:0:0:0:0:9]:3000", "http://[::ffff:10.0.0.11]"}},
	})
	for host, status := range map[string]int{
		"push.example.com": 200, "push.example.com.": 200, "PUSH.example.com.:8082": 200, "push.example.com..": 403,
		"two.example.com": 200,
		"[2001:db8::7]":   200, "[2001:0db8:0::7]:80": 200, "[2001:db8::8]": 200, "[::ffff:a00:9]:80": 200,
		"10.0.0.7": 200, "10.0.0.8": 403,
		"localhost.": 200, "LOCALHOST.:8082": 200, "127.0.0.1.": 200, "127.9.9.9": 200, "[0:0:0:0:0:0:0:1]": 200,
		"[::ffff:127.0.0.1]": 200, "localhost.evil.example": 403, ".": 403,
	} {
		if a := f.call("GET", "/v1/history?channel=a", "", "Host: "+host); a.status != status {
			t.Errorf("%s: %d %s, want %d", host, a.status, a.body, status)
		}
	}
	for origin, may := range map[string]bool{
		"https://app.example.com": true, "https://app.example.com.": true, "https://b.example.com": true,
		"http://c.example.com:3000": true, "http://c.example.com": false,
		"http://[2001:db8::9]:3000": true, "http://[2001:db8::9]": false, "http://[::ffff:a00:b]": true,
		"http://app.example.com": false, "https://app.example.com..": false,
	} {
		a := f.call("POST", "/v1/channels/a", "x", "Origin: "+origin)
		if got := a.header.Get("Access-Control-Allow-Origin"); (a.status == 201) != may || (got == origin) != may {
			t.Errorf("%s: %d, allowed %q, want %v", origin, a.status, got, may)
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
