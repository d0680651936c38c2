package publish

import (
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// WriteJSON answers with a JSON text that the caller has made.
func WriteJSON(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	body = append(body, '\n')
	h, values := w.Header(), [...]string{"application/json", "no-store", strconv.Itoa(len(body))}
	h["Content-Type"], h["Cache-Control"], h["Content-Length"] = values[0:1:1], values[1:2:2], values[2:3:3]
	w.WriteHeader(status)
	switch {
	case r.Method == http.MethodHead:
	case len(body) <= pieceBytes:
		_, _ = w.Write(body)
	default:
		p := NewPaced(w, r, stallLimit)
		_, _ = p.Write(body)
		p.End()
	}
}

// WriteID answers the publish of one event with its id, also as ETag: the next publish can be made
// to follow this one alone. The two share one text, since this is the commonest answer.
func WriteID(w http.ResponseWriter, receipt fanfare.Receipt) {
	const before = `{"id":`
	const bytes = len(before) + fanfare.PositionTextBytes + len(`""}`) + 1
	var room [bytes]byte
	text := append(receipt.Positions[0].Append(append(append(room[:0], before...), '"')), `"}`...)
	body := string(append(text, '\n'))
	h, values := w.Header(), [...]string{"application/json", "no-store", strconv.Itoa(len(body)),
		body[len(before) : len(body)-len("}\n")]}
	h["Content-Type"], h["Cache-Control"], h["Content-Length"] = values[0:1:1], values[1:2:2], values[2:3:3]
	h["Etag"] = values[3:4:4]
	w.WriteHeader(Status(w, receipt))
	_, _ = io.WriteString(w, body)
}

// stallLimit is how long a peer may take nothing of a long answer.
const stallLimit = 30 * time.Second

// pieceBytes is how much a peer must take within the limit: at 30 s a kilobyte a second.
const pieceBytes = 32 << 10

// Paced writes a long answer in pieces, and gives up on a peer that takes nothing of one for the
// limit. It is an http.Server's WriteTimeout for answers of any length, also where the server has
// none. One goroutine uses it.
type Paced struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	limit time.Duration
	rest  time.Duration // the server's own limit, for later requests; 0: none
	since time.Time     // when the piece before began: over HTTP/2 its time may run out just after it was taken

	Stalled bool // the peer took nothing for the limit
}

// NewPaced makes a Paced for the answer to r.
func NewPaced(w http.ResponseWriter, r *http.Request, limit time.Duration) *Paced {
	p := &Paced{w: w, rc: http.NewResponseController(w), limit: limit}
	if server, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok {
		p.rest = server.WriteTimeout
	}
	return p
}

// Write implements io.Writer. After an error nothing more can be written.
func (p *Paced) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		began, before, done := time.Now(), p.since, 0
		if p.since = began; before.IsZero() {
			before = began
		}
		_ = p.rc.SetWriteDeadline(began.Add(p.limit))
		done, err = p.w.Write(b[:min(len(b), pieceBytes)])
		n, b = n+done, b[done:]
		p.Stalled = err != nil && time.Since(before) >= p.limit
	}
	return n, err
}

// End sends the bytes that are still in buffers, and restores the server's own limit.
func (p *Paced) End() {
	_ = p.rc.Flush()
	var deadline time.Time
	if p.rest > 0 {
		deadline = time.Now().Add(p.rest)
	}
	_ = p.rc.SetWriteDeadline(deadline)
}

// PacedHandler has a handler's answers written as a Paced does.
func PacedHandler(h http.Handler, limit time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p := &pacedWriter{ResponseWriter: w, paced: NewPaced(w, r, limit)}
		h.ServeHTTP(p, r)
		p.paced.End()
	}
}

type pacedWriter struct {
	http.ResponseWriter
	paced *Paced
}

// Write implements http.ResponseWriter.
func (p *pacedWriter) Write(b []byte) (int, error) { return p.paced.Write(b) }

// Status is 201 for events that were stored now, and 200, with Idempotent-Replayed, for events that
// had been stored before.
func Status(w http.ResponseWriter, receipt fanfare.Receipt) int {
	if receipt.Replayed {
		w.Header().Set("Idempotent-Replayed", "true")
		return http.StatusOK
	}
	return http.StatusCreated
}
