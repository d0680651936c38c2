package logtest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
)

var equalEvents = cmp.AllowUnexported(fanfare.Channel{}, fanfare.EventType{})

func testAppendRead(h *harness) {
	kind, err := fanfare.ParseEventType("greeting")
	if err != nil {
		h.Fatal(err)
	}
	before := time.Now().Add(-time.Millisecond)
	want := fanfare.Event{Channel: Channel("a/b"), Type: kind, Data: "hello\nworld \u2028\x00"}
	r, err := Append(h.log, &fanfare.Batch{Events: []fanfare.Event{want}})
	if err != nil {
		h.Fatal(err)
	}
	want.Position = r.Positions[0]
	if got := h.log.Status().Durable; got != want.Position {
		h.Fatalf("durable %v after an append at %v", got, want.Position)
	}
	h.twice(func() {
		events, _, err := ReadAll(h.log, fanfare.Query{Patterns: Patterns("a/b")})
		if err != nil || len(events) != 1 {
			h.Fatalf("read %v, %v", events, err)
		}
		if got := events[0].Time; got.Before(before.Truncate(time.Millisecond)) || got.After(time.Now()) {
			h.Fatalf("time %v", got)
		}
		want.Time = events[0].Time
		if diff := cmp.Diff(want, events[0], equalEvents); diff != "" {
			h.Fatalf("event (-want +got):\n%s", diff)
		}
		h.equal("another channel", []string(nil), h.data(fanfare.Query{Patterns: Patterns("a")}))
	})
	h.publish("a/b", "second")
	h.equal("both", []string{want.Data, "second"}, h.data(fanfare.Query{Patterns: Patterns("a/b")}))
}

func testBatch(h *harness) {
	positions := h.publish("a", "1", "2", "3")
	for i, p := range positions {
		if p != positions[0]+fanfare.Position(i) {
			h.Fatalf("positions %v are not consecutive", positions)
		}
	}
	next := h.publish("b", "4")
	if next[0] != positions[2]+1 {
		h.Fatalf("%v follows %v: positions count up by one", next[0], positions[2])
	}
	h.twice(func() {
		h.equal("data", []string{"1", "2", "3"}, h.data(fanfare.Query{Patterns: Patterns("a")}))
		h.equal("merged", []string{"2", "3", "4"},
			h.data(fanfare.Query{Patterns: Patterns("b", "a", "a"), After: positions[0]}))
	})
}

func testPages(h *harness) {
	var want []string
	for i := range 50 {
		text := fmt.Sprint(i)
		h.publish([]string{"x", "y", "z"}[i%3], text)
		if i%3 != 2 {
			want = append(want, text)
		}
	}
	h.twice(func() {
		for _, patterns := range [][]fanfare.Pattern{Patterns("x", "y", "nothing"), Patterns("x", "*/none", "y")} {
			for _, limit := range []int{1, 7, 1000} {
				h.equal(fmt.Sprint("limit ", limit), want, h.data(fanfare.Query{Patterns: patterns, Limit: limit}))
			}
			h.equal("bytes", want, h.data(fanfare.Query{Patterns: patterns, Bytes: 3}))
			page, err := h.log.Read(context.Background(), fanfare.Query{Patterns: patterns, Limit: 4})
			if err != nil || len(page.Events) != 4 || page.Through < page.Events[3].Position {
				h.Fatalf("page %+v, %v", page, err)
			}
		}
		d := h.log.Status().Durable
		page, err := h.log.Read(context.Background(), fanfare.Query{Patterns: Patterns("x"), After: d})
		if err != nil || len(page.Events) != 0 || page.Through != d {
			h.Fatalf("after the newest: %+v, %v", page, err)
		}
	})
}

func testPatterns(h *harness) {
	for _, c := range []string{"s", "s/1", "s/1/p", "s/2", "$sys/1", "t//", "s/1/p/q"} {
		h.publish(c, c)
	}
	h.twice(func() {
		for pattern, want := range map[string][]string{
			"s/*":     {"s/1", "s/2"},
			"s/**":    {"s/1", "s/1/p", "s/2", "s/1/p/q"},
			"**":      {"s", "s/1", "s/1/p", "s/2", "t//", "s/1/p/q"},
			"*":       {"s"},
			"*/1":     {"s/1"},
			"$sys/*":  {"$sys/1"},
			"$sys/**": {"$sys/1"},
			"t/*/*":   {"t//"},
			"s/*/p":   {"s/1/p"},
		} {
			h.equal(pattern, want, h.data(fanfare.Query{Patterns: Patterns(pattern)}))
			h.equal("last of "+pattern, want[len(want)-1:],
				h.data(fanfare.Query{Patterns: Patterns(pattern), After: h.last(1, pattern) - 1}))
		}
	})
}

func testRuns(h *harness) {
	start := h.log.Status().Durable
	if start == 0 {
		h.Fatal("the first run begins at 0: a number could be given twice")
	}
	if loss := h.missed(start, "a"); loss.Reason != "" || loss.Durable != start {
		h.Fatalf("the position before a run's first is a valid place to start: %+v", loss)
	}
	first := h.publish("a", "1", "2")
	h.reopen()
	between := h.log.Status().Durable
	if between <= first[1] {
		h.Fatalf("the second run begins at %v, the first had %v", between+1, first[1])
	}
	second := h.publish("a", "3")
	if second[0] != between+1 {
		h.Fatalf("the first event of a run is %v, want %v", second[0], between+1)
	}
	h.reopen()
	for _, c := range []struct {
		name  string
		after fanfare.Position
		want  fanfare.GapReason
		first fanfare.Position
	}{
		{"in the first run", first[0], "", first[1]},
		{"at the first run's end", first[1], "", second[0]},
		{"before the first run's first", start, "", first[0]},
		{"below the log", start - 1, fanfare.GapTrimmed, first[0]},
		{"zero", 0, fanfare.GapTrimmed, first[0]},
		{"never given, after the first run", first[1] + 1, fanfare.GapLost, second[0]},
		{"never given, before the second run", between - 1, fanfare.GapLost, second[0]},
		{"before the second run's first", between, "", second[0]},
		{"the newest", h.log.Status().Durable, "", h.log.Status().Durable + 1},
		{"newer than the log", h.log.Status().Durable + 1, fanfare.GapFuture, first[0]},
	} {
		for _, pattern := range []string{"a", "*"} {
			loss := h.missed(c.after, pattern)
			from := c.after
			if c.want == fanfare.GapFuture {
				from = 0
			}
			if first := h.first(fanfare.Query{Patterns: Patterns(pattern), After: from}); loss.Reason != c.want ||
				first != c.first {
				h.Errorf("%s (%s): reason %q first %v, want %q %v", c.name, pattern, loss.Reason, first, c.want,
					c.first)
			}
		}
	}
}

func testFirst(h *harness) {
	var at []fanfare.Position
	for i := range 10 {
		at = append(at, h.publish([]string{"a", "b"}[i%2], fmt.Sprint(i))...)
	}
	h.publish("c", "x")
	h.twice(func() {
		newest := h.log.Status().Durable
		for _, c := range []struct {
			patterns []fanfare.Pattern
			after    fanfare.Position
			want     fanfare.Position
		}{
			{Patterns("a"), at[0], at[2]},
			{Patterns("a", "b"), at[0], at[1]},
			{Patterns("b"), 0, at[1]},
			{Patterns("*/none", "b"), 0, at[1]},
			{Patterns("b"), at[9], newest + 1},
			{Patterns("none"), 0, newest + 1},
		} {
			if first := h.first(fanfare.Query{Patterns: c.patterns, After: c.after}); first != c.want {
				h.Errorf("%v after %v: %v, want %v", c.patterns, c.after, first, c.want)
			}
		}
	})
}

func testLast(h *harness) {
	var at []fanfare.Position
	for i := range 10 {
		at = append(at, h.publish([]string{"a", "b"}[i%2], fmt.Sprint(i))...)
	}
	h.publish("c", "x")
	h.twice(func() {
		for _, c := range []struct {
			count    int
			patterns []string
			want     fanfare.Position
		}{
			{2, []string{"a"}, at[6]},
			{3, []string{"a", "b"}, at[7]},
			{100, []string{"a", "b", "a"}, at[0]},
			{100, []string{"none"}, 0},
			{2, []string{"*"}, at[9]},
			{5, []string{"*/none", "b"}, at[1]},
			{2, []string{"*/none"}, 0},
		} {
			if first := h.last(c.count, c.patterns...); first != c.want {
				h.Errorf("last %d of %v: %v, want %v", c.count, c.patterns, first, c.want)
			}
		}
		past, err := h.log.Last(context.Background(),
			fanfare.Recent{Patterns: Patterns("a", "b"), Count: 2, Through: at[4]})
		if err != nil || past.First != at[3] || past.Count != 2 {
			h.Errorf("up to a position: %+v, %v", past, err)
		}
	})
}

func testAge(h *harness) {
	old := h.publish("a", "old")
	time.Sleep(300 * time.Millisecond) // real time has to pass, by the log's own clock
	young := h.publish("a", "young")
	time.Sleep(20 * time.Millisecond)
	h.twice(func() {
		for _, pattern := range []string{"a", "*"} {
			for age, want := range map[time.Duration]fanfare.Position{250 * time.Millisecond: young[0],
				time.Hour: old[0], 1: young[0] + 1} {
				first := h.first(fanfare.Query{Patterns: Patterns(pattern), After: old[0] - 1, Age: age})
				if first < want || (age > time.Second && first > want) { // slow machines make things older
					h.Errorf("%s, younger than %v: first %v, want %v", pattern, age, first, want)
				}
			}
		}
	})
}

func testSince(h *harness) {
	old := h.publish("a", "old")
	time.Sleep(30 * time.Millisecond) // real time has to pass: the log stamps events with its own clock
	since := time.Now()
	time.Sleep(5 * time.Millisecond)
	young := h.publish("a", "young")
	h.twice(func() {
		for _, pattern := range []string{"a", "*"} {
			q := fanfare.Query{Patterns: Patterns(pattern), After: old[0] - 1, Since: since}
			if first := h.first(q); first != young[0] {
				h.Errorf("%s: first %v, want %v", pattern, first, young[0])
			}
			h.equal(pattern, []string{"young"}, h.data(fanfare.Query{Patterns: Patterns(pattern), Since: since}))
		}
	})
}

func testKeys(h *harness) {
	key := fanfare.Key{Scope: "me\x00a", Text: "k1", Fingerprint: [16]byte{1}, Note: "note"}
	send := func(k fanfare.Key, data ...string) (fanfare.Receipt, error) {
		b := &fanfare.Batch{Key: k}
		for _, d := range data {
			b.Events = append(b.Events, fanfare.Event{Channel: Channel("a"), Data: d})
		}
		return Append(h.log, b)
	}
	first, err := send(key, "1", "2")
	if err != nil || first.Replayed {
		h.Fatalf("%+v, %v", first, err)
	}
	h.twice(func() {
		again, err := send(key, "1", "2")
		if err != nil || !again.Replayed || again.Note != "note" {
			h.Fatalf("a repeat: %+v, %v", again, err)
		}
		h.equal("positions", first.Positions, again.Positions)
		other := key
		other.Fingerprint = [16]byte{2}
		_, err = send(other, "x")
		h.wantCode(fanfare.CodeConflict, err)
		h.equal("stored once", []string{"1", "2"}, h.data(fanfare.Query{Patterns: Patterns("a")}))
	})
	elsewhere := key
	elsewhere.Scope = "me\x00b"
	if r, err := send(elsewhere, "3"); err != nil || r.Replayed {
		h.Fatalf("the same key in another scope: %+v, %v", r, err)
	}
	// Many at once under one key: one is stored, all get its position.
	var wg sync.WaitGroup
	var stored atomic.Int64
	var seen sync.Map
	for range 32 {
		wg.Go(func() {
			r, err := send(fanfare.Key{Scope: "me\x00a", Text: "storm"}, "4")
			if err != nil {
				h.Errorf("storm: %v", err)
				return
			}
			if !r.Replayed {
				stored.Add(1)
			}
			seen.Store(r.Positions[0], true)
		})
	}
	wg.Wait()
	n := 0
	seen.Range(func(any, any) bool { n++; return true })
	if stored.Load() != 1 || n != 1 {
		h.Fatalf("32 at once under one key: %d stored, %d positions", stored.Load(), n)
	}
}

func testKeysOfEvents(h *harness) {
	key := func(text string, print byte) fanfare.Key {
		return fanfare.Key{Scope: "s", Text: text, Fingerprint: [16]byte{print}}
	}
	send := func(keys []fanfare.Key, data ...string) (fanfare.Receipt, error) {
		b := &fanfare.Batch{Keys: keys}
		for _, d := range data {
			b.Events = append(b.Events, fanfare.Event{Channel: Channel("a"), Data: d})
		}
		return Append(h.log, b)
	}
	first, err := send([]fanfare.Key{key("x", 1), {}, key("x", 1)}, "1", "2", "1")
	if err != nil || first.Replayed || first.Positions[0] != first.Positions[2] {
		h.Fatalf("twins in a batch: %+v, %v", first, err)
	}
	h.reopen()
	second, err := send([]fanfare.Key{key("y", 3), key("x", 1)}, "3", "1")
	if err != nil || second.Replayed || second.Positions[1] != first.Positions[0] {
		h.Fatalf("one new, one known: %+v, %v", second, err)
	}
	third, err := send([]fanfare.Key{key("x", 1)}, "1")
	if err != nil || !third.Replayed {
		h.Fatalf("all known: %+v, %v", third, err)
	}
	_, err = send([]fanfare.Key{key("new", 1), key("x", 9)}, "no", "no")
	h.wantCode(fanfare.CodeConflict, err)
	_, err = send([]fanfare.Key{key("new", 1), key("new", 2)}, "no", "no")
	h.wantCode(fanfare.CodeConflict, err)
	h.twice(func() {
		h.equal("stored", []string{"1", "2", "3"}, h.data(fanfare.Query{Patterns: Patterns("a")}))
	})
}

func testRetainCount(h *harness) {
	var at []fanfare.Position
	for i := range 12 {
		at = append(at, h.publish("a", fmt.Sprint(i))...)
	}
	b := h.publish("b", "b")
	h.twice(func() {
		want := []string{"7", "8", "9", "10", "11"}
		h.equal("clipped at once", want, h.data(fanfare.Query{Patterns: Patterns("a")}))
		h.equal("clipped in a scan", append(want, "b"), h.data(fanfare.Query{Patterns: Patterns("*")}))
		_, trimmed, err := ReadAll(h.log, fanfare.Query{Patterns: Patterns("a"), After: at[2]})
		if err != nil || trimmed != at[6] {
			h.Fatalf("trimmed %v, %v; want %v", trimmed, err, at[6])
		}
		for _, pattern := range []string{"a", "*"} {
			for i, want := range []fanfare.GapReason{0: fanfare.GapTrimmed, 5: fanfare.GapTrimmed, 6: "", 7: "",
				11: ""} {
				if i != 0 && i != 5 && want == "" && i < 6 {
					continue
				}
				if loss := h.missed(at[i], pattern); loss.Reason != want {
					h.Errorf("%s after %d: reason %q, want %q", pattern, i, loss.Reason, want)
				}
			}
			if first := h.first(fanfare.Query{Patterns: Patterns(pattern), After: at[0]}); first != at[7] {
				h.Errorf("%s: first retained %v, want %v", pattern, first, at[7])
			}
		}
		if loss := h.missed(at[0], "b"); loss.Reason != "" ||
			h.first(fanfare.Query{Patterns: Patterns("b"), After: at[0]}) != b[0] {
			h.Errorf("another channel's trim mark is no gap: %+v", loss)
		}
		if first := h.last(100, "a"); first != at[7] {
			h.Errorf("last 100: first %v, want %v", first, at[7])
		}
	})
	h.publish("a", "12")
	h.equal("one more", []string{"8", "9", "10", "11", "12"}, h.data(fanfare.Query{Patterns: Patterns("a")}))
}

func testRetainAge(h *harness) {
	old := h.publish("a", "1", "2")
	deadline := time.Now().Add(10 * time.Second)
	for len(h.data(fanfare.Query{Patterns: Patterns("a")})) > 0 {
		if time.Now().After(deadline) {
			h.Fatal("nothing expired")
		}
		time.Sleep(20 * time.Millisecond) // real time has to pass
	}
	h.twice(func() {
		if loss := h.missed(old[0], "a"); loss.Reason != fanfare.GapTrimmed {
			h.Fatalf("an emptied channel: %+v", loss)
		}
		if loss := h.missed(old[1], "a"); loss.Reason != "" {
			h.Fatalf("at the trim mark: %+v", loss)
		}
	})
	h.publish("a", "3")
	h.equal("goes on", []string{"3"}, h.data(fanfare.Query{Patterns: Patterns("a")}))
}

type listener struct {
	mu     sync.Mutex
	events []fanfare.Event
	wrong  string
	last   fanfare.Position
}

func (l *listener) Committed(events []fanfare.Event, durable fanfare.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		if e.Position <= l.last || e.Position > durable {
			l.wrong = fmt.Sprintf("told of %v after %v, durable %v", e.Position, l.last, durable)
		}
		l.last = e.Position
	}
	l.events = append(l.events, events...)
}

func (l *listener) Reopened(fanfare.Position) {}

func testWatch(h *harness) {
	h.publish("a", "before")
	for range 2 {
		var l listener
		durable, stop := h.log.Watch(&l)
		l.last = durable
		for i := range 5 {
			at := h.publish("a", fmt.Sprint(i))
			l.mu.Lock()
			if l.last != at[0] || l.wrong != "" {
				h.Fatalf("answered at %v, the watcher has heard up to %v %s: visible comes before acknowledged", at[0],
					l.last, l.wrong)
			}
			l.mu.Unlock()
		}
		stop()
		h.publish("a", "after")
		if len(l.events) != 5 {
			h.Fatalf("%d events, want 5", len(l.events))
		}
		h.reopen()
	}
}

func testConcurrent(h *harness) {
	const writers, each = 16, 60
	var l listener
	durable, stop := h.log.Watch(&l)
	l.last = durable
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			var last fanfare.Position
			for i := range each {
				r, err := Append(h.log,
					&fanfare.Batch{Events: []fanfare.Event{{Channel: Channel(fmt.Sprint("c", w)),
						Data: fmt.Sprint(i)}}})
				if err != nil || r.Positions[0] <= last {
					h.Errorf("writer %d: %v after %v, %v", w, r.Positions, last, err)
					return
				}
				last = r.Positions[0]
				page, err := h.log.Read(context.Background(),
					fanfare.Query{Patterns: Patterns(fmt.Sprint("c", w)), After: last - 1})
				if err != nil || len(page.Events) != 1 {
					h.Errorf("writer %d does not see what was acknowledged: %+v, %v", w, page, err)
					return
				}
			}
		})
	}
	wg.Wait()
	stop()
	if l.wrong != "" || len(l.events) != writers*each {
		h.Fatalf("the watcher heard %d events of %d %s", len(l.events), writers*each, l.wrong)
	}
	h.twice(func() {
		h.equal("all", writers*each, len(h.data(fanfare.Query{Patterns: Patterns("**")})))
		for w := range writers {
			h.equal("one writer's", each, len(h.data(fanfare.Query{Patterns: Patterns(fmt.Sprint("c", w))})))
		}
	})
}

func testClose(h *harness) {
	h.publish("a", "1")
	for range 2 {
		if err := h.log.Close(); err != nil {
			h.Fatalf("close: %v", err)
		}
	}
	_, err := Append(h.log, &fanfare.Batch{Events: []fanfare.Event{{Channel: Channel("a"), Data: "2"}}})
	h.wantCode(fanfare.CodeUnavailable, err)
	_, err = h.log.Read(context.Background(), fanfare.Query{Patterns: Patterns("a")})
	h.wantCode(fanfare.CodeUnavailable, err)
	h.log = h.open()
	h.equal("after", []string{"1"}, h.data(fanfare.Query{Patterns: Patterns("a")}))
}

func testRetainBytes(h *harness) {
	var at []fanfare.Position
	for i := range 12 {
		at = append(at, h.publish("a", fmt.Sprintf("%010d", i))...) // ten bytes each; 35 are kept
	}
	b := h.publish("b", "a text that is longer than thirty-five bytes by itself")
	h.twice(func() {
		h.equal("clipped at once", []string{"0000000009", "0000000010", "0000000011"},
			h.data(fanfare.Query{Patterns: Patterns("a")}))
		if loss := h.missed(at[7], "a"); loss.Reason != fanfare.GapTrimmed ||
			h.first(fanfare.Query{Patterns: Patterns("a"), After: at[7]}) != at[9] {
			h.Errorf("below the mark: %+v", loss)
		}
		if loss := h.missed(at[8], "a"); loss.Reason != "" {
			h.Errorf("at the mark: %+v", loss)
		}
		if loss := h.missed(b[0]-1, "b"); loss.Reason != "" ||
			h.first(fanfare.Query{Patterns: Patterns("b"), After: b[0] - 1}) != b[0] {
			h.Errorf("the newest event stays, however long: %+v", loss)
		}
	})
	h.publish("a", "a text of twenty-seven bytes")
	h.equal("one more", []string{"a text of twenty-seven bytes"}, h.data(fanfare.Query{Patterns: Patterns("a")}))
	h.publish("b", "")
	h.equal("the longer one has gone", []string{""}, h.data(fanfare.Query{Patterns: Patterns("b")}))
}
