package pebblelog

import (
	"errors"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
)

// try appends an event under a condition, and returns the channel's newest event: the one that was
// stored, or the one that stands in the way.
func try(t *testing.T, l *Log, channel string, c fanfare.Condition) (latest fanfare.Position, stored bool) {
	t.Helper()
	r, err := logtest.Append(l, &fanfare.Batch{
		Events: []fanfare.Event{{Channel: logtest.Channel(channel), Data: "x"}}, If: []fanfare.Condition{c},
	})
	if refused, ok := errors.AsType[*fanfare.Error](err); ok && refused.Code == fanfare.CodePreconditionFailed {
		return refused.Latest, false
	}
	if err != nil {
		t.Fatal(err)
	}
	return r.Positions[0], true
}

// TestConditionsSeeWhatReadersSee: an event that is too old for its rule is none for a condition,
// whether a sweep has deleted it or forgotten its channel, or nobody has looked; a rule with latest
// keeps it.
func TestConditionsSeeWhatReadersSee(t *testing.T) {
	for name, between := range map[string]func(*Log){
		"nobody has looked": func(*Log) {},
		"a reader has": func(l *Log) {
			dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "**")})
		},
		"a sweep has": func(l *Log) { sweepNow(t, l) },
		"the states are not in memory": func(l *Log) {
			for _, c := range []string{"a", "b", "state"} {
				st := l.session.catalog.channels.find(logtest.Channel(c), true)
				l.session.catalog.channels.drop(st)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			clock := newTestClock()
			l := openTest(t, clock.options("**=age:10m", "state=age:10m,latest"))
			old, _ := put(t, l, "a", "1")[0], put(t, l, "b", "1")
			kept := put(t, l, "state", "0", "1")[1]
			between(l)
			if latest, stored := try(t, l, "a", fanfare.IfNone()); stored || latest != old {
				t.Errorf("a young event: %v, want %v", latest, old)
			}
			clock.pass(10*time.Minute + time.Second)
			between(l)
			if latest, stored := try(t, l, "a", fanfare.IfLatest(old)); stored || latest != 0 {
				t.Errorf("an old event is the newest: %v %v", latest, stored)
			}
			if _, stored := try(t, l, "b", fanfare.IfNone()); !stored {
				t.Error("an old event is in the way")
			}
			if latest, stored := try(t, l, "state", fanfare.IfNone()); stored || latest != kept {
				t.Errorf("the rule keeps %v, and the newest is %v", kept, latest)
			}
			if _, stored := try(t, l, "state", fanfare.IfLatest(kept)); !stored {
				t.Error("what the rule keeps cannot be named")
			}
			if n := l.Stats().NotMet; n != 3 {
				t.Errorf("%d conditions were not met", n)
			}
		})
	}
}

// TestConditionsBelowTheFloor: what the limit on the log's size has removed is no channel's newest
// event.
func TestConditionsBelowTheFloor(t *testing.T) {
	l := openTest(t, newTestClock().options("**=age:1h"))
	removed := put(t, l, "a", "1")[0]
	if err := l.session.retention.deletePrefix(removed); err != nil {
		t.Fatal(err)
	}
	if latest, stored := try(t, l, "a", fanfare.IfLatest(removed)); stored || latest != 0 {
		t.Errorf("the newest event is %v", latest)
	}
	if _, stored := try(t, l, "a", fanfare.IfNone()); !stored {
		t.Error("what is removed is in the way")
	}
}

// TestConditionsLeaveNothing: a condition on a channel that has no event makes none.
func TestConditionsLeaveNothing(t *testing.T) {
	l := openTest(t, newTestClock().options("**=age:1h"))
	for range 3 {
		if latest, stored := try(t, l, "none", fanfare.IfLatest(1)); stored || latest != 0 {
			t.Fatal(latest, stored)
		}
	}
	if n := l.session.catalog.channels.size(); n != 0 {
		t.Errorf("%d states are left in memory", n)
	}
	if stats := l.Stats(); stats.Events != 0 || stats.NotMet != 3 {
		t.Errorf("%+v", stats)
	}
}

// TestConditionsAfterOtherRules: what readers have seen go does not come back for a condition when
// the rules keep more.
func TestConditionsAfterOtherRules(t *testing.T) {
	clock := newTestClock()
	l := openTest(t, clock.options("**=age:1m"))
	put(t, l, "a", "1")
	clock.pass(2 * time.Minute)
	if got := dataOf(t, l, fanfare.Query{Patterns: patternsOf(t, "a")}); len(got) > 0 {
		t.Fatalf("%q is not over", got)
	}
	if err := l.SetRetention(clock.options("**=age:1h").Retention); err != nil {
		t.Fatal(err)
	}
	if latest, stored := try(t, l, "a", fanfare.IfNone()); !stored {
		t.Errorf("%v is in the way", latest)
	}
}

// late is an order whose groups are applied long after it has set their time.
type late struct {
	order
	clock *testClock
	by    time.Duration
}

func (o *late) next(s *session) *group {
	g := o.order.next(s)
	o.clock.pass(o.by)
	return g
}

// TestConditionsGoByTheGroupsTime: a condition is decided by the time of its group, not by the time
// at which the group is applied.
func TestConditionsGoByTheGroupsTime(t *testing.T) {
	clock := newTestClock()
	slow := &late{clock: clock}
	o := clock.options("**=age:10m")
	o.order = func(own order) order { slow.order = own; return slow }
	l := openTest(t, o)
	first := put(t, l, "a", "1")[0]
	if err := l.command(lateBy{slow, time.Hour}); err != nil { // for the groups after this one
		t.Fatal(err)
	}
	if latest, stored := try(t, l, "a", fanfare.IfLatest(first)); !stored {
		t.Errorf("the newest event is %v, and was %v when the group got its time", latest, first)
	}
}

// lateBy is a command, so that the order's field is changed by the goroutine that reads it.
type lateBy struct {
	order *late
	by    time.Duration
}

func (c lateBy) apply(*groupWriter) error { c.order.by = c.by; return nil }
