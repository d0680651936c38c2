package storeapi

import (
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/hub"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/problem"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/query"
	"github.com/fanfare-hub/fanfare/internal/stream"
	"github.com/fanfare-hub/fanfare/sse"
)

// Options set up an API. All are required but where a zero says something.
type Options struct {
	Log       fanfare.Log
	Keeper    fanfare.Keeper
	Publisher *publish.Publisher
	Streams   *stream.Streams
	Problems  *problem.Writer
	Logger    *slog.Logger
	Lifetime  time.Duration // of streams; 0: for ever
	ResumeFor time.Duration // how long after its end a stream's position is kept
	GapReplay time.Duration // after a gap replay only events younger than this; 0: all
}

// API serves the store API. Make it with New, end it with Close. Its methods may be called from any goroutine.
type API struct {
	o     Options
	kept  *keptPositions
	tsids tsids
	async async
}

// New returns an API.
func New(o Options) *API {
	return &API{o: o, kept: newKeptPositions(o)}
}

// Close stores the positions that are not stored yet. All streams must have ended.
func (a *API) Close() { a.kept.close() }

// pathID unescapes and checks an id that stands in the path.
func pathID(parameter, escaped string) (string, error) {
	id, err := url.PathUnescape(escaped)
	if err != nil {
		return "", fanfare.Invalid("%s: the path is not escaped correctly", parameter)
	}
	return id, fanfare.CheckStoreID(parameter, id)
}

// queryID reads an id from the query; the first one counts.
func queryID(q url.Values, parameter string) (string, error) {
	if !q.Has(parameter) {
		return "", fanfare.Invalid("%s is missing", parameter)
	}
	id := q.Get(parameter)
	return id, fanfare.CheckStoreID(parameter, id)
}

// Stream is GET /v1/stores/event-sources.
func (a *API) Stream(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	req, store, pc, err := a.streamRequest(r)
	req.Adapter, req.Caller, req.Pause = "store", by, true
	if err == nil {
		err = by.MayBe(fanfare.Device{Store: store, PC: pc})
	}
	if err != nil {
		a.o.Streams.Refuse(w, r, req, err)
		return
	}
	if r.Method != http.MethodHead {
		if err := a.resume(&req, store, pc); err != nil {
			a.o.Streams.Refuse(w, r, req, err)
			return
		}
	}
	a.o.Streams.Serve(w, r, req)
}

// resume has a stream that brings no position start where the PC's last one stood, and follows how far it comes.
func (a *API) resume(req *stream.Request, store, pc string) (err error) {
	if req.Start.From == hub.FromNewest {
		if req.Start, err = a.kept.start(store, pc); err != nil {
			return err
		}
	}
	req.Start.GapReplay = a.o.GapReplay
	req.Watch = a.kept.watcher(store, pc)
	return nil
}

// streamNames are the parameters of a store stream.
var streamNames = query.StreamNames("storeId", "pcId")

func (a *API) streamRequest(r *http.Request) (req stream.Request, store, pc string, err error) {
	q, err := query.Parse(r, streamNames...)
	if err != nil {
		return req, store, pc, err
	}
	if store, err = queryID(q, "storeId"); err != nil {
		return req, store, pc, err
	}
	if pc, err = queryID(q, "pcId"); err != nil {
		return req, store, pc, err
	}
	if req.Heartbeat, err = query.Heartbeat(q); err != nil {
		return req, store, pc, err
	}
	events, given, err := query.Bool(q, "heartbeatEvent")
	if err != nil {
		return req, store, pc, err
	}
	if events || !given {
		req.Idle, req.Farewell = stream.IdleEvent, stream.FarewellRetry
	}
	for _, name := range (fanfare.Device{Store: store, PC: pc}).Channels() {
		p, err := fanfare.ParsePattern(name)
		if err != nil {
			return req, store, pc, err
		}
		req.Patterns = append(req.Patterns, p)
	}
	req.Owned = 1 // a store's administrator may end its PCs' streams, though they hear all stores' channel too
	req.First = connected
	req.Lifetime = a.o.Lifetime
	req.Start = query.Start(r, q)
	return req, store, pc, nil
}

// connected appends the first event of a store stream.
func connected(dst []byte, id string) []byte {
	return sse.AppendEvent(dst, id, eventType, "CONNECTED")
}

// Health is GET /v1/health; with storeId and pcId it marks that PC as alive.
func (a *API) Health(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	q, err := query.Parse(r, "storeId", "pcId")
	if err != nil {
		a.o.Problems.Write(w, r, err)
		return
	}
	var seen []byte
	if q.Has("storeId") || q.Has("pcId") {
		store, err := queryID(q, "storeId")
		if err == nil {
			var pc string
			if pc, err = queryID(q, "pcId"); err == nil {
				err = by.MayBe(fanfare.Device{Store: store, PC: pc})
			}
			if err == nil {
				seen = append(seen, `,"lastSeen":"`...)
				seen = a.kept.seen(store, pc).AppendFormat(seen, "2006-01-02T15:04:05.000Z07:00")
				seen = append(seen, '"')
			}
		}
		if err != nil {
			a.o.Problems.Write(w, r, err)
			return
		}
	}
	if err := a.o.Log.Status().Err; err != nil {
		a.o.Problems.Write(w, r, err)
		return
	}
	publish.WriteJSON(w, r, http.StatusOK, append(append([]byte(`{"status":"ok"`), seen...), '}'))
}
