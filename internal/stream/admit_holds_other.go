//go:build !linux

package stream

import (
	"net"
	"time"
)

// Refused connections wait in a goroutine here.
type holds struct{}

func (*holds) hold(*Streams, net.Conn, []byte, time.Duration, func()) bool { return false }
func (*holds) close()                                                      {}
