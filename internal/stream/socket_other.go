//go:build !linux

package stream

import (
	"net"
	"syscall"
	"time"

	"github.com/fanfare-hub/fanfare/hub"
)

func tune(syscall.RawConn, time.Duration) {}

// What the peer has acknowledged is not known here, so nothing counts as such before the end.
func acksOfConn(syscall.RawConn) acker { return nil }

// Streams are not detached here.
type (
	detached struct{}
	shards   struct{}
)

func (*shards) detach(*Streams, *Stream, net.Conn, int, []byte, hub.Opening) bool { return false }
func (*shards) close()                                                            {}
