package main

import "net"

// roomForStreams is what a machine with a few GiB of memory holds in streams with a goroutine each;
// the system has no limit of its own.
func roomForStreams() int { return 16_000 }

// doNotBlock does nothing: no sockets are handed over on this system.
func doNotBlock(net.Listener) {}
