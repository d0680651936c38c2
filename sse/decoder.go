package sse

import "io"

// Decoder reads events from a stream one by one. One goroutine at a time may use it.
type Decoder struct {
	// Parser may be set up before the first call of Next: limit, last event ID, and the Retry and
	// Comment handlers.
	Parser Parser

	r     io.Reader
	buf   []byte
	ready []Event
	err   error
}

// NewDecoder returns a Decoder that reads from r as its bytes come, without waiting for a buffer to
// fill.
func NewDecoder(r io.Reader) *Decoder {
	return &Decoder{r: r}
}

// Next returns the next event. It blocks until one is complete or the stream ends; an unfinished
// block at the end is dropped, as the standard says. The error is then the reader's, io.EOF for a
// clean end, or ErrTooLong.
func (d *Decoder) Next() (Event, error) {
	if d.buf == nil {
		d.buf = make([]byte, 8<<10)
		d.Parser.Handler.Event = func(e Event) { d.ready = append(d.ready, e) }
	}
	for len(d.ready) == 0 {
		if d.err != nil {
			return Event{}, d.err
		}
		var n int
		n, d.err = d.r.Read(d.buf)
		if _, err := d.Parser.Write(d.buf[:n]); err != nil {
			d.err = err
		}
	}
	e := d.ready[0]
	d.ready = d.ready[1:]
	return e, nil
}
