//go:build unix

package main

import (
	"net"
	"syscall"
)

// roomForStreams leaves 500 descriptors for the log and for requests.
func roomForStreams() int {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return 500
	}
	return int(min(max(int64(lim.Cur)-500, 100), 1<<30))
}

// doNotBlock makes accept return when there is no connection, on a socket that other processes hold
// too.
func doNotBlock(l net.Listener) {
	if socket, ok := l.(syscall.Conn); ok {
		if raw, err := socket.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { _ = syscall.SetNonblock(int(fd), true) })
		}
	}
}
