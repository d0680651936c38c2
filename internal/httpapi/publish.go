package httpapi

import (
	"mime"
	"net/http"
	"net/url"
	"unicode/utf8"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/query"
	"github.com/fanfare-hub/fanfare/internal/stream"
)

// Publish is POST /v1/events: one event, an array, or NDJSON.
func (a *API) Publish(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	if err := by.MayPublishAnything(); err != nil { // before the body is read
		a.o.Problems.Write(w, r, err)
		return
	}
	if err := query.InBody(r, eventMembers[:]...); err != nil {
		a.o.Problems.Write(w, r, err)
		return
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/x-ndjson" {
		if err := stream.CheckWriter(w); err != nil {
			a.o.Problems.Write(w, r, err)
			return
		}
		a.ingest(w, r, by)
		return
	}
	b, array, err := a.readBatch(w, r, by)
	if err != nil {
		a.o.Problems.Write(w, r, err)
		return
	}
	a.answer(w, r, by, b, array)
}

// readBatch reads a body of one event or an array. The body is freed before the wait for the log.
func (a *API) readBatch(
	w http.ResponseWriter, r *http.Request, by caller.Caller,
) (b *fanfare.Batch, array bool, err error) {
	header, err := publish.HeaderKey(r)
	if err == nil {
		err = publish.NoHeaderCondition(r)
	}
	if err != nil {
		return nil, false, err
	}
	body, err := a.o.Publisher.Bodies.Read(w, r, by, a.o.Publisher.MaxRequestBytes, fanfare.SettingMaxRequestBytes)
	if err != nil {
		return nil, false, err
	}
	defer body.Free()
	objects, array, err := publish.ParseObjects(body.Bytes, publish.MaxEvents)
	if err != nil {
		return nil, array, err
	}
	b, err = a.batch(by, objects, header, array)
	return b, array, err
}

// batch makes a batch of a body's objects. On an array the header keys the batch as a whole.
func (a *API) batch(by caller.Caller, objects []publish.Object, header string, array bool) (*fanfare.Batch, error) {
	b := &fanfare.Batch{Events: make([]fanfare.Event, 0, len(objects))}
	var parts []string
	for i, o := range objects {
		e, member, condition, times, err := a.event(o)
		if err == nil && array {
			err = times.NotInArrays()
		}
		if err == nil {
			err = by.MayPublish(e.Channel)
		}
		if err == nil && member != "" && header != "" && member != header {
			err = fanfare.Invalid("idempotencyKey %q and the header Idempotency-Key %q differ", member, header)
		}
		if err != nil {
			return nil, nameItem(err, i, array)
		}
		b.Events = append(b.Events, e)
		if err = publish.AddCondition(b, i, len(objects), condition); err == nil {
			err = times.Add(b, i, len(objects))
		}
		if err != nil {
			return nil, nameItem(err, i, array)
		}
		fields := append([]string{e.Channel.String(), e.Type.String(), e.Data}, times.Parts()...)
		switch {
		case array && header != "": // TTLs apart, the parts are those of earlier versions
			parts = append(parts, fields...)
		case header != "" || member != "":
			if b.Keys == nil {
				b.Keys = make([]fanfare.Key, len(objects))
			}
			if member == "" {
				member = header
			}
			b.Keys[i] = publish.Key(by.Name(), e.Channel, member, fields...)
		}
	}
	if array && header != "" {
		b.Key = fanfare.Key{Scope: by.Name() + "\x00\x00array", Text: header,
			Fingerprint: publish.Fingerprint(parts...)}
	}
	return b, nil
}

func nameItem(err error, i int, array bool) error {
	if e, ok := err.(*fanfare.Error); ok && array {
		named := *e
		named.Detail = "event " + itoa(i) + " of the array: " + e.Detail
		return &named
	}
	return err
}

// eventMembers are those of an event object.
var eventMembers = [...]string{"channel", "event", "data", "idempotencyKey", "ifLatest", "ttl", "deliverAt"}

// event reads one event object, its idempotencyKey, its condition, and its times.
func (a *API) event(
	o publish.Object,
) (e fanfare.Event, key string, c fanfare.Condition, t publish.Times, err error) {
	if err = o.Only(eventMembers[:]...); err == nil {
		c, err = o.Condition()
	}
	if err == nil {
		t, err = o.Times(a.o.Log.Now)
	}
	if err == nil {
		e, err = a.eventOf(o, c)
	}
	if err == nil {
		key, err = o.IdempotencyKey()
	}
	return e, key, c, t, err
}

// eventOf reads what is stored of an event object.
func (a *API) eventOf(o publish.Object, c fanfare.Condition) (e fanfare.Event, err error) {
	name, err := o.Text("channel")
	if err != nil {
		return e, err
	}
	if name == "" && !o.Has("channel") {
		return e, fanfare.Invalid("channel is missing")
	}
	if e.Channel, err = publish.ConditionalChannel(name, c); err != nil {
		return e, err
	}
	kind, err := o.Text("event")
	if err != nil {
		return e, err
	}
	if e.Type, err = fanfare.ParseEventType(kind); err != nil {
		return e, err
	}
	if e.Data, err = o.Data("data"); err != nil {
		return e, err
	}
	return e, a.o.Publisher.CheckData(e.Channel, e.Data)
}

func (a *API) answer(w http.ResponseWriter, r *http.Request, by caller.Caller, b *fanfare.Batch, array bool) {
	var receipt fanfare.Receipt
	err := a.o.Publisher.Admit(by, w.Header(), b)
	if err == nil {
		receipt, err = a.o.Publisher.Publish(b, r.Header.Get("Traceparent"))
	}
	if err != nil {
		a.o.Problems.Write(w, r, err)
		return
	}
	a.o.Publisher.Stored(by, b, receipt)
	switch {
	case receipt.Scheduled != 0:
		publish.WriteScheduled(w, r, receipt)
		return
	case !array:
		publish.WriteID(w, receipt)
		return
	}
	body := append(make([]byte, 0, 16*len(receipt.Positions)+16), `{"ids":[`...)
	for i, p := range receipt.Positions {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, '"')
		body = append(p.Append(body), '"')
	}
	publish.WriteJSON(w, r, publish.Status(w, receipt), append(body, "]}"...))
}

// PublishTo is POST /v1/channels/{channel…}: the body is the data. escaped is the part of the
// escaped path after the prefix. It is unescaped once and not cleaned, because "//" and ".." are
// parts of other channels and no detours.
func (a *API) PublishTo(w http.ResponseWriter, r *http.Request, by caller.Caller, escaped string) {
	b, err := a.rawBatch(w, r, by, escaped)
	if err != nil {
		a.o.Problems.Write(w, r, err)
		return
	}
	a.answer(w, r, by, b, false)
}

func (a *API) rawBatch(
	w http.ResponseWriter, r *http.Request, by caller.Caller, escaped string,
) (*fanfare.Batch, error) {
	name, err := url.PathUnescape(escaped)
	if err != nil {
		return nil, fanfare.Invalid("channel: the path is not escaped correctly")
	}
	condition, err := publish.HeaderCondition(r)
	if err != nil {
		return nil, err
	}
	c, err := publish.ConditionalChannel(name, condition)
	if err == nil {
		err = by.MayPublish(c)
	}
	if err != nil {
		return nil, err
	}
	q, err := query.Parse(r, "event", "idempotencyKey", "ifLatest", "ttl", "deliverAt")
	if err != nil {
		return nil, err
	}
	if q.Has("idempotencyKey") {
		return nil, fanfare.Invalid("idempotencyKey is given in the query: send the header Idempotency-Key")
	}
	if q.Has("ifLatest") {
		return nil, fanfare.Invalid("ifLatest is given in the query: send the header If-Match or If-None-Match")
	}
	times, err := publish.QueryTimes(q, a.o.Log.Now)
	if err != nil {
		return nil, err
	}
	kind, err := fanfare.ParseEventType(q.Get("event"))
	if err != nil {
		return nil, err
	}
	key, err := publish.HeaderKey(r)
	if err != nil {
		return nil, err
	}
	limit, setting := a.o.Publisher.MaxEventBytes, fanfare.SettingMaxEventBytes
	if a.o.Publisher.MaxRequestBytes < limit {
		limit, setting = a.o.Publisher.MaxRequestBytes, fanfare.SettingMaxRequestBytes
	}
	body, err := a.o.Publisher.Bodies.Text(w, r, by, limit, setting)
	if err != nil {
		return nil, err
	}
	if !utf8.ValidString(body) {
		return nil, fanfare.Invalid("the body is not valid UTF-8")
	}
	e := fanfare.Event{Channel: c, Type: kind, Data: body}
	if err := a.o.Publisher.CheckData(c, e.Data); err != nil {
		return nil, err
	}
	b := &fanfare.Batch{Events: []fanfare.Event{e}}
	if err = publish.AddCondition(b, 0, 1, condition); err == nil {
		err = times.Add(b, 0, 1)
	}
	if err != nil {
		return nil, err
	}
	if key != "" {
		parts := append([]string{c.String(), kind.String(), e.Data}, times.Parts()...)
		b.Keys = []fanfare.Key{publish.Key(by.Name(), c, key, parts...)}
	}
	return b, nil
}
