// Package poll serves connections without a goroutine each. A Loop watches sockets, and its essay
// says which goroutine owns a socket and when; Sweep visits the owners by time; Ring distributes
// sockets over loops. Below them are Set, the kernel's set of sockets, and system calls on sockets
// that do not block. TLS is TLS over such a socket. Most of the package is there on Linux alone.
package poll
