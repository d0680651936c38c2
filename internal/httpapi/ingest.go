package httpapi

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/publish"
)

func itoa(n int) string { return strconv.Itoa(n) }

// heldAnswers is how many bytes of answers are held for a client that does not read them; beyond
// that its body is not read further. Bytes beyond freeAnswers come out of the budget of all
// requests; if the budget is empty, the body is not read further either.
const (
	heldAnswers = 1 << 20
	freeAnswers = 64 << 10
)

// unansweredBytes is how much of the lines is with the log at once: a body that comes faster than
// the disk takes it waits, instead of filling the log's queue and being refused.
const unansweredBytes = 4 << 20

// A batch holds the lines that have come by the time that the reader looks at them, within these
// bounds. To the log, many lines are one append.
const (
	batchLines = 256
	batchBytes = 256 << 10
)

// answerBytes is the size that one answer counts as before it is known.
const answerBytes = 64

// ingest is POST /v1/events with NDJSON: an answer line for each line, in full duplex. Lines are
// handed to the log as they come, and lines that came together as one batch. Batches do not wait
// for one another; the answers are written in the order of the lines.
func (a *API) ingest(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	if key, err := publish.HeaderKey(r); err != nil || key != "" {
		if err == nil {
			err = fanfare.Invalid("Idempotency-Key cannot key an NDJSON body: use the member idempotencyKey " +
				"of each line")
		}
		a.o.Problems.Write(w, r, err)
		return
	}
	if err := publish.NoHeaderCondition(r); err != nil {
		a.o.Problems.Write(w, r, err)
		return
	}
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex()            // HTTP/2 is so by itself
	_ = rc.SetWriteDeadline(time.Time{}) // the server's is for requests
	if strings.EqualFold(r.Header.Get("Expect"), "100-continue") {
		sendContinue(w) // net/http would only with the first read, and not after a status
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	_ = rc.Flush()

	in := &ingest{api: a, by: by, traceparent: r.Header.Get("Traceparent"), w: w, rc: rc, ready: make(chan struct{}, 1),
		closed:   make(chan struct{}),
		lineHold: a.o.Publisher.Bodies.Hold(by), answersHold: a.o.Publisher.Bodies.Hold(by)}
	defer in.lineHold.Free()
	defer in.answersHold.Free()
	in.freed.L = &in.mu
	var answers sync.WaitGroup
	answers.Go(in.writeAnswers)
	stopped := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		select {
		case <-a.o.Stopping:
			in.stop()
		case <-stopped:
		}
	})
	in.readLines(r.Body)
	close(stopped)
	watcher.Wait()
	close(in.closed)
	answers.Wait()
}

// ingest is one NDJSON request.
type ingest struct {
	api         *API
	by          caller.Caller
	traceparent string
	w           http.ResponseWriter // written by writeAnswers alone
	rc          *http.ResponseController

	ready  chan struct{} // one token: the first answer may be known
	closed chan struct{} // no more lines will come

	// Owned by the reader of the lines.
	batch    gathered
	lineHold publish.Hold // for a line that is coming in
	lineEnds time.Time    // when it must have come; zero: there is no large one

	mu          sync.Mutex // guards the fields below
	freed       sync.Cond  // there is more room, or broken or stopped is set
	pending     []*pendingAnswer
	answers     int          // bytes of answers that are not written
	answersHold publish.Hold // for those of them that are not free
	unanswered  int          // bytes of the lines that the log has
	broken      bool         // the client does not take answers any more
	stopped     bool
	stored      storedLines // since they were last written down
}

// storedLines are for the audit trail.
type storedLines struct {
	count   int
	channel fanfare.Channel // of the last
	id      fanfare.Position
}

// gathered are lines that go to the log as one batch.
type gathered struct {
	events []fanfare.Event
	lines  []int // their numbers
	size   int   // bytes of the lines
}

// pendingAnswer is the answer to one line or more, known or not.
type pendingAnswer struct {
	text []byte // nil until it is known
	cost int
}

// stop makes the reader's next read fail at once.
func (in *ingest) stop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.stopped = true
	_ = in.rc.SetReadDeadline(time.Unix(1, 0))
	in.freed.Broadcast()
}

// sendContinue tells the client to send its body (RFC 9110, section 10.1.1). The header fields that
// are set for the answer are left for the answer.
func sendContinue(w http.ResponseWriter) {
	h := w.Header()
	answer := h.Clone()
	clear(h)
	w.WriteHeader(http.StatusContinue)
	maps.Copy(h, answer)
}

// take takes one line to store, and returns false when the request is over. A line with an
// idempotency key, a condition or a time, or of a caller with rates, goes to the log alone, because
// it may get an answer of its own.
func (in *ingest) take(n int, line []byte) bool {
	o, err := publish.ParseObjectOf(line, "the line", "")
	var b *fanfare.Batch
	if err == nil {
		if err = in.api.o.StillMay(in.by.Who); err == nil { // a body may last longer than a token
			b, err = in.api.batch(in.by, []publish.Object{o}, "", false)
		}
	}
	if err != nil {
		return in.refuse(n, err)
	}
	if b.Keys != nil || b.If != nil || b.TTL != nil || b.Scheduled() || in.api.o.Publisher.Rates.On() {
		if !in.flush() || !in.api.o.Publisher.AdmitSoon(in.by, b, in.api.o.Stopping) {
			return false // lines without an answer were not stored
		}
		return in.store(b, []int{n}, len(line))
	}
	g := &in.batch
	g.events = append(g.events, b.Events[0])
	g.lines = append(g.lines, n)
	if g.size += len(line); g.size >= batchBytes || len(g.lines) >= batchLines {
		return in.flush()
	}
	return true
}

// flush hands the lines that have gathered to the log; false when the request is over.
func (in *ingest) flush() bool {
	g := in.batch
	if len(g.lines) == 0 {
		return true
	}
	in.batch = gathered{events: make([]fanfare.Event, 0, len(g.events)), lines: make([]int, 0, len(g.lines))}
	return in.store(&fanfare.Batch{Events: g.events}, g.lines, g.size)
}

// refuse answers for a line that is not stored.
func (in *ingest) refuse(n int, err error) bool {
	if !in.flush() {
		return false
	}
	p := &pendingAnswer{text: in.problem(n, err)}
	p.cost = len(p.text)
	if !in.pend(p, 0, false) {
		return false
	}
	in.signal()
	return true
}

// pend queues an answer to lines of size bytes. It waits while too many bytes are held or under
// way. It returns false when the client is gone, or when the hub is stopping and the lines would
// have to be stored.
func (in *ingest) pend(p *pendingAnswer, size int, storing bool) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.fullLocked(p.cost, size) && !in.broken && !(in.stopped && storing) {
		in.freed.Wait()
	}
	if in.broken || (in.stopped && storing) {
		return false
	}
	in.answers += p.cost
	in.pending = append(in.pending, p)
	in.unanswered += size
	return true
}

// fullLocked tells whether an answer, or lines, must wait for earlier answers of this request. It
// never waits for another request: a request that the budget refuses has answers of its own that
// are being written.
func (in *ingest) fullLocked(answer, lines int) bool {
	if in.unanswered > 0 && in.unanswered+lines > unansweredBytes {
		return true
	}
	held := in.answers + answer
	if in.answers > 0 && held > heldAnswers {
		return true
	}
	return in.answers > 0 && held > freeAnswers && in.answersHold.Grow(held-freeAnswers-in.answersHold.Bytes()) != nil
}

// store hands a batch, made of lines of size bytes, to the log.
func (in *ingest) store(b *fanfare.Batch, lines []int, size int) bool {
	p := &pendingAnswer{cost: answerBytes * len(lines)}
	if !in.pend(p, size, true) {
		return false
	}
	in.api.o.Publisher.Append(b, in.traceparent, func(receipt fanfare.Receipt, err error) {
		text := make([]byte, 0, 24*len(lines))
		for i, n := range lines {
			if err != nil {
				text = append(text, in.problem(n, err)...)
				continue
			}
			if receipt.Scheduled != 0 {
				text = append(publish.AppendScheduled(text, receipt), '\n')
				continue
			}
			text = append(receipt.Positions[i].Append(append(text, `{"id":"`...)), "\"}\n"...)
		}
		in.mu.Lock()
		p.text = text
		if err == nil {
			last := len(lines) - 1
			in.stored.count += len(lines)
			in.stored.channel, in.stored.id = b.Events[last].Channel, fanfare.Position(receipt.Scheduled)
			if receipt.Scheduled == 0 {
				in.stored.id = receipt.Positions[last]
			}
		}
		in.unanswered -= size
		in.freed.Broadcast()
		in.mu.Unlock()
		in.signal()
	})
	return true
}

func (in *ingest) problem(n int, err error) []byte {
	d, _ := in.api.o.Problems.Document(err)
	d.Line = n
	line, _ := json.Marshal(d)
	return append(line, '\n')
}

func (in *ingest) signal() {
	select {
	case in.ready <- struct{}{}:
	default:
	}
}

// writeAnswers writes the known answers at the front of the queue, until no line is left and none
// will come.
func (in *ingest) writeAnswers() {
	closed := in.closed
	for {
		out, cost, left, stored := in.known()
		if stored.count > 0 {
			in.api.o.Publisher.StoredLines(in.by, stored.channel, stored.count, stored.id)
		}
		if len(out) > 0 {
			in.write(out, cost)
			continue
		}
		if closed == nil && left == 0 {
			return
		}
		select {
		case <-in.ready:
		case <-closed:
			closed = nil
		}
	}
}

// write writes answers, and makes their room free.
func (in *ingest) write(out []byte, cost int) {
	_ = in.rc.SetWriteDeadline(time.Now().Add(time.Minute))
	_, err := in.w.Write(out)
	if err == nil {
		err = in.rc.Flush()
	}
	_ = in.rc.SetWriteDeadline(time.Time{}) // one that passes in between has HTTP/2 reset the stream
	in.mu.Lock()
	defer in.mu.Unlock()
	in.broken = in.broken || err != nil
	in.answers -= cost
	in.answersHold.Shrink(in.answersHold.Bytes() - max(in.answers-freeAnswers, 0))
	in.freed.Broadcast()
}

// known takes answers that are known off the front, as many as are written at once.
func (in *ingest) known() (out []byte, cost, left int, stored storedLines) {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := 0
	for n < len(in.pending) && in.pending[n].text != nil &&
		(n == 0 || len(out)+len(in.pending[n].text) <= ingestBuffer) {
		out = append(out, in.pending[n].text...)
		cost += in.pending[n].cost
		n++
	}
	if n > 0 {
		in.pending = append(in.pending[:0:0], in.pending[n:]...)
	}
	stored, in.stored = in.stored, storedLines{}
	return out, cost, len(in.pending), stored
}
