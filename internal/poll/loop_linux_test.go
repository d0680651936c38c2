package poll_test

import (
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fanfare-hub/fanfare/internal/poll"
)

// member is the owner of one socket of a loop.
type member struct {
	fd     int
	slot   poll.Slot
	theirs net.Conn
}

func enter(t *testing.T, l *poll.Loop[*member]) *member {
	t.Helper()
	ours, theirs := pair(t)
	fd, err := poll.Own(ours)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{fd: fd, theirs: theirs}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := l.Enter(fd, m, &m.slot); err != nil {
		t.Fatal(err)
	}
	return m
}

// watch makes a loop, and the channel on which its events come. The loop stands still while nobody
// receives.
func watch(t *testing.T) (*poll.Loop[*member], chan poll.Ready[*member]) {
	t.Helper()
	heard, ending := make(chan poll.Ready[*member]), make(chan struct{})
	l, err := poll.NewLoop(func(list []poll.Ready[*member]) {
		for _, r := range list {
			select {
			case heard <- r:
			case <-ending:
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(ending)
		l.Close()
	})
	return l, heard
}

func hears(t *testing.T, heard chan poll.Ready[*member], want *member, bits uint32) {
	t.Helper()
	for {
		select {
		case r := <-heard:
			if r.Owner != want {
				t.Fatalf("an event of %p came, want one of %p", r.Owner, want)
			}
			if r.Events&bits == bits {
				return
			}
		case <-time.After(time.Minute):
			t.Fatal("no event came")
		}
	}
}

// TestSlotsAreUsedAgain: the next owner of a slot hears of its own socket alone.
func TestSlotsAreUsedAgain(t *testing.T) {
	l, heard := watch(t)
	first := enter(t, l)
	hears(t, heard, first, unix.EPOLLOUT)
	if _, err := io.WriteString(first.theirs, "x"); err != nil {
		t.Fatal(err)
	}
	hears(t, heard, first, unix.EPOLLIN)
	l.Leave(first.fd, first.slot)
	second := enter(t, l)
	if second.slot != first.slot || l.Len() != 1 {
		t.Errorf("slot %d is used, want %d; %d are in the loop", second.slot, first.slot, l.Len())
	}
	if _, err := io.WriteString(first.theirs, "y"); err != nil {
		t.Fatal(err)
	}
	hears(t, heard, second, unix.EPOLLOUT)
	_ = second.theirs.(*net.TCPConn).CloseWrite()
	hears(t, heard, second, unix.EPOLLRDHUP)
}

// TestDrainWaits: Drain returns when the last socket has left, and no sooner.
func TestDrainWaits(t *testing.T) {
	l, heard := watch(t)
	l.Drain() // nobody is in
	members := []*member{enter(t, l), enter(t, l), enter(t, l)}
	for range members {
		<-heard
	}
	if got := l.Owners(); !slices.Equal(got, members) {
		t.Errorf("%v are in the loop, want %v", got, members)
	}
	synctest.Test(t, func(t *testing.T) {
		drained := false
		go func() {
			l.Drain()
			drained = true
		}()
		for _, m := range members {
			synctest.Wait()
			if drained {
				t.Errorf("Drain has ended, and %d are in the loop", l.Len())
			}
			l.Leave(m.fd, m.slot)
		}
		synctest.Wait()
		if !drained {
			t.Fatal("Drain has not ended, and nobody is in the loop")
		}
	})
}

// TestSweepVisitsEach: every owner is visited once in a round, spread over its steps; who has left
// is not, and an empty loop ends the sweep.
func TestSweepVisitsEach(t *testing.T) {
	l, heard := watch(t)
	sweep := poll.NewSweep(l)
	const period = 160 * time.Millisecond
	var now poll.Instant = 1
	for range sweep.Due(now.Add(time.Hour)) {
		t.Error("a sweep of an empty loop visits somebody")
	}
	var members []*member
	for range 40 {
		m := enter(t, l)
		<-heard
		members = append(members, m)
	}
	sweep.Hasten(now, time.Hour)
	sweep.Hasten(now, period)
	sweep.Hasten(now, time.Hour)
	visited := map[*member]int{}
	most := 0
	for end := now.Add(period); now <= end; now++ {
		if now = sweep.Next(); now > end {
			break
		}
		step := 0
		for m := range sweep.Due(now) {
			visited[m]++
			step++
		}
		most = max(most, step)
	}
	for _, m := range members {
		if n := visited[m]; n < 1 || n > 2 {
			t.Errorf("slot %d was visited %d times", m.slot, n)
		}
	}
	if most > 3 {
		t.Errorf("%d of 40 were visited in one step", most)
	}
	for _, m := range members[1:] {
		l.Leave(m.fd, m.slot)
	}
	clear(visited)
	late := now.Add(10 * period) // it does not make up for the rounds that it has missed
	for end := late.Add(period); late <= end; late = sweep.Next() {
		for m := range sweep.Due(late) {
			visited[m]++
		}
	}
	if n := visited[members[0]]; len(visited) != 1 || n < 1 || n > 2 {
		t.Errorf("after a long wait %d were visited, the one that is left %d times", len(visited), n)
	}
	now = late
	l.Leave(members[0].fd, members[0].slot)
	for range sweep.Due(now.Add(time.Hour)) {
		t.Error("who has left is visited")
	}
	if at := sweep.Next(); at != 0 {
		t.Errorf("an empty loop is swept at %d", at)
	}
}

// TestRing: members take turns; those that were made before an error are used, and none once the
// ring is closed.
func TestRing(t *testing.T) {
	var r poll.Ring[int]
	if r.Use(func(int) bool { return true }) {
		t.Error("a ring without members was used")
	}
	made, broken := 0, errors.New("no more")
	one := func() (int, error) {
		if made++; made > 1 {
			return 0, broken
		}
		return made, nil
	}
	_ = r.Begin(one) // an error where there are several processors
	before := made
	if err := r.Begin(one); err != nil || made != before {
		t.Errorf("members are made twice: %v", err)
	}
	if !r.Use(func(m int) bool { return m == 1 }) || r.Use(func(int) bool { return false }) {
		t.Error("Use does not return what the member's turn returned")
	}
	if got := r.Close(); len(got) != 1 || len(r.Close()) != 0 || len(r.All()) != 1 {
		t.Errorf("closed: %v", got)
	}
	if r.Use(func(int) bool { return true }) {
		t.Error("a closed ring was used")
	}
}

// TestClock: instants go forward from the first, which is not never.
func TestClock(t *testing.T) {
	c := poll.NewClock()
	first := c.Now()
	if first <= 0 || first.Add(time.Second).Sub(first) != time.Second {
		t.Errorf("the first instant is %d", first)
	}
	var never poll.Instant
	if never.Reached(first) || !first.Reached(first) || first.Add(1).Reached(first) {
		t.Error("what has been reached")
	}
	if never.Earlier(first) != first || first.Earlier(never) != first || first.Earlier(first.Add(1)) != first ||
		first.Add(1).Earlier(first) != first {
		t.Error("which is earlier")
	}
}
