// Package peer knows the other end of a connection: how many bytes it has acknowledged, over plain
// HTTP, TLS and HTTP/2.
//
// The kernel knows it for the bytes of a socket (socket_linux.go). What a stream has written is
// something else as soon as TLS or HTTP/2 is in between, and somebody has to tell which bytes of
// the socket hold which bytes of the stream:
//
//   - On plain HTTP/1 they are the same bytes.
//   - On HTTP/1 over TLS a write has returned when its bytes are in the socket. What the socket had
//     been given by then (Socket.Given) is the mark of what was written: the peer has it when it
//     has acknowledged as much. Marks (marks.go) keeps these pairs.
//   - On HTTP/2 a handler's Flush returns before its bytes reach the connection: net/http keeps
//     them in a buffer, which another goroutine flushes (h2_bundle.go: startFrameWrite, wroteFrame,
//     scheduleFrameWrite). A mark taken then would be too low, and an event would count as received
//     that never left the process. So a Conn (conn.go) stands where HTTP/2 writes its frames, reads
//     their headers as they leave (frames.go), and takes each stream's marks when the write that
//     carried its DATA has returned.
//
// A mark that is too high only has an event come twice; one that is too low loses it. Wherever the
// two cannot be told apart, what is here errs on the high side, or says that it does not know.
//
// Between net/http's HTTP/2 and its TLS nothing can stand, since it wants a *tls.Conn. So a
// Listener (listener.go) speaks TLS itself, and gives net/http connections that look plain: on
// these it speaks HTTP/1 and, by the client's first bytes, HTTP/2.
package peer
