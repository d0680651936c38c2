package stream

import (
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// pace says when a refusal is answered.
type pace int

const (
	paceNow   pace = iota // at once
	paceLater             // after pacer.wait; pacer.leave gives the place back
	paceCut               // never: too many wait already
)

const (
	freeRefusals = 5                // of one address are answered at once,
	freeEvery    = 10 * time.Second // and one more after each of these
	pacerCells   = 4096
)

// pacer keeps clients that come back at once from flooding the hub with refusals: it delays the
// answer by 1 to 3 s. Its memory is bounded for any number of addresses: the free refusals are
// counted in cells which addresses may share, and the waiting ones have places. Its methods may be
// called from any goroutine.
type pacer struct {
	// Fixed.
	most        int                  // refusals that wait
	mostAddress int                  // of one address, or IPv6 network
	wait        func() time.Duration // how long an answer waits
	seed        maphash.Seed
	base        time.Time

	paced, cut atomic.Uint64

	mu    sync.Mutex // guards the fields below
	held  map[netip.Addr]int
	total int
	cells [pacerCells]time.Duration // since base: when all free refusals of an address are there again
}

func newPacer(most, mostAddress int) *pacer {
	// Spread, so that not all come back at once.
	wait := func() time.Duration { return time.Second + rand.N(2*time.Second) }
	return &pacer{
		most:        most,
		mostAddress: mostAddress,
		wait:        wait,
		seed:        maphash.MakeSeed(),
		base:        time.Now(),
		held:        map[netip.Addr]int{},
	}
}

// admit decides about a refusal to an address, or IPv6 network. always is for clients that come
// back at once after any answer: none of their refusals are free.
func (p *pacer) admit(from netip.Addr, always bool) pace {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !always && p.freeLocked(from):
		return paceNow
	case p.total >= p.most || p.held[from] >= p.mostAddress:
		p.cut.Add(1)
		return paceCut
	}
	p.total++
	p.held[from]++
	p.paced.Add(1)
	return paceLater
}

// freeLocked takes one of the address's free refusals. (This is GCRA, a token bucket in one
// number.) Addresses that share a cell share its free refusals: at worst an answer waits without
// need.
func (p *pacer) freeLocked(from netip.Addr) bool {
	now := time.Since(p.base)
	cell := p.cell(from)
	full := max(*cell, now) + freeEvery
	if full-now > freeRefusals*freeEvery {
		return false
	}
	*cell = full
	return true
}

func (p *pacer) cell(of netip.Addr) *time.Duration {
	return &p.cells[maphash.Comparable(p.seed, of)%pacerCells]
}

// leave gives the place of a refusal back.
func (p *pacer) leave(from netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total--
	less(p.held, from)
}

// waiting is how many refusals wait now.
func (p *pacer) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}
