package logtest

import (
	"context"
	"fmt"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// ReadChannels reads page by page what channels hold, as one text for each.
func ReadChannels(l fanfare.Log, q fanfare.ChannelQuery) (states []fanfare.ChannelState, err error) {
	for {
		page, err := l.Channels(context.Background(), q)
		if err != nil {
			return nil, err
		}
		states = append(states, page.Channels...)
		if page.Next == "" {
			return states, nil
		}
		if page.Next <= q.From || page.Through == 0 {
			return nil, fmt.Errorf("asked from %q, and the page is %+v", q.From, page)
		}
		q.From, q.Through = page.Next, page.Through
	}
}

// channels are the newest events of channels, with their counts and bytes where they were asked
// for.
func (h *harness) channels(q fanfare.ChannelQuery) (list []string) {
	h.Helper()
	states, err := ReadChannels(h.log, q)
	if err != nil {
		h.Fatal(err)
	}
	for _, s := range states {
		if s.Latest.Position == 0 || s.Latest.Time.IsZero() {
			h.Errorf("%+v", s)
		}
		text := s.Latest.Channel.String() + "=" + s.Latest.Data
		if q.Counts {
			text += fmt.Sprintf(" %d %d", s.Count, s.Bytes)
		}
		list = append(list, text)
	}
	return list
}

func testChannels(h *harness) {
	h.publish("b/2", "old", "new")
	h.publish("a", "x")
	h.publish("b/1", "1", "22", "333")
	h.publish("b/1/deep", "d")
	h.publish("$own", "mine")
	h.publish("c", "first")
	h.publish("a", "last of all")
	h.twice(func() {
		for _, c := range []struct {
			patterns []fanfare.Pattern
			want     []string
		}{
			{Patterns("**"), []string{"a=last of all", "b/1=333", "b/1/deep=d", "b/2=new", "c=first"}},
			{Patterns("b/*"), []string{"b/1=333", "b/2=new"}},
			{Patterns("b/**", "b/1"), []string{"b/1=333", "b/1/deep=d", "b/2=new"}},
			{Patterns("c", "a", "nothing"), []string{"a=last of all", "c=first"}},
			{Patterns("*/1", "c", "b/1/*"), []string{"b/1=333", "b/1/deep=d", "c=first"}},
			{Patterns("$own", "*"), []string{"$own=mine", "a=last of all", "c=first"}},
			{Patterns("nothing/**"), nil},
		} {
			for limit := range 3 {
				q := fanfare.ChannelQuery{Patterns: c.patterns, Events: true, Limit: limit}
				h.equal(fmt.Sprint(c.patterns, limit), c.want, h.channels(q))
			}
			q := fanfare.ChannelQuery{Patterns: c.patterns, Events: true, Bytes: 1}
			h.equal(fmt.Sprint(c.patterns, " by bytes"), c.want, h.channels(q))
		}
		h.equal("counts", []string{"b/1= 3 6", "b/2= 2 6"},
			h.channels(fanfare.ChannelQuery{Patterns: Patterns("b/*"), Counts: true}))
		h.equal("from a name on", []string{"b/1/deep=d", "b/2=new"},
			h.channels(fanfare.ChannelQuery{Patterns: Patterns("b/**"), From: "b/1\x00", Events: true}))
	})
}

// testChannelsOfThen asks for the state at a position.
func testChannelsOfThen(h *harness) {
	h.publish("a", "1")
	then := h.publish("b", "2")[0]
	h.publish("a", "3")
	h.publish("c", "4")
	q := fanfare.ChannelQuery{Patterns: Patterns("**"), Events: true, Through: then}
	h.equal("then", []string{"a=1", "b=2"}, h.channels(q))
	q.Through = 0
	h.equal("now", []string{"a=3", "b=2", "c=4"}, h.channels(q))
}

func testChannelsTrimmed(h *harness) {
	for i := range 5 {
		h.publish("a", fmt.Sprint(i))
	}
	then := h.log.Status().Durable
	h.publish("b", "x")
	h.twice(func() {
		h.equal("counts", []string{"a=4 2 2", "b=x 1 1"},
			h.channels(fanfare.ChannelQuery{Patterns: Patterns("**"), Events: true, Counts: true}))
	})
	h.publish("a", "5", "6", "7")
	h.equal("what is trimmed by now", []string(nil),
		h.channels(fanfare.ChannelQuery{Patterns: Patterns("a"), Events: true, Through: then}))
}

// testAt reads events at positions, of which some are gone.
func testAt(h *harness) {
	positions := append(h.publish("a", "1", "2", "3"), h.publish("b", "4", "5")...)
	other := h.publish("c", "6")[0]
	at := []fanfare.Position{positions[1], positions[2], positions[4], other}
	h.twice(func() {
		h.equal("all", []string{"2", "3", "5"}, h.data(fanfare.Query{Patterns: Patterns("a", "b"), At: at}))
		h.equal("some", []string{"5"}, h.data(fanfare.Query{Patterns: Patterns("*"), At: at[1:3], After: positions[2]}))
		h.equal("one a page", []string{"2", "3", "5", "6"},
			h.data(fanfare.Query{Patterns: Patterns("*"), At: at, Limit: 1}))
		h.equal("by bytes", []string{"2", "3", "5", "6"},
			h.data(fanfare.Query{Patterns: Patterns("*"), At: at, Bytes: 1}))
		h.equal("none", []string(nil), h.data(fanfare.Query{Patterns: Patterns("*"), At: []fanfare.Position{}}))
	})
}

func testRetainLatest(h *harness) {
	old := h.publish("a", "1", "2")
	h.publish("b", "x")
	all := fanfare.Query{Patterns: Patterns("**")}
	// real time has to pass
	for deadline := time.Now().Add(time.Minute); len(h.data(all)) > 2; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.Fatal("nothing expired")
		}
	}
	time.Sleep(700 * time.Millisecond) // twice the age: what stays, stays
	h.twice(func() {
		h.equal("the newest", []string{"2", "x"}, h.data(all))
		h.equal("the state", []string{"a=2 1 1", "b=x 1 1"},
			h.channels(fanfare.ChannelQuery{Patterns: Patterns("**"), Events: true, Counts: true}))
		h.equal("the state alone", []string{"a=2", "b=x"},
			h.channels(fanfare.ChannelQuery{Patterns: Patterns("**"), Events: true}))
		if loss := h.missed(old[0]-1, "a"); loss.Reason != fanfare.GapTrimmed {
			h.Fatalf("before what is gone: %+v", loss)
		}
		if loss := h.missed(old[0], "a"); loss.Reason != "" {
			h.Fatalf("at the trim mark: %+v", loss)
		}
	})
	h.publish("a", "3")
	h.equal("only the newest", []string{"x", "3"}, h.data(all))
}

// testNewest compares what readers that lag are given with what the events say.
func testNewest(h *harness) {
	type stored struct {
		channel string
		pos     fanfare.Position
		data    string
	}
	var all []stored
	add := func(channel string) {
		data := fmt.Sprint(len(all))
		all = append(all, stored{channel, h.publish(channel, data)[0], data})
	}
	for i := range 600 { // more channels than are read one by one
		add(fmt.Sprintf("many/%d", (i*7)%300))
		if i%3 == 0 {
			add(fmt.Sprintf("few/%d", i%5))
		}
	}
	h.twice(func() {
		for _, patterns := range [][]fanfare.Pattern{
			Patterns("few/1", "few/2", "nothing"), Patterns("few/*"), Patterns("**"), Patterns("many/*", "few/1"),
		} {
			for _, after := range []int{0, 1, len(all) / 2, len(all) - 3, len(all) - 1} {
				last := map[string]stored{}
				replaced := uint64(0)
				for _, s := range all[after+1:] {
					for _, p := range patterns {
						if p.Match(Channel(s.channel)) {
							if _, ok := last[s.channel]; ok {
								replaced++
							}
							last[s.channel] = s
							break
						}
					}
				}
				var want []string
				for _, s := range all[after+1:] {
					if last[s.channel] == s {
						want = append(want, s.data)
					}
				}
				for _, limit := range []int{0, 7} {
					q := fanfare.Query{Patterns: patterns, After: all[after].pos, Newest: true, Limit: limit}
					h.equal(fmt.Sprint(patterns, after, limit), want, h.data(q))
				}
				page, err := h.log.Read(context.Background(),
					fanfare.Query{Patterns: patterns, After: all[after].pos, Newest: true, Limit: 10_000})
				if err != nil || page.Replaced != replaced || page.Trimmed > all[after].pos {
					h.Errorf("%v after %d: %+v, %v, want %d replaced", patterns, after, page, err, replaced)
				}
			}
		}
	})
}

// testNewestTrimmed: an event that is gone from under a newer one is not missed, one whose channel
// is empty is.
func testNewestTrimmed(h *harness) {
	first := h.publish("a", "1")[0]
	h.publish("b", "x")
	h.publish("a", "2", "3", "4")
	for _, patterns := range [][]fanfare.Pattern{Patterns("a"), Patterns("*"), Patterns("a", "b")} {
		h.twice(func() {
			a := fanfare.Absence{Patterns: patterns, After: first}
			if loss, err := h.log.Missed(context.Background(), a); err != nil || loss.Reason != fanfare.GapTrimmed {
				h.Errorf("%v, all events: %+v, %v", patterns, loss, err)
			}
			a.Newest = true
			if loss, err := h.log.Missed(context.Background(), a); err != nil || loss.Reason != "" {
				h.Errorf("%v, the newest: %+v, %v", patterns, loss, err)
			}
			q := fanfare.Query{Patterns: patterns, After: first, Newest: true}
			if page, err := h.log.Read(context.Background(), q); err != nil || page.Trimmed > first {
				h.Errorf("%v: %+v, %v", patterns, page, err)
			}
			q.Since = time.Now().Add(time.Hour) // the newer event is too old for the query, and is there all the same
			if page, err := h.log.Read(context.Background(), q); err != nil || page.Trimmed > first ||
				len(page.Events) > 0 {
				h.Errorf("%v, of a later time: %+v, %v", patterns, page, err)
			}
		})
	}
}
