// Package fanfare holds the nouns and the promises of a durable push hub: a back end publishes an
// event once. Every subscriber that should hear the event receives it, in order. After any break
// each one carries on exactly where it left off.
//
// The package does no I/O and starts no goroutine. Engines (package pebblelog) implement Log;
// package server fans out from a Log to subscribers, in the same program and over HTTP.
//
// # Words
//
//   - event: channel, type, data (UTF-8 text), time (the server's clock at commit, never used for
//     order); never changed after publish.
//   - channel: a name such as stores/42/pcs/7; see Channel.
//   - pattern: a channel, or a name with wildcards, that a subscriber listens to; see Pattern.
//   - position: where an event stands in the log, a 64-bit number; its text is the event's id. See
//     Position.
//   - log: the ordered, durable store of events. One engine implements it.
//   - run: the positions given between one opening of a log and the next.
//   - trim mark: the highest position of a channel that retention has removed.
//   - filter: an exact channel or a pattern that has a subscriber, interned.
//   - subscriber: a cursor in the log and a wake-up; never a queue of payloads.
//   - stream: one HTTP response that serves a subscriber.
//   - gap: a range that a subscriber asked for and the log no longer holds.
//   - kept position: the position from which a device that sends none carries on.
//   - principal: the caller of a request, and its rights; see Principal.
//   - grant: an action, and the pattern of channels on which it is allowed.
//   - ticket: stands in for a token in the URL of one stream.
//   - adapter: code that speaks one outside protocol and translates it.
//
// # Promises
//
//   - P1 Durable, then visible, then acknowledged. No client ever sees an event that a crash can
//     take back.
//   - P2 Ordered. Every subscriber sees its channels' events in log order, each once per stream.
//   - P3 Resume is exact. After position X come all retained events after X, then live ones: no
//     hole, no repeat, no seam.
//   - P4 A gap is an answer, never a silence.
//   - P5 A slow reader costs nobody anything. It lags in the log and holds no payloads.
//   - P6 No silent drop. A request that cannot be taken is refused with a reason; every drop and
//     cut has a name and a counter.
//   - P7 Shutting down is a feature. Streams end spread over a window, between events; accepted
//     publishes are kept.
//   - P8 Nobody hears what they may not. Rights are checked at connect and on every replayed event,
//     and end with the token.
package fanfare
