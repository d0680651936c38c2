package load_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fanfare-hub/fanfare/internal/load"
	"github.com/fanfare-hub/fanfare/pebblelog"
	"github.com/fanfare-hub/fanfare/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hub is a hub behind a real listener.
func hub(t *testing.T, o server.Options) (addr string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("load is made on Linux only")
	}
	log, err := pebblelog.Open(pebblelog.Options{Durability: pebblelog.DurabilityMemory})
	if err != nil {
		t.Fatal(err)
	}
	o.Log = log
	s, err := server.New(o)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Drain(ctx, 0); err != nil {
			t.Error(err)
		}
		web.Close()
		if err := errors.Join(s.Close(), log.Close()); err != nil {
			t.Error(err)
		}
	})
	return web.Listener.Addr().String()
}

// TestWorkloads: each does what it says, and counts what the hub did.
func TestWorkloads(t *testing.T) {
	for _, attached := range []bool{false, true} {
		addr := hub(t, server.Options{Streams: server.StreamOptions{Attached: attached}})
		for w, check := range map[load.Workload]func(load.Report) bool{
			load.Idle: func(r load.Report) bool { return r.Deliveries == 0 && r.Publishes == 0 },
			load.FanOut: func(r load.Report) bool {
				return r.Publishes > 0 && r.Deliveries > 20*(r.Publishes-10) && r.Deliveries < 20*(r.Publishes+10) &&
					r.Delay.P50 > 0 && r.Ack.P50 > 0
			},
			load.Own: func(r load.Report) bool {
				return r.Publishes > 0 && r.Deliveries > r.Publishes-10 && r.Deliveries < r.Publishes+10
			},
			load.Resume: func(r load.Report) bool { return r.Deliveries == 20*7 },
		} {
			r, err := load.Run(t.Context(), w, load.Options{Addr: addr, Streams: 20, Publishers: 2, Rate: 200,
				Missed: 7, Wait: 500 * time.Millisecond, PID: os.Getpid()})
			if err != nil || !check(r) || r.Refused > 0 || r.Ended > 0 || !r.Measured {
				t.Errorf("%s, attached: %v: %v\n%+v", w, attached, err, r)
			}
			if text := r.String(); !strings.Contains(text, string(w)) || strings.Contains(text, "%!") {
				t.Errorf("%s", text)
			}
		}
	}
}

// TestComingBack: each stream has missed events of a channel of its own, and something happens in
// between.
func TestComingBack(t *testing.T) {
	addr := hub(t, server.Options{})
	called := 0
	between := func(context.Context) (int, error) { called++; return os.Getpid(), nil }
	r, err := load.Run(t.Context(), load.Resume, load.Options{Addr: addr, Streams: 20, Publishers: 4, Missed: 7,
		OwnChannels: true, Between: between, Wait: 5 * time.Second})
	if err != nil || called != 1 || r.Deliveries != 20*7 || !r.Measured {
		t.Errorf("%v, called %d times: %+v", err, called, r)
	}
	lost := errors.New("lost")
	_, err = load.Run(t.Context(), load.Resume, load.Options{Addr: addr, Streams: 2, Missed: 1,
		Between: func(context.Context) (int, error) { return 0, lost }, Wait: 5 * time.Second})
	if !errors.Is(err, lost) {
		t.Errorf("%v", err)
	}
}

// TestDeadStreams: some read nothing more, the others get everything.
func TestDeadStreams(t *testing.T) {
	addr := hub(t, server.Options{})
	r, err := load.Run(t.Context(), load.FanOut,
		load.Options{Addr: addr, Streams: 20, Dead: 5, Publishers: 1, Rate: 100, Wait: 500 * time.Millisecond})
	if err != nil || r.Dead != 5 || r.Deliveries > 15*(r.Publishes+5) || r.Deliveries < 15*(r.Publishes-5) {
		t.Errorf("%v: %+v", err, r)
	}
	if !strings.Contains(r.String(), "5 streams never read") {
		t.Error(r)
	}
}

// TestStoreStreams: paths may have the stream's number.
func TestStoreStreams(t *testing.T) {
	addr := hub(t, server.Options{})
	r, err := load.Run(t.Context(), load.Idle, load.Options{Addr: addr, Streams: 20,
		StreamPath: "/v1/stores/event-sources?storeId=1&pcId={n}", Wait: 50 * time.Millisecond})
	if err != nil || r.Ended > 0 {
		t.Errorf("%v: %+v", err, r)
	}
}

// TestWhatCannotBe is said, and what is refused too.
func TestWhatCannotBe(t *testing.T) {
	addr := hub(t, server.Options{Streams: server.StreamOptions{Max: 5}})
	for want, o := range map[string]load.Options{
		"32 bytes": {DataBytes: 10}, "negative": {Streams: -1}, "Name: value": {Header: []string{"X"}},
		"Name":       {Header: []string{"X: y\r\nZ: 1"}},
		"fewer dead": {Streams: 1, Dead: 1}, "fanout and own": {Streams: 2,
			Dead: 1}, "workload resume": {OwnChannels: true},
	} {
		o.Addr = addr
		var option *load.OptionError
		if _, err := load.Run(t.Context(), load.Idle, o); !errors.As(err, &option) ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := load.Run(t.Context(), load.Idle, load.Options{Addr: addr, Streams: 1,
		StreamPath: "/nothing"}); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a path that is not there: %v", err)
	}
	if _, err := load.Run(t.Context(), load.Idle, load.Options{Addr: addr, Streams: 6,
		StreamPath: "/v1/events?channel=a", Wait: time.Second}); err == nil || !strings.Contains(err.Error(), "room") {
		t.Errorf("more streams than there is room for: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := load.Run(gone, load.Idle, load.Options{Addr: addr}); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}
