package server_test

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/server"
)

// TestAttachedStreams runs the tests of streams once more with streams that have a goroutine each, as over TLS and HTTP/2; without it
// they are detached where that can be. (TestThroughHTTP2 and e2e's TestTLS are for those that are never detached.)
func TestAttachedStreams(t *testing.T) {
	attached = true
	defer func() { attached = false }()
	for _, one := range []struct {
		name string
		test func(*testing.T)
	}{
		{"TestDelivery", TestDelivery}, {"TestDeliveriesAreCounted", TestDeliveriesAreCounted}, {"TestIdleSigns", TestIdleSigns}, {"TestNoFirstEvent", TestNoFirstEvent},
		{"TestPositionSources", TestPositionSources}, {"TestGaps", TestGaps}, {"TestRestartThenResume", TestRestartThenResume},
		{"TestSeamOverHTTP", TestSeamOverHTTP}, {"TestLifetimeEndsBetweenEvents", TestLifetimeEndsBetweenEvents}, {"TestDrain", TestDrain},
		{"TestNoRoom", TestNoRoom}, {"TestRefusalsAndEndsAreCounted", TestRefusalsAndEndsAreCounted}, {"TestDeadReaders", TestDeadReaders},
		{"TestSlowIsNotStalled", TestSlowIsNotStalled}, {"TestHalfClosedPeerKeepsHearing", TestHalfClosedPeerKeepsHearing},
		{"TestClosedPeerFreesItsSlot", TestClosedPeerFreesItsSlot}, {"TestFloodingPeerIsCut", TestFloodingPeerIsCut},
		{"TestKeptPositionAfterCleanEnds", TestKeptPositionAfterCleanEnds}, {"TestKeptPositionOfAnIdleStream", TestKeptPositionOfAnIdleStream},
		{"TestKeptPositionAfterABreak", TestKeptPositionAfterABreak}, {"TestKeptPositionOnAUsedConnection", TestKeptPositionOnAUsedConnection},
		{"TestKeptPositionOfAHalfDeadStream", TestKeptPositionOfAHalfDeadStream}, {"TestReplaysTakeTurns", TestReplaysTakeTurns},
		{"TestWaitingClientsThatGo", TestWaitingClientsThatGo}, {"TestUnreadyLog", TestUnreadyLog},
	} {
		t.Run(one.name, one.test)
	}
}

// TestDetachedStreamsHaveNoGoroutine: many streams do with those of the shards.
func TestDetachedStreamsHaveNoGoroutine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("streams are detached on Linux only")
	}
	f := start(t, server.Options{})
	f.stream("/v1/events?channel=a") // the shards' come with the first one
	const streams = 50
	var clients []*client
	for range streams {
		clients = append(clients, f.stream("/v1/events?channel=a"))
	}
	f.publish("a", "x")
	for _, c := range clients {
		c.want("x")
	}
	stacks := make([]byte, 4<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	if n := strings.Count(string(stacks), "internal/stream.("); n > 4*runtime.GOMAXPROCS(0) {
		t.Errorf("%d frames of package stream are on stacks with %d streams open", n, streams)
	}
}

// TestOnPublishersConnections runs the tests that send requests byte by byte once more, on connections that were taken over from
// net/http after a publish: each request is answered, or refused, as on any other.
func TestOnPublishersConnections(t *testing.T) {
	used = true
	defer func() { used = false }()
	for _, one := range []struct {
		name string
		test func(*testing.T)
	}{
		{"TestForgedFields", TestForgedFields}, {"TestBodies", TestBodies}, {"TestPathsAreTakenOnce", TestPathsAreTakenOnce}, {"TestSmuggling", TestSmuggling},
		{"TestSlowRequestsAreCut", TestSlowRequestsAreCut}, {"TestExpectContinue", TestExpectContinue}, {"TestMethods", TestMethods},
		{"TestHalfClosedPeerKeepsHearing", TestHalfClosedPeerKeepsHearing}, {"TestClosedPeerFreesItsSlot", TestClosedPeerFreesItsSlot},
		{"TestFloodingPeerIsCut", TestFloodingPeerIsCut}, {"TestKeptPositionAfterABreak", TestKeptPositionAfterABreak},
		{"TestDeadReaders", TestDeadReaders}, {"TestSlowIsNotStalled", TestSlowIsNotStalled},
		{"TestNDJSONAnswersNobodyReads", TestNDJSONAnswersNobodyReads}, {"TestStoringDoesNotDependOnTheClient", TestStoringDoesNotDependOnTheClient},
	} {
		t.Run(one.name, one.test)
	}
}

// TestDetachedPublishersHaveNoGoroutine: a publisher's connection costs one while a request is answered, and not in between.
func TestDetachedPublishersHaveNoGoroutine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("publishers are detached on Linux only")
	}
	f := start(t, server.Options{})
	for range 50 {
		conn, _ := f.dial("")
		f.use(conn)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		stacks := make([]byte, 4<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		n := strings.Count(string(stacks), "net/http.(*conn).serve")
		if n < 10 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("net/http serves %d connections", n)
		}
	}
}
