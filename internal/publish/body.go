package publish

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/limit"
)

// Bodies reads the bodies of requests. Memory follows the bytes that have come, not the length that
// a header announces: a body begins with FreeBytes, and each further step is taken from the budget.
// A body that the budget refuses is answered 503 at once, and frees its bytes, so that bodies that
// have half arrived never wait for one another. Its methods may be called from any goroutine.
type Bodies struct {
	Budget  *limit.Budget
	Timeout time.Duration // how long a body may take once it holds a part of the budget
}

// FreeBytes is how much of a body is not counted: about as much as its connection costs anyway.
// Most publishes are smaller, and never touch the budget.
const FreeBytes = 16 << 10

// Hold is the part of the budget that a request holds.
type Hold = limit.Hold

// Hold begins to count the memory that a caller's request holds besides its body.
func (s *Bodies) Hold(by caller.Caller) Hold { return s.Budget.Hold(by.Owner()) }

// Body is a body that has come as a whole. Free must follow when it is not needed any more.
type Body struct {
	Bytes []byte
	hold  limit.Hold
}

// Free gives the body's share of the budget back.
func (b *Body) Free() { b.hold.Free() }

// Read reads a request's body of at most `most` bytes; setting names that limit. A body that
// announces more is refused before it is read.
func (s *Bodies) Read(
	w http.ResponseWriter, r *http.Request, by caller.Caller, most int, setting fanfare.Setting,
) (b Body, err error) {
	if r.ContentLength > int64(most) {
		return b, bodyTooLarge(most, setting)
	}
	if whole, ok := r.Body.(wholeBody); ok {
		return Body{Bytes: []byte(whole.Text())}, nil // it is small, and was counted when it was read
	}
	in := growing{of: s, w: w, r: r, by: by, end: most + 1}
	if r.ContentLength >= 0 {
		in.end, in.announced = int(r.ContentLength)+1, true
	}
	defer func() {
		if err != nil {
			in.body.Free()
		}
	}()
	if n := r.ContentLength; n > 0 && n < FreeBytes {
		in.body.Bytes = make([]byte, 0, n+1)
	}
	from := http.MaxBytesReader(w, r.Body, int64(most))
	for {
		if len(in.body.Bytes) == cap(in.body.Bytes) {
			if err := in.grow(); err != nil {
				return b, err
			}
		}
		n, err := from.Read(in.body.Bytes[len(in.body.Bytes):cap(in.body.Bytes)])
		in.body.Bytes = in.body.Bytes[:len(in.body.Bytes)+n]
		if err == io.EOF {
			in.finish()
			return in.body, nil
		}
		if err != nil {
			return b, readError(err, most, setting)
		}
	}
}

// growing is a body that is coming in.
type growing struct {
	of        *Bodies
	w         http.ResponseWriter
	r         *http.Request
	by        caller.Caller
	end       int  // as much as it needs to be seen to its end
	announced bool // its length was
	body      Body
	timed     bool // a read deadline of ours is set
}

// grow makes room for more: for four to eight times the bytes that have come, if the header
// announces as many, so that a large body is copied little; for about twice as many if the length
// is not known.
func (g *growing) grow() error {
	old := cap(g.body.Bytes)
	size := Step(max(2*old, 512), g.end)
	if g.announced {
		size = Step(max(4*old, FreeBytes/4), g.end)
	}
	if size <= old { // more has come than was announced: a middleware has changed the body
		size = 2 * old
	}
	if size > FreeBytes {
		if !g.timed {
			g.timed = true
			g.body.hold = g.of.Hold(g.by)
			_ = http.NewResponseController(g.w).SetReadDeadline(time.Now().Add(g.of.Timeout))
		}
		if err := g.body.hold.Grow(size); err != nil {
			if g.r.ProtoMajor == 1 {
				g.w.Header().Set("Connection", "close") // net/http would wait for the rest before it sends the refusal
			}
			return g.by.Refuse(err)
		}
	}
	g.body.Bytes = append(make([]byte, 0, size), g.body.Bytes...)
	if old > FreeBytes {
		g.body.hold.Shrink(old)
	}
	return nil
}

// Step is the next size of a buffer that grows to no more than end: the last step is taken early
// enough that the buffer and its copy are one and a half ends together, which a budget of four has
// room for (an owner alone gets half).
func Step(size, end int) int {
	if 2*size > end {
		return end
	}
	return size
}

// finish takes the read deadline back: it would cancel the request's context while the handler
// works.
func (g *growing) finish() {
	if g.timed {
		_ = http.NewResponseController(g.w).SetReadDeadline(time.Time{})
	}
}

func readError(err error, most int, setting fanfare.Setting) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return bodyTooLarge(most, setting)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return SlowBody("the body", err)
	}
	return &fanfare.Error{Code: fanfare.CodeInvalid, Detail: "the body ended early", Err: err}
}

// SlowBody is the error of a body, or a part of one, that was not here in time.
func SlowBody(what string, err error) error {
	return &fanfare.Error{Code: fanfare.CodeInvalid, Reason: fanfare.ReasonSlowBody,
		Detail: what + " did not come in time", Setting: fanfare.SettingBodyTimeout, Err: err}
}

// wholeBody is a body that has come as a whole, of ContentLength bytes.
type wholeBody interface{ Text() string }

// Text is Read as a string, which is no longer counted: the log's queue counts it when it is
// published.
func (s *Bodies) Text(
	w http.ResponseWriter, r *http.Request, by caller.Caller, most int, setting fanfare.Setting,
) (string, error) {
	if whole, ok := r.Body.(wholeBody); ok && r.ContentLength <= int64(most) {
		return whole.Text(), nil
	}
	body, err := s.Read(w, r, by, most, setting)
	defer body.Free()
	return string(body.Bytes), err
}

func bodyTooLarge(most int, setting fanfare.Setting) error {
	return TooLarge(setting, "the body is larger than %d bytes", most)
}

// TooLarge is the error for a size above a limit. The setting names the limit; "" is a limit
// without a setting.
func TooLarge(setting fanfare.Setting, format string, args ...any) error {
	e := fanfare.Errorf(fanfare.CodeTooLarge, format, args...)
	e.Setting = setting
	return e
}
