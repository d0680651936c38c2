//go:build !linux

package peer

import (
	"net"
	"time"
)

// Socket is what the system knows of a connection: nothing, here.
type Socket struct{}

// SocketOf returns nil: what the peer has acknowledged is not known here, so nothing counts as such
// before the end.
func SocketOf(net.Conn) *Socket { return nil }

// Acked is for other systems.
func (*Socket) Acked() (n int64, known bool) { return 0, false }

// Given is for other systems.
func (*Socket) Given() (n int64, known bool) { return 0, false }

// GivenAtClose is for other systems.
func (*Socket) GivenAtClose() (n int64, known bool) { return 0, false }

// Closing is for other systems.
func (*Socket) Closing() {}

// Tune is for other systems.
func Tune(net.Conn, time.Duration) {}

// Bound is for other systems.
func Bound(net.Conn) {}

// Drained is for other systems.
func Drained(net.Conn) (drained, known bool) { return false, false }
