package server

import (
	"context"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/promstats"
	"github.com/fanfare-hub/fanfare/internal/stats"
	"github.com/fanfare-hub/fanfare/internal/storeapi"
)

// maxAge asks an engine for how long it retains a channel's events. One that does not tell has no
// limit.
func maxAge(log Log) func(fanfare.Channel) time.Duration {
	if engine, ok := log.(fanfare.Operable); ok {
		return engine.MaxAge
	}
	return func(fanfare.Channel) time.Duration { return 0 }
}

func (s *Server) storeCounts() promstats.Stores {
	c := s.stores.Readers()
	return promstats.Stores{
		SharedReaders: map[string]uint64{"same": c.Shared,
			"different": c.Several}, DroppedReaders: c.Dropped, Forgotten: c.Forgotten, Looks: c.Looks,
	}
}

func (s *Server) storeReaders() stats.Readers {
	c := s.stores.Readers()
	return stats.Readers{Shared: c.Shared, Several: c.Several, Dropped: c.Dropped, Forgotten: c.Forgotten,
		Looks: c.Looks}
}

func (s *Server) knownPCs(ctx context.Context, most int) []stats.KnownPC {
	return pcs(s.stores.Known(ctx, most))
}
func (s *Server) presentPCs() []stats.KnownPC { return pcs(s.stores.Present()) }

func pcs(list []storeapi.PC) []stats.KnownPC {
	known := make([]stats.KnownPC, 0, len(list))
	for _, p := range list {
		one := stats.KnownPC{Store: p.Store,
			PC: stats.PC{PC: p.PC, Open: p.Open, LastSeen: p.Seen, Shared: p.SharedBy > 0 && p.SharedBy < sharedFor}}
		for _, r := range p.Readers {
			one.PC.Readers = append(one.PC.Readers, stats.Reader{Address: r.Address, Streams: r.Streams})
		}
		known = append(known, one)
	}
	return known
}

// sharedFor is for how long a PC that was read twice at once is shown as such.
const sharedFor = 10 * time.Minute
