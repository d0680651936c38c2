package poll_test

import (
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/fanfare-hub/fanfare/internal/poll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is the two ends of a TCP connection.
func pair(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if theirs, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if ours, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	_ = theirs.SetDeadline(time.Now().Add(time.Minute))
	return ours, theirs
}

// TestThereAndBack: a socket leaves its connection, is read and written without waiting, and
// becomes a connection again, which reads first what had been read.
func TestThereAndBack(t *testing.T) {
	ours, theirs := pair(t)
	if !poll.IsSocket(ours) || !poll.IsSocket(&poll.Unread{Conn: ours}) || poll.IsSocket(struct{ net.Conn }{ours}) {
		t.Error("what is a socket")
	}
	fd, err := poll.Own(&poll.Unread{Conn: ours})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Read(make([]byte, 1)); err == nil {
		t.Error("the connection can still be read")
	}
	buf := make([]byte, 3)
	if n, err := poll.Read(fd, buf); n != 0 || err != unix.EAGAIN {
		t.Errorf("nothing has come: %d %v", n, err)
	}
	if n, err := poll.Write(fd, []byte("hello")); n != 5 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	if b := make([]byte, 5); !reads(theirs, b, "hello") {
		t.Errorf("%q", b)
	}
	if _, err := io.WriteString(theirs, "abcdef"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if n, err := poll.Read(fd, buf); n == 3 && err == nil {
			break
		} else if err != unix.EAGAIN || time.Now().After(deadline) {
			t.Fatalf("%d %v", n, err)
		}
	}
	conn, err := poll.Conn(fd)
	if err != nil {
		t.Fatal(err)
	}
	back := &poll.Unread{Conn: conn, Bytes: buf}
	defer back.Close()
	_ = back.SetDeadline(time.Now().Add(time.Minute))
	if b := make([]byte, 6); !reads(back, b, "abcdef") {
		t.Errorf("%q", b)
	}
	if _, ok := conn.(*net.TCPConn); !ok || back.CloseWrite() != nil {
		t.Errorf("%T", conn)
	}
	if n, err := theirs.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("after the half was closed: %d %v", n, err)
	}
}

func reads(r io.Reader, b []byte, want string) bool {
	_, err := io.ReadFull(r, b)
	return err == nil && string(b) == want
}

// TestSet: events bring the slot and the generation, once for each change; nothing is heard of a
// socket that was removed, and Close ends Wait.
func TestSet(t *testing.T) {
	ours, theirs := pair(t)
	fd, err := poll.Own(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	s, err := poll.NewSet()
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan poll.Event, 100)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var buf [4]poll.Event
		for {
			n, err := s.Wait(buf[:])
			if err != nil {
				return
			}
			for _, e := range buf[:n] {
				events <- e
			}
		}
	}()
	if err := s.Add(fd, 7, 3); err != nil {
		t.Fatal(err)
	}
	want := func(bits uint32) {
		t.Helper()
		select {
		case e := <-events:
			if e.Fd != 7 || e.Pad != 3 || e.Events&bits != bits {
				t.Errorf("%+v, want %x", e, bits)
			}
		case <-time.After(time.Minute):
			t.Fatal("no event")
		}
	}
	want(unix.EPOLLOUT)
	if _, err := io.WriteString(theirs, "x"); err != nil {
		t.Fatal(err)
	}
	want(unix.EPOLLIN)
	time.Sleep(50 * time.Millisecond) // longer than a set looks for itself
	if len(events) > 0 {
		t.Errorf("an event without a change: %+v", <-events)
	}
	_ = theirs.(*net.TCPConn).CloseWrite()
	want(unix.EPOLLIN | unix.EPOLLRDHUP)
	s.Remove(fd)
	_ = theirs.Close()
	time.Sleep(20 * time.Millisecond)
	if len(events) > 0 {
		t.Errorf("an event of a descriptor that was removed: %+v", <-events)
	}
	s.Close()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("Wait has not ended")
	}
}
