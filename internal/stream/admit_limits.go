package stream

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
)

// Limits bound the streams of callers, and the refusals that wait. The limit on all streams is the
// hub's (hub.Options.MaxSubscribers).
type Limits struct {
	PerAddress   int     // streams of one address, or IPv6 network; 0: no limit; see caller.Caller.CountedAs
	PerSubject   int     // streams of one identified caller; 0: no limit
	PerChannel   int     // streams of one channel or pattern; 0: no limit
	NewPerSecond float64 // streams that may open in a second, all together; 0: no limit

	// RefusalsHeld is how many refusals wait with their answer, because their client would come
	// back at once; default 1,000. RefusalsHeldPerAddress is how many of them are of one address,
	// or IPv6 network, loopback and proxies' own included; default 32.
	RefusalsHeld, RefusalsHeldPerAddress int
}

// places count the streams under the limits. Its methods may be called from any goroutine.
type places struct {
	// Fixed.
	limits Limits
	opens  *rate.Limiter // nil: no limit

	mu        sync.Mutex // guards the fields below
	addresses map[netip.Addr]int
	subjects  map[string]int
	channels  map[fanfare.Pattern]int
}

func newPlaces(l Limits) *places {
	p := &places{
		limits:    l,
		addresses: map[netip.Addr]int{},
		subjects:  map[string]int{},
		channels:  map[fanfare.Pattern]int{},
	}
	if l.NewPerSecond > 0 {
		p.opens = rate.NewLimiter(rate.Limit(l.NewPerSecond), int(max(1, l.NewPerSecond)))
	}
	return p
}

// limited is the error of a limit.
func limited(reason fanfare.Reason, setting fanfare.Setting, format string, args ...any) error {
	e := fanfare.Errorf(fanfare.CodeOverloaded, format, args...)
	e.Reason, e.Setting, e.RetryAfter = reason, setting, 5*time.Second
	return e
}

// take takes a place under each limit, or none. Each pattern is there once. extra says how many
// streams more than a limit there may be: one where another stream is about to end for this one.
func (p *places) take(by caller.Caller, patterns []fanfare.Pattern, extra int) error {
	if p.opens != nil && !p.opens.Allow() {
		return limited(fanfare.ReasonStreamRate, fanfare.SettingMaxNewStreams, "too many streams begin at once")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	address, name := p.counted(by)
	if address.IsValid() && p.addresses[address] >= p.limits.PerAddress+extra {
		return limited(fanfare.ReasonPerAddress, fanfare.SettingMaxStreamsPerAddress,
			"no room for another stream of this address")
	}
	if name != "" && p.subjects[name] >= p.limits.PerSubject+extra {
		return limited(fanfare.ReasonPerSubject, fanfare.SettingMaxStreamsPerSubject,
			"no room for another stream of this subject")
	}
	if p.limits.PerChannel > 0 {
		for _, c := range patterns {
			if p.channels[c] >= p.limits.PerChannel+extra {
				return limited(fanfare.ReasonPerChannel, fanfare.SettingMaxStreamsPerChannel,
					"no room for another stream of channel %q", c)
			}
		}
		for _, c := range patterns {
			p.channels[c]++
		}
	}
	if address.IsValid() {
		p.addresses[address]++
	}
	if name != "" {
		p.subjects[name]++
	}
	return nil
}

// giveBack gives back the places that take took.
func (p *places) giveBack(by caller.Caller, patterns []fanfare.Pattern) {
	p.mu.Lock()
	defer p.mu.Unlock()
	address, name := p.counted(by)
	if address.IsValid() {
		less(p.addresses, address)
	}
	if name != "" {
		less(p.subjects, name)
	}
	if p.limits.PerChannel > 0 {
		for _, c := range patterns {
			less(p.channels, c)
		}
	}
}

// counted returns the address and the name by which a caller's streams are counted. The address is
// not valid, or the name is "", if there is no limit.
func (p *places) counted(by caller.Caller) (address netip.Addr, name string) {
	if p.limits.PerAddress > 0 {
		address = by.CountedAs()
	}
	if p.limits.PerSubject > 0 && by.Who != nil {
		name = by.Name()
	}
	return address, name
}

// less counts one less of a key.
func less[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}
