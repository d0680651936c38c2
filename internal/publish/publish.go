// Package publish holds the parts that all adapters share on the way in: reading bodies within
// limits, idempotency keys, and the wait for the log's answer.
package publish

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/histogram"
	"github.com/fanfare-hub/fanfare/internal/audit"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/limit"
)

// Publisher puts batches into the log. Its methods may be called from any goroutine.
type Publisher struct {
	Log             fanfare.Log
	MaxEventBytes   int
	MaxRequestBytes int
	Logger          *slog.Logger

	Bodies *Bodies

	Tracer  Tracer              // may be nil
	Latency histogram.Histogram // from Append to its answer, errors included

	Rates *limit.Rates // of each caller
	Audit *audit.Trail // may be nil

	mu     sync.Mutex
	warned map[fanfare.Channel]bool // of large data; guarded by mu
}

// Tracer is told of the life of a publish. Its methods may be called from any goroutine, and must
// not block.
type Tracer interface {
	// Publish begins the span of a publish, as a child of the traceparent that the request brought.
	// It returns the traceparent to keep with the events, "" if this publish is not traced, and a
	// function that ends the span.
	Publish(traceparent string) (keep string, end func(error))
	// Step records a span that has ended, as a child of the one that Publish returned.
	Step(traceparent, name string, began, ended time.Time)
}

// Admit holds a batch against the caller's rates, and says in the answer's header how much is left.
func (p *Publisher) Admit(by caller.Caller, h http.Header, b *fanfare.Batch) error {
	if !p.Rates.On() {
		return nil
	}
	v := p.Rates.Take(by.Owner(), len(b.Events), dataBytes(b))
	v.SetHeader(h)
	if e, ok := v.Err.(*fanfare.Error); ok {
		e.Err = &caller.Refused{Caller: by}
	}
	return v.Err
}

func dataBytes(b *fanfare.Batch) (n int) {
	for i := range b.Events {
		n += len(b.Events[i].Data)
	}
	return n
}

// AdmitSoon is Admit for one of many batches on a connection: it waits until the rates allow the
// batch, or stop is closed. false when it was.
func (p *Publisher) AdmitSoon(by caller.Caller, b *fanfare.Batch, stop <-chan struct{}) bool {
	for p.Rates.On() {
		v := p.Rates.Take(by.Owner(), len(b.Events), dataBytes(b))
		if v.Err == nil {
			break
		}
		timer := time.NewTimer(v.Wait)
		select {
		case <-timer.C:
		case <-stop:
			timer.Stop()
			return false
		}
	}
	return true
}

// Stored writes down that a caller has stored a batch.
func (p *Publisher) Stored(by caller.Caller, b *fanfare.Batch, r fanfare.Receipt) {
	if p.Audit == nil || len(b.Events) == 0 {
		return
	}
	attrs := []slog.Attr{slog.String("channel", b.Events[0].Channel.String()), slog.Int("events", len(b.Events))}
	if r.Scheduled != 0 {
		attrs = append(attrs, slog.String("scheduled", r.Scheduled.String()), slog.Time("deliverAt", r.DeliverAt))
	} else {
		attrs = append(attrs, slog.String("id", r.Positions[0].String()))
	}
	p.Audit.Record(audit.Published, by, append(attrs, slog.Bool("replayed", r.Replayed))...)
}

// Canceled writes down that a caller has canceled a scheduled event.
func (p *Publisher) Canceled(by caller.Caller, e fanfare.ScheduledEvent) {
	if p.Audit != nil {
		p.Audit.Record(audit.Canceled, by, slog.String("channel", e.Event.Channel.String()),
			slog.String("scheduled", e.ID.String()))
	}
}

// Changed writes down that a caller has answered or cancelled a command.
func (p *Publisher) Changed(by caller.Caller, channel, reference, state string) {
	if p.Audit != nil {
		p.Audit.Record(audit.Commanded, by, slog.String("channel", channel), slog.String("referenceId", reference),
			slog.String("state", state))
	}
}

// Queued is Stored for events that are answered before they are stored.
func (p *Publisher) Queued(by caller.Caller, channel, reference string) {
	if p.Audit != nil {
		p.Audit.Record(audit.Published, by, slog.String("channel", channel), slog.Int("events", 1),
			slog.String("referenceId", reference), slog.Bool("queued", true))
	}
}

// StoredLines is Stored for lines of one body: how many since the last time, and the last one's
// channel and id.
func (p *Publisher) StoredLines(by caller.Caller, c fanfare.Channel, events int, id fanfare.Position) {
	if p.Audit != nil {
		p.Audit.Record(audit.Published, by, slog.String("channel", c.String()), slog.Int("events", events),
			slog.String("id", id.String()))
	}
}

// Publish appends b and waits for the answer. It does not end when the client goes away: once a
// body has come, it is stored whether a client waits for the answer or not. The log answers within
// its limit for slow commits.
func (p *Publisher) Publish(b *fanfare.Batch, traceparent string) (fanfare.Receipt, error) {
	return p.PublishUntil(context.Background(), b, traceparent)
}

// PublishUntil is Publish that also ends with ctx. After that, b may have been stored all the same.
func (p *Publisher) PublishUntil(ctx context.Context, b *fanfare.Batch, traceparent string) (fanfare.Receipt, error) {
	return fanfare.Append(ctx, appender{p, traceparent}, b)
}

// appender is the log for one publish.
type appender struct {
	p           *Publisher
	traceparent string
}

// Append implements fanfare.Appender.
func (a appender) Append(b *fanfare.Batch, done func(fanfare.Receipt, error)) {
	a.p.Append(b, a.traceparent, done)
}

// Append is the log's Append, timed and traced.
func (p *Publisher) Append(b *fanfare.Batch, traceparent string, done func(fanfare.Receipt, error)) {
	began := time.Now()
	var trace string
	var end func(error)
	if p.Tracer != nil {
		if trace, end = p.Tracer.Publish(traceparent); trace != "" {
			for i := range b.Events {
				b.Events[i].Trace = trace
			}
		}
	}
	p.Log.Append(b, func(r fanfare.Receipt, err error) {
		now := time.Now()
		p.Latency.Observe(now.Sub(began))
		if trace != "" {
			p.Tracer.Step(trace, "commit", began, now)
			end(err)
		}
		done(r, err)
	})
}

// Channel parses the name of a channel that a caller wants to publish to.
func Channel(name string) (fanfare.Channel, error) {
	c, err := fanfare.ParseChannel(name)
	if err == nil && c.Reserved() {
		err = fanfare.Errorf(fanfare.CodeForbidden, "channel %.64q begins with '$': such channels are the hub's own",
			name)
	}
	return c, err
}

// largeData is the size above which two known Go clients loop for ever, because they read lines
// into 64 KiB.
const largeData = 64 << 10

// CheckData checks data against the limit, and warns once per channel of data that some clients
// cannot read.
func (p *Publisher) CheckData(c fanfare.Channel, data string) error {
	if len(data) > p.MaxEventBytes {
		return TooLarge(fanfare.SettingMaxEventBytes, "data is %d bytes, the limit is %d", len(data), p.MaxEventBytes)
	}
	if len(data) > largeData {
		p.warnOnce(c, len(data))
	}
	return nil
}

func (p *Publisher) warnOnce(c fanfare.Channel, n int) {
	const most = 1000 // channels to remember
	p.mu.Lock()
	seen := p.warned[c] || len(p.warned) >= most
	if !seen {
		if p.warned == nil {
			p.warned = map[fanfare.Channel]bool{}
		}
		p.warned[c] = true
	}
	p.mu.Unlock()
	if !seen {
		p.Logger.Warn("an event is larger than 64 KiB: some SSE clients cannot read such lines",
			slog.String("channel", c.String()), slog.Int("bytes", n))
	}
}

// HeaderKey returns the Idempotency-Key header, "" when there is none.
func HeaderKey(r *http.Request) (string, error) {
	values := r.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	for _, v := range values {
		if v != values[0] {
			return "", fanfare.Invalid("Idempotency-Key is given %d times", len(values))
		}
	}
	return values[0], CheckKey("Idempotency-Key", values[0])
}

// MaxKeyBytes is the longest idempotency key.
const MaxKeyBytes = 128

// CheckKey checks an idempotency key: 1 to MaxKeyBytes of printable ASCII.
func CheckKey(what, key string) error {
	if key == "" || len(key) > MaxKeyBytes {
		return fanfare.Invalid("%s must have 1 to %d characters", what, MaxKeyBytes)
	}
	for i := range len(key) {
		if key[i] < 0x20 || key[i] > 0x7e {
			return fanfare.Invalid("%s must be printable ASCII", what)
		}
	}
	return nil
}

// Key makes the idempotency key of one event. Its scope is the publisher and the channel. Without
// authentication all callers are the same publisher.
func Key(principal string, c fanfare.Channel, text string, parts ...string) fanfare.Key {
	if text == "" {
		return fanfare.Key{}
	}
	return fanfare.Key{Scope: principal + "\x00" + c.String(), Text: text, Fingerprint: Fingerprint(parts...)}
}

// Fingerprint tells whether two requests under one key ask for the same.
func Fingerprint(parts ...string) (sum [16]byte) {
	h := sha256.New()
	var n [8]byte
	for _, part := range parts {
		binary.LittleEndian.PutUint64(n[:], uint64(len(part)))
		_, _ = h.Write(n[:])
		_, _ = io.WriteString(h, part)
	}
	copy(sum[:], h.Sum(nil))
	return sum
}
