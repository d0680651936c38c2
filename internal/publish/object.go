package publish

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"unicode/utf8"

	"github.com/fanfare-hub/fanfare"
)

// Object is a JSON object's members, as they stand in the text. encoding/json would match names without regard to case and
// let the last of two members win; here names are exact, and a member given twice is refused.
type Object map[string]json.RawMessage

// ParseObject reads one JSON object and nothing else.
func ParseObject(body []byte) (Object, error) {
	d, err := decoder(body)
	if err != nil {
		return nil, err
	}
	o, err := readObject(d)
	if err != nil {
		return nil, err
	}
	return o, atEnd(d)
}

// ParseObjects reads a JSON object, or an array of at most so many. array says which it was.
func ParseObjects(body []byte, most int) (objects []Object, array bool, err error) {
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '[' {
		o, err := ParseObject(body)
		return []Object{o}, false, err
	}
	d, err := decoder(body)
	if err != nil {
		return nil, true, err
	}
	if _, err := d.Token(); err != nil {
		return nil, true, notJSON(err)
	}
	for d.More() {
		if len(objects) == most {
			return nil, true, fanfare.Errorf(fanfare.CodeTooLarge, "the array has more than %d events", most)
		}
		o, err := readObject(d)
		if err != nil {
			return nil, true, err
		}
		objects = append(objects, o)
	}
	if _, err := d.Token(); err != nil {
		return nil, true, notJSON(err)
	}
	if len(objects) == 0 {
		return nil, true, fanfare.Invalid("the array is empty: it must have 1 to %d events", most)
	}
	return objects, true, atEnd(d)
}

func decoder(body []byte) (*json.Decoder, error) {
	if !utf8.Valid(body) {
		return nil, fanfare.Invalid("the body is not valid UTF-8")
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, fanfare.Invalid("the body is empty: it must be a JSON object")
	}
	// json.Valid first, for a whole-text check that the token reader below does not make (depth, trailing commas).
	if !json.Valid(body) {
		var v json.RawMessage
		return nil, notJSON(json.Unmarshal(body, &v))
	}
	return json.NewDecoder(bytes.NewReader(body)), nil
}

func notJSON(err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fanfare.Invalid("the body is not valid JSON: %s at byte %d", syntax.Error(), syntax.Offset)
	}
	return &fanfare.Error{Code: fanfare.CodeInvalid, Detail: "the body is not valid JSON", Err: err}
}

func readObject(d *json.Decoder) (Object, error) {
	open, err := d.Token()
	if err != nil {
		return nil, notJSON(err)
	}
	if open != json.Delim('{') {
		return nil, fanfare.Invalid("an event must be a JSON object")
	}
	o := make(Object, 4)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		name, _ := token.(string)
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, notJSON(err)
		}
		if _, twice := o[name]; twice {
			return nil, fanfare.Invalid("member %q is given twice", clip(name))
		}
		o[name] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, notJSON(err)
	}
	return o, nil
}

func atEnd(d *json.Decoder) error {
	if _, err := d.Token(); err != io.EOF {
		return fanfare.Invalid("the body goes on after its JSON value")
	}
	return nil
}

// Text returns a member that must be a string; absent and null are "".
func (o Object) Text(name string) (string, error) {
	raw, ok := o[name]
	if !ok || string(raw) == "null" {
		return "", nil
	}
	if raw[0] != '"' {
		return "", fanfare.Invalid("%s must be a string", name)
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fanfare.Invalid("%s must be a string", name)
	}
	return s, nil
}

// Has tells whether a member is there and not null.
func (o Object) Has(name string) bool {
	raw, ok := o[name]
	return ok && string(raw) != "null"
}

// Data returns what goes out for a member: a string as it is, other JSON compact. Absent is an error.
func (o Object) Data(name string) (string, error) {
	raw, ok := o[name]
	if !ok {
		return "", fanfare.Invalid("%s is missing", name)
	}
	if raw[0] == '"' {
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return "", notJSON(err)
	}
	return compact.String(), nil
}

// IdempotencyKey returns the member idempotencyKey, checked; "" when there is none.
func (o Object) IdempotencyKey() (string, error) {
	if !o.Has("idempotencyKey") {
		return "", nil
	}
	key, err := o.Text("idempotencyKey")
	if err != nil {
		return "", err
	}
	return key, CheckKey("idempotencyKey", key)
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
