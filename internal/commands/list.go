package commands

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/fanfare-hub/fanfare"
)

// States returns all of them.
func States() []State { return []State{Scheduled, Pending, Received, Done, Failed, Expired, Cancelled} }

// ListQuery asks for commands of a channel's own recipient.
type ListQuery struct {
	Channel string
	State   State               // "" is any
	Before  fanfare.ScheduledID // references below it; 0 is any
	Limit   int
}

// The most that one list takes: commands that are looked at, the newest of those that have a state
// and the first of those that wait, and bytes of results.
const (
	maxListed      = 10_000
	maxListedBytes = 1 << 20
	listedAtOnce   = 16 // results that are read in one go
)

// List returns commands, newest first, and whether there are more: those that wait, and those that
// have a state. It reads the results of those alone that it returns, or whose state it has to know.
func (s *Service) List(ctx context.Context, q ListQuery) (list []Command, more bool, err error) {
	all, err := s.references(ctx, q)
	if err != nil {
		return nil, false, err
	}
	for bytes := 0; len(all) > 0; {
		some := all[:min(len(all), listedAtOnce)]
		if err := s.readStates(ctx, some); err != nil {
			return nil, false, err
		}
		for i := range some {
			if state := some[i].Now.State; state == "" || (q.State != "" && state != q.State) {
				continue // the first: its state was trimmed meanwhile
			}
			if len(list) == q.Limit || bytes > maxListedBytes {
				return list, true, nil
			}
			list = append(list, some[i])
			bytes += len(some[i].Now.Result) + len(some[i].Now.Error)
		}
		all = all[len(some):]
	}
	return list, false, nil
}

// references returns the commands that a list may have, newest first, without the states that are
// stored.
func (s *Service) references(ctx context.Context, q ListQuery) (list []Command, err error) {
	pattern, err := fanfare.ParsePattern("$acks/" + q.Channel + "/*")
	if err != nil {
		return nil, err
	}
	patterns := []fanfare.Pattern{pattern}
	// The expiries first: one that is published in between is seen as a state.
	page, err := s.Scheduler.Scheduled(ctx, fanfare.ScheduledQuery{Patterns: patterns, ByChannel: true,
		Limit: maxListed, Bytes: maxListedBytes << 3})
	if err != nil {
		return nil, err
	}
	waits := map[fanfare.ScheduledID]Change{}
	for i := range page.Events {
		waits[page.Events[i].ID] = s.pending(&page.Events[i])
	}
	var stored []Command
	for q := (fanfare.ChannelQuery{Patterns: patterns}); ; {
		page, err := s.Log.Channels(ctx, q)
		if err != nil {
			return nil, err
		}
		for i := range page.Channels {
			if c, ok := withState(&page.Channels[i].Latest); ok {
				c.Now = waits[c.Reference]
				stored = append(stored, c)
			}
		}
		if len(stored) > 2*maxListed { // names rise, and so do references
			stored = append(stored[:0], stored[len(stored)-maxListed:]...)
		}
		if q.From = page.Next; q.From == "" {
			break
		}
	}
	for i := range stored {
		delete(waits, stored[i].Reference)
	}
	if q.State != Pending && q.State != Scheduled { // those are not stored
		list = stored
	}
	for reference, change := range waits {
		list = append(list, Command{Reference: reference, Now: change})
	}
	list = slices.DeleteFunc(list, func(c Command) bool { return q.Before != 0 && c.Reference >= q.Before })
	slices.SortFunc(list, func(a, b Command) int { return cmp.Compare(b.Reference, a.Reference) })
	return list, nil
}

// withState is the command whose state stands in an answer channel, without that state.
func withState(e *fanfare.Event) (Command, bool) {
	name := e.Channel.String()
	reference, err := fanfare.ParseScheduledID(name[strings.LastIndexByte(name, '/')+1:])
	return Command{Reference: reference, Answers: e.Channel, position: e.Position}, err == nil
}

// readStates reads the states of those commands that have one.
func (s *Service) readStates(ctx context.Context, list []Command) error {
	var channels []fanfare.Channel
	var at []int
	for i := range list {
		if list[i].position != 0 {
			channels, at = append(channels, list[i].Answers), append(at, i)
		}
	}
	if len(channels) == 0 {
		return nil
	}
	events, err := s.newest(ctx, channels)
	for i := range events {
		c := &list[at[i]]
		expires, id := c.Now.Expires, c.Now.ID
		if events[i].Position == 0 { // it was trimmed meanwhile
			continue
		}
		if c.Now, c.position = changeOf(&events[i]), events[i].Position; c.Now.Expires.IsZero() {
			c.Now.Expires, c.Now.ID = expires, id
		}
	}
	return err
}

// States returns the states that the answer channels of a pattern have, by the names of the
// channels, without their results: there may be 100,000.
func (s *Service) States(ctx context.Context, pattern string) (map[string]Change, error) {
	p, err := fanfare.ParsePattern(pattern)
	if err != nil {
		return nil, err
	}
	states := map[string]Change{}
	for q := (fanfare.ChannelQuery{Patterns: []fanfare.Pattern{p}, Events: true}); ; {
		page, err := s.Log.Channels(ctx, q)
		if err != nil {
			return nil, err
		}
		for i := range page.Channels {
			change := changeOf(&page.Channels[i].Latest)
			states[page.Channels[i].Latest.Channel.String()] = Change{State: change.State, At: change.At}
		}
		if q.From = page.Next; q.From == "" {
			return states, nil
		}
	}
}
