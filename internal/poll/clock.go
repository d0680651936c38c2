package poll

import "time"

// Clock counts forward from the moment when it was made, also when the time of day is set. Its
// methods may be called from any goroutine.
type Clock struct{ began time.Time }

// NewClock makes a clock.
func NewClock() Clock { return Clock{time.Now()} }

// Now returns the present instant.
func (c Clock) Now() Instant { return c.At(time.Now()) }

// At returns the instant of a time, which time.Now has returned.
func (c Clock) At(t time.Time) Instant { return Instant(t.Sub(c.began)) + 1 }

// Time returns the time of day of an instant, as the time of day is set now.
func (c Clock) Time(i Instant) time.Time {
	now := time.Now()
	return now.Add(i.Sub(c.At(now)))
}

// Instant is a time on a Clock, in nanoseconds; the zero value is never. It takes a third of the
// room of a time.Time: streams have several.
type Instant int64

// Add returns the instant d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub returns the time from an earlier instant to this one.
func (i Instant) Sub(earlier Instant) time.Duration { return time.Duration(i - earlier) }

// Reached tells whether an instant has come. Never does not come.
func (i Instant) Reached(now Instant) bool { return i > 0 && now >= i }

// Earlier returns the earlier of two instants; never is later than all others.
func (i Instant) Earlier(other Instant) Instant {
	if i == 0 || (other > 0 && other < i) {
		return other
	}
	return i
}
