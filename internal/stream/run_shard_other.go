//go:build !linux

package stream

import (
	"net"
)

// Streams are not detached here.
type (
	detached struct{}
	shards   struct{}
)

func (*shards) detach(*Streams, *Stream, net.Conn, int, []byte) bool { return false }
func (*shards) close()                                               {}
