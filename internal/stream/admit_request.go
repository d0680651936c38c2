package stream

import (
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/hub"
)

// Idle is the kind of sign of life that an idle stream sends.
type Idle uint8

// The signs of life.
const (
	IdleComment Idle = iota // the comment line ":"
	IdleEvent               // `event: heartbeat` with the position
)

// Farewell says when the hub ends a stream with one more heartbeat event.
type Farewell uint8

// The farewells. With each of them nothing is said when rights have ended.
const (
	FarewellNone     Farewell = iota // never: the client wants no heartbeat events
	FarewellRetry                    // to say when to come back: at a drain, or when an operator ends the stream
	FarewellPosition                 // at the end of its lifetime too, when the position has moved
)

// Request is a stream that an adapter asks Streams to serve.
type Request struct {
	Adapter  string // the adapter that serves it: a metric's label
	Caller   caller.Caller
	Owned    int                        // an administrator of the first Owned patterns may end the stream; 0: of all
	May      func(fanfare.Channel) bool // whether the caller may hear a replayed event (P8); nil: all
	Patterns []fanfare.Pattern          // each is there once
	Start    hub.Start
	Manner
	Lifetime time.Duration // 0: for ever; jittered down by up to a tenth
	Pause    bool          // its clients come back at once after any answer: every refusal waits
	Watch    Watcher       // may be nil
}

// Manner is how a client wants its stream, beside the events.
type Manner struct {
	First     func(dst []byte, id string) []byte // appends the first event, which tells the start position; nil: none
	Heartbeat time.Duration                      // overrides Options.Heartbeat when set
	Idle      Idle
	Farewell  Farewell
	Envelope  bool // events as JSON objects with channel, event, data and time, all of type message
}

// AppendHeartbeat appends a heartbeat event, which carries a position. It is a Manner.First.
func AppendHeartbeat(dst []byte, id string) []byte { return appendHeartbeat(dst, id, time.Now()) }

// Watcher hears of one stream, from the stream's goroutine; its methods must not block.
type Watcher interface {
	Opened(*Live) // before the first byte
	Changed()     // events were sent, or the stream has ended
}
