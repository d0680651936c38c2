package stream

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/audit"
	"github.com/fanfare-hub/fanfare/internal/problem"
	"github.com/fanfare-hub/fanfare/sse"
)

// A refused stream is an answer like any other, with two additions.
//
// Browsers: an EventSource stops for good at any status but 200. So if there is no room, or the hub
// shuts down, and Accept names text/event-stream, the answer is an empty stream whose one line says
// when to come back. An error of the client (400, 401, 403) stays an error: the client should stop.
//
// Clients that come back at once: the older Python client of the store PCs, which ignores the
// status, sent 1,100 requests a second to a hub that refused its token. So answers to such clients
// wait, and so do answers to other clients after the first few of an address (admit_pacer.go). On
// Linux a plain connection waits without a goroutine (admit_holds_linux.go); otherwise the
// request's goroutine waits. When too many wait already, the hub closes the connection without an
// answer. But a client that would be told when to come back, and may heed it, is told at once: a
// proxy would make a 502 of a closed connection, at which a browser stops for good.

// Refuse answers a GET of a stream that is refused, and returns when that is done, or will be done
// by others. It panics with http.ErrAbortHandler to have the connection closed. HEAD is answered at
// once, as everywhere.
func (s *Streams) Refuse(w http.ResponseWriter, r *http.Request, req Request, err error) {
	if r.Method != http.MethodGet {
		s.o.Problems.Write(w, r, err)
		return
	}
	a := &answer{header: w.Header(), status: http.StatusOK}
	code := fanfare.CodeOf(err)
	a.later = code == fanfare.CodeOverloaded || code == fanfare.CodeUnavailable
	if a.later {
		s.counts.refused.Add(1)
	}
	if a.later && AcceptsStream(r) {
		_, _ = s.o.Problems.Document(err) // counts it
		s.o.Audit.Record(
			audit.StreamRefused,
			req.Caller,
			slog.String("adapter", req.Adapter),
			slog.String("code", string(code)),
			problem.Reason(err),
		)
		s.setHeader(a.header)
		a.stream, a.body = true, appendRetry(nil, s.comeBack())
	} else {
		s.o.Problems.Write(a, r, err)
	}
	s.answer(w, r, &req, a)
}

// answer sends an answer when it is due.
func (s *Streams) answer(w http.ResponseWriter, r *http.Request, req *Request, a *answer) {
	if r.ProtoMajor == 1 {
		a.header.Set(
			"Connection",
			"close",
		) // some clients read until the connection ends; HTTP/2 would end all of its streams
	}
	if s.stopping() {
		a.send(w)
		return
	}
	switch s.pacer.admit(req.Caller.Network(), req.Pause) {
	case paceNow:
		a.send(w)
	case paceLater:
		s.answerLater(w, r, req, a)
	case paceCut:
		if a.later && !req.Pause {
			a.send(w)
			return
		}
		s.warnOfCuts()
		panic(http.ErrAbortHandler)
	}
}

// answerLater has an answer wait that has a place with the pacer.
func (s *Streams) answerLater(w http.ResponseWriter, r *http.Request, req *Request, a *answer) {
	leave := func() { s.pacer.leave(req.Caller.Network()) }
	wait := s.pacer.wait()
	conn, buffered, err := takeOver(w, r)
	if err != nil {
		leave()
		panic(http.ErrAbortHandler)
	}
	if conn == nil {
		defer leave()
		s.waitAttached(w, r, wait)
		a.send(w)
		return
	}
	if n, ok := w.(interface{ NoteStatus(int) }); ok {
		n.NoteStatus(a.status)
	}
	raw := a.appendRaw(nil, r.ProtoAtLeast(1, 1))
	if s.holds.hold(s, conn, raw, wait, leave) {
		return
	}
	defer leave()
	t := newTaken(conn, buffered, true, s.o.StallLimit) // notices when the peer goes
	defer t.close()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.o.Stopping:
	case <-t.halfClosed():
		return
	case <-t.gone():
		return
	}
	t.pieces = append(t.pieces[:0], raw)
	if t.flush() == nil {
		_ = t.end()
	}
}

// waitAttached waits in the request's goroutine. When the peer goes it panics with
// http.ErrAbortHandler: otherwise net/http would answer 200.
func (s *Streams) waitAttached(w http.ResponseWriter, r *http.Request, wait time.Duration) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // the server's, for a body, would end the request
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.o.Stopping: // an early answer is better than none
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	}
	_ = rc.SetWriteDeadline(time.Now().Add(s.o.StallLimit)) // the server's may have passed
}

func (s *Streams) stopping() bool {
	select {
	case <-s.o.Stopping:
		return true
	default:
		return false
	}
}

// warnOfCuts warns, at most once a minute, that connections are closed without an answer.
func (s *Streams) warnOfCuts() {
	now := time.Now().Unix()
	if last := s.warned.Load(); now-last >= 60 && s.warned.CompareAndSwap(last, now) {
		s.o.Logger.Warn(
			"connections of clients whose streams are refused are closed without an answer: "+
				"as many refusals wait as the limits allow",
			s.o.Problems.Settings(fanfare.SettingMaxRefusalsHeld, fanfare.SettingMaxRefusalsHeldPerAddress),
		)
	}
}

// answer is a whole answer that may have to wait.
type answer struct {
	header http.Header // of the ResponseWriter
	status int
	later  bool // it tells the client to come back later
	stream bool // the body is an empty stream
	body   []byte
}

// Header implements http.ResponseWriter, as the two below: a problem.Writer writes into an answer.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) { a.status = status }

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.body = append(a.body, b...)
	return len(b), nil
}

func (a *answer) send(w http.ResponseWriter) {
	w.WriteHeader(a.status)
	if len(a.body) > 0 {
		_, _ = w.Write(a.body)
	}
	if a.stream {
		_ = http.NewResponseController(w).Flush() // before the end is known, so that the answer is chunked
	}
}

// appendRaw appends the answer as HTTP/1 has it.
func (a *answer) appendRaw(b []byte, http11 bool) []byte {
	proto, body := "HTTP/1.1 ", a.body
	if !http11 {
		proto = "HTTP/1.0 "
	} else if a.stream {
		a.header.Set("Transfer-Encoding", "chunked")
		body = append(sse.AppendChunk(nil, a.body), sse.LastChunk...)
	}
	a.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	var raw bytes.Buffer
	raw.WriteString(proto + strconv.Itoa(a.status) + " " + http.StatusText(a.status) + "\r\n")
	_ = a.header.Write(&raw)
	raw.WriteString("\r\n")
	raw.Write(body)
	return append(b, raw.Bytes()...)
}

// comeBack is retryTime for clients that the hub sends away. While the hub drains, it covers the
// rest of the window, because a client that comes back before is refused again. It is spread over
// half a window more, because the window is the rate at which the operator wants clients to come.
func (s *Streams) comeBack() time.Duration {
	left, window := s.o.Hub.DrainLeft()
	return left + 2*time.Second + rand.N(max(2*time.Second, window/2)+time.Millisecond)
}

// AcceptsStream tells whether the Accept header names text/event-stream. A wildcard does not.
func AcceptsStream(r *http.Request) bool {
	for _, header := range r.Header.Values("Accept") {
		for _, item := range strings.Split(header, ",") {
			kind, params, err := mime.ParseMediaType(item)
			if err != nil || kind != sse.MediaType {
				continue
			}
			q, err := strconv.ParseFloat(params["q"], 64)
			if err != nil || q > 0 {
				return true
			}
		}
	}
	return false
}
