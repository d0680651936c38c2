package publish

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/spell"
)

// Object is a JSON object's members, as they stand in the text, which must not change.
// encoding/json would match names without regard to case and let the last of two members win; here
// names are exact, and a member given twice is refused.
type Object []member

type member struct {
	name  string
	value json.RawMessage
}

// ParseObject reads one JSON object and nothing else.
func ParseObject(body []byte) (Object, error) { return ParseObjectOf(body, "the body", "") }

// ParseObjectOf is ParseObject of a text that errors call what. They also show the example, if
// there is one.
func ParseObjectOf(text []byte, what, example string) (Object, error) {
	if err := valid(text, what); err != nil {
		return nil, err
	}
	if example != "" {
		example = ", such as " + example
	}
	o, _, err := readObject(space(text), what, example)
	return o, err
}

// ParseObjects reads a JSON object, or an array of up to most objects. array says which it was.
func ParseObjects(body []byte, most int) (objects []Object, array bool, err error) {
	if trimmed := space(body); len(trimmed) == 0 || trimmed[0] != '[' {
		o, err := ParseObject(body)
		return []Object{o}, false, err
	}
	if manyElements(body, most) {
		return nil, true, tooMany(most)
	}
	if err := valid(body, "the body"); err != nil {
		return nil, true, err
	}
	for rest := space(space(body)[1:]); rest[0] != ']'; {
		if len(objects) == most {
			return nil, true, tooMany(most)
		}
		var o Object
		if o, rest, err = readObject(rest, "an event", ""); err != nil {
			return nil, true, err
		}
		objects = append(objects, o)
		if rest = space(rest); rest[0] == ',' {
			rest = space(rest[1:])
		}
	}
	if len(objects) == 0 {
		return nil, true, fanfare.Invalid("the array is empty: it must have 1 to %d events", most)
	}
	return objects, true, nil
}

func tooMany(most int) error {
	return fanfare.Errorf(fanfare.CodeTooLarge, "the array has more than %d events", most)
}

// manyElements tells whether the array at the beginning of a text has more than most elements; the
// text may be no valid JSON after that. It stops there, so that an array of 600,000 events costs no
// more than one of a thousand.
func manyElements(b []byte, most int) bool {
	commas, depth := 0, 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			n := stringEnd(b[i:])
			if n < 0 {
				return false
			}
			i += n - 1
		case '[', '{':
			depth++
		case ']', '}':
			if depth--; depth == 0 {
				return false
			}
		case ',':
			if depth > 1 {
				continue
			}
			if commas++; commas == most {
				rest := space(b[i+1:])
				return len(rest) > 0 && rest[0] != ']' // which is no JSON
			}
		}
	}
	return false
}

// valid makes sure that a text is one JSON text in UTF-8, as the functions below require; errors
// call the text what.
func valid(text []byte, what string) error {
	if !utf8.Valid(text) {
		return fanfare.Invalid("%s is not valid UTF-8", what)
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return fanfare.Invalid("%s is empty: it must be a JSON object", what)
	}
	if !json.Valid(text) {
		var v json.RawMessage
		return notJSON(what, json.Unmarshal(text, &v))
	}
	return nil
}

func notJSON(what string, err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fanfare.Invalid("%s is not valid JSON: %s at byte %d", what, syntax.Error(), syntax.Offset)
	}
	return &fanfare.Error{Code: fanfare.CodeInvalid, Detail: what + " is not valid JSON", Err: err}
}

// space leaves out white space at the beginning (RFC 8259, section 2).
func space(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t' || b[0] == '\r' || b[0] == '\n') {
		b = b[1:]
	}
	return b
}

// MaxMembers is how many members an object may have. Each costs some fifty bytes besides its text,
// which may have five, and is compared with all members before it. Objects that the hub knows have
// ten at most.
const MaxMembers = 64

// readObject reads the object at the beginning of a valid text, and returns the text after it. A
// json.Decoder does the same with an allocation for each token; it was half of the time that an
// NDJSON line took.
func readObject(b []byte, what, example string) (o Object, rest []byte, err error) {
	if b[0] != '{' {
		return nil, b, fanfare.Invalid("%s must be a JSON object%s", what, example)
	}
	o = make(Object, 0, 4)
	for b = space(b[1:]); b[0] != '}'; {
		n := valueEnd(b)
		name := text(b[:n])
		b = space(space(b[n:])[1:]) // the colon
		n = valueEnd(b)
		if _, twice := o.find(name); twice {
			return nil, b, fanfare.Invalid("member %q is given twice", clip(name))
		}
		if len(o) == MaxMembers {
			return nil, b, fanfare.Invalid("the object has more than %d members", MaxMembers)
		}
		o = append(o, member{name, json.RawMessage(b[:n:n])})
		if b = space(b[n:]); b[0] == ',' {
			b = space(b[1:])
		}
	}
	return o, b[1:], nil
}

// valueEnd is where the value at the beginning of a valid text ends.
func valueEnd(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			i += stringEnd(b[i:]) - 1
		case '{', '[':
			depth++
			continue
		case '}', ']':
			if depth == 0 {
				return i // of the object or array around the value, a number or a literal
			}
			depth--
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
			continue
		default:
			continue
		}
		if depth == 0 {
			return i + 1
		}
	}
	return len(b)
}

// stringEnd is where the string at the beginning of a text ends; below 0 when it does not, which a
// valid text's does.
func stringEnd(b []byte) int {
	for i := 1; ; i++ {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		i += n
		slashes := 0
		for b[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i + 1
		}
	}
}

// text is a string's value. Half a surrogate pair becomes U+FFFD, as encoding/json has it.
func text(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	_ = json.Unmarshal(raw, &s) // it is valid
	return s
}

func (o Object) find(name string) (json.RawMessage, bool) {
	for i := range o {
		if o[i].name == name {
			return o[i].value, true
		}
	}
	return nil, false
}

// Raw returns a member as it stands in the text; nil when there is none.
func (o Object) Raw(name string) json.RawMessage {
	raw, _ := o.find(name)
	return raw
}

// Text returns a member that must be a string; absent and null are "".
func (o Object) Text(name string) (string, error) {
	raw, ok := o.find(name)
	if !ok || string(raw) == "null" {
		return "", nil
	}
	if raw[0] != '"' {
		return "", fanfare.Invalid("%s must be a string", name)
	}
	return text(raw), nil
}

// Has tells whether a member is there and not null.
func (o Object) Has(name string) bool {
	raw, ok := o.find(name)
	return ok && string(raw) != "null"
}

// Data returns the data that a member stands for: a string as it is, other JSON in compact form. An
// absent member is an error.
func (o Object) Data(name string) (string, error) {
	raw, ok := o.find(name)
	if !ok {
		return "", fanfare.Invalid("%s is missing", name)
	}
	if raw[0] == '"' {
		return text(raw), nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return "", notJSON("the body", err)
	}
	return compact.String(), nil
}

// Only refuses an object that has other members than those named: one that is misspelt would do
// nothing, and say nothing.
func (o Object) Only(names ...string) error {
	for i := range o {
		if slices.Contains(names, o[i].name) {
			continue
		}
		if near := spell.Nearest(o[i].name, names...); near != "" {
			return fanfare.Invalid("member %q is not known: did you mean %q?", clip(o[i].name), near)
		}
		return fanfare.Invalid("member %q is not known: the members are %s", clip(o[i].name), strings.Join(names, ", "))
	}
	return nil
}

// Name returns a member that must be a text and not empty, if it is given. An empty text, or null,
// comes from a variable that was not set, and would be taken for an absent member.
func (o Object) Name(name string) (text string, given bool, err error) {
	raw, given := o.find(name)
	if !given {
		return "", false, nil
	}
	if string(raw) != "null" {
		if text, err = o.Text(name); err != nil {
			return "", true, err
		}
	}
	if text == "" {
		return "", true, fanfare.Invalid("%s is empty: leave it out, or say which", name)
	}
	return text, true, nil
}

// Number returns a member that must be a whole number above zero, if it is given.
func (o Object) Number(name string) (n uint64, given bool, err error) {
	raw, given := o.find(name)
	if !given {
		return 0, false, nil
	}
	if n, err = strconv.ParseUint(string(raw), 10, 64); err != nil || n == 0 {
		return 0, true, fanfare.Invalid("%s must be a whole number above zero", name)
	}
	return n, true, nil
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
