// Package stream serves hub subscribers over HTTP responses, as Server-Sent Events. It has three
// rooms (ADR 23); a file's name says which room it is in:
//
//   - Admission (admit_*.go) decides who gets a stream: limits, the registry of open streams,
//     tickets, refusals and their pace.
//   - The machine (machine*.go) decides what a client gets next: frames, a heartbeat, a gap, the
//     end. It does no I/O.
//   - Runners (run_*.go) own the connection and move bytes.
//
// A Stream (stream.go) is one response on its way through them; Streams (streams.go) is all of
// them.
//
// # The way of a published event
//
//	hub.Committed                      the log has made it durable; it is encoded once, and subscribers are woken
//	  Stream.Wake                      run: the stream goes onto its shard's inbox, or its goroutine gets a token
//	  shard.turn       attached.turn   run: its turn has come
//	    Stream.gather
//	      machine.next                 machine: takes the turn from the hub's memory, and makes the pieces
//	    shard.write    wire.write      run: one writev, or TLS records, or net/http
//	    Stream.sent
//	      machine.advance              machine: the cursor moves past what is certain to go out
//
// # The way of a resume
//
//	Streams.Serve                      admission: limits, tickets; the hub places a cursor
//	  Streams.run                      the connection is taken over, and a runner begins: the first bytes go out
//	  shard.turn       attached.turn
//	    machine.next                   machine: the verdict is `reads`; the hub reads the log when the owner has a permit
//	  HaveRead                         run: what was read waits for the stream's turn
//	  shard.turn       attached.turn   and so on, as above: replay and live are one loop
//
// # Runners
//
//   - On Linux, HTTP/1 connections, plain or over TLS, are taken over from net/http and detached: a
//     shard (run_shard_linux.go) serves many with two goroutines. Its worker asks the machine, and
//     writes without waiting; a socket that takes nothing makes its stream wait for an event of the
//     shard's poll.Loop. A sweep (run_sweep_linux.go) finds the streams that are due by time, and
//     ends those that stall. The end of a stream is in run_shard_end_linux.go.
//   - Elsewhere a stream has a goroutine of its own (run_attached.go), which writes to a wire: a
//     connection taken over (run_taken.go), also over TLS, or a ResponseWriter (run_plain.go), over
//     HTTP/2. A guard (run_guard.go) ends writes during which the peer takes nothing.
//
// Live (run_live.go) tells other goroutines how far a stream's peer has certainly come. It asks an
// acker (run_acks.go), of which there is one for each kind of connection; package peer says how the
// peer can be known on each.
package stream
