package peer

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// frame makes a frame of HTTP/2 (RFC 9113, section 4.1).
func frame(kind, flags byte, id uint32, payload string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	b = append(b, flags)
	b = binary.BigEndian.AppendUint32(b, id)
	return append(b, payload...)
}

func head(id uint32) []byte { return frame(frameHeaders, 4, id, "a block of headers") }

func data(id uint32, text string) []byte { return frame(frameData, 0, id, text) }

func join(list ...[]byte) (all []byte) {
	for _, b := range list {
		all = append(all, b...)
	}
	return all
}

// TestFrames: bodies are found among a connection's frames, however these are cut into writes, and
// their DATA is counted, and nothing else.
func TestFrames(t *testing.T) {
	const settings = "\x00\x00\x00\x00\x00\x01"
	all := join(
		frame(4, 0, 0, settings), head(1), head(3), data(3, ":\n"), data(1, "retry: 2001\n"), frame(8, 0, 0,
			"\x00\x00\x10\x00"),
		// 5 has no head: it is in the middle of its body
		data(1, "id: A\n\n"), data(3, "retry: 2002\nid: A\n\nand more"), data(5, "retry: 2001\nid: A\n\n"),
		head(7), frame(frameData, flagEndStream, 7, `{"id":"A"}`), data(1, "12345"), frame(6, 1, 0, "12345678"),
		data(3, ""),
		frame(frameData, flagEndStream, 1, "67"), data(3, ":\n"), frame(frameReset, 0, 3, "\x00\x00\x00\x00"), data(3,
			"not counted"),
	)
	for range 200 {
		var f frames
		one, two, never := &Body{watched: true}, &Body{watched: true}, &Body{watched: true}
		f.expect(one, []byte("retry: 2001\nid: A\n\n"))
		f.expect(two, []byte("retry: 2002\nid: A\n\n"))
		f.expect(never, []byte("retry: 2003\nid: A\n\n"))
		for rest := all; len(rest) > 0; {
			n := 1 + rand.IntN(min(len(rest), 1+rand.IntN(60)))
			f.scan(rest[:n], nil)
			rest = rest[n:]
		}
		if !one.known || one.sent != 19+7 || !two.known || two.sent != 2+19+8+2 || never.known {
			t.Fatalf("one %v %d, two %v %d, never %v", one.known, one.sent, two.known, two.sent, never.known)
		}
		if len(f.fresh) != 0 || len(f.bodies) != 0 || len(f.expected) != 1 {
			t.Fatalf("left: %d fresh, %d bodies, %d expected", len(f.fresh), len(f.bodies), len(f.expected))
		}
	}
}

// TestTouched: a write says whose DATA is in it, each once.
func TestTouched(t *testing.T) {
	var f frames
	one, two := &Body{watched: true}, &Body{watched: true}
	f.expect(one, []byte("one"))
	f.expect(two, []byte("two"))
	if got := f.scan(join(head(1), head(3), data(1, "on"), data(3, "two")), nil); len(got) != 1 || got[0] != two {
		t.Errorf("%v", got)
	}
	if got := f.scan(join(data(1, "e"), data(1, "x"), data(3, "y"), data(1, "z")), nil); len(got) != 2 ||
		got[0] != one || got[1] != two {
		t.Errorf("%v", got)
	}
	two.watched = false
	if got := f.scan(join(frame(6, 0, 0, "12345678"), data(3, "z")), nil); len(got) != 0 || two.sent != 5 {
		t.Errorf("nobody asks for it: %v, %d bytes are counted", got, two.sent)
	}
}

// TestTwins: of two bodies that begin the same, or of which one is the other's beginning, neither
// is followed: a mark of one, taken for the other's, could lose an event. This is so also when one
// has gone before it began to leave.
func TestTwins(t *testing.T) {
	for _, other := range []string{"retry: 1\n\n", "retry: 1\n\nevent: gap\n\n"} {
		var f frames
		one, two, three := &Body{watched: true}, &Body{watched: true}, &Body{watched: true}
		f.expect(one, []byte("retry: 1\n\n"))
		f.expect(two, []byte(other))
		f.scan(join(head(1), data(1, "retry: 1\n\n")), nil)
		f.drop(one)
		f.drop(two)
		f.expect(three, []byte("retry: 1\n\n"))
		f.scan(join(head(3), data(3, other), head(5), data(5, "retry: 1\n\n")), nil)
		if one.known || two.known || three.known || len(f.expected) != 0 {
			t.Errorf("%q: %v %v %v", other, one.known, two.known, three.known)
		}
		four := &Body{watched: true}
		f.expect(four, []byte("retry: 4\n\n"))
		f.scan(join(head(7), data(7, "retry: 4\n\n")), nil)
		if !four.known {
			t.Errorf("%q: one that is alone is not found", other)
		}
	}
}

// TestFramesAreBounded: what a peer makes a connection remember has an end.
func TestFramesAreBounded(t *testing.T) {
	var f frames
	for i := range 2 * expectedMost {
		f.expect(&Body{watched: true}, []byte(strings.Repeat("x", i+1)+"\n"))
	}
	if len(f.expected) != expectedMost {
		t.Errorf("%d bodies are expected", len(f.expected))
	}
	for _, b := range f.expected {
		f.drop(b)
	}
	f.scan(head(3), nil)
	if len(f.expected) != expectedMost {
		t.Error("what is closed is forgotten while it may come")
	}
	f.scan(head(5), nil)
	if len(f.expected) != 0 {
		t.Errorf("%d bodies that are closed are expected", len(f.expected))
	}
	f.scan(head(1), nil)
	for range 10_000 {
		f.scan(data(1, ":\n"), nil)
	}
	if n := cap(f.fresh[1].text); n > 64 {
		t.Errorf("%d bytes are kept of comment lines", n)
	}
	f.scan(data(1, strings.Repeat("y", 10_000)), nil)
	if _, fresh := f.fresh[1]; fresh {
		t.Error("a body that is nobody's is kept")
	}
}

// TestMarks: from the bytes of the connection that a peer has acknowledged follows how many bytes
// of the stream it has: at most as many as were in them, and at the end all.
func TestMarks(t *testing.T) {
	for range 100 {
		var m Marks
		var given, sent int64
		var all []mark
		for range rand.IntN(2000) {
			given += 22 + rand.Int64N(5)
			if rand.IntN(3) > 0 {
				n := rand.Int64N(100)
				given, sent = given+n, sent+n
			}
			high := rand.Int64N(2) * rand.Int64N(1000) // it may be told too high, once in a while
			m.Add(given+high, sent)
			all = append(all, mark{given, sent})
		}
		if len(m.list) >= marksMost {
			t.Fatalf("%d marks", len(m.list))
		}
		acked := int64(0)
		for acked < given {
			acked += rand.Int64N(given/5 + 1)
			most := int64(0)
			for _, one := range all {
				if one.given <= acked {
					most = one.sent
				}
			}
			if got := m.Sent(acked); got > most {
				t.Fatalf("%d acknowledged: %d bytes, at most %d", acked, got, most)
			}
		}
		if got := m.Sent(given + 1000); got != sent {
			t.Fatalf("all acknowledged: %d of %d", got, sent)
		}
	}
	var m Marks
	m.Add(100, 10) // too high
	m.Add(50, 20)
	if got := m.Sent(50); got != 20 {
		t.Errorf("%d: a later mark says more", got)
	}
}
