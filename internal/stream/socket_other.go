//go:build !linux

package stream

import (
	"net"

	"github.com/fanfare-hub/fanfare/hub"
)

// Streams are not detached here.
type (
	detached struct{}
	shards   struct{}
)

func (*shards) detach(*Streams, *Stream, net.Conn, int, []byte, hub.Opening) bool { return false }
func (*shards) close()                                                            {}
