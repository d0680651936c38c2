// Package poll is for connections that are served without a goroutine each: sets of sockets to wait for, and system calls on sockets
// that do not block. There is something in it on Linux alone.
package poll
