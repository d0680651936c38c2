package stream

import (
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/problem"
)

func address(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

// TestPacer: the first refusals of an address are free, and one more now and then; others wait, as
// many as there are places for.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(5, 3)
		for p.cell(address(1)) == p.cell(address(2)) || p.cell(address(1)) == p.cell(address(3)) ||
			p.cell(address(2)) == p.cell(address(3)) {
			p = newPacer(5, 3) // a cell of its own for each
		}
		want := func(from int, always bool, want ...pace) {
			t.Helper()
			for i, w := range want {
				if got := p.admit(address(from), always); got != w {
					t.Errorf("refusal %d to %d: %v, want %v", i, from, got, w)
				}
			}
		}
		const now, later, cut = paceNow, paceLater, paceCut
		want(1, false, now, now, now, now, now, later)
		want(1, true, later, later, cut) // three of the address wait
		want(2, false, now)              // another's are its own
		want(2, true, later, later, cut) // five wait
		want(3, false, now)
		time.Sleep(freeEvery)
		want(1, false, now, cut)
		p.leave(address(2))
		want(1, false, cut)
		want(3, true, later, cut)
		time.Sleep(time.Hour) // no more than five are saved up
		for range 2 {
			p.leave(address(1))
		}
		want(1, false, now, now, now, now, now, later)
		if p.waiting() != 4 || p.paced.Load() != 7 || p.cut.Load() != 5 {
			t.Errorf("%d wait, %d have waited, %d could not", p.waiting(), p.paced.Load(), p.cut.Load())
		}
	})
}

// TestPacerDefaults: a thousand wait, 32 of one address.
func TestPacerDefaults(t *testing.T) {
	p := refusing(nil).pacer
	for i := range 2000 {
		if want := map[bool]pace{true: paceLater, false: paceCut}[i%40 < 32 && i/40*32+i%40 < 1000]; p.admit(
			address(i/40),
			true,
		) != want {
			t.Fatalf("the refusal %d of the address %d does not get %v", i%40, i/40, want)
		}
	}
}

// TestPacerForgets: what a million addresses leave behind is bounded, and few of those who come
// after them have to wait.
func TestPacerForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(10, 10)
		for i := range 1 << 20 {
			if p.admit(address(i), false) == paceLater {
				p.leave(address(i))
			}
		}
		if len(p.held) > 0 {
			t.Errorf("%d addresses are remembered, and none waits", len(p.held))
		}
		time.Sleep(time.Minute)
		if got := p.admit(address(7), false); got != paceNow {
			t.Errorf("a minute later: %v", got)
		}
	})
}

// refusing is Streams that refuse everybody.
func refusing(stopping chan struct{}) *Streams {
	logger := slog.New(slog.DiscardHandler)
	return New(Options{Hub: new(hub.Hub), Logger: logger, Problems: problem.NewWriter(logger), Stopping: stopping})
}

// TestHammering: clients that come back at once are answered every two seconds or so, each with
// what was wrong. (The clock is the test's, so nothing hangs on the machine.)
func TestHammering(t *testing.T) {
	for _, c := range []struct {
		adapter     string
		err         error
		most, least int
	}{
		{"store", fanfare.Errorf(fanfare.CodeUnauthenticated, "no token"), 60, 20},
		{"store", fanfare.Errorf(fanfare.CodeForbidden, "no right"), 60, 20},
		{"store", fanfare.Invalid("storeId is missing"), 60, 20},
		{"store", limited(fanfare.ReasonMaxStreams, fanfare.SettingMaxStreams, "no room"), 60, 20},
		{"native", fanfare.Errorf(fanfare.CodeUnauthenticated, "no token"), 71, 25},
		{"native", limited(fanfare.ReasonMaxStreams, fanfare.SettingMaxStreams, "no room"), 71, 25},
	} {
		for _, accept := range []string{"*/*", "text/event-stream"} {
			t.Run(fmt.Sprint(c.adapter, " ", fanfare.CodeOf(c.err), " ", accept), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := refusing(nil)
					req := Request{
						Adapter: c.adapter,
						Pause:   c.adapter == "store",
						Caller:  caller.Caller{Who: &fanfare.Principal{}, From: netip.AddrPortFrom(address(1), 1)},
					}
					answered := 0
					for began := time.Now(); time.Since(began) < time.Minute; answered++ {
						r := httptest.NewRequest("GET", "/", nil)
						r.Header.Set("Accept", accept)
						w := httptest.NewRecorder()
						s.Refuse(w, r, req, c.err)
						body := w.Body.String()
						if h := w.Header(); h.Get("Connection") != "close" || body == "" ||
							strings.HasPrefix(body, "retry: ") != (w.Code == 200) ||
							strings.HasSuffix(body, "\n\n") {
							t.Fatalf("%d %v %q", w.Code, h, body)
						}
					}
					if answered > c.most || answered < c.least {
						t.Errorf("%d answers in a minute, want %d to %d", answered, c.least, c.most)
					}
					if st := s.Stats(); st.RefusalsHeld != 0 || int(st.RefusalsPaced) < answered-11 {
						t.Errorf("%+v of %d", st, answered)
					}
				})
			})
		}
	}
}

// TestRefusalsEndWithTheHub: who waits is told when the hub stops, and nobody waits afterwards.
func TestRefusalsEndWithTheHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopping := make(chan struct{})
		s := refusing(stopping)
		req := Request{Adapter: "store", Pause: true}
		refuse := func() {
			s.Refuse(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), req, fanfare.Invalid("no"))
		}
		for range 3 {
			go refuse()
		}
		synctest.Wait()
		began := time.Now()
		if n := s.Stats().RefusalsHeld; n != 3 {
			t.Errorf("%d wait", n)
		}
		close(stopping)
		synctest.Wait()
		refuse()
		if n := s.Stats().RefusalsHeld; n != 0 || time.Since(began) > 0 {
			t.Errorf("%d wait, after %v", n, time.Since(began))
		}
	})
}
