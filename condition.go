package fanfare

// Condition says which event must be the newest of a channel for another one to be stored there. Of
// several publishers that race with the same condition, one wins. The zero Condition is none: the
// event is stored in any case. Make others with IfLatest and IfNone.
type Condition struct {
	given  bool
	latest Position // zero: the channel has no event
}

// IfLatest is met while the newest event of the channel that readers can see is the one at p. Zero
// is no event's position: IfLatest(0) is IfNone.
func IfLatest(p Position) Condition { return Condition{given: true, latest: p} }

// IfNone is met while the channel has no event that readers can see.
func IfNone() Condition { return Condition{given: true} }

// Latest returns the position of the event that must be the newest, zero when there must be none;
// given is false for the zero Condition.
func (c Condition) Latest() (p Position, given bool) { return c.latest, c.given }

// NotMet returns an error with CodePreconditionFailed for a condition on a channel whose newest
// event is at latest; zero when it has none.
func NotMet(c Channel, latest Position) *Error {
	name := clip(c.String())
	e := Errorf(CodePreconditionFailed, "the newest event of channel %q is %v: read it, and try again", name, latest)
	if latest == 0 {
		e = Errorf(CodePreconditionFailed, "channel %q has no event: try again with that condition", name)
	}
	e.Latest = latest
	return e
}
