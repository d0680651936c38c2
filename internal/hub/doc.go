// Package hub fans a log out to subscribers. It knows no engine and no HTTP.
//
// # Top to bottom
//
// A Subscriber is a cursor in the log and a wake-up; it holds no payloads (subscriber.go). Its
// filters are shared by all subscribers that listen to the same channel or pattern (filter.go). A
// map finds exact channels, and a trie on segments finds patterns (trie.go). So the cost of a
// publish depends on the subscribers that hear it, and never on how many others are connected.
//
// When the log has made a group durable, it calls Committed (hub.go). The hub encodes each event
// that has a listener once, keeps the frame in memory for its filters, moves the durable position,
// and wakes each subscriber concerned once.
//
// A woken stream takes a turn (Subscriber.Next). The turn holds all frames above the cursor up to
// the durable position, by position, each once. They come from memory or, when memory lacks them,
// from the log (read.go). When they are sent, Advance moves the cursor. Replay and live are this
// one loop, so there is no seam between them (P2, P3).
//
// Memory (memory.go) holds stretches of filters: the newest events, and events that were read from
// the log and may be needed by other subscribers that resume the same filter. All stretches share
// one budget, and the least recently used is dropped first. The number of reads of the log at one
// time is limited (queue.go).
//
// A subscriber asks for a start (start.go). The search finds the position that it really starts
// from, and the events that it has missed (search.go, P4). A subscriber that asks for the state
// gets it first (state.go). The hub admits subscribers in admit.go, and drains in drain.go (P7).
package hub
