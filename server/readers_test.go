package server_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/auth"
	"github.com/fanfare-hub/fanfare/logtest"
	"github.com/fanfare-hub/fanfare/server"
)

// These tests are of DESIGN section 8, "Several readers of one PC". Readers are told apart by what
// a trusted proxy says of their address, but for TestReadersByTheirOwnAddress.

// fleet is a hub behind a proxy, and what it logs.
func fleet(t *testing.T, o server.Options, rules ...string) (*fixture, *logText) {
	t.Helper()
	said := &logText{}
	o.Access.TrustedProxies, o.Logger = []string{"127.0.0.1"}, slog.New(slog.NewTextHandler(said, nil))
	return start(t, o, rules...), said
}

// at opens the stream of PC 2 of store 1 from an address. more is added to the query, unless it is
// a header.
func (f *fixture) at(address string, more ...string) *client {
	f.t.Helper()
	path, header := pcPath("1", "2"), []string{"X-Forwarded-For: " + address}
	for _, m := range more {
		if strings.Contains(m, ": ") {
			header = append(header, m)
		} else {
			path += "&" + m
		}
	}
	c := f.stream(path, header...)
	if e := c.any(); e.Type != "sse" || e.Data != "CONNECTED" {
		f.t.Fatalf("the first event is %+v", e)
	}
	return c
}

// off closes streams, and waits until the hub knows.
func (f *fixture) off(list ...*client) {
	f.t.Helper()
	open := f.srvStreams()
	for _, c := range list {
		c.close()
	}
	f.untilStreams(open - len(list))
}

// sends sends commands to PC 2 of store 1.
func (f *fixture) sends(events ...string) (ids []string) {
	f.t.Helper()
	for _, event := range events {
		id, _ := f.send("1", "2", event)
		ids = append(ids, id)
	}
	return ids
}

// hears checks what a PC gets next, and that nothing follows.
func (c *client) hears(when string, events ...string) {
	c.t.Helper()
	if diff := cmp.Diff(events, c.commands(len(events))); diff != "" {
		c.t.Errorf("%s (-want +got):\n%s", when, diff)
	}
	c.quiet()
}

// keptCursors returns how many positions are stored for PC 2 of store 1, when all that has happened
// is.
func (f *fixture) keptCursors() (n int) {
	f.t.Helper()
	f.restart()
	for _, store := range f.stats("").Stores {
		for _, pc := range store.PCs {
			n += len(pc.Readers)
		}
	}
	return n
}

func (f *fixture) untilSaid(said *logText, text string) {
	f.t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(said.String(),
		text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("the log does not say %q:\n%s", text, said)
		}
	}
}

// TestClonesOfDifferentAddresses: two machines with one id, both off over a weekend, come back in
// either order, twice. None loses or repeats anything.
func TestClonesOfDifferentAddresses(t *testing.T) {
	if eachKind(t, TestClonesOfDifferentAddresses) {
		return
	}
	for _, order := range [][2]string{{"10.0.0.1", "10.0.0.2"}, {"10.0.0.2", "10.0.0.1"}} {
		f, _ := fleet(t, server.Options{})
		f.sends("before")
		a, b := f.at("10.0.0.1"), f.at("10.0.0.2")
		f.sends("both")
		a.hears("the first, connected", "both")
		b.hears("the second, connected", "both")
		for round := range 2 {
			f.off(a, b)
			missed := []string{fmt.Sprint("missed ", round, ".1"), fmt.Sprint("missed ", round, ".2")}
			f.sends(missed[0])
			if round == 1 {
				f.restart()
			}
			f.sends(missed[1])
			a = f.at(order[0])
			a.hears("who comes back first", missed...)
			f.sends("one is back")
			a.hears("who is back", "one is back")
			b = f.at(order[1])
			b.hears("who comes back second", append(missed, "one is back")...)
		}
	}
}

// TestSomebodyLooksAtAConnectedPC: at its next clean end the PC gets nothing again, whoever looked
// meanwhile.
func TestSomebodyLooksAtAConnectedPC(t *testing.T) {
	if eachKind(t, TestSomebodyLooksAtAConnectedPC) {
		return
	}
	f, _ := fleet(t, server.Options{Stores: server.StoreOptions{Lifetime: 5 * time.Second}})
	pc := f.at("10.0.0.1")
	ids := f.sends("a", "b")
	pc.hears("the PC", "a", "b")
	for _, look := range []*client{f.at("10.0.0.9"), f.at("10.0.0.9", "look=true"),
		f.at("10.0.0.9", "lastEventId="+ids[0]), f.at("10.0.0.9", "look=true", "lastEventId="+ids[0])} {
		defer look.close()
	}
	pc.rest()
	f.sends("c")
	f.at("10.0.0.1").hears("the PC, at its next stream", "c")
}

// TestSomebodyLooksAtAPCThatIsOff: they see what the PC has not heard, or what they ask for, and
// take nothing from it.
func TestSomebodyLooksAtAPCThatIsOff(t *testing.T) {
	if eachKind(t, TestSomebodyLooksAtAPCThatIsOff) {
		return
	}
	f, _ := fleet(t, server.Options{})
	pc := f.at("10.0.0.1")
	ids := f.sends("a", "b")
	pc.hears("the PC", "a", "b")
	f.off(pc)
	f.sends("c", "d")
	for range 2 {
		look := f.at("10.0.0.9", "look=true")
		look.hears("look=true", "c", "d")
		f.off(look)
		look = f.at("10.0.0.9", "look=true", "lastEventId="+ids[0])
		look.hears("look=true and a position", "b", "c", "d")
		f.off(look)
		look = f.at("10.0.0.1", "look=true") // on the PC itself
		look.hears("look=true at the PC's address", "c", "d")
		f.off(look)
	}
	look := f.at("10.0.0.8", "Last-Event-ID: "+ids[0])
	look.hears("a position of its own", "b", "c", "d")
	f.off(look)
	look = f.at("10.0.0.7")
	// The PC's cursor was used before the one of 10.0.0.8, which has heard everything.
	look.hears("no position")
	f.off(look)
	f.at("10.0.0.1").hears("the PC", "c", "d")
	f.call("GET", pcPath("1", "2")+"&look=yes", "").wantProblem(t, 400, "invalid", "look")
	if m := f.call("GET", "/metrics", "").body; !strings.Contains(m, "fanfare_store_looks_total{why=\"asked\"} 6\n") {
		t.Error("looks are not counted")
	}
}

// TestNewReaderStartsWhereThePCStood: whoever is there for the first time starts at the PC's most
// recently used position, which stays with its owner. So a PC whose address changes loses nothing.
func TestNewReaderStartsWhereThePCStood(t *testing.T) {
	if eachKind(t, TestNewReaderStartsWhereThePCStood) {
		return
	}
	f, _ := fleet(t, server.Options{})
	pc := f.at("10.0.0.1")
	f.sends("a")
	pc.hears("the PC", "a")
	f.off(pc)
	f.sends("b")
	moved := f.at("10.0.0.2")
	moved.hears("the PC at a new address", "b")
	f.off(moved)
	f.sends("c")
	f.restart()
	f.sends("d")
	again := f.at("10.0.0.3")
	again.hears("the PC at a third one", "c", "d")
	// While its old stream still looks open, too.
	f.sends("e")
	again.hears("the PC, connected", "e")
	f.at("10.0.0.4").hears("the PC at a fourth one, with the third still open")
	f.at("10.0.0.1").hears("the first address, where nobody was since", "b", "c", "d", "e")
}

// TestClientThatSendsPositions for a week: it is taken at its word, and leaves one position.
func TestClientThatSendsPositions(t *testing.T) {
	if eachKind(t, TestClientThatSendsPositions) {
		return
	}
	f, _ := fleet(t, server.Options{})
	last := ""
	for i := range 60 {
		c := f.at("10.0.0.1", "Last-Event-ID: "+last)
		ids := f.sends(fmt.Sprint(i))
		c.hears("connected", fmt.Sprint(i))
		f.off(c)
		if i%2 == 1 { // it forgets what it had heard last
			c = f.at("10.0.0.1", "lastEventId="+last)
			c.hears("with an older position", fmt.Sprint(i))
			f.off(c)
		}
		last = ids[0]
	}
	c := f.at("10.0.0.1") // where the last position, and what came after it, has brought it
	c.hears("without one")
	f.off(c)
	f.sends("more")
	c = f.at("10.0.0.1", "lastEventId="+last)
	c.hears("its own position", "more")
	f.off(c)
	f.at("10.0.0.1").hears("nothing new")
	if n := f.keptCursors(); n != 1 {
		t.Errorf("%d positions are kept", n)
	}
}

// TestReadersByTheirOwnAddress: without a proxy in between, too.
func TestReadersByTheirOwnAddress(t *testing.T) {
	if eachKind(t, TestReadersByTheirOwnAddress) {
		return
	}
	f := start(t, server.Options{})
	from := func(address string) *client {
		t.Helper()
		transport := f.kind.transport()
		transport.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext
		ctx, cancel := context.WithCancel(context.Background())
		req, err := http.NewRequestWithContext(ctx, "GET", f.url(pcPath("1", "2")), nil)
		if err != nil {
			t.Fatal(err)
		}
		c := connect(t, &http.Client{Transport: transport}, req, cancel)
		c.any()
		return c
	}
	a, b := from("127.0.0.2"), from("127.0.0.3")
	f.off(a, b)
	f.sends("missed")
	a = from("127.0.0.2")
	a.hears("127.0.0.2", "missed")
	from("127.0.0.3").hears("127.0.0.3", "missed")
	f.off(a)
	from("127.0.0.2").hears("127.0.0.2 again")
}

// TestOneTokenForAFleet: machines that share a token, with a pattern for a device, are told apart
// by their addresses; those that share an address by their tokens.
func TestOneTokenForAFleet(t *testing.T) {
	if eachKind(t, TestOneTokenForAFleet) {
		return
	}
	f := secured(t, server.Options{Access: server.AccessOptions{TrustedProxies: []string{"127.0.0.1"}}},
		auth.Options{Anonymous: mustGrants(t, "admin=**")})
	fleet := bearer(token("fleet", time.Hour, "device", "stores/*/pcs/*"))
	own := bearer(token("pc", time.Hour, "device", "stores/1/pcs/2"))
	operator := bearer(token("operator", time.Hour, "publish", "stores/**"))
	send := func(event string) {
		t.Helper()
		if a := f.call("POST", "/v1/stores/1/pcs/2/events", `{"event":"`+event+`"}`, operator); a.status != 201 {
			t.Fatalf("%+v", a)
		}
	}
	list := []*client{f.at("10.0.0.1", fleet), f.at("10.0.0.2", fleet), f.at("10.0.0.1", own)}
	f.off(list...)
	send("a")
	for i, c := range []*client{f.at("10.0.0.1", fleet), f.at("10.0.0.2", fleet), f.at("10.0.0.1", own)} {
		c.hears(fmt.Sprint("reader ", i), "a")
	}
	if a := f.call("GET", "/v1/health?storeId=9&pcId=9", "", fleet); a.status != 200 || a.json("lastSeen") == "" {
		t.Errorf("%+v", a)
	}
	if a := f.call("GET", "/v1/health?storeId=1&pcId=3", "", own); a.status != 403 {
		t.Errorf("%+v", a)
	}
}

// TestWhoMayOnlyListenLooks (P8): who may subscribe to all of a PC's channels gets its commands,
// and takes none from it, nor marks it as alive; the log says so once for each subject.
func TestWhoMayOnlyListenLooks(t *testing.T) {
	if eachKind(t, TestWhoMayOnlyListenLooks) {
		return
	}
	said := &logText{}
	f := secured(t, server.Options{Logger: slog.New(slog.NewTextHandler(said, nil))},
		auth.Options{Anonymous: mustGrants(t, "admin=**")})
	device := bearer(token("pc", time.Hour, "device", "stores/1/pcs/2"))
	listener := bearer(token("listener", time.Hour, "subscribe", "stores", "subscribe", "stores/**"))
	another := bearer(token("another", time.Hour, "subscribe", "**"))
	operator := bearer(token("operator", time.Hour, "publish", "stores/**"))
	send := func(event string) {
		t.Helper()
		if a := f.call("POST", "/v1/stores/1/pcs/2/events", `{"event":"`+event+`"}`, operator); a.status != 201 {
			t.Fatalf("%+v", a)
		}
	}
	open := func(token string, more ...string) *client {
		c := f.stream(pcPath("1", "2")+strings.Join(more, ""), token)
		c.any()
		return c
	}
	c := open(device)
	f.off(c)
	send("REBOOT")
	for range 3 {
		for _, token := range []string{listener, another} {
			c := open(token)
			c.hears("who may only listen", "REBOOT")
			f.off(c)
		}
	}
	c = open(listener, "&lastEventId=0000000000001")
	c.close()
	a := f.call("GET", "/v1/health?storeId=1&pcId=2", "", listener)
	if a.status != 200 || a.json("lastSeen") != "" {
		t.Errorf("%+v", a)
	}
	open(device).hears("the PC", "REBOOT")
	if n := strings.Count(said.String(), "is not the PC only looks"); n != 2 {
		t.Errorf("warned %d times of two subjects:\n%s", n, said)
	}
	if m := f.call("GET", "/metrics", "").body; !strings.Contains(m,
		"fanfare_store_looks_total{why=\"no_right\"} 7\n") {
		t.Error("looks are not counted")
	}
	f.restart()
	if s := f.stats("").Stores; len(s) != 1 || len(s[0].PCs) != 1 || len(s[0].PCs[0].Readers) != 1 {
		t.Errorf("%+v", s)
	}
}

// TestHalfDeadStreamAndItsSuccessor: the older stream takes nothing when the PC comes back, and
// ends after the newer one has gone on. It leaves nothing: the PC does not go back to where that
// stream stood.
func TestHalfDeadStreamAndItsSuccessor(t *testing.T) {
	if eachKind(t, TestHalfDeadStreamAndItsSuccessor) {
		return
	}
	f := start(t, server.Options{})
	old, _ := f.overwhelmedPC()
	c := f.pc("1", "2")
	c.commands(7) // one may have been acknowledged on the older stream
	for e := c.any(); e.Type == "sse" && !strings.Contains(e.Data, "7xxx"); e = c.any() {
	}
	f.send("1", "2", "after")
	for c.commands(1)[0] != "after" {
	}
	old.reset()
	f.untilStreams(1)
	c.close()
	f.untilStreams(0)
	f.send("1", "2", "later")
	f.pc("1", "2").hears("after the half-dead stream has ended, and its successor", "later")
}

// TestTwoMachinesThatNothingTellsApart: one token, one address, and both are there. Both have a
// position while they are open, and the next stream takes the lowest that was left. The hub says
// so.
func TestTwoMachinesThatNothingTellsApart(t *testing.T) {
	if eachKind(t, TestTwoMachinesThatNothingTellsApart) {
		return
	}
	f, said := fleet(t, server.Options{})
	a := f.at("10.0.0.1", "heartbeat=1")
	b := f.at("10.0.0.1", "heartbeat=1")
	f.sends("both") // what is written to the older one now, it acknowledges: it is no dead one
	a.hears("the first machine", "both")
	b.hears("the second machine", "both")
	f.untilSaid(said, "share one storeId and pcId")
	if !strings.Contains(said.String(), "storeId=1 pcId=2 addresses=[10.0.0.1]") {
		t.Errorf("the warning does not name the PC:\n%s", said)
	}
	if pc := f.stats("").Stores[0].PCs[0]; !pc.Shared || len(pc.Readers) != 1 || pc.Readers[0].Streams != 2 ||
		pc.Readers[0].Address != "10.0.0.1" {
		t.Errorf("not shown: %+v", pc)
	}
	f.metric(t, `fanfare_store_shared_total{readers="same"} 1`)
	f.off(a)
	f.sends("missed by the first")
	b.hears("the second machine", "missed by the first")
	f.off(b)
	f.sends("missed by both")
	c := f.at("10.0.0.1")
	c.hears("who comes back first", "missed by the first", "missed by both")
	f.off(c)
	f.at("10.0.0.1").hears("the other positions went with it")
}

// TestPeopleBesideAPC: a stream of another address beside the PC's is told of, when both are there.
func TestPeopleBesideAPC(t *testing.T) {
	if eachKind(t, TestPeopleBesideAPC) {
		return
	}
	f, said := fleet(t, server.Options{})
	pc := f.at("10.0.0.1")
	beside := f.at("10.0.0.9")
	f.sends("a")
	pc.hears("the PC", "a")
	beside.hears("who looks", "a")
	f.untilSaid(said, "read from several addresses")
	f.metric(t, `fanfare_store_shared_total{readers="different"} 1`)
	if !strings.Contains(said.String(), "10.0.0.1") || !strings.Contains(said.String(), "10.0.0.9") {
		t.Errorf("who they are is not said:\n%s", said)
	}
	f.metric(t, `fanfare_store_shared_total{readers="same"} 0`)
}

// TestAtMostFourReaders (P6): the one that was not there for longest goes first.
func TestAtMostFourReaders(t *testing.T) {
	if eachKind(t, TestAtMostFourReaders) {
		return
	}
	f, said := fleet(t, server.Options{})
	for i := range 4 {
		f.off(f.at(fmt.Sprint("10.0.0.", i)))
	}
	f.off(f.at("10.0.0.0")) // now 10.0.0.1 was not there for longest
	f.sends("a")
	if n := f.keptCursors(); n != 4 {
		t.Errorf("%d positions are kept", n)
	}
	fifth := f.at("10.0.0.4")
	fifth.hears("a fifth reader", "a")
	f.off(fifth)
	f.metric(t, "fanfare_store_readers_dropped_total 1")
	f.untilSaid(said, "storeId=1 pcId=2 address=10.0.0.1")
	if n := f.keptCursors(); n != 4 {
		t.Errorf("%d positions are kept", n)
	}
	f.sends("b")
	for _, address := range []string{"10.0.0.0", "10.0.0.2", "10.0.0.3"} {
		c := f.at(address)
		c.hears(address, "a", "b")
		f.off(c)
	}
	c := f.at("10.0.0.1") // starts where the last one stood
	c.hears("who was dropped")
	f.off(c)
}

// TestPositionsOfAnEarlierVersion are not a reader's: whoever comes first starts there, and who
// looks because they asked to. A PC whose token is of that version's time, and which therefore
// looks, does not: it would get the same commands with each stream.
func TestPositionsOfAnEarlierVersion(t *testing.T) {
	if eachKind(t, TestPositionsOfAnEarlierVersion) {
		return
	}
	f := secured(t, server.Options{Access: server.AccessOptions{TrustedProxies: []string{"127.0.0.1"}}},
		auth.Options{Anonymous: mustGrants(t, "admin=**", "publish=stores/**")})
	device := bearer(token("pc", time.Hour, "device", "stores/1/pcs/2"))
	older := bearer(token("fleet", time.Hour, "subscribe", "stores", "subscribe", "stores/**"))
	ids := f.sends("a", "b")
	at, err := fanfare.ParsePosition(ids[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := logtest.Append(f.log,
		&fanfare.Batch{Keep: []fanfare.Kept{{Name: "pc/1/2", Position: at, Lifetime: time.Hour}}}); err != nil {
		t.Fatal(err)
	}
	c := f.at("10.0.0.1", older)
	c.hears("a token without device")
	f.off(c)
	c = f.at("10.0.0.1", device, "look=true")
	c.hears("look=true", "b")
	f.off(c)
	c = f.at("10.0.0.1", device)
	c.hears("who comes first", "b")
	f.off(c)
	f.sends("c")
	c = f.at("10.0.0.1", device)
	c.hears("and again", "c")
	f.off(c)
}
