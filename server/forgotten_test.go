package server_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/server"
)

const day = 24 * time.Hour

// passing is a hub whose log's clock the test moves, as time does.
type passing struct {
	*fixture
	ahead time.Duration
}

func startPassing(t *testing.T, o server.Options, rules ...string) *passing {
	t.Helper()
	f, _ := fleet(t, o, rules...)
	p := &passing{fixture: f}
	f.stop(0)
	began := time.Now()
	f.lo.Now = func() time.Time { return time.Now().Add(p.ahead) }
	f.lo.Elapsed = func() time.Duration { return time.Since(began) + p.ahead }
	f.up("127.0.0.1:0")
	return p
}

// pass lets time pass while the hub runs and the PC is off, and what is kept of it is in the log
// alone.
func (p *passing) pass(d time.Duration) {
	p.t.Helper()
	p.restart()
	p.ahead += d
}

// forgottenGap reads the gap of a PC whose position is kept no longer.
func (p *passing) forgottenGap(when string) (c *client, g gap) {
	p.t.Helper()
	c = p.stream(pcPath("1", "2"), "X-Forwarded-For: 10.0.0.1")
	connected, e := c.any(), c.any()
	if e.Type != "gap" || json.Unmarshal([]byte(e.Data), &g) != nil || g.Reason != "forgotten" || g.Requested != "" {
		p.t.Fatalf("%s: %+v after %+v", when, e, connected)
	}
	if before(p.t, g.Oldest) != e.LastEventID || connected.LastEventID != e.LastEventID {
		p.t.Errorf("%s: %+v stands at %s and the first event at %s", when, g, e.LastEventID, connected.LastEventID)
	}
	return c, g
}

// before is the position before one.
func before(t testing.TB, text string) string {
	t.Helper()
	at, err := fanfare.ParsePosition(text)
	if err != nil {
		t.Fatal(err)
	}
	return (at - 1).String()
}

// TestAwayForAWeekend: positions are kept as long as the PC's events are, so nothing is lost.
func TestAwayForAWeekend(t *testing.T) {
	if eachKind(t, TestAwayForAWeekend) {
		return
	}
	p := startPassing(t, server.Options{})
	c := p.at("10.0.0.1")
	p.sends("a")
	c.hears("connected", "a")
	p.off(c)
	p.sends("missed on Friday")
	p.pass(36 * time.Hour)
	p.sends("missed on Sunday")
	c = p.at("10.0.0.1")
	c.hears("after the weekend", "missed on Friday", "missed on Sunday")
	p.off(c)
	p.pass(6 * day)
	p.at("10.0.0.1").hears("after six days in which nothing came")
}

// TestAwayForLongerThanPositionsAreKept (P4): the PC is told so, and gets what is young enough, no
// old REBOOT. When it has heard, it goes on from there.
func TestAwayForLongerThanPositionsAreKept(t *testing.T) {
	if eachKind(t, TestAwayForLongerThanPositionsAreKept) {
		return
	}
	for name, c := range map[string]struct {
		o     server.Options
		rules []string
		good  time.Duration
	}{
		"the default retention": {server.Options{}, nil, 7 * day},
		"the longest rule":      {server.Options{}, []string{"**=age:1h", "stores=age:3d"}, 3 * day},
		"a rule of its own": {server.Options{}, []string{"**=age:1h", "stores/1/pcs/2=age:30d,count:9"},
			30 * day},
		"rules without an age": {server.Options{}, []string{"**=count:100"}, 365 * day},
		"a setting":            {server.Options{Stores: server.StoreOptions{ResumeFor: day}}, nil, day},
		"a setting beyond retention": {server.Options{Stores: server.StoreOptions{ResumeFor: 48 * time.Hour}},
			[]string{"**=age:1h"}, 48 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			p := startPassing(t, c.o, c.rules...)
			pc := p.at("10.0.0.1")
			p.sends("heard")
			pc.hears("connected", "heard")
			p.off(pc)
			p.pass(c.good - time.Hour)
			pc = p.at("10.0.0.1")
			pc.hears("just in time")
			p.off(pc)
			p.sends("REBOOT")
			p.pass(c.good + time.Minute)
			young := p.sends("young")[0]
			pc, g := p.forgottenGap("too late")
			if g.Oldest != young {
				t.Errorf("the oldest is %s, want %s", g.Oldest, young)
			}
			pc.hears("what is young", "young")
			p.off(pc)
			p.sends("more")
			pc = p.at("10.0.0.1")
			pc.hears("once it has heard of the gap", "more")
			p.off(pc)
			p.metric(t, "fanfare_store_forgotten_total 1")

			// Whoever looks is told the same; and so is a PC with a new address.
			p.pass(c.good + 24*time.Hour)
			look := p.stream(pcPath("1", "2")+"&look=true", "X-Forwarded-For: 10.0.0.9")
			look.any()
			wantGap(t, look.any(), gap{Reason: "forgotten", Oldest: p.next()})
			look.close()
			p.untilStreams(0)
			pc = p.stream(pcPath("1", "2"), "X-Forwarded-For: 10.0.0.5")
			pc.any()
			wantGap(t, pc.any(), gap{Reason: "forgotten", Oldest: p.next()})
			p.off(pc)
		})
	}
}

// next is the position that the next event will get.
func (p *passing) next() string { return (p.log.Status().Durable + 1).String() }

// TestNeverSeen: a PC that was never there starts at the newest, without a gap; so does one of whom
// a year later nothing is known.
func TestNeverSeen(t *testing.T) {
	if eachKind(t, TestNeverSeen) {
		return
	}
	p := startPassing(t, server.Options{})
	p.sends("a")
	c := p.at("10.0.0.1")
	c.hears("never seen")
	p.off(c)
	p.sends("b")
	p.pass((7 + 365 + 1) * day)
	p.publish("elsewhere", "x")
	p.at("10.0.0.1").hears("after more than a year")
}

// TestKeptAndTrimmed (P4): a position that is kept, below which events were trimmed, is a gap, as a
// position that the client sends.
func TestKeptAndTrimmed(t *testing.T) {
	if eachKind(t, TestKeptAndTrimmed) {
		return
	}
	p := startPassing(t, server.Options{Stores: server.StoreOptions{ResumeFor: 30 * day}}, "**=count:2")
	c := p.at("10.0.0.1")
	ids := p.sends("a")
	c.hears("connected", "a")
	p.off(c)
	more := p.sends("b", "c", "d")
	c = p.stream(pcPath("1", "2"), "X-Forwarded-For: 10.0.0.1")
	c.any()
	wantGap(t, c.any(), gap{Requested: ids[0], Reason: "trimmed", Oldest: more[1]})
	if diff := cmp.Diff([]string{"c", "d"}, c.commands(2)); diff != "" {
		t.Error(diff)
	}
}
