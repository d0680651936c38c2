// Package stream serves one hub subscriber over one HTTP response, as Server-Sent Events.
//
// Streams (streams.go) admits and answers requests that cannot be admitted. A Stream (stream.go) is one goroutine that takes
// the subscriber's turns, and writes heartbeats when idle and the right words at the end. It writes to a wire: a connection
// taken over from net/http where that is plain HTTP/1 (taken.go), so that a frame's chunk is written as it is, a stalled peer
// is told from a slow one, and what the peer's TCP has acknowledged is known; or a ResponseWriter elsewhere (plain.go).
//
// Live (live.go) tells other goroutines how far a stream's peer has certainly come.
package stream
