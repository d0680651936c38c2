package server

import (
	"context"
	"iter"
	"math"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/wire"
)

// program is the principal of the program that the server is part of. It has every right and no
// rate.
const program = "\x00program"

// Publish stores messages, all or none, with consecutive positions, and waits until they are
// durable and visible, as a publish over HTTP does. It undergoes the same checks, except rights and
// rates. Any number of goroutines may publish at once; many together are faster than one, because
// they share each write to the disk.
//
// Errors are *fanfare.Error: CodeInvalid and CodeTooLarge say which message and which limit;
// CodeForbidden is for a reserved channel, CodeConflict for a key that was used for another
// message; after CodeOverloaded and CodeUnavailable the caller may try again. When ctx ends first,
// the error is ctx's. After that, and after CodeUnavailable, the messages may have been stored all
// the same: with keys, another try stores nothing twice.
func (s *Server) Publish(ctx context.Context, messages ...fanfare.Message) (fanfare.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return fanfare.Receipt{}, err
	}
	b, err := s.publisher.Messages(program, messages)
	if err != nil {
		return fanfare.Receipt{}, err
	}
	receipt, err := s.publisher.PublishUntil(ctx, b, "")
	if err == nil {
		s.publisher.Stored(caller.Caller{}, b, receipt)
	}
	return receipt, err
}

// Subscribe returns the events of a subscription as they come, in log order, each once (P2, P3),
// and gaps (P4). The loop ends when its body leaves it, or with one error: ctx's; CodeInvalid for a
// subscription that is not valid; CodeOverloaded when StreamOptions.Max streams are open (the loop
// counts as one); CodeUnavailable when the log cannot be read to find the start, or when the hub
// drains or closes.
//
// A slow body delays no other client: the loop lags in the log, as streams do, and holds at most
// 256 KiB of events, or one event. A program that wants to carry on after a restart stores
// Delivery.Position when it has dealt with a delivery, and starts there with Subscription.After.
// While the log cannot be read, the loop waits. Each call of the iterator is a subscription of its
// own.
func (s *Server) Subscribe(ctx context.Context, sub fanfare.Subscription) iter.Seq2[fanfare.Delivery, error] {
	return func(yield func(fanfare.Delivery, error) bool) {
		s.deliver(ctx, sub, math.MaxUint64, yield)
	}
}

// History is Subscribe for stored events: the loop ends after the event that was the newest when it
// began. A subscription without a start begins with the oldest retained event.
func (s *Server) History(ctx context.Context, sub fanfare.Subscription) iter.Seq2[fanfare.Delivery, error] {
	sub.All = sub.All || (!sub.Latest && sub.Last == 0 && sub.Since.IsZero() && sub.After == 0)
	return func(yield func(fanfare.Delivery, error) bool) {
		s.deliver(ctx, sub, s.o.Log.Status().Durable, yield)
	}
}

// listener is a subscriber that a loop of the program drives.
type listener struct {
	server *Server
	sub    *hub.Subscriber
	woken  chan struct{}
	turn   hub.Turn
}

// Wake implements hub.Waker.
func (l *listener) Wake() {
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

// Owner implements hub.Waker: all loops of the program queue together.
func (*listener) Owner() string { return program }

// deliver is the loop; for History it ends after the last event.
func (s *Server) deliver(
	ctx context.Context, sub fanfare.Subscription, through fanfare.Position, yield func(fanfare.Delivery, error) bool,
) {
	l := &listener{server: s, woken: make(chan struct{}, 1)}
	patterns, start, err := startOf(sub)
	if err == nil {
		l.sub, err = s.hub.Subscribe(patterns, start, l)
	}
	if err != nil {
		yield(fanfare.Delivery{}, err)
		return
	}
	defer l.sub.Close()
	for {
		if err := l.next(ctx); err != nil {
			yield(fanfare.Delivery{}, err)
			return
		}
		if !l.hand(ctx, through, yield) {
			return
		}
		l.sub.Advance(l.turn.Through, l.turn.More)
		if l.sub.Opened() && l.turn.Through >= through {
			return
		}
	}
}

// next fills the turn with the events that follow the turn before, as soon as there are any.
func (l *listener) next(ctx context.Context) error {
	for {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case l.sub.Ending():
			return errShutdown
		}
		if !l.sub.Next(&l.turn) {
			if err := l.read(ctx); err != nil {
				return err
			}
		}
		if l.turn.Opens || l.turn.Gap != nil || len(l.turn.Frames) > 0 || l.turn.More {
			return nil
		}
		l.sub.Advance(l.turn.Through, false)
		if err := l.wait(ctx, nil); err != nil {
			return err
		}
	}
}

// read fills the turn from the log. Once the start has been found, it waits for a log that cannot
// be read.
func (l *listener) read(ctx context.Context) error {
	for {
		err := l.sub.Read(ctx, &l.turn)
		if err == nil || ctx.Err() != nil || !l.sub.Opened() {
			return err
		}
		again := time.NewTimer(readAgain)
		err = l.wait(ctx, again.C)
		again.Stop()
		if err != nil {
			return err
		}
	}
}

// readAgain is how long a loop waits before it asks again a log that could not be read.
const readAgain = time.Second

var errShutdown = fanfare.Unavailable("the hub is shutting down", nil)

// wait returns when the subscriber was woken, or with timer.
func (l *listener) wait(ctx context.Context, timer <-chan time.Time) error {
	select {
	case <-l.woken:
		return nil
	case <-timer:
		return nil
	case <-l.server.stopping:
		return errShutdown
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hand gives the turn to the loop's body. It returns false when the body leaves the loop, or
// History is at its end.
func (l *listener) hand(ctx context.Context, through fanfare.Position, yield func(fanfare.Delivery, error) bool) bool {
	defer clear(l.turn.Frames)
	if l.turn.Gap != nil && !yield(fanfare.Delivery{Gap: l.turn.Gap}, nil) {
		return false
	}
	for i := range l.turn.Frames {
		f := &l.turn.Frames[i]
		if f.Position > through || !yield(fanfare.Delivery{Event: l.server.event(ctx, f)}, nil) {
			return false
		}
	}
	return true
}

// event returns a frame's event with its data as it was published. In a few events, the data has
// line ends that a frame does not tell apart.
func (s *Server) event(ctx context.Context, f *hub.Frame) fanfare.Event {
	if f.Folded {
		page, err := s.o.Log.Read(ctx, fanfare.Query{Patterns: []fanfare.Pattern{fanfare.ExactPattern(f.Channel)},
			After: f.Position - 1, Through: f.Position})
		if err == nil && len(page.Events) == 1 {
			return page.Events[0]
		}
	}
	return wire.Decode(f)
}

// startOf reads a subscription.
func startOf(sub fanfare.Subscription) (patterns []fanfare.Pattern, start hub.Start, err error) {
	if len(sub.Patterns) == 0 {
		return nil, start, fanfare.Invalid("a subscription needs a pattern")
	}
	if patterns, err = fanfare.ParsePatterns(sub.Patterns); err != nil {
		return nil, start, err
	}
	ways := 0
	for _, way := range []struct {
		given bool
		start hub.Start
	}{
		{sub.All, hub.Start{From: hub.FromAll}},
		{sub.Latest, hub.Start{From: hub.FromLatest}},
		{sub.Last != 0, hub.Start{From: hub.FromLast, Last: sub.Last}},
		{!sub.Since.IsZero(), hub.Start{From: hub.FromSince, Since: sub.Since}},
		{sub.After != 0, hub.Start{From: hub.FromAfter, After: sub.After}},
	} {
		if way.given {
			start = way.start
			ways++
		}
	}
	switch {
	case ways > 1:
		return nil, start, fanfare.Invalid("a subscription has one start: All, Latest, Last, Since or After")
	case sub.Last < 0:
		return nil, start, fanfare.Invalid("Last is %d, want a number of events", sub.Last)
	}
	start.Conflate = sub.Conflate
	return patterns, start, nil
}
