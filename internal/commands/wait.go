package commands

import (
	"context"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
)

// Wait waits until a command, which was sent with the event at a position, has a final state for
// its recipient, or until ctx is done; then it returns the present state. It is a subscriber of the
// hub, and reads no more than the answers.
func (s *Service) Wait(ctx context.Context, c Command, sent fanfare.Position) (Command, error) {
	w := make(waker, 1)
	sub, err := s.Hub.Subscribe([]fanfare.Pattern{fanfare.ExactPattern(c.Answers)},
		hub.Start{From: hub.FromAfter, After: sent}, w)
	if err != nil {
		return c, err
	}
	defer sub.Close()
	var turn hub.Turn
	for !c.Now.State.Final() {
		if !sub.Next(&turn) {
			if err := sub.Read(ctx, &turn); err != nil {
				return c, ended(ctx, err)
			}
		}
		sub.Advance(turn.Through, turn.More)
		if len(turn.Frames) > 0 {
			clear(turn.Frames)
			now, ok, err := s.Find(context.WithoutCancel(ctx), c.Reference, c.Answers)
			if err != nil {
				return c, err
			}
			if ok {
				c = now
			}
			continue
		}
		if turn.More {
			continue
		}
		select {
		case <-w:
		case <-ctx.Done():
			return c, nil
		}
		if sub.Ending() {
			return c, fanfare.Unavailable("the hub is shutting down", nil)
		}
	}
	return c, nil
}

// ended is nil for an error that came because the wait is over.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

type waker chan struct{}

// Owner implements hub.Waker: those who wait read little.
func (w waker) Owner() string { return "" }

// Wake implements hub.Waker.
func (w waker) Wake() {
	select {
	case w <- struct{}{}:
	default:
	}
}
