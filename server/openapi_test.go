package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/fanfare-hub/fanfare/server"
)

// description is openapi.yaml as a tree of maps and lists.
type description map[string]any

func (d description) resolve(v any) map[string]any {
	m, _ := v.(map[string]any)
	for {
		ref, ok := m["$ref"].(string)
		if !ok {
			return m
		}
		var at any = map[string]any(d)
		for _, name := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
			at = at.(map[string]any)[name]
		}
		m, _ = at.(map[string]any)
	}
}

// fits tells whether a value is what a schema says, as far as the description uses JSON Schema.
func (d description) fits(schema, value any) error {
	s := d.resolve(schema)
	if of, ok := s["oneOf"].([]any); ok {
		for _, one := range of {
			if d.fits(one, value) == nil {
				return nil
			}
		}
		return fmt.Errorf("%v fits none of %v", value, of)
	}
	if c, ok := s["const"]; ok && c != value {
		return fmt.Errorf("%v is not %v", value, c)
	}
	if list, ok := s["enum"].([]any); ok && !slices.Contains(list, value) {
		return fmt.Errorf("%v is none of %v", value, list)
	}
	switch s["type"] {
	case "object":
		return d.fitsObject(s, value)
	case "array":
		list, ok := value.([]any)
		if !ok {
			return fmt.Errorf("%v is no array", value)
		}
		for _, item := range list {
			if err := d.fits(s["items"], item); err != nil {
				return err
			}
		}
	case "string":
		text, ok := value.(string)
		if !ok {
			return fmt.Errorf("%v is no string", value)
		}
		if p, ok := s["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(text) {
			return fmt.Errorf("%q does not match %s", text, p)
		}
	case "integer":
		if n, ok := value.(float64); !ok || n != float64(int64(n)) {
			return fmt.Errorf("%v is no integer", value)
		}
	case "null":
		if value != nil {
			return fmt.Errorf("%v is not null", value)
		}
	case "boolean":
		if _, ok := value.(bool); !ok {
			return fmt.Errorf("%v is no boolean", value)
		}
	}
	return nil
}

func (d description) fitsObject(s map[string]any, value any) error {
	o, ok := value.(map[string]any)
	if !ok {
		return fmt.Errorf("%v is no object", value)
	}
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, ok := o[name.(string)]; !ok {
			return fmt.Errorf("%v is missing in %v", name, o)
		}
	}
	properties, _ := s["properties"].(map[string]any)
	for name, v := range o {
		p, ok := properties[name]
		if !ok && properties != nil {
			return fmt.Errorf("%s is not described", name)
		}
		if err := d.fits(p, v); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// TestOpenAPI holds the description against the running server: every call is described, every
// answer is one of those that the call may give, and fits its schema; and every path of the server
// is there.
func TestOpenAPI(t *testing.T) {
	f := start(t, server.Options{})
	tree := map[string]any{}
	if err := yaml.Unmarshal([]byte(f.call("GET", "/openapi.yaml", "").body), &tree); err != nil {
		t.Fatal(err)
	}
	d := description(tree)
	paths := d["paths"].(map[string]any)
	f.publish("a", "1", "2")
	command := `{"objectId":"o1","event":"REBOOT"}`
	const asks = "/v1/stores/{store}/pcs/{pc}/commands"
	asked := f.call("POST", "/v1/stores/1/pcs/2/commands", `{"event":"REBOOT"}`).json("url")
	toAll := f.call("POST", "/v1/stores/commands", command).json("url")
	toStore := f.call("POST", "/v1/stores/1/commands", command).json("url")
	later := f.call("POST", "/v1/channels/a?deliverAt=in+1h&ttl=1h", "x").json("scheduled")
	dir := t.TempDir()
	called := map[string]bool{}
	for _, c := range []struct {
		method, path, target, body string
		status                     int
		header                     []string
	}{
		{"GET", "/v1/events", "/v1/events?channel=a", "", 200, nil},
		{"GET", "/v1/events", "/v1/events", "", 400, nil},
		{"POST", "/v1/events", "/v1/events", `{"channel":"a","data":{"x":1}}`, 201, nil},
		{"POST", "/v1/events", "/v1/events", `[{"channel":"a","data":"x"},{"channel":"b","data":"x"}]`, 201,
			[]string{"Idempotency-Key: k1"}},
		{"POST", "/v1/events", "/v1/events", `[{"channel":"a","data":"x"},{"channel":"b","data":"x"}]`, 200,
			[]string{"Idempotency-Key: k1"}},
		{"POST", "/v1/events", "/v1/events", `[]`, 409, []string{"Idempotency-Key: k1"}},
		{"POST", "/v1/events", "/v1/events", `{"channel":"$a","data":"x"}`, 403, nil},
		{"POST", "/v1/events", "/v1/events", strings.Repeat("x", 17<<20), 413, nil},
		{"POST", "/v1/channels/{channel}", "/v1/channels/a/b?event=kind", "hello", 201, nil},
		{"POST", "/v1/channels/{channel}", "/v1/channels/a/b", "x", 412, []string{"If-None-Match: *"}},
		{"POST", "/v1/events", "/v1/events", `{"channel":"new","data":"x","ifLatest":"0000000000001"}`, 412, nil},
		{"GET", "/v1/history", "/v1/history?channel=a&limit=1", "", 200, nil},
		{"GET", "/v1/history", "/v1/history?channel=a&after=7ZZZZZZZZZZZZ", "", 200, nil},
		{"GET", "/v1/history", "/v1/history?channel=a&after=x", "", 400, nil},
		{"GET", "/v1/latest", "/v1/latest?channel=**&limit=1", "", 200, nil},
		{"GET", "/v1/latest", "/v1/latest?channel=**&limit=x", "", 400, nil},
		{"GET", "/v1/channels", "/v1/channels?pattern=**&limit=1", "", 200, nil},
		{"GET", "/v1/channels", "/v1/channels", "", 400, nil},
		{"POST", "/v1/channels/{channel}", "/v1/channels/a/b?ttl=10m&deliverAt=in+1h", "x", 202, nil},
		{"POST", "/v1/events", "/v1/events", `{"channel":"a","data":"x","deliverAt":"in 1h"}`, 202, []string{"Idempotency-Key: k2"}},
		{"POST", "/v1/events", "/v1/events", `{"channel":"a","data":"x","deliverAt":"in 1h"}`, 200, []string{"Idempotency-Key: k2"}},
		{"POST", "/v1/events", "/v1/events", `{"channel":"a","data":"x","ttl":"1h"}`, 201, nil},
		{"GET", "/v1/history", "/v1/history?channel=a", "", 200, nil},
		{"GET", "/v1/scheduled", "/v1/scheduled?channel=**&limit=1", "", 200, nil},
		{"GET", "/v1/scheduled", "/v1/scheduled", "", 400, nil},
		{"GET", "/v1/scheduled/{id}", "/v1/scheduled/" + later, "", 200, nil},
		{"DELETE", "/v1/scheduled/{id}", "/v1/scheduled/" + later, "", 204, nil},
		{"DELETE", "/v1/scheduled/{id}", "/v1/scheduled/" + later, "", 404, nil},
		{"GET", "/v1/scheduled/{id}", "/v1/scheduled/" + later, "", 404, nil},
		{"GET", "/v1/stores/event-sources", "/v1/stores/event-sources?storeId=1&pcId=2", "", 200, nil},
		{"GET", "/v1/stores/event-sources", "/v1/stores/event-sources?storeId=1", "", 400, nil},
		{"POST", "/v1/stores/events", "/v1/stores/events", command, 201, nil},
		{"POST", "/v1/stores/{store}/events", "/v1/stores/1/events", command, 202, []string{"Prefer: respond-async"}},
		{"POST", "/v1/stores/{store}/pcs/{pc}/events", "/v1/stores/1/pcs/2/events", command, 201, nil},
		{"POST", "/v1/stores/{store}/pcs/{pc}/events", "/v1/stores/1/pcs/2/events", "{}", 400, nil},
		{"POST", "/v1/stores/commands", "/v1/stores/commands", command, 201, nil},
		{"POST", "/v1/stores/{store}/commands", "/v1/stores/1/commands", command, 201, nil},
		{"POST", asks, "/v1/stores/1/pcs/2/commands", command, 201, []string{"Idempotency-Key: k3"}},
		{"POST", asks, "/v1/stores/1/pcs/2/commands", command, 200, []string{"Idempotency-Key: k3"}},
		{"POST", asks, "/v1/stores/1/pcs/2/commands", `{"event":"REBOOT","wait":"1ms"}`, 202, nil},
		{"POST", asks, "/v1/stores/1/pcs/2/commands", `{}`, 400, nil},
		{"GET", asks, "/v1/stores/1/pcs/2/commands", "", 200, nil},
		{"GET", asks + "/{reference}", asked, "", 200, nil},
		{"POST", asks + "/{reference}/ack", asked + "/ack", `{"status":"received"}`, 200, nil},
		{"POST", asks + "/{reference}/ack", asked + "/ack", `{"status":"done","result":[1]}`, 200, nil},
		{"POST", asks + "/{reference}/ack", asked + "/ack", `{"status":"failed"}`, 409, nil},
		{"POST", asks + "/{reference}/ack", "/v1/stores/1/pcs/2/commands/x/ack", `{"status":"done"}`, 404, nil},
		{"GET", asks + "/{reference}", asked, "", 200, nil},
		{"DELETE", asks + "/{reference}", asked, "", 409, nil},
		{"GET", "/v1/stores/commands/{reference}", toAll, "", 200, nil},
		{"DELETE", "/v1/stores/commands/{reference}", toAll, "", 200, nil},
		{"GET", "/v1/stores/commands/{reference}", toAll + "x", "", 404, nil},
		{"GET", "/v1/stores/{store}/commands/{reference}", toStore, "", 200, nil},
		{"GET", "/v1/stores/{store}/commands/{reference}", toStore + "?state=x", "", 400, nil},
		{"DELETE", "/v1/stores/{store}/commands/{reference}", toStore, "", 200, nil},
		{"GET", "/v1/health", "/v1/health?storeId=1&pcId=2", "", 200, nil},
		{"GET", "/v1/stats", "/v1/stats", "", 200, nil},
		{"GET", "/v1/admin/retention", "/v1/admin/retention?rule=a%3Dcount:1", "", 200, nil},
		{"POST", "/v1/admin/backup", "/v1/admin/backup", fmt.Sprintf(`{"dir":%q}`, filepath.Join(dir, "b")), 201, nil},
		{"POST", "/v1/admin/backup", "/v1/admin/backup", fmt.Sprintf(`{"dir":%q}`, dir), 409, nil},
		{"GET", "/v1/admin/log-level", "/v1/admin/log-level", "", 404, nil},
		{"POST", "/v1/admin/log-level", "/v1/admin/log-level", `{"level":"x"}`, 404, nil},
		{"POST", "/v1/admin/disconnect", "/v1/admin/disconnect", `{"channel":"nobody"}`, 200, nil},
		{"POST", "/v1/admin/disconnect", "/v1/admin/disconnect", `{}`, 400, nil},
		{"POST", "/v1/admin/revoke", "/v1/admin/revoke", `{"subject":"nobody"}`, 200, nil},
		{"POST", "/v1/tickets", "/v1/tickets", `{"channels":["a","b/**"]}`, 201, nil},
		{"POST", "/v1/tickets", "/v1/tickets", `{"channels":[]}`, 400, nil},
		{"POST", "/v1/session", "/v1/session", "", 404, nil},
		{"DELETE", "/v1/session", "/v1/session", "", 204, nil},
		{"GET", "/livez", "/livez", "", 200, nil},
		{"GET", "/readyz", "/readyz", "", 200, nil},
		{"GET", "/metrics", "/metrics", "", 200, nil},
		{"GET", "/openapi.yaml", "/openapi.yaml", "", 200, nil},
	} {
		called[c.method+" "+c.path] = true
		var a answer
		if strings.Contains(c.target, "event") && c.method == "GET" && c.status == 200 {
			c.method = "HEAD" // the stream itself does not end
		}
		if c.body == "[]" {
			c.body = `[{"channel":"a","data":"other"}]`
		}
		a = f.call(c.method, c.target, c.body, c.header...)
		if a.status != c.status {
			t.Errorf("%s %s: %d, want %d: %s", c.method, c.target, a.status, c.status, a.body)
			continue
		}
		method := strings.ToLower(c.method)
		if method == "head" {
			method = "get"
		}
		call, ok := d.resolve(paths[c.path])[method]
		if !ok {
			t.Errorf("%s %s is not described", c.method, c.path)
			continue
		}
		described := d.resolve(d.resolve(d.resolve(call)["responses"])[fmt.Sprint(c.status)])
		kind, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
		if a.status == http.StatusNoContent && described != nil && described["content"] == nil {
			continue
		}
		content, ok := d.resolve(described["content"])[kind]
		if !ok {
			t.Errorf("%s %s: an answer %d of %s is not described", c.method, c.target, a.status, kind)
			continue
		}
		if !strings.HasSuffix(kind, "json") {
			continue
		}
		var value any
		if err := json.Unmarshal([]byte(a.body), &value); err != nil {
			t.Errorf("%s: %v", c.target, err)
		} else if err := d.fits(d.resolve(content)["schema"], value); err != nil {
			t.Errorf("%s %s: %v", c.method, c.target, err)
		}
	}
	for path, item := range paths {
		if post, ok := d.resolve(item)["post"]; ok {
			target := regexp.MustCompile("{[a-z]+}").ReplaceAllString(path, "1")
			f.call("POST", target, "x", "Content-Encoding: gzip").wantProblem(t, 415, "unsupported_media_type", "gzip")
			if described := d.resolve(d.resolve(d.resolve(post)["responses"])["415"]); described["headers"] == nil {
				t.Errorf("POST %s: 415 is not described", path)
			}
		}
		for method := range item.(map[string]any) {
			if !called[strings.ToUpper(method)+" "+path] {
				t.Errorf("%s %s is described, and this test does not call it", method, path)
			}
		}
	}
	described := map[string]bool{}
	for path, item := range paths {
		for method := range item.(map[string]any) {
			described[strings.ToUpper(method)+" "+path] = true
		}
	}
	routes := f.srv.Routes()
	for _, one := range routes {
		if !described[one] {
			t.Errorf("the server answers to %s, which is not described", one)
		}
		delete(described, one)
	}
	if len(described) > 0 || len(routes) < 20 {
		t.Errorf("%d routes; described, and in no route: %v", len(routes), described)
	}
}
