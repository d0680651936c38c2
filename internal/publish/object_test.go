package publish

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// FuzzObject holds the reader of objects against encoding/json: the same texts are taken, with the
// same members.
func FuzzObject(f *testing.F) {
	for _, text := range []string{
		`{}`, ` { "a" : 1 , "b":[{"c":"}"},"]\\"] } `, `{"a\u0041":"\ud800","b":"\\\\\""}`,
		`{"a":-1e5,"b":true,"c":null}`, `{"":""}`, `[{"a":1},{"b":{}} , {}]`,
		`[]`, `[1]`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"a":1}x`, `{"a":01}`, `{"a":[1,2,{"b":[]}],"d":"e"}`,
		"{\"a\":\"\xff\"}", `"a"`, `{"a":1,}`, "",
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
				if json.Compact(&a, got) != nil || json.Compact(&b, value) != nil ||
					!bytes.Equal(a.Bytes(), b.Bytes()) {
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

// TestEveryObjectIsTaken: what encoding/json takes as an object without a member given twice is
// taken here.
func TestEveryObjectIsTaken(t *testing.T) {
	for _, text := range []string{
		`{"a":1}`, "\t{\n\"a\" :\r\"x\" }\n", `{"a":{"a":{"a":[[],[{}]]}},"b":"\\","c":"\\\""}`, `{"a":"\"}","b":1}`,
		`{"a":1.5e-3}`, `{"a":false }`,
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
	for i := range MaxMembers - 1 {
		fmt.Fprintf(&b, "%q:1,", fmt.Sprint(i))
	}
	many := "{" + b.String()
	if o, err := ParseObject([]byte(many + `"x":1}`)); err != nil || len(o) != MaxMembers {
		t.Errorf("%d members: %v", len(o), err)
	}
	for _, text := range []string{many + `"7":1}`, many + `"x":1,"y":1}`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `[]`,
		`1`, `{"a":1} {}`} {
		if _, err := ParseObject([]byte(text)); err == nil {
			t.Errorf("%.50s was taken", text)
		}
	}
}

// TestObjectsCostTheirBytes: reading any body of a megabyte takes little more memory than a
// megabyte.
func TestObjectsCostTheirBytes(t *testing.T) {
	const size = 1 << 20
	var members strings.Builder
	for i := 0; members.Len() < size; i++ {
		fmt.Fprintf(&members, `"%x":1,`, i)
	}
	for name, c := range map[string]struct {
		body string
		code fanfare.Code // "": it is taken
	}{
		"members":      {"{" + members.String() + `"x":1}`, fanfare.CodeInvalid},
		"in an array":  {"[{" + members.String() + `"x":1}]`, fanfare.CodeInvalid},
		"tiny events":  {"[" + strings.Repeat(`{"channel":"a","data":""},`, size/26) + "{}]", fanfare.CodeTooLarge},
		"empty events": {"[" + strings.Repeat(`{},`, size/3) + "{}]", fanfare.CodeTooLarge},
		"numbers":      {"[" + strings.Repeat(`1,`, size/2) + "1]", fanfare.CodeTooLarge},
		"not even":     {"[" + strings.Repeat(`,`, size), fanfare.CodeTooLarge},
		"nested":       {strings.Repeat("[", size), fanfare.CodeInvalid},
		"nested data":  {`{"data":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + "}", ""},
		"long name":    {`{"` + strings.Repeat("x", size) + `":1}`, ""},
		"long names": {`{"` + strings.Repeat("x", size/2) + `":1,"` + strings.Repeat("x", size/2) + `":1}`,
			fanfare.CodeInvalid},
		"quotes": {`{"data":"` + strings.Repeat(`\"`, size/2) + `"}`, ""},
		"no end": {`["` + strings.Repeat(`\\`, size/2), fanfare.CodeInvalid},
		"data":   {`[{"data":{"a":[` + strings.Repeat("{},", size/3) + "{}]}}]", ""},
	} {
		body := []byte(c.body)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := ParseObjects(body, 1000)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 5<<18 || fanfare.CodeOf(err) != c.code {
			t.Errorf("%s: %d bytes were allocated: %.100v", name, got, err)
		}
	}
	// A thousand are taken, one more is not; an element too many that is none is no JSON.
	for events, code := range map[int]fanfare.Code{1000: "", 1001: fanfare.CodeTooLarge} {
		list := strings.TrimSuffix(strings.Repeat(`{"a":[1,{"b":2,"c":[]}],"d":"],["},`, events), ",")
		if _, _, err := ParseObjects([]byte(" [ "+list+" ] "), 1000); fanfare.CodeOf(err) != code {
			t.Errorf("%d events: %v", events, err)
		}
	}
	if _, _, err := ParseObjects([]byte("["+strings.Repeat(`{},`, 1000)+" ]"),
		1000); fanfare.CodeOf(err) != fanfare.CodeInvalid {
		t.Errorf("a comma at the end: %v", err)
	}
}
