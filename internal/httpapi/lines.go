package httpapi

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/publish"
)

// ingestBuffer is how much of a body is read at once.
const ingestBuffer = 64 << 10

// readLines reads the body line by line until it ends, or breaks.
func (in *ingest) readLines(body io.Reader) {
	lines := bufio.NewReaderSize(idleReader{body, in}, ingestBuffer)
	limit := in.api.o.Publisher.MaxRequestBytes
	for n := 1; ; n++ {
		if !lineIsHere(lines) && !in.flush() {
			return
		}
		line, refused, err := in.readLine(lines, limit)
		switch {
		case refused != nil:
			if !in.refuse(n, refused) {
				return
			}
			continue
		case err != nil && err != io.EOF:
			in.broke(n, err)
			return
		}
		if len(bytes.TrimSpace(line)) > 0 && !in.take(n, line) {
			return
		}
		in.lineHold.Free()
		if err == io.EOF {
			in.flush()
			return
		}
	}
}

// lineIsHere tells whether the next line can be read without waiting.
func lineIsHere(r *bufio.Reader) bool {
	b, _ := r.Peek(r.Buffered())
	return bytes.IndexByte(b, '\n') >= 0
}

// broke answers a body that did not arrive in full.
func (in *ingest) broke(n int, err error) {
	in.mu.Lock()
	stopped := in.stopped
	in.mu.Unlock()
	switch {
	case stopped:
		in.refuse(n, fanfare.Unavailable("the hub is shutting down; the lines before this one are answered for", nil))
	case errors.Is(err, os.ErrDeadlineExceeded) && !in.lineEnds.IsZero():
		in.refuse(n, publish.SlowBody("the line", err))
	case errors.Is(err, os.ErrDeadlineExceeded):
		idle := fanfare.Unavailable(fmt.Sprintf("no line came for %v", in.api.o.IngestIdle), nil)
		idle.Setting = fanfare.SettingIngestIdle
		in.refuse(n, idle)
	}
}

type idleReader struct {
	r  io.Reader
	in *ingest
}

func (r idleReader) Read(p []byte) (int, error) {
	r.in.idle()
	return r.r.Read(p)
}

// readLine reads a line without its end. One that is refused, since it is too long or there is no
// room for it, is read to its end and thrown away.
func (in *ingest) readLine(r *bufio.Reader, limit int) (line []byte, refused, err error) {
	for {
		piece, err := r.ReadSlice('\n')
		if refused = in.growLine(&line, len(piece), limit); refused != nil {
			in.endLine()
			in.lineHold.Free()
			for err == bufio.ErrBufferFull {
				_, err = r.ReadSlice('\n')
			}
			if err != nil && err != io.EOF {
				return nil, nil, err
			}
			return nil, refused, nil
		}
		line = append(line, piece...)
		if err == bufio.ErrBufferFull {
			continue
		}
		if err == nil || err == io.EOF {
			in.endLine()
		}
		return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")), nil, err
	}
}

// growLine makes room for n bytes more, out of the budget where the line is a large one.
func (in *ingest) growLine(line *[]byte, n, limit int) error {
	old, need := cap(*line), len(*line)+n
	if need > limit+1 {
		return publish.TooLarge(fanfare.SettingMaxRequestBytes, "the line is longer than %d bytes", limit)
	}
	if need <= old || need <= ingestBuffer {
		return nil // append does it
	}
	size := publish.Step(max(2*old, need), limit+1)
	if in.lineEnds.IsZero() {
		in.lineEnds = time.Now().Add(in.api.o.Publisher.Bodies.Timeout)
	}
	if err := in.lineHold.Grow(size); err != nil {
		return err
	}
	*line = append(make([]byte, 0, size), *line...)
	in.lineHold.Shrink(in.lineHold.Bytes() - size)
	return nil
}

func (in *ingest) endLine() { in.lineEnds = time.Time{} }

// idle moves the read deadline, unless the hub is stopping. A line that holds a part of the budget
// must arrive in full in time.
func (in *ingest) idle() {
	deadline := time.Now().Add(in.api.o.IngestIdle)
	if !in.lineEnds.IsZero() && in.lineEnds.Before(deadline) {
		deadline = in.lineEnds
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.stopped {
		_ = in.rc.SetReadDeadline(deadline)
	}
}
