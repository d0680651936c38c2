package stream

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/audit"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/sse"
)

// Serve answers r with a stream. It returns when the stream has ended, or when a shard has taken
// its connection over. For HEAD it answers with the head alone.
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
	extra := 0
	if s.tickets.has(ticketOf(req.Caller.Who)) {
		extra = 1 // it takes the place of the ticket's older stream, which ends
	}
	if err := s.places.take(req.Caller, req.Patterns, extra); err != nil {
		s.Refuse(w, r, req, err)
		return
	}
	st := s.newStream(&req)
	sub, err := s.o.Hub.Subscribe(req.Patterns, req.Start, st)
	if err != nil {
		s.places.giveBack(req.Caller, req.Patterns)
		s.Refuse(w, r, req, err)
		return
	}
	st.sub = sub
	handedOver := false
	abandon := func() {
		if !handedOver { // refused, ended in this goroutine, or panicked: nobody else sees to its end
			handedOver = true
			s.leave(st)
			s.discard(st)
		}
	}
	defer abandon()
	s.open.enter(st, req.Adapter)
	s.tickets.enter(st, req.Start)
	if err := s.confirm(r.Context(), req.Caller.Who); err != nil {
		abandon() // a refusal may wait, and takes no stream's place
		s.Refuse(w, r, req, err)
		return
	}
	if s.o.Audit != nil {
		s.o.Audit.Record(
			audit.StreamOpened,
			req.Caller,
			slog.Uint64("stream", st.id),
			slog.String("adapter", req.Adapter),
			slog.Any("channels", st.channels()),
			slog.Bool("resumed", req.Start.From == hub.FromAfter),
		)
	}
	handedOver = s.run(w, r, st, &req)
}

// run gives the stream to a runner: to a shard, which ends it, or to this goroutine, which runs it
// to its end. It returns true when others see to its end.
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
	if !s.o.Attached &&
		s.shards.detach(s, st, conn, buffered, append(appendHead(nil, w.Header(), st.chunked), first...)) {
		return true
	}
	s.end(st, newAttached(st, newTaken(conn, buffered, st.chunked, s.o.StallLimit)).serve(w.Header(), first))
	return false
}

// confirm checks the caller's rights once more, now that a revocation can find the stream, and
// notes a ticket's use.
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
			s.o.Logger.Warn(
				"a ticket's use could not be stored: after a restart its stream cannot reconnect",
				slog.Any("err", err),
			)
		}
	}
	return nil
}

func (s *Streams) newStream(req *Request) *Stream {
	st := &Stream{
		streams: s, caller: req.Caller, owned: uint32(req.Owned), began: s.clock.Now(),
		machine: machine{manner: req.Manner, may: req.May},
	}
	watch := req.Watch
	if st.manner.Heartbeat <= 0 {
		st.manner.Heartbeat = s.o.Heartbeat
	}
	if who := req.Caller.Who; who != nil {
		if end := who.StreamsEnd(); !end.IsZero() {
			st.expires = max(s.clock.At(end), 1)
		}
		if who.Ticket != "" && watch == nil {
			watch = &byTicket{ticket: who.Ticket}
		}
	}
	if watch != nil {
		st.live = &Live{watch: watch}
	}
	return st
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
