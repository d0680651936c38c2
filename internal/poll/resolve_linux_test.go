package poll

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestLateEventsReachNobody: an event that the loop's goroutine has taken from the kernel, and not
// resolved, is dropped when its socket leaves, also when the slot has another owner by then.
func TestLateEventsReachNobody(t *testing.T) {
	l, err := NewLoop(func([]Ready[string]) {})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	var at Slot
	event := func() []Event { return []Event{{Fd: int32(at), Pad: l.slots[at].generation, Events: unix.EPOLLIN}} }
	if err := l.Enter(pair[0], "first", &at); err != nil {
		t.Fatal(err)
	}
	late := event()
	if got := l.resolve(nil, late); len(got) != 1 || got[0] != (Ready[string]{"first", unix.EPOLLIN}) {
		t.Errorf("in the loop: %v", got)
	}
	l.Leave(pair[0], at)
	if got := l.resolve(nil, append(late, event()...)); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	if err := l.Enter(pair[1], "second", &at); err != nil {
		t.Fatal(err)
	}
	if got := l.resolve(nil, append(late, event()...)); len(got) != 1 || got[0].Owner != "second" {
		t.Errorf("in the same slot: %v", got)
	}
}
