//go:build !linux

package peer

import (
	"net"
	"time"
)

// Socket stands for a connection of which this system knows nothing.
type Socket struct{}

// SocketOf returns nil: the acknowledged bytes are not known here, so no bytes count as
// acknowledged before the end.
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
