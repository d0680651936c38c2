package hub_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/logtest"
)

// laterLog is a log whose time is ahead.
type laterLog struct {
	fanfare.Log
	by time.Duration
}

func (l *laterLog) Now() time.Time { return l.Log.Now().Add(l.by) }

// TestExpiredFramesInMemory: a resume from memory does not get events that have expired by the
// log's time, nor a gap for them, and gets what they have replaced when it conflates; who is there
// when they are published gets them.
func TestExpiredFramesInMemory(t *testing.T) {
	for name, c := range map[string]struct {
		start    hub.Start
		patterns []string
		want     []string
	}{
		"one channel":  {hub.Start{}, []string{"a"}, []string{"a 1", "a 4"}},
		"two channels": {hub.Start{}, []string{"a", "b"}, []string{"a 1", "b 3", "a 4"}},
		"a pattern":    {hub.Start{}, []string{"**"}, []string{"a 1", "b 3", "a 4"}},
		"conflated":    {hub.Start{Conflate: true}, []string{"b", "c"}, []string{"b 3", "c 6"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := &laterLog{Log: newLog(t)}
			h := newHub(t, hub.Options{Log: l})
			live, _, _ := subscribe(t, h, hub.Start{}, "**")
			defer live.Close()
			late, _, _ := subscribe(t, h, c.start, c.patterns...)
			defer late.Close()
			for _, e := range []struct {
				channel, data string
				ttl           time.Duration
			}{{"a", "1", 0}, {"a", "2", time.Minute}, {"b", "3", time.Hour}, {"a", "4", 0}, {"b", "5", time.Minute},
				{"c", "6", 0}, {"c", "7", time.Minute}} {
				if _, err := logtest.Append(l, &fanfare.Batch{TTL: []time.Duration{e.ttl},
					Events: []fanfare.Event{{Channel: logtest.Channel(e.channel), Data: e.data}}}); err != nil {
					t.Fatal(err)
				}
			}
			got, gaps := drain(t, live)
			if len(got) != 7 || gaps != nil {
				t.Errorf("live: %v %v", got, gaps)
			}
			l.by = 2 * time.Minute
			misses := h.Stats().TailMisses
			want := c.want
			if name == "a pattern" {
				want = append(want, "c 6")
			}
			got, gaps = drain(t, late)
			if diff := cmp.Diff(want, got); diff != "" || gaps != nil {
				t.Errorf("gaps %v (-want +got):\n%s", gaps, diff)
			}
			if h.Stats().TailMisses != misses {
				t.Error("the log was read: this tests less than it should")
			}
		})
	}
}
