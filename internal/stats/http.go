package stats

import (
	"encoding/json"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/problem"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/query"
	"github.com/fanfare-hub/fanfare/internal/stream"
	"github.com/fanfare-hub/fanfare/sse"
)

// Handler serves GET /v1/stats: one JSON document, or, where Accept names text/event-stream, one
// event `stats` every interval until stopping is closed or the client goes.
type Handler struct {
	Stats    *Stats
	Problems *problem.Writer
	Stopping <-chan struct{}

	streams atomic.Int32
}

// streamsMost is how many streams of figures may be open: each of them looks at all streams every
// interval.
const streamsMost = 50

// Serve answers GET and HEAD.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	q, err := query.Parse(r, "streams", "interval")
	if err != nil {
		h.Problems.Write(w, r, err)
		return
	}
	most, err := number(q.Get("streams"), 50, 0, openMost)
	if err != nil {
		h.Problems.Write(w, r, fanfare.Invalid("streams must be a number from 0 to %d", openMost))
		return
	}
	interval, err := number(q.Get("interval"), 2, 1, 60)
	if err != nil {
		h.Problems.Write(w, r, fanfare.Invalid("interval must be a whole number of seconds from 1 to 60"))
		return
	}
	if stream.AcceptsStream(r) {
		if err := stream.CheckWriter(w); err != nil {
			h.Problems.Write(w, r, err)
			return
		}
		if r.Method != http.MethodHead && h.streams.Add(1) > streamsMost {
			h.streams.Add(-1)
			h.Stats.o.Streams.Refuse(w, r, stream.Request{Adapter: "stats", Caller: by},
				fanfare.Errorf(fanfare.CodeOverloaded, "no room for another stream of figures: there are %d",
					streamsMost))
			return
		}
		h.stream(w, r, most, time.Duration(interval)*time.Second)
		return
	}
	body, err := json.Marshal(h.Stats.Snapshot(r.Context(), most))
	if err != nil {
		h.Problems.Write(w, r, err)
		return
	}
	publish.WriteJSON(w, r, http.StatusOK, body)
}

func number(text string, otherwise, low, high int) (int, error) {
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		return 0, strconv.ErrRange
	}
	return n, nil
}

func (h *Handler) stream(w http.ResponseWriter, r *http.Request, most int, interval time.Duration) {
	header := w.Header()
	header.Set("Content-Type", sse.MediaType+"; charset=utf-8")
	header.Set("Cache-Control", "no-cache, no-store, no-transform")
	header.Set("X-Accel-Buffering", "no")
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return
	}
	defer h.streams.Add(-1)
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // the server's is for requests
	tick := time.NewTicker(interval)
	defer tick.Stop()
	buf := sse.AppendRetry(nil, 2000)
	for {
		snapshot := h.Stats.Snapshot(r.Context(), most)
		data, err := json.Marshal(snapshot)
		if err != nil {
			return
		}
		buf = sse.AppendEvent(buf, snapshot.Position, "stats", string(data))
		if err := rc.SetWriteDeadline(time.Now().Add(30 * time.Second)); err != nil {
			return
		}
		if _, err := w.Write(buf); err != nil {
			return
		}
		if err := rc.Flush(); err != nil {
			return
		}
		_ = rc.SetWriteDeadline(time.Time{}) // one that passes in between has HTTP/2 reset the stream
		buf = buf[:0]
		select {
		case <-tick.C:
		case <-h.Stopping:
			return
		case <-r.Context().Done():
			return
		}
	}
}
