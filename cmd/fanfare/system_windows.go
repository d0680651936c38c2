package main

import "net"

// roomForStreams is how many streams with a goroutine each a machine with a few GiB of memory can
// hold; the system has no limit of its own.
func roomForStreams() int { return 16_000 }

// doNotBlock does nothing: no sockets are handed over on this system.
func doNotBlock(net.Listener) {}
