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

// List returns up to most commands of a channel's own recipient, newest first: those that wait, and
// those that have a state.
func (s *Service) List(ctx context.Context, channel string, most int) ([]Command, error) {
	pattern, err := fanfare.ParsePattern("$acks/" + channel + "/*")
	if err != nil {
		return nil, err
	}
	patterns := []fanfare.Pattern{pattern}
	byReference := map[fanfare.ScheduledID]Command{}
	// The expiries first: one that is published in between is seen as a state.
	page, err := s.Scheduler.Scheduled(ctx, fanfare.ScheduledQuery{Patterns: patterns, ByChannel: true, Limit: most})
	if err != nil {
		return nil, err
	}
	for i := range page.Events {
		e := &page.Events[i]
		byReference[e.ID] = Command{Reference: e.ID, Answers: e.Event.Channel, Now: s.pending(e)}
	}
	q := fanfare.ChannelQuery{Patterns: patterns, Events: true}
	for seen := 0; seen < most; {
		page, err := s.Log.Channels(ctx, q)
		if err != nil {
			return nil, err
		}
		for i := range page.Channels {
			addState(byReference, &page.Channels[i].Latest)
		}
		seen += len(page.Channels)
		if q.From = page.Next; q.From == "" {
			break
		}
	}
	list := make([]Command, 0, len(byReference))
	for _, c := range byReference {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Command) int { return cmp.Compare(b.Reference, a.Reference) })
	return list, nil
}

// addState adds the state that an answer channel's newest event says.
func addState(byReference map[fanfare.ScheduledID]Command, e *fanfare.Event) {
	name := e.Channel.String()
	reference, err := fanfare.ParseScheduledID(name[strings.LastIndexByte(name, '/')+1:])
	if err != nil {
		return
	}
	c := Command{Reference: reference, Answers: e.Channel, Now: changeOf(e), position: e.Position}
	if waits, ok := byReference[reference]; ok && c.Now.Expires.IsZero() {
		c.Now.Expires, c.Now.ID = waits.Now.Expires, waits.Now.ID
	}
	byReference[reference] = c
}

// States returns the states that the answer channels of a pattern have, by the names of the
// channels.
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
			states[page.Channels[i].Latest.Channel.String()] = changeOf(&page.Channels[i].Latest)
		}
		if q.From = page.Next; q.From == "" {
			return states, nil
		}
	}
}
