package storeapi

import (
	"context"
	"maps"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/fleet"
)

// PC is the state of one PC that the hub knows.
type PC struct {
	fleet.Device
	Open bool // a stream of it is
	// when its last stream stood, or its health mark came, as far as that is stored; zero when it
	// is not
	Seen     time.Time
	Readers  []Reader
	SharedBy time.Duration // how long ago it was found to be read twice at once; 0: not lately
}

// Reader is one reader of a PC.
type Reader struct {
	Address string
	Streams int // that are open
}

// Present returns the PCs that have open streams. It does not block for long.
func (a *API) Present() (list []PC) {
	k := a.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	for _, p := range k.pcs {
		if !p.open() {
			continue
		}
		one := PC{Device: p.device(), Open: true}
		if s, ok := k.shared[p.channel]; ok {
			one.SharedBy = max(time.Duration(now-s.found)*time.Millisecond, 1)
		}
		for r := p.readers; r != nil; r = r.next {
			seen := Reader{Address: r.id.text()}
			for v := r.open; v != nil; v = v.next {
				seen.Streams++
			}
			one.Readers = append(one.Readers, seen)
		}
		list = append(list, one)
	}
	return list
}

// Known returns up to most PCs that the log knows and that were there in the last month. It reads
// the log.
func (a *API) Known(ctx context.Context, most int) (list []PC) { return a.known(ctx, "", most) }

// known is Known for the PCs of one store, or, with "", of all.
func (a *API) known(ctx context.Context, store string, most int) (list []PC) {
	known := map[fleet.Device]int{} // indices in list
	below := ""
	if store != "" {
		below = store + "/"
	}
	for _, prefix := range []string{keptPrefix, seenPrefix} {
		_ = a.o.Keeper.EachKept(ctx, prefix+below, func(kept fanfare.Kept) bool {
			var d fleet.Device
			var ok bool
			if d.Store, d.PC, ok = strings.Cut(strings.TrimPrefix(kept.Name, prefix), "/"); !ok || kept.Age > seenFor {
				return true
			}
			i, twice := known[d]
			if !twice {
				i = len(list)
				known[d], list = i, append(list, PC{Device: d})
			}
			if kept.Time.After(list[i].Seen) {
				list[i].Seen = kept.Time
			}
			if cursors, err := readCursors(kept); err == nil && prefix == keptPrefix {
				for _, c := range cursors {
					list[i].Readers = append(list[i].Readers, Reader{Address: c.id.text()})
				}
			}
			return len(list) < most
		})
	}
	return list
}

// Readers returns counts.
func (a *API) Readers() Readers {
	a.kept.mu.Lock()
	defer a.kept.mu.Unlock()
	counts := a.kept.counts
	counts.Looks = map[string]uint64{LookAsked: 0, LookNoRight: 0}
	maps.Copy(counts.Looks, a.kept.counts.Looks)
	return counts
}

// looked counts a stream that only looks.
func (k *positions) looked(why string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.counts.Looks == nil {
		k.counts.Looks = map[string]uint64{}
	}
	k.counts.Looks[why]++
}
