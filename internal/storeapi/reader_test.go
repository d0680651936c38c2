package storeapi

import (
	"bytes"
	"cmp"
	"net/netip"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func reader1(subject, address string) readerID {
	by := caller.Caller{Who: &fanfare.Principal{Subject: subject}}
	if address != "" {
		by.From = netip.AddrPortFrom(netip.MustParseAddr(address), 1)
	}
	return readerOf(by)
}

func TestReadersDiffer(t *testing.T) {
	seen := map[readerID]bool{}
	for _, subject := range []string{"", "a", "b", "a\x00"} {
		for _, address := range []string{"", "10.0.0.1", "10.0.0.2", "::1", "2001:db8::"} {
			id := reader1(subject, address)
			if seen[id] || id != reader1(subject, address) {
				t.Errorf("%q at %q is somebody else", subject, address)
			}
			seen[id] = true
			if want := map[string]string{"": "unknown", "::1": "::/64",
				"2001:db8::": "2001:db8::/64"}[address]; id.text() != cmp.Or(want, address) {
				t.Errorf("%s is shown as %s", address, id.text())
			}
		}
	}
}

// TestRecord: what is stored is read again, and ages go on.
func TestRecord(t *testing.T) {
	list := []cursor{
		{id: reader1("pc", "10.0.0.1"), position: 7 << 40, age: time.Minute}, {id: reader1("", "2001:db8::"),
			position: 9}, {position: 1, age: -time.Second},
	}
	value := string(appendCursors(nil, list))
	got, err := readCursors(fanfare.Kept{Position: 9, Value: value, Age: time.Hour})
	for i := range list {
		list[i].age = max(list[i].age, 0) + time.Hour
	}
	if diff := gocmp.Diff(list, got, gocmp.AllowUnexported(cursor{}, readerID{})); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	got, err = readCursors(fanfare.Kept{Position: 9, Age: time.Hour}) // of an earlier version
	if diff := gocmp.Diff([]cursor{{position: 9, age: time.Hour}}, got,
		gocmp.AllowUnexported(cursor{}, readerID{})); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	for n := 2; n < len(value); n++ {
		if short, err := readCursors(fanfare.Kept{Value: value[:n]}); err == nil && len(short) >= len(list) {
			t.Errorf("%d of %d bytes are read as %v", n, len(value), short)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(appendCursors(nil, []cursor{{id: reader1("pc", "10.0.0.1"), position: 7 << 40, age: time.Minute}}))
	f.Add([]byte{recordVersion + 1})
	f.Fuzz(func(t *testing.T, value []byte) {
		list, err := readCursors(fanfare.Kept{Value: string(value)})
		if err != nil || len(value) == 0 {
			return
		}
		again, err := readCursors(fanfare.Kept{Value: string(appendCursors(nil, list))})
		if err != nil || len(again) != len(list) || !bytes.Equal(appendCursors(nil, again), appendCursors(nil, list)) {
			t.Errorf("%v, then %v, %v", list, again, err)
		}
	})
}

// TestPendingStreamsLeaveNothing (P4): a stream whose peer has not heard of its gap neither takes
// what its reader left nor leaves anything, so the next one is told of the gap again.
func TestPendingStreamsLeaveNothing(t *testing.T) {
	p := &pc{channel: "stores/1/pcs/2"}
	id := reader1("", "10.0.0.1")
	p.add(&reader{id: id, left: 7}, -1000)
	for range 3 {
		v := &visit{pc: p, reader: &reader{id: id}}
		p.begin(v, 0, 1)
		if pos, _, forgotten := p.find(id).standing(-1); pos != 0 || !forgotten {
			t.Errorf("while it is open: %v, %v", pos, forgotten)
		}
		p.end(v, 0, 2)
	}
	if r := p.find(id); r == nil || r.left != 7 || r.used != -1000 || r.open != nil {
		t.Fatalf("%+v", r)
	}
	v := &visit{pc: p, reader: &reader{id: id}}
	p.begin(v, 0, 3)
	p.end(v, 9, 4) // it has heard, and gone
	if r := p.find(id); r.left != 9 || r.used != 4 {
		t.Errorf("%+v", r)
	}
	// A reader that has nothing is none.
	v = &visit{pc: p, reader: &reader{id: reader1("", "10.0.0.2")}}
	p.begin(v, 0, 5)
	p.end(v, 0, 6)
	if p.find(reader1("", "10.0.0.2")) != nil {
		t.Error("a reader is left that never stood anywhere")
	}
}

// TestReadersAreBounded (P6): who is connected stays, of the others who was there last.
func TestReadersAreBounded(t *testing.T) {
	p := &pc{}
	ids := []readerID{reader1("0", ""), reader1("1", ""), reader1("2", ""), reader1("3", ""), reader1("4", "")}
	for i, id := range ids[:4] {
		p.add(&reader{id: id, left: fanfare.Position(i + 1)}, []int64{-5, -50, 0, -7}[i])
	}
	v := &visit{pc: p, reader: &reader{id: ids[4]}}
	dropped := p.begin(v, 1, 1)
	if len(dropped) != 1 || dropped[0].id != ids[1] || p.find(ids[1]) != nil || p.find(ids[4]) == nil {
		t.Errorf("%+v", dropped)
	}
}

// TestWhatAStreamTakes: which of the positions that its reader's streams left, and which of the
// open ones it follows.
func TestWhatAStreamTakes(t *testing.T) {
	for name, c := range map[string]struct {
		left, from  fanfare.Position
		given, took bool
		wantLeft    fanfare.Position
		supersedes  bool
	}{
		"it follows the open one":                            {0, 5, false, false, 0, true},
		"it follows one that has ended meanwhile":            {6, 5, false, false, 0, true},
		"one that was left lower is another machine's":       {3, 5, false, false, 3, true},
		"it takes what was left: who is open is another":     {5, 5, false, true, 0, false},
		"somebody else has taken that meanwhile":             {0, 5, false, true, 0, true},
		"it brings a position":                               {3, 5, true, false, 0, true},
		"it has a gap to hear of first, whatever it brought": {3, 0, true, false, 3, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := &pc{}
			id := reader1("", "10.0.0.1")
			other := &visit{pc: p, reader: &reader{id: id}, live: new(stream.Live)}
			p.begin(other, 4, 1)
			p.find(id).left = c.left
			v := &visit{pc: p, reader: &reader{id: id}, live: new(stream.Live), given: c.given, took: c.took}
			p.begin(v, c.from, 2)
			if left := p.find(id).left; left != c.wantLeft || other.superseded != c.supersedes || v.superseded {
				t.Errorf("left is %v, the other stream is superseded: %v", left, other.superseded)
			}
			if v.pending != (c.from == 0) {
				t.Errorf("pending: %v", v.pending)
			}
			if v.pending {
				v.heard(3)
				if left := p.find(id).left; left != 0 || !other.superseded || v.pending {
					t.Errorf("when it has heard: left is %v, the other stream is superseded: %v", left,
						other.superseded)
				}
			}
		})
	}
}
