// Package stream serves hub subscribers over HTTP responses, as Server-Sent Events.
//
// Streams (streams.go) admits. Requests that cannot be admitted are answered by refuse.go, when the pacer (pacer.go) says; connections
// whose answer waits are in holds_linux.go. A ticket opens one stream (tickets.go). A Stream (stream.go) knows what its client is to get
// next: gather (gather.go) makes it of the subscriber's turn, adds heartbeats when idle and the right words at the end. It does
// no I/O. Two kinds of runners do that:
//
//   - On Linux, HTTP/1 connections, plain or over TLS, are taken over from net/http and detached: a shard (shard_linux.go) serves many with two
//     goroutines. Its worker calls gather and writes without waiting (writev_linux.go); a socket that takes nothing makes its stream
//     wait for an event of epoll. What is due by time is found by a sweep (sweep_linux.go), the end is in shard_end_linux.go.
//   - Elsewhere a stream has a goroutine of its own (attached.go), which writes to a wire: a connection taken over (taken.go), also over
//     TLS, or a ResponseWriter (plain.go), over HTTP/2. A guard (guard.go) ends writes during which the peer takes nothing.
//
// Live (live.go) tells other goroutines how far a stream's peer has certainly come. It asks an acker (acks.go), of which there is one for
// each kind of connection; package peer says how the peer can be known on each.
package stream
