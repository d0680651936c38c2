package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/problem"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/query"
	"github.com/fanfare-hub/fanfare/internal/stream"
)

// Options set up an API. All are required.
type Options struct {
	Log       fanfare.Log
	Scheduler fanfare.Scheduler
	Publisher *publish.Publisher
	// whose turn it is to read the log; see hub.Hub.Replay
	Replay     func(ctx context.Context, owner string, read func() error) error
	StillMay   func(*fanfare.Principal) error // asked for each line of an NDJSON body
	Streams    *stream.Streams
	Problems   *problem.Writer
	Logger     *slog.Logger
	Lifetime   time.Duration   // of streams; 0: for ever
	StallLimit time.Duration   // end an answer whose peer takes no bytes for this long
	IngestIdle time.Duration   // end an NDJSON body that brings no bytes for this long
	Stopping   <-chan struct{} // closed when NDJSON bodies must end
}

// API serves the native API. Its methods may be called from any goroutine.
type API struct {
	o   Options
	Cut Cut
}

// New returns an API.
func New(o Options) *API { return &API{o: o} }

// MaxReplay is the most events that replay may ask for.
const MaxReplay = 100_000

// Stream is GET /v1/events.
func (a *API) Stream(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	req, err := a.streamRequest(r)
	req.Adapter, req.Caller = "native", by
	if err == nil {
		err = by.MaySubscribe(req.Patterns...)
	}
	if err != nil {
		a.o.Streams.Refuse(w, r, req, err)
		return
	}
	if !by.Who.Unlimited {
		req.May = func(c fanfare.Channel) bool { return by.Who.May(fanfare.ActionSubscribe, c) }
	}
	a.o.Streams.Serve(w, r, req)
}

// streamNames are the parameters of a native stream.
var streamNames = query.StreamNames("channel", "replay", "since", "envelope", "conflate")

// StreamQuery reads the query string of a native stream.
func StreamQuery(r *http.Request) (url.Values, error) { return query.Parse(r, streamNames...) }

func (a *API) streamRequest(r *http.Request) (req stream.Request, err error) {
	q, err := StreamQuery(r)
	if err != nil {
		return req, err
	}
	if req.Patterns, err = query.Patterns(q); err != nil {
		return req, err
	}
	if req.Heartbeat, err = query.Heartbeat(q); err != nil {
		return req, err
	}
	events, given, err := query.Bool(q, "heartbeatEvent")
	if err != nil {
		return req, err
	}
	if !given || events {
		req.First, req.Farewell = stream.AppendHeartbeat, stream.FarewellPosition
	}
	if req.Envelope, _, err = query.Bool(q, "envelope"); err != nil {
		return req, err
	}
	if events {
		req.Idle = stream.IdleEvent
	}
	replay, err := replayStart(q)
	if err != nil {
		return req, err
	}
	req.Start = query.Start(r, q)
	if req.Start.From == hub.FromNewest {
		req.Start = replay
	}
	if req.Start.Conflate, _, err = query.Bool(q, "conflate"); err != nil {
		return req, err
	}
	req.Lifetime = a.o.Lifetime
	return req, nil
}

// replayStart reads replay, which is `all`, `latest` or a number, and since, which is a time;
// without them it is the newest position.
func replayStart(q url.Values) (hub.Start, error) {
	text := q.Get("replay")
	if since := q.Get("since"); since != "" {
		if text != "" {
			return hub.Start{}, fanfare.Invalid("replay and since are both given: want one of them")
		}
		at, ago, err := query.Time("since", since)
		return hub.Start{From: hub.FromSince, Since: at, Age: ago}, err
	}
	switch text {
	case "":
		return hub.Start{}, nil
	case "all":
		return hub.Start{From: hub.FromAll}, nil
	case "latest":
		return hub.Start{From: hub.FromLatest}, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > MaxReplay {
		return hub.Start{}, fanfare.Invalid("replay must be `all`, `latest` or a number from 0 to %d", MaxReplay)
	}
	if n == 0 {
		return hub.Start{}, nil
	}
	return hub.Start{From: hub.FromLast, Last: n}, nil
}
