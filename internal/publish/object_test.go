package publish

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// FuzzObject holds the reader of objects against encoding/json: the same texts are taken, with the same members.
func FuzzObject(f *testing.F) {
	for _, text := range []string{
		`{}`, ` { "a" : 1 , "b":[{"c":"}"},"]\\"] } `, `{"a\u0041":"\ud800","b":"\\\\\""}`, `{"a":-1e5,"b":true,"c":null}`, `{"":""}`, `[{"a":1},{"b":{}} , {}]`,
		`[]`, `[1]`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"a":1}x`, `{"a":01}`, `{"a":[1,2,{"b":[]}],"d":"e"}`, "{\"a\":\"\xff\"}", `"a"`, `{"a":1,}`, "",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		check := func(o Object, want map[string]json.RawMessage) {
			if len(o) != len(want) {
				t.Fatalf("%q: %d members, want %d", body, len(o), len(want))
			}
			for name, value := range want {
				got := o.Raw(name)
				var a, b bytes.Buffer
				if json.Compact(&a, got) != nil || json.Compact(&b, value) != nil || !bytes.Equal(a.Bytes(), b.Bytes()) {
					t.Fatalf("%q: member %q is %q, want %q", body, name, got, value)
				}
				var text string
				if json.Unmarshal(value, &text) == nil && value[0] == '"' {
					if got, err := o.Data(name); err != nil || got != text {
						t.Fatalf("%q: member %q is %q %v, want %q", body, name, got, err, text)
					}
				}
			}
		}
		if o, err := ParseObject(body); err == nil {
			var want map[string]json.RawMessage
			if err := json.Unmarshal(body, &want); err != nil {
				t.Fatalf("%q was taken: %v", body, err)
			}
			check(o, want)
		}
		objects, array, err := ParseObjects(body, 100)
		if err != nil || !array {
			return
		}
		var want []map[string]json.RawMessage
		if err := json.Unmarshal(body, &want); err != nil || len(want) != len(objects) {
			t.Fatalf("%q was taken: %v", body, err)
		}
		for i := range objects {
			check(objects[i], want[i])
		}
	})
}

// TestEveryObjectIsTaken: what encoding/json takes as an object without a member given twice is taken here.
func TestEveryObjectIsTaken(t *testing.T) {
	for _, text := range []string{
		`{"a":1}`, "\t{\n\"a\" :\r\"x\" }\n", `{"a":{"a":{"a":[[],[{}]]}},"b":"\\","c":"\\\""}`, `{"a":"\"}","b":1}`, `{"a":1.5e-3}`, `{"a":false }`,
	} {
		var want map[string]json.RawMessage
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		if o, err := ParseObject([]byte(text)); err != nil || len(o) != len(want) {
			t.Errorf("%s: %v %v", text, o, err)
		}
	}
	var b strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&b, "%q:1,", fmt.Sprint(i))
	}
	many := "{" + b.String()
	if o, err := ParseObject([]byte(many + `"x":1}`)); err != nil || len(o) != 100_001 {
		t.Errorf("%d members: %v", len(o), err)
	}
	for _, text := range []string{many + `"7":1}`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `[]`, `1`, `{"a":1} {}`} {
		if _, err := ParseObject([]byte(text)); err == nil {
			t.Errorf("%.50s was taken", text)
		}
	}
}
