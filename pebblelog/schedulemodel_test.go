package pebblelog

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
)

// scheduleModel knows which scheduled events wait, and what a log's channel "a" is to have.
type scheduleModel struct {
	*clockTest
	rng       *rand.Rand
	waiting   []fanfare.ScheduledEvent // by their times
	published []string
	n         int
	nextID    fanfare.ScheduledID // of what batches bring along
}

func (m *scheduleModel) add(e fanfare.ScheduledEvent) {
	m.waiting = append(m.waiting, e)
	slices.SortFunc(m.waiting, func(a, b fanfare.ScheduledEvent) int {
		return cmp.Or(a.DeliverAt.Compare(b.DeliverAt), cmp.Compare(a.ID, b.ID))
	})
}

// fallen moves what is due to the channel. Apply does so before it looks at a group's requests.
func (m *scheduleModel) fallen() {
	now := m.log.order.now().due
	for len(m.waiting) > 0 && m.waiting[0].DeliverAt.UnixMilli() <= now {
		e := m.waiting[0]
		if e.TTL == 0 || e.DeliverAt.Add(e.TTL).UnixMilli() > now {
			m.published = append(m.published, e.Event.Data)
		}
		m.waiting = m.waiting[1:]
	}
}

func (m *scheduleModel) time() time.Time {
	return m.log.Now().Add(time.Duration(1+m.rng.IntN(600)) * time.Second).Truncate(time.Millisecond)
}

func (m *scheduleModel) data() string {
	m.n++
	return fmt.Sprint(m.n)
}

// schedule schedules an event, mostly under a key, and repeats that.
func (m *scheduleModel) schedule() {
	m.Helper()
	at, data, ttl, key := m.time(), m.data(), time.Duration(0), ""
	if m.rng.IntN(3) == 0 {
		ttl = 1000 * time.Hour // longer than the test; what has expired is TestScheduleTTL's
	}
	if m.rng.IntN(2) == 0 {
		key = data
	}
	r := m.later(data, at, ttl, key)
	m.fallen()
	if key != "" {
		if again := m.later(data, at, ttl, key); !again.Replayed || again.Scheduled != r.Scheduled {
			m.Fatalf("a repeat: %+v after %+v", again, r)
		}
		m.fallen()
	}
	m.add(fanfare.ScheduledEvent{ID: r.Scheduled, DeliverAt: r.DeliverAt, TTL: ttl, Event: fanfare.Event{Data: data}})
}

// bring stores an event that brings a scheduled one along, and cancels another; or a batch whose id
// is taken, of which nothing is stored.
func (m *scheduleModel) bring() {
	m.Helper()
	m.nextID += fanfare.ScheduledID(1 + m.rng.IntN(3))
	id, at := m.nextID, m.time()
	taken := len(m.waiting) > 0 && m.rng.IntN(3) == 0
	if taken {
		id = m.waiting[len(m.waiting)-1].ID
	}
	first, later := m.data(), m.data()
	b := &fanfare.Batch{Events: []fanfare.Event{{Channel: logtest.Channel("a"), Data: first}},
		Later: []fanfare.Later{{ID: id, At: at,
			Event: fanfare.Event{Channel: logtest.Channel("a"), Data: later}}}}
	cancel := -1
	if len(m.waiting) > 0 && m.rng.IntN(2) == 0 {
		cancel = m.rng.IntN(len(m.waiting))
		b.Cancel = []fanfare.ScheduledID{m.waiting[cancel].ID}
	}
	gone := fanfare.ScheduledID(0)
	if cancel >= 0 {
		gone = m.waiting[cancel].ID
	}
	_, err := logtest.Append(m.log, b)
	m.fallen()
	if stays := slices.ContainsFunc(m.waiting, func(e fanfare.ScheduledEvent) bool { return e.ID == id }); stays {
		if fanfare.CodeOf(err) != fanfare.CodeInvalid {
			m.Fatalf("a second event under the id %v: %v", id, err)
		}
		return
	}
	if err != nil {
		m.Fatal(err)
	}
	m.published = append(m.published, first)
	m.waiting = slices.DeleteFunc(m.waiting, func(e fanfare.ScheduledEvent) bool { return e.ID == gone })
	m.add(fanfare.ScheduledEvent{ID: id, DeliverAt: at, Event: fanfare.Event{Data: later}})
}

func (m *scheduleModel) cancel() {
	m.Helper()
	if len(m.waiting) == 0 {
		return
	}
	one := m.waiting[m.rng.IntN(len(m.waiting))]
	found, err := m.log.Cancel(m.Context(), one.ID)
	m.fallen()
	n := len(m.waiting)
	m.waiting = slices.DeleteFunc(m.waiting, func(e fanfare.ScheduledEvent) bool { return e.ID == one.ID })
	if err != nil || found != (len(m.waiting) < n) {
		m.Fatalf("cancel %v: %v %v", one.ID, found, err)
	}
}

func (m *scheduleModel) check() {
	m.Helper()
	m.due()
	m.fallen()
	m.due() // what was done is durable, and seen
	var waits []string
	for _, e := range m.waiting {
		waits = append(waits, e.Event.Data)
	}
	m.waits(waits...)
	m.has(m.published...)
}

// TestScheduleModel: whatever is scheduled, brought along, and canceled, in any order, across
// sweeps, stops, crashes and clocks that are set, each event is published once at its time, in the
// order of the times, and the log is whole. So is one that an export was imported to.
func TestScheduleModel(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := &scheduleModel{clockTest: newClockTest(t, DurabilitySync), rng: rand.New(rand.NewPCG(seed, 2)),
				nextID: 1}
			for range 150 {
				switch m.rng.IntN(12) {
				default:
					m.schedule()
				case 0, 1, 2:
					m.bring()
				case 3, 4:
					m.cancel()
				case 5, 6:
					m.clock.pass(time.Duration(m.rng.IntN(120)) * time.Second)
				case 7:
					sweepNow(t, m.log)
				case 8:
					how := []across{running, stopped, killed}[m.rng.IntN(3)]
					m.jump(time.Duration(m.rng.IntN(1200)-600)*time.Second, how)
				}
				m.check()
			}
			m.whole()
		})
	}
}

// whole checks the log, and one that is imported from it.
func (m *scheduleModel) whole() {
	m.Helper()
	if err := m.log.Close(); err != nil {
		m.Fatal(err)
	}
	report, err := verify(m.Context(), m.fs, "/data")
	if err != nil || report.Faults > 0 || report.Scheduled != uint64(len(m.waiting)) {
		m.Fatalf("%+v %v", report, err)
	}
	var out bytes.Buffer
	if _, err := export(m.Context(), m.fs, "/data", nil, &out, func(err error) { m.Error(err) }); err != nil {
		m.Fatal(err)
	}
	dir := filepath.Join(m.TempDir(), "imported")
	if _, err := Import(m.Context(), dir, &out); err != nil {
		m.Fatal(err)
	}
	report, err = Verify(m.Context(), dir)
	if err != nil || report.Faults > 0 || report.Scheduled != uint64(len(m.waiting)) {
		m.Fatalf("imported: %+v %v", report, err)
	}
	m.open()
	m.check()
}
