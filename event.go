package fanfare

import (
	"time"
	"unicode/utf8"
)

// Event is one thing that was published. It never changes after publish, and so may be shared
// freely.
type Event struct {
	Position Position // given by the log; zero before
	Channel  Channel
	Type     EventType
	Data     string    // valid UTF-8
	Time     time.Time // the log's clock at commit, to the millisecond; never used for order
	Expires  time.Time // set by the log: when the event expires (Batch.TTL); zero: never
	Trace    string    // the W3C traceparent of the publish when it was traced, else empty
}

// MaxTypeBytes is the longest event type, in bytes of UTF-8.
const MaxTypeBytes = 128

// EventType is the name under which a client listens (SSE `event:`). The zero EventType is
// `message`.
type EventType struct{ name string }

// DefaultType is the name of the zero EventType.
const DefaultType = "message"

// ParseEventType checks name: at most MaxTypeBytes of UTF-8 without control characters. Empty is
// `message`. Refused with CodeInvalid are `open` and `error`, which set off a browser's own
// handlers, and `gap` and `heartbeat`, which are the hub's.
func ParseEventType(name string) (EventType, error) {
	switch {
	case name == "" || name == DefaultType:
		return EventType{}, nil
	case len(name) > MaxTypeBytes:
		return EventType{}, Invalid("event is %d bytes long, the limit is %d", len(name), MaxTypeBytes)
	case !utf8.ValidString(name):
		return EventType{}, Invalid("event is not valid UTF-8")
	case hasControl(name):
		return EventType{}, Invalid("event %q has a control character", clip(name))
	case name == "open" || name == "error":
		return EventType{}, Invalid("event %q is reserved: it would set off a browser's own handlers", name)
	case name == "gap" || name == "heartbeat":
		return EventType{}, Invalid("event %q is reserved for the hub", name)
	}
	return EventType{name: name}, nil
}

// String returns the name, `message` for the zero value.
func (t EventType) String() string {
	if t.name == "" {
		return DefaultType
	}
	return t.name
}

// IsDefault tells whether t is `message`, which the wire leaves out.
func (t EventType) IsDefault() bool { return t.name == "" }
