package server_test

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare/server"
)

// TestDetachedStreamsHaveNoGoroutine: many streams do with those of the shards.
func TestDetachedStreamsHaveNoGoroutine(t *testing.T) {
	oneKind(t, "it is about detached streams")
	if runtime.GOOS != "linux" {
		t.Skip("streams are detached on Linux only")
	}
	f := start(t, server.Options{})
	f.stream("/v1/events?channel=a") // the shards' come with the first one
	streams := 25 * runtime.GOMAXPROCS(0)
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
	if n := strings.Count(string(stacks), "internal/stream.("); n > 10*runtime.GOMAXPROCS(0) {
		t.Errorf("%d frames of package stream are on stacks with %d streams open", n, streams)
	}
}

// TestOnPublishersConnections runs the tests that send requests byte by byte once more, on
// connections that were taken over from net/http after a publish: each request is answered, or
// refused, as on any other. (Streams on such connections are a kind of their own.)
func TestOnPublishersConnections(t *testing.T) {
	used = true
	defer func() { used = false }()
	for _, one := range []struct {
		name string
		test func(*testing.T)
	}{
		{"TestForgedFields", TestForgedFields}, {"TestBodies", TestBodies}, {"TestPathsAreTakenOnce",
			TestPathsAreTakenOnce}, {"TestSmuggling", TestSmuggling},
		{"TestSlowRequestsAreCut", TestSlowRequestsAreCut}, {"TestExpectContinue", TestExpectContinue}, {"TestMethods",
			TestMethods},
		{"TestNDJSONAnswersNobodyReads", TestNDJSONAnswersNobodyReads}, {"TestStoringDoesNotDependOnTheClient",
			TestStoringDoesNotDependOnTheClient},
	} {
		t.Run(one.name, one.test)
	}
}

// TestDetachedPublishersHaveNoGoroutine: a publisher's connection costs one while a request is
// answered, and not in between.
func TestDetachedPublishersHaveNoGoroutine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("publishers are detached on Linux only")
	}
	f := start(t, server.Options{})
	for range 50 {
		conn, _ := f.dial("")
		f.use(conn)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
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
