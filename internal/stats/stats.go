package stats

import (
	"context"
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/histogram"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/problem"
	"github.com/fanfare-hub/fanfare/internal/stream"
)

// Options set up Stats. All are required.
type Options struct {
	Log      fanfare.Log
	Hub      *hub.Hub
	Streams  *stream.Streams
	Publish  *histogram.Histogram
	Problems *problem.Writer // spells settings
	Ready    func() error
	Version  string

	Known   func(ctx context.Context, most int) []KnownPC // from the log
	Present func() []KnownPC                              // the PCs whose streams are open
	Readers func() Readers
}

// The history's shape: fifteen minutes, a point every five seconds.
const (
	step   = 5 * time.Second
	points = 180
)

// Point holds the figures of one step of the history.
type Point struct {
	Time      time.Time `json:"time"` // of its end
	Streams   int       `json:"streams"`
	Published float64   `json:"publishedPerSecond"`
	Delivered float64   `json:"deliveredPerSecond"`
	// upper bounds of a histogram's buckets, in milliseconds; nil when there was nothing to measure
	PublishP50  *float64 `json:"publishP50Ms"`
	PublishP99  *float64 `json:"publishP99Ms"`
	DeliveryP50 *float64 `json:"deliveryP50Ms"`
	DeliveryP99 *float64 `json:"deliveryP99Ms"`
}

// Snapshot is the answer of GET /v1/stats.
type Snapshot struct {
	Time     time.Time `json:"time"`
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	Ready    bool      `json:"ready"`
	Reason   string    `json:"reason,omitempty"` // why it is not ready
	Position string    `json:"position"`
	Streams  Streams   `json:"streams"`
	Events   Events    `json:"events"`
	Log      *Log      `json:"log,omitempty"` // absent when the engine gives no figures
	History  []Point   `json:"history"`
	Open     []Open    `json:"open"`   // streams, those furthest behind first
	Stores   []Store   `json:"stores"` // PCs that are connected or were lately, at most storesMost PCs
	Readers  Readers   `json:"readers"`
}

// Streams are counts of streams.
type Streams struct {
	Open    map[string]int    `json:"open"` // by adapter
	Opened  map[string]uint64 `json:"opened"`
	Ended   map[string]uint64 `json:"ended"` // by reason
	Refused uint64            `json:"refused"`
}

// Events are counts of events.
type Events struct {
	Published  uint64 `json:"published"`
	Delivered  uint64 `json:"delivered"`
	Replayed   uint64 `json:"replayed"`
	SlowestLag uint64 `json:"slowestLag"`
}

// Log is the size of the log, and its retention.
type Log struct {
	Bytes     int64      `json:"bytes"`    // on disk, by blocks
	SetAside  int64      `json:"setAside"` // the part of that which is set aside for the next writes
	MaxBytes  int64      `json:"maxBytes"`
	Oldest    *time.Time `json:"oldest,omitempty"`
	Retention []Rule     `json:"retention"`
}

// Rule says how much one retention rule holds.
type Rule struct {
	Rule          string     `json:"rule"`
	Channels      uint64     `json:"channels"`
	Events        uint64     `json:"events"`
	Bytes         uint64     `json:"bytes"`
	Oldest        *time.Time `json:"oldest,omitempty"`
	RemovesEvents uint64     `json:"removesEvents"`
	RemovesBytes  uint64     `json:"removesBytes"`
}

// Open is a stream that is open.
type Open struct {
	ID       uint64    `json:"id"`
	Adapter  string    `json:"adapter"`
	Remote   string    `json:"remote"`
	Subject  string    `json:"subject,omitempty"`
	TokenID  string    `json:"tokenId,omitempty"`
	Channels []string  `json:"channels"`
	Began    time.Time `json:"began"`
	Lag      uint64    `json:"lag"` // positions
	Events   uint64    `json:"events"`
	Bytes    uint64    `json:"bytes"`
}

// Store is a store and its PCs.
type Store struct {
	Store string `json:"store"`
	PCs   []PC   `json:"pcs"`
}

// PC is one PC of a store.
type PC struct {
	PC   string `json:"pc"`
	Open bool   `json:"open"` // a stream is open
	// now when a stream is open, else when its last stream stood or its health mark came
	LastSeen time.Time `json:"lastSeen"`
	Readers  []Reader  `json:"readers,omitempty"` // the readers for which a position is kept
	Shared   bool      `json:"shared,omitempty"`  // lately two machines or programs have read it at once
}

// Reader is a reader of a PC's stream.
type Reader struct {
	Address string `json:"address"`
	Streams int    `json:"streams"` // open
}

// KnownPC is a PC and its store.
type KnownPC struct {
	Store string
	PC    PC
}

// Readers are counters for PCs that have several readers, or a reader that was away for long.
type Readers struct {
	Shared    uint64            `json:"shared"`    // found to be read twice at once by one reader
	Several   uint64            `json:"several"`   // by several
	Dropped   uint64            `json:"dropped"`   // positions given up because a PC had too many readers
	Forgotten uint64            `json:"forgotten"` // streams that began with the gap of that name
	Looks     map[string]uint64 `json:"looks"`     // streams that moved no position, by why
}

const (
	storesMost = 1000
	openMost   = 200
)

// Stats gathers figures. Make it with New, end it with Close. Its methods may be called from any
// goroutine.
type Stats struct {
	o       Options
	started time.Time
	stop    chan struct{}
	stopped sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	history []Point    // oldest first
	before  counts
	slow    slow

	rules    []Rule
	rulesDue time.Time
}

// counts are the counters of which a point shows the difference.
type counts struct {
	at                  time.Time
	published           uint64
	delivered           uint64
	publishes, delivery histogram.Counts
}

// slow holds the figures that take time to collect; they are collected at most once a step.
type slow struct {
	at  time.Time
	log *Log
	pcs []KnownPC
}

// New returns Stats that keep a history from now on.
func New(o Options) *Stats {
	s := &Stats{o: o, started: time.Now().UTC(), stop: make(chan struct{})}
	s.before = s.count()
	s.stopped.Go(s.record)
	return s
}

// Close ends the history. A second call is an error of the caller's.
func (s *Stats) Close() {
	close(s.stop)
	s.stopped.Wait()
}

func (s *Stats) count() counts {
	st := s.o.Streams.Stats()
	c := counts{at: time.Now(), publishes: s.o.Publish.Counts(), delivery: st.Delivery, delivered: st.Delivered}
	if engine, ok := s.o.Log.(fanfare.Operable); ok {
		c.published = engine.Stats().Events
	} else {
		c.published = c.publishes.Count
	}
	return c
}

func (s *Stats) record() {
	tick := time.NewTicker(step)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.stop:
			return
		}
		now := s.count()
		streams := s.o.Hub.Stats().Subscribers
		s.mu.Lock()
		s.history = append(s.history, point(s.before, now, streams))
		if len(s.history) > points {
			s.history = append(s.history[:0], s.history[len(s.history)-points:]...)
		}
		s.before = now
		s.mu.Unlock()
	}
}

func point(before, now counts, streams int) Point {
	seconds := now.at.Sub(before.at).Seconds()
	publishes, delivery := now.publishes.Since(before.publishes), now.delivery.Since(before.delivery)
	return Point{
		Time: now.at.UTC(), Streams: streams,
		Published:  float64(now.published-before.published) / seconds,
		Delivered:  float64(now.delivered-before.delivered) / seconds,
		PublishP50: quantile(publishes, 0.5), PublishP99: quantile(publishes, 0.99),
		DeliveryP50: quantile(delivery, 0.5), DeliveryP99: quantile(delivery, 0.99),
	}
}

// quantile returns a quantile in milliseconds. It is nil where nothing was counted, so that a chart
// has no point there: 0 ms would be the best of all latencies.
func quantile(c histogram.Counts, q float64) *float64 {
	if c.Count == 0 {
		return nil
	}
	ms := float64(c.Quantile(q)) / float64(time.Millisecond)
	return &ms
}

// Snapshot returns the figures, with up to most streams.
func (s *Stats) Snapshot(ctx context.Context, most int) Snapshot {
	h, st := s.o.Hub.Stats(), s.o.Streams.Stats()
	status := s.o.Log.Status()
	snap := Snapshot{
		Time: time.Now().UTC(), Version: s.o.Version, Started: s.started, Position: status.Durable.String(),
		Streams: Streams{Open: st.Open, Opened: st.Opened, Ended: st.Ended, Refused: st.Refused},
		Events:  Events{Delivered: st.Delivered, Replayed: st.Replayed, SlowestLag: h.SlowestLag},
		Open:    []Open{},
	}
	if err := s.o.Ready(); err != nil {
		snap.Reason = s.publicText(err)
	} else {
		snap.Ready = true
	}
	if engine, ok := s.o.Log.(fanfare.Operable); ok {
		snap.Events.Published = engine.Stats().Events
	}
	open := s.o.Streams.List(most)
	for _, o := range open {
		snap.Open = append(snap.Open, Open{
			ID: o.ID, Adapter: o.Adapter, Remote: o.Remote, Subject: o.Subject, TokenID: o.TokenID,
			Channels: o.Channels, Began: o.Began.UTC(), Lag: o.Lag, Events: o.Events, Bytes: o.Bytes,
		})
	}
	slow := s.slowly(ctx)
	snap.Log = slow.log
	snap.Stores = storesOf(slow.pcs, s.o.Present(), snap.Time)
	snap.Readers = s.o.Readers()
	s.mu.Lock()
	snap.History = append([]Point{}, s.history...)
	s.mu.Unlock()
	return snap
}

func (s *Stats) publicText(err error) string {
	if public, ok := err.(*fanfare.Error); ok {
		return s.o.Problems.Public(public)
	}
	return "something went wrong in the hub; its log says more"
}

// slowly returns the figures that take time, at most one step old.
func (s *Stats) slowly(ctx context.Context) slow {
	s.mu.Lock()
	found := s.slow
	s.mu.Unlock()
	if time.Since(found.at) < step {
		return found
	}
	found = slow{at: time.Now(), log: s.log(ctx), pcs: s.o.Known(ctx, 10*storesMost)}
	s.mu.Lock()
	s.slow = found
	s.mu.Unlock()
	return found
}

func (s *Stats) log(ctx context.Context) *Log {
	engine, ok := s.o.Log.(fanfare.Operable)
	if !ok {
		return nil
	}
	figures := engine.Stats()
	l := &Log{Bytes: figures.DiskBytes, SetAside: figures.SetAsideBytes, MaxBytes: figures.MaxBytes,
		Retention: []Rule{}}
	if t, ok, err := engine.Oldest(ctx); ok && err == nil {
		l.Oldest = &t
	}
	l.Retention = s.retention(ctx, engine)
	return l
}

// retention collects how much each rule holds, but takes no more than a hundredth of the time for
// it, because it looks at every channel.
func (s *Stats) retention(ctx context.Context, engine fanfare.Operable) []Rule {
	s.mu.Lock()
	rules, due := s.rules, s.rulesDue
	s.mu.Unlock()
	began := time.Now()
	if began.Before(due) {
		return rules
	}
	reports, err := engine.Retention(ctx, nil)
	if err != nil {
		return rules
	}
	rules = Rules(reports)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules, s.rulesDue = rules, time.Now().Add(max(step-time.Second, 100*time.Since(began)))
	return rules
}

// Rules returns reports in the form for JSON.
func Rules(reports []fanfare.RuleReport) []Rule {
	rules := []Rule{}
	for _, r := range reports {
		rule := Rule{Rule: r.Rule.String(), Channels: r.Channels, Events: r.Events, Bytes: r.Bytes,
			RemovesEvents: r.RemovesEvents, RemovesBytes: r.RemovesBytes}
		if r.Rule == (fanfare.Rule{}) {
			rule.Rule = "(no rule)"
		}
		if !r.Oldest.IsZero() {
			rule.Oldest = &r.Oldest
		}
		rules = append(rules, rule)
	}
	return rules
}
