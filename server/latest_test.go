package server_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/server"
)

// state reads GET /v1/latest page by page.
func (f *fixture) state(query string, header ...string) (list []string, position string) {
	f.t.Helper()
	for after := ""; ; {
		a := f.call("GET", "/v1/latest?"+query+after, "", header...)
		var page struct {
			Events         []struct{ ID, Channel, Data, Time string }
			Position, Next string
		}
		if err := json.Unmarshal([]byte(a.body), &page); err != nil || a.status != 200 {
			f.t.Fatalf("%v: %+v", err, a)
		}
		for _, e := range page.Events {
			list = append(list, e.Channel+"="+e.Data)
		}
		if position == "" {
			position = page.Position
		}
		if page.Next == "" {
			return list, position
		}
		query, _, _ = strings.Cut(query, "&after=")
		after = "&after=" + url.QueryEscape(page.Next)
	}
}

// TestLatest reads the newest event of each channel, whole and by pages, and goes on from there.
func TestLatest(t *testing.T) {
	oneKind(t, "the stream in it only goes on from a position")
	f := start(t, server.Options{})
	if list, position := f.state("channel=**"); list != nil || len(position) != 13 {
		t.Errorf("an empty log: %v at %q", list, position)
	}
	f.publish("q/b", "1", "2")
	f.publish("q/a", "old", "new")
	f.publish("other/ä", "x")
	last := f.publish("q/b", "3")[0]
	for query, want := range map[string][]string{
		"channel=q/*":                     {"q/a=new", "q/b=3"},
		"channel=**":                      {"other/ä=x", "q/a=new", "q/b=3"},
		"channel=q/b&channel=other/*":     {"other/ä=x", "q/b=3"},
		"channel=nothing":                 nil,
		"channel=**&after=q/a":            {"q/b=3"},
		"channel=**&after=q":              {"q/a=new", "q/b=3"},
		"channel=**&after=" + "zzz%2Fzzz": nil,
	} {
		for _, limit := range []string{"limit=1000", "limit=1", "limit=2", "limit=10000"} {
			list, position := f.state(limit + "&" + query)
			if diff := cmp.Diff(want, list); diff != "" || position != last {
				t.Errorf("%s%s at %s, want %s (-want +got):\n%s", query, limit, position, last, diff)
			}
		}
	}
	if a := f.call("HEAD", "/v1/latest?channel=**", ""); a.status != 200 ||
		a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("HEAD: %+v", a)
	}
	for query, detail := range map[string]string{
		"": "channel is missing", "channel=": "empty", "channel=a&limit=0": "1 to 10000",
		"channel=a&limit=10001": "1 to 10000", "channel=a&limt=5": `did you mean \"limit\"`,
	} {
		a := f.call("GET", "/v1/latest?"+query, "")
		if a.status != 400 || !strings.Contains(a.body, detail) {
			t.Errorf("%s: %+v", query, a)
		}
	}
	s := f.stream("/v1/events?channel=**", "Last-Event-ID: "+last)
	f.publish("q/a", "newer")
	s.want("newer")
}

// TestLatestBytes: a page ends before the event that would make it too large.
func TestLatestBytes(t *testing.T) {
	f := start(t, server.Options{})
	for i := range 30 {
		f.publish(fmt.Sprint("c/", i), strings.Repeat("x", 100_000))
	}
	list, _ := f.state("channel=c/*")
	if len(list) != 30 {
		t.Errorf("%d of 30", len(list))
	}
	if a := f.call("GET", "/v1/latest?channel=c/*", ""); len(a.body) > 1<<20+1000 || a.json("next") == "" {
		t.Errorf("a page of %d bytes, next %q", len(a.body), a.json("next"))
	}
}

// TestChannels lists what channels hold.
func TestChannels(t *testing.T) {
	f := start(t, server.Options{}, "few/*=count:2", "**=age:7d")
	f.publish("a", "1", "22")
	ids := f.publish("few/1", "1", "2", "333")
	type channel struct {
		Channel, Latest string
		Count, Bytes    int
		Age             float64
	}
	read := func(query string) (list []channel, next string) {
		t.Helper()
		a := f.call("GET", "/v1/channels?"+query, "")
		var page struct {
			Channels []channel
			Next     string
		}
		if err := json.Unmarshal([]byte(a.body), &page); err != nil || a.status != 200 || page.Channels == nil {
			t.Fatalf("%v: %+v", err, a)
		}
		return page.Channels, page.Next
	}
	list, next := read("pattern=**")
	if len(list) != 2 || next != "" || list[0].Channel != "a" || list[0].Count != 2 || list[0].Bytes != 3 ||
		list[1].Channel != "few/1" || list[1].Count != 2 || list[1].Bytes != 4 || list[1].Latest != ids[2] ||
		list[1].Age < 0 || list[1].Age > 600 {
		t.Errorf("%+v, next %q", list, next)
	}
	if list, next := read("pattern=**&limit=1"); len(list) != 1 || next != "a" {
		t.Errorf("%+v, next %q", list, next)
	}
	if list, next := read("pattern=**&limit=1&after=a"); len(list) != 1 || next != "" || list[0].Channel != "few/1" {
		t.Errorf("%+v, next %q", list, next)
	}
	if list, _ := read("pattern=nothing/*"); len(list) != 0 {
		t.Errorf("%+v", list)
	}
	for _, query := range []string{"", "pattern=a&pattern=b", "pattern=a&limit=1001", "pattern=a/**/b"} {
		if a := f.call("GET", "/v1/channels?"+query, ""); a.status != 400 {
			t.Errorf("%s: %+v", query, a)
		}
	}
}

// TestLatestNeedsRights: state is for those who may listen.
func TestLatestNeedsRights(t *testing.T) {
	f := secured(t, server.Options{}, auth.Options{})
	all := bearer(token("all", time.Hour, "publish", "**", "subscribe", "**"))
	for _, c := range []string{"a/1", "a/2", "b/1"} {
		if a := f.call("POST", "/v1/channels/"+c, "x", all); a.status != 201 {
			t.Fatal(a)
		}
	}
	some := bearer(token("some", time.Hour, "subscribe", "a/*"))
	for _, path := range []string{"/v1/latest?channel=", "/v1/channels?pattern="} {
		if a := f.call("GET", path+"a/*", "", some); a.status != 200 || strings.Count(a.body, `"channel":"a/`) != 2 {
			t.Errorf("%s: %+v", path, a)
		}
		f.call("GET", path+"**", "", some).wantProblem(t, 403, "forbidden", "**")
		f.call("GET", path+"b/1", "", some).wantProblem(t, 403, "forbidden", "b/1")
		f.call("GET", path+"a/1", "").wantProblem(t, 401, "unauthenticated", "a/1")
	}
}

// flood publishes to some channels until stop is closed, and returns what was stored, by id.
func (f *fixture) flood(channels int, stop <-chan struct{}) (wait func() []storedAt) {
	var mu sync.Mutex
	var all []storedAt
	var publishers sync.WaitGroup
	for p := range 4 {
		publishers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				channel := fmt.Sprintf("c/%d", rand.IntN(channels))
				a := f.call("POST", "/v1/channels/"+channel, fmt.Sprintf("%d.%d", p, i))
				mu.Lock()
				all = append(all, storedAt{a.json("id"), channel})
				mu.Unlock()
			}
		})
	}
	return func() []storedAt {
		publishers.Wait()
		slices.SortFunc(all, func(a, b storedAt) int { return strings.Compare(a.id, b.id) })
		return all
	}
}

type storedAt struct{ id, channel string }

// isStateThenAll tells whether a stream was given the newest event of each channel at some
// position, and then all that followed it. all is sorted.
func isStateThenAll(got []string, all []storedAt) bool {
	n := 0 // of the events at the end that are all there
	for n < len(got) && n < len(all) && got[len(got)-1-n] == all[len(all)-1-n].id {
		n++
	}
	for p := len(all) - n; p <= len(all); p++ { // events before index p are at or below the position
		newest := map[string]string{}
		for _, s := range all[:p] {
			newest[s.channel] = s.id
		}
		want := slices.Sorted(maps.Values(newest))
		if len(want)+len(all)-p == len(got) && slices.Equal(want, got[:len(want)]) {
			return true
		}
	}
	return false
}

// TestLatestThenLive: a stream that starts with the state has no seam (P3): the newest event of
// each channel up to a position, then all that follows, while publishers run flat out.
func TestLatestThenLive(t *testing.T) {
	if eachKind(t, TestLatestThenLive) {
		return
	}
	f := start(t, server.Options{})
	stop := make(chan struct{})
	wait := f.flood(400, stop)
	var opened atomic.Int64
	var readers sync.WaitGroup
	var mu sync.Mutex
	var heard [][]string
	for r := range 3 {
		readers.Go(func() {
			for opened.Add(1) <= 30 {
				c := f.stream("/v1/events?replay=latest&channel=" + []string{"c/*", "**", "c/**"}[r])
				begins := c.any().LastEventID
				var ids []string
				done := make(chan struct{})
				go func() {
					defer close(done)
					for e := range c.events {
						if e.Type == "gap" {
							t.Errorf("a gap: %s", e.Data)
						}
						if e.Type == "message" {
							ids = append(ids, e.LastEventID)
						}
						if e.Data == "the end" {
							return
						}
					}
				}()
				time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond)
				if opened.Load() > 27 { // the last one of each reader hears it all
					<-done
				}
				c.close()
				<-done
				if len(ids) > 0 && begins >= ids[0] {
					t.Errorf("the stream begins at %s, its first event is %s", begins, ids[0])
				}
				mu.Lock()
				heard = append(heard, ids)
				mu.Unlock()
			}
		})
	}
	for opened.Load() < 28 {
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond)
	close(stop)
	all := wait()
	all = append(all, storedAt{f.publish("c/end", "the end")[0], "c/end"})
	readers.Wait()
	whole := 0
	for _, ids := range heard {
		if len(ids) == 0 {
			continue
		}
		at := slices.IndexFunc(all, func(s storedAt) bool { return s.id == ids[len(ids)-1] })
		if at < 0 || !isStateThenAll(ids, all[:at+1]) {
			t.Errorf("a stream of %d events is not a state and all after it: it ends at %d of %d", len(ids), at,
				len(all))
		}
		whole++
	}
	if whole < 10 {
		t.Errorf("only %d streams heard anything", whole)
	}
}

// TestConflate: a stream that lags gets the newest of each channel, never an older value after a
// newer one, and no gap for what retention has removed from under a newer event; one that does not
// lag gets all.
func TestConflate(t *testing.T) {
	if eachKind(t, TestConflate) {
		return
	}
	for _, rule := range []string{"**=age:7d", "**=count:1"} {
		for _, query := range []string{"channel=q/*", "channel=q/0&channel=q/1&channel=q/2&channel=end", "channel=**"} {
			t.Run(rule+" "+query, func(t *testing.T) { conflated(t, start(t, server.Options{}, rule), query) })
		}
	}
}

func conflated(t *testing.T, f *fixture, query string) {
	w := f.open("/v1/events?conflate=true&" + query)
	f.publish("q/0", "heard at once")
	w.until("data: heard at once\n\n")
	w.stops()
	const rounds, channels = 400, 3
	padding := strings.Repeat("x", 8000)
	for round := range rounds {
		var list []fanfare.Message
		for c := range channels {
			list = append(list, fanfare.Message{Channel: fmt.Sprint("q/", c), Data: fmt.Sprint(round, padding)})
		}
		if _, err := f.srv.Publish(t.Context(), list...); err != nil {
			t.Fatal(err)
		}
	}
	f.publish("q/0", "the end")
	w.goesOn()
	text := w.until("data: the end\n\n")
	if strings.Contains(text, "event: gap") {
		t.Errorf("a gap: %s", text[strings.Index(text, "event: gap"):][:200])
	}
	var ids []string
	for _, line := range strings.Split(text, "\n") {
		if id, ok := strings.CutPrefix(line, "id: "); ok {
			ids = append(ids, id)
		}
	}
	if !slices.IsSorted(ids) {
		t.Errorf("ids go back: %v", ids)
	}
	if n := strings.Count(text, padding); n > rounds*channels*9/10 || n < channels-1 {
		t.Errorf("%d of %d events came to a stream that lagged", n, rounds*channels)
	}
	for c := 1; c < channels; c++ { // of q/0, the end is the newest
		if a := f.call("GET", "/v1/latest?channel=q/"+fmt.Sprint(c), ""); !strings.Contains(text, a.eventID()) {
			t.Errorf("the newest of q/%d did not come", c)
		}
	}
	f.metricAbove(t, "fanfare_events_conflated_total", 0)
}

// eventID is the id of the first event of a page.
func (a answer) eventID() string {
	var page struct{ Events []struct{ ID string } }
	if json.Unmarshal([]byte(a.body), &page) != nil || len(page.Events) == 0 {
		return "no event"
	}
	return page.Events[0].ID
}

// metricAbove waits until a figure is above a value.
func (f *fixture) metricAbove(t *testing.T, name string, least float64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		body := f.call("GET", "/metrics", "").body
		if _, text, ok := strings.Cut(body, "\n"+name+" "); ok {
			text, _, _ = strings.Cut(text, "\n")
			if v, err := strconv.ParseFloat(text, 64); err == nil && v > least {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not above %v", name, least)
		}
	}
}

// TestLatestAndAPosition: a position wins over replay=latest, as over every other start, and a
// stream that cannot be what it asks for is refused.
func TestLatestAndAPosition(t *testing.T) {
	if eachKind(t, TestLatestAndAPosition) {
		return
	}
	f := start(t, server.Options{})
	first := f.publish("a", "1", "2", "3")[0]
	f.stream("/v1/events?replay=latest&channel=a", "Last-Event-ID: "+first).want("2", "3")
	f.stream("/v1/events?replay=latest&conflate=true&channel=a&lastEventId=" + first).want("3")
	f.stream("/v1/events?replay=latest&channel=a").want("3")
	for query, detail := range map[string]string{
		"conflate=maybe": "conflate must be true or false", "replay=newest": "`latest`",
		"replay=latest&since=1m": "one of them",
		"conflat=true":           `did you mean \"conflate\"`,
	} {
		if a := f.call("GET", "/v1/events?channel=a&"+query, ""); a.status != 400 || !strings.Contains(a.body, detail) {
			t.Errorf("%s: %+v", query, a)
		}
	}
}

// TestLatestBudget: positions of states count in a budget of memory.
func TestLatestBudget(t *testing.T) {
	if eachKind(t, TestLatestBudget) {
		return
	}
	f := start(t, server.Options{Streams: server.StreamOptions{LatestBytes: 8 * 100}})
	var list []fanfare.Message
	for i := range 101 {
		list = append(list, fanfare.Message{Channel: fmt.Sprint("c/", i), Data: "x"})
	}
	if _, err := f.srv.Publish(t.Context(), list...); err != nil {
		t.Fatal(err)
	}
	for range f.stream("/v1/events?replay=latest&channel=c/*").rest() { // it ends before its first event
	}
	c := f.stream("/v1/events?replay=latest&channel=c/1")
	c.want("x")
	f.publish("c/1", "y")
	c.want("y")
	f.metric(t, "fanfare_latest_bytes 0")
}
