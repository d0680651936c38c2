package storeapi

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/commands"
	"github.com/fanfare-hub/fanfare/internal/fleet"
	"github.com/fanfare-hub/fanfare/internal/hub"
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
	Commands  *commands.Service
	Publisher *publish.Publisher
	Streams   *stream.Streams
	Problems  *problem.Writer
	Logger    *slog.Logger
	Lifetime  time.Duration // of streams; 0: for ever
	// how long after its end a stream's position is kept; 0: as long as the PC's events, below 0:
	// not at all
	ResumeFor time.Duration
	MaxAge    func(fanfare.Channel) time.Duration // for how long events of a channel are retained; 0: for any time
	GapReplay time.Duration                       // after a gap replay only events younger than this; 0: all
}

// API serves the store API. Make it with New, end it with Close. Its methods may be called from any
// goroutine.
type API struct {
	o     Options
	kept  *positions
	tsids tsids
	async async
}

// New returns an API.
func New(o Options) *API {
	return &API{o: o, kept: newPositions(o)}
}

// Close stores the positions that are not stored yet. All streams must have ended.
func (a *API) Close() { a.kept.close() }

// pathID unescapes and checks an id that stands in the path.
func pathID(parameter, escaped string) (string, error) {
	id, err := url.PathUnescape(escaped)
	if err != nil {
		return "", fanfare.Invalid("%s: the path is not escaped correctly", parameter)
	}
	return id, fleet.CheckID(parameter, id)
}

// queryID reads an id from the query; the first one counts.
func queryID(q url.Values, parameter string) (string, error) {
	if !q.Has(parameter) {
		return "", fanfare.Invalid("%s is missing", parameter)
	}
	id := q.Get(parameter)
	return id, fleet.CheckID(parameter, id)
}

// mayBe tells whether the caller is a PC, or only may look at its stream; an error says why it may
// not.
func mayBe(by caller.Caller, d fleet.Device) (is bool, err error) {
	own, err := fanfare.ParseChannel(d.Channel())
	if err != nil {
		return false, err
	}
	var channels []fanfare.Pattern
	for _, name := range d.Channels() {
		p, err := fanfare.ParsePattern(name)
		if err != nil {
			return false, err
		}
		channels = append(channels, p)
	}
	return by.Who.Is(own), by.MayBe(own, channels, fmt.Sprintf("storeId %q, pcId %q", d.Store, d.PC))
}

// Stream is GET /v1/stores/event-sources.
func (a *API) Stream(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	req, d, look, err := a.streamRequest(r)
	req.Adapter, req.Caller, req.Pause = "store", by, true
	is := false
	if err == nil {
		is, err = mayBe(by, d)
	}
	if err != nil {
		a.o.Streams.Refuse(w, r, req, err)
		return
	}
	if r.Method == http.MethodHead {
		a.o.Streams.Serve(w, r, req)
		return
	}
	why := ""
	switch {
	case look:
		why = LookAsked
	case !is:
		why = LookNoRight
		a.kept.says.looks(by, d)
	}
	if err := a.redeliver(r.Context(), &req, d); err != nil {
		a.o.Streams.Refuse(w, r, req, err)
		return
	}
	v, err := a.kept.visit(r.Context(), req.Patterns[0].String(), readerOf(by))
	if err != nil {
		a.o.Streams.Refuse(w, r, req, err)
		return
	}
	defer v.leave()
	a.begin(&req, v, why)
	a.o.Streams.Serve(w, r, req)
}

// begin starts a stream without a position where its reader stood, and follows its progress. A
// stream that only looks starts where the PC's stream would, and is not followed.
func (a *API) begin(req *stream.Request, v *visit, look string) {
	given := req.Start.From != hub.FromNewest
	switch {
	case look != "":
		a.kept.looked(look)
		if !given {
			req.Start = v.peek(look)
		}
	case given:
		v.given, req.Watch = true, v
	default:
		req.Start, req.Watch = v.start(), v
	}
	req.Start.GapReplay = a.o.GapReplay
}

// streamNames are the parameters of a store stream.
var streamNames = query.StreamNames("storeId", "pcId", "look", "redeliver")

func (a *API) streamRequest(r *http.Request) (req stream.Request, d fleet.Device, look bool, err error) {
	q, err := query.Parse(r, streamNames...)
	if err != nil {
		return req, d, look, err
	}
	if d.Store, err = queryID(q, "storeId"); err != nil {
		return req, d, look, err
	}
	if d.PC, err = queryID(q, "pcId"); err != nil {
		return req, d, look, err
	}
	if look, _, err = query.Bool(q, "look"); err != nil {
		return req, d, look, err
	}
	if req.Heartbeat, err = query.Heartbeat(q); err != nil {
		return req, d, look, err
	}
	events, given, err := query.Bool(q, "heartbeatEvent")
	if err != nil {
		return req, d, look, err
	}
	if events || !given {
		req.Idle, req.Farewell = stream.IdleEvent, stream.FarewellRetry
	}
	for _, name := range d.Channels() {
		p, err := fanfare.ParsePattern(name)
		if err != nil {
			return req, d, look, err
		}
		req.Patterns = append(req.Patterns, p)
	}
	req.Owned = 1 // a store's administrator may end its PCs' streams, though they hear all stores' channel too
	req.First = connected
	switch q.Get("redeliver") {
	case "pending":
		req.First = nil // see redeliver
	case "":
	default:
		return req, d, look, fanfare.Invalid("redeliver is %.64q: want `pending`", q.Get("redeliver"))
	}
	req.Lifetime = a.o.Lifetime
	req.Start = query.Start(r, q)
	return req, d, look, nil
}

// connected appends the first event of a store stream.
func connected(dst []byte, id string) []byte {
	return sse.AppendEvent(dst, id, eventType, "CONNECTED")
}

// Health is GET /v1/health; with storeId and pcId it marks that PC as alive, when the caller is
// that PC.
func (a *API) Health(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	body, err := a.health(r, by)
	if err == nil {
		err = a.o.Log.Status().Err
	}
	if err != nil {
		a.o.Problems.Write(w, r, err)
		return
	}
	publish.WriteJSON(w, r, http.StatusOK, body)
}

func (a *API) health(r *http.Request, by caller.Caller) (body []byte, err error) {
	q, err := query.Parse(r, "storeId", "pcId")
	if err != nil {
		return nil, err
	}
	body = append(body, `{"status":"ok"`...)
	if !q.Has("storeId") && !q.Has("pcId") {
		return append(body, '}'), nil
	}
	var d fleet.Device
	if d.Store, err = queryID(q, "storeId"); err != nil {
		return nil, err
	}
	if d.PC, err = queryID(q, "pcId"); err != nil {
		return nil, err
	}
	is, err := mayBe(by, d)
	if err != nil {
		return nil, err
	}
	if !is {
		a.kept.says.looks(by, d)
		return append(body, '}'), nil
	}
	body = append(body, `,"lastSeen":"`...)
	body = a.kept.markSeen(d).AppendFormat(body, "2006-01-02T15:04:05.000Z07:00")
	return append(body, '"', '}'), nil
}
