// Package hub fans a log out to subscribers. It knows no engine and no HTTP.
//
// # Top to bottom
//
// A Subscriber is a cursor in the log and a wake-up; it holds no payloads (subscriber.go). Its
// filters are shared with everybody who listens to the same (filter.go): exact channels are found
// in a map, patterns in a trie on segments (trie.go), so that the cost of a publish depends on who
// hears it and never on how many others are connected.
//
// When the log has made a group durable it calls Committed (hub.go): each event that somebody hears
// is encoded once and kept in memory for its filters, the durable position moves, and each
// subscriber concerned is woken once.
//
// A woken stream takes a turn (Subscriber.Next): all frames above its cursor up to the durable
// position, by position, each once, from memory; or, when they are not there, from the log
// (read.go). When they are sent, Advance moves the cursor. Replay and live are this one loop, so
// there is no seam between them (P2, P3).
//
// Memory (memory.go) holds stretches of filters: the newest events, and what was read from the log,
// for others who resume the same filter. It has one budget; what was needed least recently goes
// first. Only so many read the log at once (queue.go).
//
// Where a subscriber asks to start is in start.go; opening.go finds where it does start, and what
// it has missed (P4); state.go sends the state first to those that ask for it. Who is admitted is
// in admit.go, shutting down in drain.go (P7).
package hub
