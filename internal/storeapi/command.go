package storeapi

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/fleet"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/query"
)

// eventType is the SSE type of everything on a store stream but heartbeats and gaps.
const eventType = "sse"

// command is the JSON that goes to the PCs, with the same members that the older system sent.
type command struct {
	EventType     string `json:"eventType"`
	Username      string `json:"username"`
	ReferenceType string `json:"referenceType"`
	ReferenceID   string `json:"referenceId"`
	Data          string `json:"data"` // a JSON text: commandData
	IsBroadcast   bool   `json:"isBroadcast"`

	// Of a command that is to be answered; older clients pass over them.
	Ack     bool   `json:"ack,omitempty"`
	Expires string `json:"expires,omitempty"`
}

// target is whom a command goes to.
type target struct {
	channel, store, username string
	broadcast                bool
}

func toPC(store, pc string) (t target, d fleet.Device, err error) {
	if d.Store, err = pathID("storeId", store); err == nil {
		d.PC, err = pathID("pcId", pc)
	}
	return target{d.Channel(), d.Store, d.Store + "#" + d.PC, false}, d, err
}

func toStore(store string) (target, error) {
	s, err := pathID("storeId", store)
	return target{fleet.StoreChannel(s), s, s, true}, err
}

var toAll = target{channel: fleet.Broadcast, broadcast: true}

type commandData struct {
	StoreID  string `json:"storeId"`
	ObjectID string `json:"objectId"`
	Event    string `json:"event"`
}

// commandMembers are those of a command's object.
var commandMembers = []string{"objectId", "event", "eventType", "referenceType", "idempotencyKey"}

// async counts publishes that were answered before they were stored.
type async struct {
	failed atomic.Uint64
}

// AsyncFailed is how many publishes were answered 202 and then could not be stored.
func (a *API) AsyncFailed() uint64 { return a.async.failed.Load() }

// SendToPC is POST /v1/stores/{S}/pcs/{P}/events; the ids are as they stand in the escaped path.
func (a *API) SendToPC(w http.ResponseWriter, r *http.Request, by caller.Caller, store, pc string) {
	t, _, err := toPC(store, pc)
	a.send(w, r, by, t, err)
}

// SendToStore is POST /v1/stores/{S}/events.
func (a *API) SendToStore(w http.ResponseWriter, r *http.Request, by caller.Caller, store string) {
	t, err := toStore(store)
	a.send(w, r, by, t, err)
}

// SendToAll is POST /v1/stores/events.
func (a *API) SendToAll(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	a.send(w, r, by, toAll, nil)
}

func (a *API) send(w http.ResponseWriter, r *http.Request, by caller.Caller, t target, err error) {
	if err == nil {
		var b *fanfare.Batch
		var reference string
		b, reference, err = a.batch(w, r, by, t, nil)
		if err == nil {
			err = a.o.Publisher.Admit(by, w.Header(), b)
		}
		if err == nil && b.Keys == nil && prefersAsync(r) {
			err = a.enqueue(b, reference)
			if err == nil {
				a.o.Publisher.Queued(by, t.channel, reference)
				w.Header().Set("Preference-Applied", "respond-async")
				publish.WriteJSON(w, r, http.StatusAccepted, []byte(`{"referenceId":"`+reference+`"}`))
				return
			}
		} else if err == nil {
			var receipt fanfare.Receipt
			if receipt, err = a.o.Publisher.Publish(b, r.Header.Get("Traceparent")); err == nil {
				a.o.Publisher.Stored(by, b, receipt)
				if receipt.Replayed {
					reference = receipt.Note
				}
				publish.WriteJSON(w, r, publish.Status(w, receipt),
					[]byte(`{"id":"`+receipt.Positions[0].String()+`","referenceId":"`+reference+`"}`))
				return
			}
		}
	}
	a.o.Problems.Write(w, r, err)
}

// batch reads the body and makes the event. With ask, that of a command that is to be answered.
func (a *API) batch(
	w http.ResponseWriter, r *http.Request, by caller.Caller, t target, ask *ask,
) (*fanfare.Batch, string, error) {
	members := commandMembers
	if ask != nil {
		members = askMembers
	}
	c, err := publish.Channel(t.channel)
	if err == nil {
		err = by.MayPublish(c)
	}
	if err != nil {
		return nil, "", err
	}
	if err := query.InBody(r, members...); err != nil {
		return nil, "", err
	}
	key, err := publish.HeaderKey(r)
	if err != nil {
		return nil, "", err
	}
	body, err := a.o.Publisher.Bodies.Read(w, r, by, a.o.Publisher.MaxRequestBytes, fanfare.SettingMaxRequestBytes)
	if err != nil {
		return nil, "", err
	}
	defer body.Free()
	o, err := publish.ParseObject(body.Bytes)
	if err != nil {
		return nil, "", err
	}
	member, err := o.IdempotencyKey()
	if err != nil {
		return nil, "", err
	}
	if key != "" && member != "" && key != member {
		return nil, "", fanfare.Invalid("idempotencyKey %q and the header Idempotency-Key %q differ", member, key)
	}
	if key == "" {
		key = member
	}
	cmd, parts, err := a.readCommand(o, t, members)
	if err == nil && ask != nil {
		err = ask.read(o, t, a.o.Log.Now)
		parts = append(parts, ask.parts()...)
	}
	if err != nil {
		return nil, "", err
	}
	cmd.ReferenceID = a.tsids.next()
	if ask != nil {
		cmd.Ack, cmd.Expires = true, ask.expires.Format(time.RFC3339Nano)
	}
	kind, err := fanfare.ParseEventType(eventType)
	if err != nil {
		return nil, "", err
	}
	e := fanfare.Event{Channel: c, Type: kind, Data: marshal(cmd)}
	if err := a.o.Publisher.CheckData(c, e.Data); err != nil {
		return nil, "", err
	}
	b := &fanfare.Batch{Events: []fanfare.Event{e}}
	if ask != nil {
		if err := a.complete(b, t, cmd.ReferenceID, ask); err != nil {
			return nil, "", err
		}
	}
	if key != "" {
		k := publish.Key(by.Name(), c, key, parts...)
		k.Note = cmd.ReferenceID
		b.Keys = []fanfare.Key{k}
	}
	return b, cmd.ReferenceID, nil
}

func (a *API) readCommand(o publish.Object, t target, members []string) (cmd command, parts []string, err error) {
	if err := o.Only(members...); err != nil {
		return cmd, nil, err
	}
	texts, bytes := map[string]string{}, 0
	for _, name := range []string{"objectId", "event", "eventType", "referenceType"} {
		if texts[name], err = o.Text(name); err != nil {
			return cmd, nil, err
		}
		bytes += len(texts[name])
	}
	// before it is put into JSON twice, which may make four bytes of one
	if most := a.o.Publisher.MaxEventBytes; bytes > most {
		return cmd, nil, publish.TooLarge(fanfare.SettingMaxEventBytes,
			"objectId, event, eventType and referenceType have %d bytes, the limit is %d", bytes, most)
	}
	if texts["event"] == "" {
		return cmd, nil, fanfare.Invalid("event is missing: name the command, such as REBOOT")
	}
	if texts["eventType"] == "" {
		texts["eventType"] = "COMMAND"
	}
	if texts["referenceType"] == "" {
		texts["referenceType"] = "ON"
	}
	cmd = command{
		EventType: texts["eventType"], Username: t.username, ReferenceType: texts["referenceType"],
		IsBroadcast: t.broadcast,
		Data:        marshal(commandData{StoreID: t.store, ObjectID: texts["objectId"], Event: texts["event"]}),
	}
	return cmd, []string{"store", cmd.EventType, cmd.ReferenceType, cmd.Data}, nil
}

// marshal makes JSON without HTML escapes. U+2028 and U+2029 are escaped, because one Python client
// splits lines there.
func marshal(v any) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // strings and a bool cannot fail
	return strings.TrimSuffix(b.String(), "\n")
}

// prefersAsync reads `Prefer: respond-async` (RFC 7240).
func prefersAsync(r *http.Request) bool {
	for _, header := range r.Header.Values("Prefer") {
		for _, preference := range strings.Split(header, ",") {
			name, _, _ := strings.Cut(preference, ";")
			name, _, _ = strings.Cut(name, "=")
			if strings.EqualFold(strings.TrimSpace(name), "respond-async") {
				return true
			}
		}
	}
	return false
}

// enqueue hands b to the log and does not wait for it. It returns an error if the log refuses b at
// once; a later failure is logged and counted.
func (a *API) enqueue(b *fanfare.Batch, reference string) error {
	var mu sync.Mutex
	var answered bool
	var refused error
	a.o.Log.Append(b, func(_ fanfare.Receipt, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err == nil || !answered {
			refused = err // the log refuses from within Append
			return
		}
		a.async.failed.Add(1)
		a.o.Logger.Error("a command that was answered 202 could not be stored",
			slog.String("referenceId", reference), slog.Any("err", err))
	})
	mu.Lock()
	defer mu.Unlock()
	answered = true
	return refused
}
