package pebblelog

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
)

// TestWhatExpiresIsForgotten: an idempotency key may be used for something else after its time, and
// keys and kept positions whose time is over leave nothing behind.
func TestWhatExpiresIsForgotten(t *testing.T) {
	now := time.Now()
	fs := vfs.NewMem()
	reopen := func() *Log {
		l, err := Open(Options{Durability: DurabilityMemory, FS: fs, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	channel, err := fanfare.ParseChannel("a")
	if err != nil {
		t.Fatal(err)
	}
	send := func(l *Log, data byte, keep ...fanfare.Kept) (fanfare.Receipt, error) {
		b := &fanfare.Batch{
			Events: []fanfare.Event{{Channel: channel, Data: string(data)}},
			Keys:   []fanfare.Key{{Scope: "s", Text: "k", Fingerprint: [16]byte{data}}},
			Keep:   keep,
		}
		return logtest.Append(l, b)
	}
	count := func(l *Log, tag byte) (n int) {
		err := l.read(t.Context(), func(s *session) error {
			it, err := s.db.NewIter(ofKind(tag))
			if err != nil {
				return err
			}
			defer it.Close()
			for ok := it.First(); ok; ok = it.Next() {
				n++
			}
			return it.Error()
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}

	l := reopen()
	if _, err := send(l, 1,
		fanfare.Kept{Name: "pc", Position: 1, Time: now, Expires: now.Add(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	now = now.Add(9 * time.Minute)
	if _, err := send(l, 2); fanfare.CodeOf(err) != fanfare.CodeConflict {
		t.Errorf("within the time: %v", err)
	}
	if r, err := send(l, 1); err != nil || !r.Replayed {
		t.Errorf("within the time: %+v, %v", r, err)
	}
	if _, ok, err := l.Kept(t.Context(), "pc"); ok || err != nil {
		t.Errorf("an expired position is given: %v", err)
	}
	now = now.Add(2 * time.Minute)
	if r, err := send(l, 2); err != nil || r.Replayed {
		t.Errorf("after the time: %+v, %v", r, err)
	}
	now = now.Add(11 * time.Minute)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = reopen() // the first group sweeps
	defer l.Close()
	if _, err := logtest.Append(l, &fanfare.Batch{Events: []fanfare.Event{{Channel: channel}}}); err != nil {
		t.Fatal(err)
	}
	for _, tag := range []byte{keyUsed, keyUsedAt, keyKept} {
		if n := count(l, tag); n != 0 {
			t.Errorf("%d keys %c are left", n, tag)
		}
	}
}
