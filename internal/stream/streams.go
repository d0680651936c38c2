package stream

import (
	"cmp"
	"context"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/histogram"
	"github.com/fanfare-hub/fanfare/hub"
	"github.com/fanfare-hub/fanfare/internal/audit"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/forwarded"
	"github.com/fanfare-hub/fanfare/internal/poll"
	"github.com/fanfare-hub/fanfare/internal/problem"
	"github.com/fanfare-hub/fanfare/sse"
)

// Options set up Streams. All fields but those with a default are required.
type Options struct {
	Hub           *hub.Hub
	Problems      *problem.Writer
	Logger        *slog.Logger
	Heartbeat     time.Duration   // sign of life after so much idle time
	MaxPerAddress int             // streams of one address, or IPv6 network; 0: no limit; see caller.Caller.Address
	MaxPerSubject int             // streams of one who says who they are; 0: no limit
	MaxPerChannel int             // streams of one channel or pattern; 0: no limit
	NewPerSecond  float64         // streams that may begin in a second, all together; 0: no limit
	Adapters      []string        // who will use it: labels that are there from the beginning
	BareType      bool            // send the content type without charset
	StallLimit    time.Duration   // end a stream whose peer takes nothing for so long; default 30 s
	Attached      bool            // serve each stream in a goroutine of its own, also where it could be detached
	Stopping      <-chan struct{} // closed when requests must come to their end

	MaxRefusalsHeld           int // refusals whose answer waits, because their client would come back at once; default 1,000
	MaxRefusalsHeldPerAddress int // of these, of one address, or IPv6 network, loopback and proxies' own included; default 32

	Audit        *audit.Trail                                    // may be nil
	TicketOpened func(context.Context, *fanfare.Principal) error // notes that a stream was opened by ticket; may be nil
	StillMay     func(*fanfare.Principal) error                  // asked again once a stream can be found by who ends it; may be nil

	Step func(traceparent, name string, began, ended time.Time) // told of the first delivery of a traced event; may be nil
}

// EndReason says why a stream ended; it is a metric's label.
type EndReason string

// The reasons.
const (
	EndLifetime EndReason = "lifetime" // its time was over
	EndDrain    EndReason = "drain"    // the hub shuts down
	EndGone     EndReason = "gone"     // the peer closed the connection, or vanished
	EndStalled  EndReason = "stalled"  // the peer took nothing for StallLimit
	EndFlood    EndReason = "flood"    // the peer kept sending bytes after its request
	EndFailed   EndReason = "failed"   // the stream could not be begun

	EndExpired      EndReason = "expired"      // the token's time was over (P8)
	EndRevoked      EndReason = "revoked"      // the token, key or subject was revoked
	EndDisconnected EndReason = "disconnected" // an operator wanted it
	EndReplaced     EndReason = "replaced"     // a newer stream was opened with the same ticket
)

// EndReasons lists them.
var EndReasons = []EndReason{EndLifetime, EndDrain, EndGone, EndStalled, EndFlood, EndFailed, EndExpired, EndRevoked, EndDisconnected, EndReplaced}

// Streams serves streams. Its methods may be called from any goroutine.
type Streams struct {
	o Options

	counts  counts
	begins  *rate.Limiter // nil: no limit
	clock   poll.Clock
	house   house
	shards  shards
	tickets *tickets
	pacer   *pacer
	holds   holds
	warned  atomic.Int64 // when warnOfCuts last did, in seconds since 1970

	mu        sync.Mutex // guards the fields below
	addresses map[netip.Addr]int
	subjects  map[string]int
	channels  map[fanfare.Pattern]int
	open      map[*Stream]struct{}
	opened    map[string]uint64 // by adapter
	lastID    uint64
}

// New returns Streams.
func New(o Options) *Streams {
	if o.StallLimit == 0 {
		o.StallLimit = 30 * time.Second
	}
	if o.MaxRefusalsHeld == 0 {
		o.MaxRefusalsHeld = 1000
	}
	if o.MaxRefusalsHeldPerAddress == 0 {
		o.MaxRefusalsHeldPerAddress = 32
	}
	s := &Streams{
		o: o, clock: poll.NewClock(), addresses: map[netip.Addr]int{}, subjects: map[string]int{}, channels: map[fanfare.Pattern]int{},
		open: map[*Stream]struct{}{}, opened: map[string]uint64{}, tickets: newTickets(), pacer: newPacer(o.MaxRefusalsHeld, o.MaxRefusalsHeldPerAddress),
	}
	if o.NewPerSecond > 0 {
		s.begins = rate.NewLimiter(rate.Limit(o.NewPerSecond), int(max(1, o.NewPerSecond)))
	}
	for _, adapter := range o.Adapters {
		s.opened[adapter] = 0
	}
	s.house = house{time.Now, s.comeBack}
	s.counts.ended = map[EndReason]*atomic.Uint64{}
	for _, reason := range EndReasons {
		s.counts.ended[reason] = new(atomic.Uint64)
	}
	return s
}

// counts are what Stats tells.
type counts struct {
	refused, withheld             atomic.Uint64
	delivered, replayed           atomic.Uint64
	deliveredBytes, replayedBytes atomic.Uint64
	ended                         map[EndReason]*atomic.Uint64 // fixed keys
	delivery                      histogram.Histogram
}

// noteWithheld counts events that a stream may not hear though it was admitted.
func (s *Streams) noteWithheld(n int) {
	if s.counts.withheld.Add(uint64(n)) == uint64(n) {
		s.o.Logger.Error("an event was withheld from a stream that may not hear it: this is a fault of the hub")
	}
}

func (s *Streams) panicked(p any, stack []byte) {
	s.o.Logger.Error("a stream panicked", slog.Any("panic", p), slog.String("stack", string(stack)))
}

// Stats are counts since New.
type Stats struct {
	Open           map[string]int    // now, by adapter
	Opened         map[string]uint64 // by adapter
	Refused        uint64            // no room, draining, or the log could not be read
	RefusalsPaced  uint64            // refusals of streams, whatever the reason, whose answer waited
	RefusalsHeld   int               // of these, those that wait now
	RefusalsCut    uint64            // connections closed unanswered, because too many waited
	Stopped        uint64            // answered 204: another client uses the ticket
	Ended          map[EndReason]uint64
	Delivered      uint64           // events handed to the kernel, the last one of a stream perhaps in part
	Replayed       uint64           // of these, the ones read from the log
	DeliveredBytes uint64           // of events, as they are on the wire
	ReplayedBytes  uint64           // of these, of events read from the log
	Withheld       uint64           // replayed events that who asked for them may not hear
	Delivery       histogram.Counts // from the hub's hearing of an event until it was handed to the kernel, replays left out
}

// Stats returns the counts.
func (s *Streams) Stats() Stats {
	st := Stats{
		Open: map[string]int{}, Refused: s.counts.refused.Load(), Ended: map[EndReason]uint64{},
		Delivered: s.counts.delivered.Load(), Replayed: s.counts.replayed.Load(),
		DeliveredBytes: s.counts.deliveredBytes.Load(), ReplayedBytes: s.counts.replayedBytes.Load(), Withheld: s.counts.withheld.Load(), Delivery: s.counts.delivery.Counts(),
		RefusalsPaced: s.pacer.paced.Load(), RefusalsHeld: s.pacer.waiting(), RefusalsCut: s.pacer.cut.Load(), Stopped: s.tickets.stopped.Load(),
	}
	s.mu.Lock()
	st.Opened = maps.Clone(s.opened)
	for adapter := range s.opened {
		st.Open[adapter] = 0
	}
	for one := range s.open {
		st.Open[one.adapter]++
	}
	s.mu.Unlock()
	for reason, n := range s.counts.ended {
		st.Ended[reason] = n.Load()
	}
	return st
}

// Idle says what an idle stream sends.
type Idle uint8

// The signs of life.
const (
	IdleComment Idle = iota // the comment line ":"
	IdleEvent               // `event: heartbeat` with the position
)

// Farewell says when the hub ends a stream with one more heartbeat event.
type Farewell uint8

// The farewells. With each of them nothing is said when rights have ended.
const (
	FarewellNone     Farewell = iota // never: the client wants no heartbeat events
	FarewellRetry                    // to say when to come back: at a drain, or when an operator ends the stream
	FarewellPosition                 // at the end of its lifetime too, when the position has moved
)

// Request is what an adapter asks Streams to serve.
type Request struct {
	Adapter  string // who serves it: a metric's label
	Caller   caller.Caller
	Owned    int                        // of Patterns, the first so many: who administers them may end the stream; 0: it takes all of them
	May      func(fanfare.Channel) bool // whether the caller may hear a replayed event (P8); nil: all
	Patterns []fanfare.Pattern
	Start    hub.Start
	Manner
	Pause bool    // its clients come back at once, whatever they are told: every refusal waits
	Watch Watcher // may be nil
}

// Manner is how a client wants its stream, beside the events.
type Manner struct {
	First     func(dst []byte, id string) []byte // appends the first event, which tells the start position; nil: none
	Heartbeat time.Duration                      // overrides Options.Heartbeat when set
	Lifetime  time.Duration                      // 0: for ever; jittered down by up to a tenth
	Idle      Idle
	Farewell  Farewell
	Envelope  bool // events as JSON objects with channel, event, data and time, all of type message
}

// AppendHeartbeat appends a heartbeat event, which carries a position. It is a Manner.First.
func AppendHeartbeat(dst []byte, id string) []byte { return appendHeartbeat(dst, id, time.Now()) }

// Watcher hears of one stream, from the stream's goroutine; its methods must not block.
type Watcher interface {
	Opened(*Live) // before the first byte
	Changed()     // events were sent, or the stream has ended
}

// Serve answers r with a stream and returns when it has ended. For HEAD it answers with the head alone.
func (s *Streams) Serve(w http.ResponseWriter, r *http.Request, req Request) {
	if r.Method == http.MethodHead {
		s.setHeader(w.Header())
		w.WriteHeader(http.StatusOK)
		return
	}
	if err := CheckWriter(w); err != nil {
		s.Refuse(w, r, req, err)
		return
	}
	if ticket := ticketOf(req.Caller.Who); ticket != "" && s.tickets.keepsOut(r.Context(), ticket, req.Start) {
		s.stop(w, r, &req)
		return
	}
	req.Patterns = unique(req.Patterns)
	if err := s.admit(&req); err != nil {
		s.Refuse(w, r, req, err)
		return
	}
	req.Start.Owner = req.Caller.Owner()
	st := s.newStream(&req)
	sub, err := s.o.Hub.Subscribe(req.Patterns, req.Start, st)
	if err != nil {
		s.release(req.Caller, req.Patterns)
		s.Refuse(w, r, req, err)
		return
	}
	st.sub = sub
	runs := false
	abandon := func() {
		if !runs { // refused, or something has panicked
			runs = true
			s.unregister(st)
			s.discard(st)
		}
	}
	defer abandon()
	s.register(st)
	s.tickets.enter(st, req.Start)
	if err := s.confirm(r.Context(), req.Caller.Who); err != nil {
		abandon() // a refusal may wait, and takes no stream's place
		s.Refuse(w, r, req, err)
		return
	}
	if s.o.Audit != nil {
		s.o.Audit.Record(audit.StreamOpened, req.Caller, slog.Uint64("stream", st.id), slog.String("adapter", req.Adapter),
			slog.Any("channels", st.channels()), slog.Bool("resumed", req.Start.From == hub.FromAfter))
	}
	runs = s.run(w, r, st, &req)
}

// run gives the stream to a runner: to a shard, which ends it, or to this goroutine, which runs it to its end. It returns true when others see to its end.
func (s *Streams) run(w http.ResponseWriter, r *http.Request, st *Stream, req *Request) (detached bool) {
	if lifetime := req.Lifetime; lifetime > 0 {
		st.ends = s.clock.Now().Add(lifetime - time.Duration(rand.Float64()*0.1*float64(lifetime)))
	}
	s.setHeader(w.Header())
	conn, buffered, err := takeOver(w, r)
	if err != nil {
		s.end(st, EndFailed)
		return false
	}
	st.chunked = conn != nil && r.ProtoAtLeast(1, 1) // elsewhere net/http does that
	first := st.firstBytes()
	if conn == nil {
		s.end(st, newAttached(st, newPlain(w, r, s.o.StallLimit)).serve(w.Header(), first))
		return false
	}
	if !s.o.Attached && s.shards.detach(s, st, conn, buffered, append(appendHead(nil, w.Header(), st.chunked), first...)) {
		return true
	}
	s.end(st, newAttached(st, newTaken(conn, buffered, st.chunked, s.o.StallLimit)).serve(w.Header(), first))
	return false
}

// end counts and writes down that a stream has ended. Nobody finds it any more.
func (s *Streams) end(st *Stream, reason EndReason) {
	s.unregister(st)
	s.counts.ended[reason].Add(1)
	if s.o.Audit != nil {
		s.o.Audit.Record(audit.StreamEnded, st.caller, slog.Uint64("stream", st.id), slog.String("reason", string(reason)),
			slog.Uint64("events", st.events.Load()), slog.Duration("after", time.Since(st.began)))
	}
	s.o.Logger.Debug("stream ended", slog.String("reason", string(reason)), slog.String("remote", st.caller.Remote))
}

// discard lets go of the places that a stream has taken. It has ended, or has never run.
func (s *Streams) discard(st *Stream) {
	s.release(st.caller, st.sub.Patterns())
	st.sub.Close()
}

// Close ends the streams that have not ended by themselves, and the refusals that wait, and waits for that. Those that have a goroutine of their own end with
// their requests.
func (s *Streams) Close() {
	s.holds.close()
	s.shards.close()
}

// confirm asks once more whether the caller may, now that whoever revokes rights finds the stream, and notes a ticket's use.
func (s *Streams) confirm(ctx context.Context, who *fanfare.Principal) error {
	if who == nil {
		return nil
	}
	if s.o.StillMay != nil {
		if err := s.o.StillMay(who); err != nil {
			return err
		}
	}
	if who.Ticket != "" && s.o.TicketOpened != nil {
		if err := s.o.TicketOpened(ctx, who); err != nil {
			s.o.Logger.Warn("a ticket's use could not be stored: after a restart its stream cannot reconnect", slog.Any("err", err))
		}
	}
	return nil
}

func (s *Streams) newStream(req *Request) *Stream {
	st := &Stream{
		streams: s, adapter: req.Adapter, caller: req.Caller, owned: req.Owned, watch: req.Watch,
		machine: machine{house: &s.house, manner: req.Manner, may: req.May},
	}
	if st.manner.Heartbeat <= 0 {
		st.manner.Heartbeat = s.o.Heartbeat
	}
	if who := req.Caller.Who; who != nil {
		if end := who.StreamsEnd(); !end.IsZero() {
			st.expires = max(s.clock.At(end), 1)
		}
		if who.Ticket != "" && st.watch == nil {
			st.byTicket = &byTicket{ticket: who.Ticket}
			st.watch = st.byTicket
		}
	}
	return st
}

func (s *Streams) register(st *Stream) {
	s.mu.Lock()
	s.lastID++
	st.id, st.began = s.lastID, time.Now()
	s.open[st] = struct{}{}
	s.opened[st.adapter]++
	s.mu.Unlock()
}

func (s *Streams) unregister(st *Stream) {
	s.tickets.leave(st)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, st)
}

// Held is a stream that somebody may want to end.
type Held struct {
	ID           uint64
	Caller       caller.Caller
	Patterns     []fanfare.Pattern
	Administered []fanfare.Pattern // who administers all of these may end it

	stream *Stream
}

// End ends the stream within a second, and reports whether it was the first to do so. It does not block.
func (h Held) End(reason EndReason) bool { return h.stream.endNow(reason) }

// Each yields the streams that were open when it was called; some may have ended since.
func (s *Streams) Each() iter.Seq[Held] {
	s.mu.Lock()
	list := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	return func(yield func(Held) bool) {
		for _, st := range list {
			h := Held{ID: st.id, Caller: st.caller, Patterns: st.sub.Patterns(), stream: st}
			h.Administered = h.Patterns
			if st.owned > 0 && st.owned < len(h.Patterns) {
				h.Administered = h.Patterns[:st.owned]
			}
			if !yield(h) {
				return
			}
		}
	}
}

// Open describes a stream that is open.
type Open struct {
	ID       uint64 // counts the streams of this process
	Adapter  string
	Remote   string // address and port
	Subject  string // "" is nobody in particular
	TokenID  string // of the token or key that it was opened with, to revoke it by; "" is none
	Channels []string
	Began    time.Time
	Lag      uint64 // positions up to the newest, when it has something to get; see hub.Subscriber.Lag
	Events   uint64 // sent
	Bytes    uint64 // of these, as they are on the wire
}

// List describes at most so many streams, those furthest behind first, then the newest.
func (s *Streams) List(most int) []Open {
	s.mu.Lock()
	list := make([]Open, 0, len(s.open))
	for st := range s.open {
		list = append(list, Open{
			ID: st.id, Adapter: st.adapter, Remote: st.caller.Remote, Subject: subject(st.caller), TokenID: tokenID(st.caller), Began: st.began, Lag: st.sub.Lag(),
			Events: st.events.Load(), Bytes: st.bytes.Load(),
		})
		if len(s.open) <= most { // else only of those that stay
			list[len(list)-1].Channels = st.channels()
		}
	}
	byID := map[uint64]*Stream{}
	if len(list) > most {
		for st := range s.open {
			byID[st.id] = st
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b Open) int {
		return cmp.Or(cmp.Compare(b.Lag, a.Lag), cmp.Compare(b.ID, a.ID))
	})
	if len(list) > most {
		list = list[:most]
		for i := range list {
			list[i].Channels = byID[list[i].ID].channels()
		}
	}
	return list
}

func (s *Streams) setHeader(h http.Header) {
	contentType := sse.MediaType + "; charset=utf-8"
	if s.o.BareType {
		contentType = sse.MediaType
	}
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-cache, no-store, no-transform")
	h.Set("X-Accel-Buffering", "no")
	h.Del("X-Content-Type-Options")
}

func subject(c caller.Caller) string {
	if c.Who == nil {
		return ""
	}
	return c.Who.Subject
}

func tokenID(c caller.Caller) string {
	if c.Who == nil {
		return ""
	}
	return c.Who.TokenID
}

// limited is the error of a limit.
func limited(reason fanfare.Reason, format string, args ...any) error {
	e := fanfare.Errorf(fanfare.CodeOverloaded, format, args...)
	e.Reason, e.RetryAfter = reason, 5*time.Second
	return e
}

// admit takes a place under each limit, or none.
func (s *Streams) admit(req *Request) error {
	if s.begins != nil && !s.begins.Allow() {
		return limited(fanfare.ReasonStreamRate, "too many streams begin at once (--max-new-streams)")
	}
	over := 0
	if s.tickets.has(ticketOf(req.Caller.Who)) {
		over = 1 // it takes the place of the ticket's older stream, which ends
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	address, name := forwarded.Network(req.Caller.Address), s.countedName(req.Caller)
	if s.o.MaxPerAddress > 0 && address.IsValid() && s.addresses[address] >= s.o.MaxPerAddress+over {
		return limited(fanfare.ReasonPerAddress, "no room for another stream of this address (--max-streams-per-address)")
	}
	if s.o.MaxPerSubject > 0 && name != "" && s.subjects[name] >= s.o.MaxPerSubject+over {
		return limited(fanfare.ReasonPerSubject, "no room for another stream of this subject (--max-streams-per-subject)")
	}
	if s.o.MaxPerChannel > 0 {
		for _, p := range req.Patterns {
			if s.channels[p] >= s.o.MaxPerChannel+over {
				return limited(fanfare.ReasonPerChannel, "no room for another stream of channel %q (--max-streams-per-channel)", p)
			}
		}
		for _, p := range req.Patterns {
			s.channels[p]++
		}
	}
	if s.o.MaxPerAddress > 0 && address.IsValid() {
		s.addresses[address]++
	}
	if s.o.MaxPerSubject > 0 && name != "" {
		s.subjects[name]++
	}
	return nil
}

func (s *Streams) countedName(c caller.Caller) string {
	if c.Who == nil {
		return ""
	}
	return c.Name()
}

func (s *Streams) release(by caller.Caller, patterns []fanfare.Pattern) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if address := forwarded.Network(by.Address); s.o.MaxPerAddress > 0 && address.IsValid() {
		giveBack(s.addresses, address)
	}
	if name := s.countedName(by); s.o.MaxPerSubject > 0 && name != "" {
		giveBack(s.subjects, name)
	}
	if s.o.MaxPerChannel > 0 {
		for _, p := range patterns {
			giveBack(s.channels, p)
		}
	}
}

// unique leaves out what is there twice.
func unique(patterns []fanfare.Pattern) []fanfare.Pattern {
	list := patterns[:0:0]
	for _, p := range patterns {
		if !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

func giveBack[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}
