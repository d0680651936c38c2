// Package peer knows the other end of a connection: how many bytes it has acknowledged, over plain
// HTTP, TLS and HTTP/2.
//
// The kernel knows it for the bytes of a socket (socket_linux.go). With TLS or HTTP/2 in between,
// these are not the bytes of a stream, so this package finds out which bytes of the socket hold
// which bytes of the stream:
//
//   - On plain HTTP/1 they are the same bytes.
//   - On HTTP/1 over TLS a write has returned when its bytes are in the socket. The number of bytes
//     that the socket had been given by then (Socket.Given) is the mark of the write: the peer has
//     the write's bytes when it has acknowledged as many. Marks (marks.go) keeps these pairs.
//   - On HTTP/2 a handler's Flush returns before its bytes reach the connection: net/http keeps
//     them in a buffer, which another goroutine flushes (h2_bundle.go: startFrameWrite, wroteFrame,
//     scheduleFrameWrite). A mark taken then would be too low, and an event would count as received
//     that never left the process. So a Conn (conn.go) stands where HTTP/2 writes its frames, reads
//     their headers as they leave (frames.go), and takes each stream's marks when the write that
//     carried its DATA has returned.
//
// A mark that is too high only makes an event come twice; a mark that is too low loses it. Where
// the right mark is not known, this package chooses a higher one, or says that it does not know.
//
// No code of ours can stand between net/http's HTTP/2 and its TLS, because net/http wants a
// *tls.Conn. So a Listener (listener.go) speaks TLS itself, and gives net/http connections that
// look plain: on these it speaks HTTP/1 and, by the client's first bytes, HTTP/2.
package peer
