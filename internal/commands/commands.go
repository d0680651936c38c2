package commands

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
)

// State is where a command stands for one recipient.
type State string

// The states. Those from Done on are final.
const (
	Scheduled State = "scheduled" // it is to be sent later
	Pending   State = "pending"   // no answer has come
	Received  State = "received"
	Done      State = "done"
	Failed    State = "failed"
	Expired   State = "expired"
	Cancelled State = "cancelled"
)

// Final tells whether no other state follows.
func (s State) Final() bool {
	return s == Done || s == Failed || s == Expired || s == Cancelled
}

// The limits of commands.
const (
	MinExpires     = time.Second
	MaxExpires     = 30 * 24 * time.Hour
	DefaultExpires = 10 * time.Minute
	MaxWait        = time.Minute
	MaxResult      = 64 << 10 // bytes of an answer's result
)

// Change is a change of state, as it is stored, and as the history of a command shows it.
type Change struct {
	State   State           `json:"state"`
	At      time.Time       `json:"at"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   string          `json:"error,omitempty"`
	By      string          `json:"by,omitempty"`
	ID      string          `json:"id,omitempty"` // of the command's event, when it is known
	Expires time.Time       `json:"expires,omitzero"`
	Sent    time.Time       `json:"sent,omitzero"` // of an expiry: when the command is sent, if that is later
}

// Command is a command as one recipient sees it.
type Command struct {
	Reference fanfare.ScheduledID
	Answers   fanfare.Channel // the recipient's answers
	Broadcast bool            // other recipients have states of their own
	Now       Change
	position  fanfare.Position // of Now's event; 0: it is not stored
}

// Service keeps the states of commands in a log. Its methods may be called from any goroutine, and
// read the log.
type Service struct {
	Log       fanfare.Log
	Scheduler fanfare.Scheduler
	Hub       *hub.Hub

	counts counts
}

// counts counts the states that were stored, by their place in States.
type counts [7]atomic.Uint64

func (c *counts) add(state State) { c[slices.Index(States(), state)].Add(1) }

// Counts returns how many answers and cancels were stored, by state. Expiries are published by the
// log, and are not counted here.
func (s *Service) Counts() map[State]uint64 {
	all := map[State]uint64{}
	for i, state := range States() {
		if state == Received || state == Done || state == Failed || state == Cancelled {
			all[state] = s.counts[i].Load()
		}
	}
	return all
}

// stateType is the type of the events that are changes.
var stateType = func() fanfare.EventType {
	t, err := fanfare.ParseEventType("state")
	if err != nil {
		panic(err)
	}
	return t
}()

// AnswersOf is the channel of the answers to a command on a channel.
func AnswersOf(channel, reference string) (fanfare.Channel, error) {
	return fanfare.ParseChannel("$acks/" + channel + "/" + reference)
}

// Send completes the batch of a command, whose DeliverAt is set if it is to be sent later: its one
// event lives for so long from then on, and the expiry is stored with it.
func (s *Service) Send(b *fanfare.Batch, answers fanfare.Channel, reference fanfare.ScheduledID, expires time.Time,
	life time.Duration,
) error {
	b.TTL = []time.Duration{life}
	data, err := stored(Change{State: Expired, At: expires, Expires: expires, Sent: b.DeliverAt})
	if err != nil {
		return err
	}
	b.Later = []fanfare.Later{{ID: reference, At: expires,
		Event: fanfare.Event{Channel: answers, Type: stateType, Data: data}}}
	return nil
}

// stored is a change as it is stored. The result keeps its bytes: HTML escapes would make another
// text of it, and a repeat of the same answer would seem to be another one.
func stored(c Change) (string, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(c)
	return strings.TrimSuffix(b.String(), "\n"), err
}

// Find returns a command as the recipient with an answer channel sees it. broadcasts are the answer
// channels of the broadcasts that reach the recipient. It returns false when there is no such
// command.
func (s *Service) Find(
	ctx context.Context, reference fanfare.ScheduledID, answers fanfare.Channel, broadcasts ...fanfare.Channel,
) (c Command, ok bool, err error) {
	c = Command{Reference: reference, Answers: answers}
	// The expiry first: when it is published in between, it is seen as a state.
	waits, found, err := s.Scheduler.ScheduledAt(ctx, reference)
	if err != nil {
		return c, false, err
	}
	for _, channel := range broadcasts {
		c.Broadcast = c.Broadcast || (found && waits.Event.Channel == channel)
	}
	if found = found && (c.Broadcast || waits.Event.Channel == answers); found {
		c.Now = s.pending(&waits)
	}
	stored, err := s.newest(ctx, append([]fanfare.Channel{answers}, broadcasts...))
	if err != nil {
		return c, false, err
	}
	if own := &stored[0]; own.Position != 0 {
		expires, id := c.Now.Expires, c.Now.ID
		found, c.position = true, own.Position
		if c.Now = changeOf(own); c.Now.Expires.IsZero() {
			c.Now.Expires, c.Now.ID = expires, id
		}
	}
	for i := range broadcasts {
		if e := &stored[i+1]; e.Position != 0 { // the broadcast has ended
			found, c.Broadcast = true, true
			if !c.Now.State.Final() {
				c.Now = changeOf(e)
			}
		}
	}
	return c, found, nil
}

// pending is the state of a command whose expiry waits.
func (s *Service) pending(waits *fanfare.ScheduledEvent) Change {
	c := Change{State: Pending, Expires: waits.DeliverAt}
	if waits.With != 0 {
		c.ID = waits.With.String()
		return c
	}
	if s.Log.Now().Before(SentAt(waits)) {
		c.State = Scheduled
	}
	return c
}

// SentAt returns when a command is sent, or was sent, whose expiry waits and says so; zero: it was
// sent when the expiry was stored.
func SentAt(waits *fanfare.ScheduledEvent) time.Time {
	var expiry Change
	if json.Unmarshal([]byte(waits.Event.Data), &expiry) != nil {
		return time.Time{}
	}
	return expiry.Sent
}

func changeOf(e *fanfare.Event) (c Change) {
	if json.Unmarshal([]byte(e.Data), &c) != nil || c.State == "" {
		c.State = Expired // nobody but the hub can write here
	}
	if c.At.IsZero() {
		c.At = e.Time
	}
	return c
}

// newest returns the newest event of each channel; the zero event where there is none.
func (s *Service) newest(ctx context.Context, channels []fanfare.Channel) ([]fanfare.Event, error) {
	events := make([]fanfare.Event, len(channels))
	q := fanfare.ChannelQuery{Events: true}
	for _, c := range channels {
		q.Patterns = append(q.Patterns, fanfare.ExactPattern(c))
	}
	for {
		page, err := s.Log.Channels(ctx, q)
		if err != nil {
			return nil, err
		}
		for i := range page.Channels {
			for j, c := range channels {
				if c == page.Channels[i].Latest.Channel {
					events[j] = page.Channels[i].Latest
				}
			}
		}
		if page.Next == "" {
			return events, nil
		}
		q.From = page.Next
	}
}

// errNotThere is the error for a reference that names no command of the recipient.
func errNotThere(reference fanfare.ScheduledID) error {
	return fanfare.Errorf(fanfare.CodeNotFound, "there is no command %v here", reference)
}

// Answer stores an answer to a command, which Find has returned, and returns where the command
// stands then. The same answer again changes nothing. Errors: CodeConflict, with the state, when
// another final state was first; CodeExpired after the expiry.
func (s *Service) Answer(ctx context.Context, c Command, answer Change, more ...fanfare.Event) (Command, error) {
	for {
		if again, err := settled(c, answer); again || err != nil {
			return c, err
		}
		next, err := s.store(ctx, c, answer, more)
		if fanfare.CodeOf(err) != fanfare.CodePreconditionFailed {
			return next, err
		}
		now, ok, err := s.again(ctx, c)
		if err != nil {
			return c, err
		}
		if !ok {
			return c, errNotThere(c.Reference)
		}
		c = now
	}
}

// again finds a command anew, whose state has changed.
func (s *Service) again(ctx context.Context, c Command) (Command, bool, error) {
	var broadcasts []fanfare.Channel
	if c.Broadcast {
		broadcasts = broadcastsOf(c.Answers, c.Reference)
	}
	return s.Find(ctx, c.Reference, c.Answers, broadcasts...)
}

// settled tells whether an answer changes nothing; an error says why it may not.
func settled(c Command, answer Change) (bool, error) {
	now := c.Now.State
	switch {
	case now == Scheduled && answer.State != Cancelled:
		return false, errNotThere(c.Reference) // nobody has heard it yet
	case !now.Final():
		return now == answer.State, nil
	case answer.State == Received && now != Expired:
		return true, nil
	case now == answer.State && now != Expired && bytes.Equal(c.Now.Result, answer.Result) &&
		c.Now.Error == answer.Error:
		return true, nil
	case now == Expired:
		return false, &fanfare.Error{Code: fanfare.CodeExpired, State: string(now),
			Detail: "the command expired at " + c.Now.Expires.Format(time.RFC3339) + ", before this came"}
	default:
		return false, &fanfare.Error{Code: fanfare.CodeConflict, State: string(now),
			Detail: "the command is " + string(now) + " already, since " + c.Now.At.Format(time.RFC3339)}
	}
}

// store stores a change if the state is still the one that was looked at.
func (s *Service) store(ctx context.Context, c Command, answer Change, more []fanfare.Event) (Command, error) {
	answer.At, answer.ID, answer.Expires = s.Log.Now(), c.Now.ID, c.Now.Expires
	data, err := stored(answer)
	if err != nil {
		return c, err
	}
	b := &fanfare.Batch{Events: append([]fanfare.Event{{Channel: c.Answers, Type: stateType, Data: data}}, more...)}
	b.If = make([]fanfare.Condition, len(b.Events))
	if b.If[0] = fanfare.IfNone(); c.position != 0 {
		b.If[0] = fanfare.IfLatest(c.position)
	}
	if answer.State.Final() && !c.Broadcast {
		b.Cancel = []fanfare.ScheduledID{c.Reference}
	}
	r, err := fanfare.Append(ctx, s.Log, b)
	if err != nil {
		return c, err
	}
	s.counts.add(answer.State)
	c.Now, c.position = answer, r.Positions[0]
	return c, nil
}

// History returns the changes of a command for a recipient, oldest first.
func (s *Service) History(ctx context.Context, c Command) (list []Change, err error) {
	q := fanfare.Query{Patterns: []fanfare.Pattern{fanfare.ExactPattern(c.Answers)}, Through: s.Log.Status().Durable}
	for q.After < q.Through {
		page, err := s.Log.Read(ctx, q)
		if err != nil {
			return nil, err
		}
		for i := range page.Events {
			list = append(list, changeOf(&page.Events[i]))
		}
		q.After = page.Through
	}
	return list, nil
}

// broadcastsOf are the answer channels of the broadcasts that may reach a recipient with an answer
// channel: those of each channel above its own.
func broadcastsOf(answers fanfare.Channel, reference fanfare.ScheduledID) (list []fanfare.Channel) {
	name := strings.TrimPrefix(answers.String(), "$acks/")
	for {
		at := strings.LastIndexByte(name, '/')
		if at < 0 {
			return list
		}
		name = name[:at]
		if c, err := AnswersOf(name, reference.String()); err == nil && c != answers {
			list = append(list, c)
		}
	}
}
