package main

import (
	"net"
	"net/http"
	"net/netip"
	"sync"

	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/forwarded"
)

// connections bounds how many connections an address may have, streams that were taken over
// excepted, for which there are limits of their own. One too many is closed before anything is read
// from it.
type connections struct {
	most   int
	exempt func(netip.Addr) bool

	mu     sync.Mutex // guards the fields below
	counts map[netip.Addr]int
	of     map[net.Conn]netip.Addr
}

func newConnections(most int, origin *forwarded.Resolver) *connections {
	return &connections{
		most: most, counts: map[netip.Addr]int{}, of: map[net.Conn]netip.Addr{},
		exempt: func(a netip.Addr) bool { return a.IsLoopback() || origin.Trusts(a) },
	}
}

// changed is an http.Server's ConnState.
func (c *connections) changed(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if !c.add(conn) {
			_ = conn.Close()
		}
	case http.StateClosed, http.StateHijacked:
		c.remove(conn)
	}
}

func (c *connections) add(conn net.Conn) bool {
	ap, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return true // a Unix socket
	}
	address := ap.Addr().Unmap().WithZone("")
	if c.exempt(address) {
		return true
	}
	address = caller.Network(address)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts[address] >= c.most {
		return false
	}
	c.counts[address]++
	c.of[conn] = address
	return true
}

func (c *connections) remove(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	address, counted := c.of[conn]
	if !counted {
		return
	}
	delete(c.of, conn)
	if c.counts[address]--; c.counts[address] == 0 {
		delete(c.counts, address)
	}
}
