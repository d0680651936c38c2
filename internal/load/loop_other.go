//go:build !linux

package load

import (
	"errors"
	"net"
	"time"
)

var errSystem = errors.New("load is made on Linux only: it waits with epoll")

type loop struct{}

func (*loop) open() error                                         { return errSystem }
func (*loop) shut()                                               {}
func (*loop) close(int)                                           {}
func (*loop) forget(*conn)                                        {}
func (*loop) dial(*net.TCPAddr, bool) (int, error)                { return -1, errSystem }
func (*loop) add(*conn) error                                     { return errSystem }
func (*loop) write(int, []byte) error                             { return errSystem }
func (*loop) wait(time.Duration, func(*conn, []byte) error) error { return errSystem }
