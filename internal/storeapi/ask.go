package storeapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/commands"
	"github.com/fanfare-hub/fanfare/internal/fleet"
	"github.com/fanfare-hub/fanfare/internal/publish"
)

// A command that is to be answered is one that was sent to …/commands, and not to …/events: the hub
// keeps its state, and PCs answer for it.

// askMembers are those of such a command.
var askMembers = append([]string{"expires", "wait", "deliverAt"}, commandMembers...)

// ask is what a sender wants beside the command.
type ask struct {
	life    time.Duration // until it expires, from when it is sent
	wait    time.Duration
	times   publish.Times // when it is sent, as the sender wrote it
	at      time.Time     // when it is sent; zero: now
	expires time.Time
}

// read reads the members.
func (a *ask) read(o publish.Object, t target, now func() time.Time) (err error) {
	a.life = commands.DefaultExpires
	if text, given, err := o.Name("expires"); err != nil {
		return err
	} else if given {
		if a.life, err = publish.Span("expires", text, commands.MinExpires, commands.MaxExpires,
			"from 1s to 30d"); err != nil {
			return err
		}
	}
	text, waits, err := o.Name("wait")
	if err == nil && waits {
		a.wait, err = publish.Span("wait", text, 0, commands.MaxWait, "at most 60s")
	}
	if err != nil {
		return err
	}
	at, later, err := o.Name("deliverAt")
	if err == nil && later {
		a.times, err = publish.ReadTimes(nil, &at, now)
	}
	switch {
	case err != nil:
		return err
	case a.wait > 0 && t.broadcast:
		return fanfare.Invalid("wait is for a command to one PC: a broadcast has many answers; look at its url")
	case a.wait > 0 && later:
		return fanfare.Invalid("wait and deliverAt are both given: the command is not sent yet")
	}
	sent := now()
	if later {
		if a.at = a.times.At; a.at.IsZero() {
			a.at = sent.Add(a.times.In)
		}
		sent = a.at
	}
	a.expires = sent.Add(a.life).UTC().Truncate(time.Millisecond)
	return nil
}

// parts are what the members add to the fingerprint of an idempotency key. Whoever repeats a
// command may wait for another time.
func (a *ask) parts() []string {
	return append([]string{"ack", a.life.String()}, a.times.Parts()...)
}

// complete makes the batch of a command that of one that is to be answered.
func (a *API) complete(b *fanfare.Batch, t target, reference string, ask *ask) error {
	id, err := fanfare.ParseScheduledID(reference)
	if err != nil {
		return err
	}
	answers, err := commands.AnswersOf(t.channel, reference)
	if err != nil {
		return err
	}
	b.DeliverAt = ask.at
	return a.o.Commands.Send(b, answers, id, ask.expires, ask.life)
}

// AskPC is POST /v1/stores/{S}/pcs/{P}/commands.
func (a *API) AskPC(w http.ResponseWriter, r *http.Request, by caller.Caller, store, pc string) {
	t, _, err := toPC(store, pc)
	a.ask(w, r, by, t, err)
}

// AskStore is POST /v1/stores/{S}/commands.
func (a *API) AskStore(w http.ResponseWriter, r *http.Request, by caller.Caller, store string) {
	t, err := toStore(store)
	a.ask(w, r, by, t, err)
}

// AskAll is POST /v1/stores/commands.
func (a *API) AskAll(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	a.ask(w, r, by, toAll, nil)
}

func (a *API) ask(w http.ResponseWriter, r *http.Request, by caller.Caller, t target, err error) {
	var what ask
	var b *fanfare.Batch
	var reference string
	if err == nil {
		b, reference, err = a.batch(w, r, by, t, &what)
	}
	if err == nil {
		err = a.o.Publisher.Admit(by, w.Header(), b)
	}
	var receipt fanfare.Receipt
	if err == nil {
		receipt, err = a.o.Publisher.Publish(b, r.Header.Get("Traceparent"))
	}
	if err != nil {
		a.o.Problems.Write(w, r, err)
		return
	}
	a.o.Publisher.Stored(by, b, receipt)
	if receipt.Replayed {
		reference = receipt.Note
	}
	a.answerAsk(w, r, t, reference, receipt, what)
}

// asked is the answer to a command that was sent.
type asked struct {
	ID        string    `json:"id,omitempty"`
	Reference string    `json:"referenceId"`
	State     string    `json:"state"`
	Expires   time.Time `json:"expires,omitzero"`
	URL       string    `json:"url"`
}

func (a *API) answerAsk(
	w http.ResponseWriter, r *http.Request, t target, reference string, receipt fanfare.Receipt, what ask,
) {
	c, err := a.find(r.Context(), t, reference)
	if err == nil && what.wait > 0 {
		waitFor(w, r, what.wait)
		ctx, cancel := context.WithTimeout(r.Context(), what.wait)
		defer cancel()
		if c, err = a.o.Commands.Wait(ctx, c, receipt.Positions[0]); err == nil {
			status := http.StatusAccepted
			if c.Now.State.Final() {
				status = http.StatusOK
			}
			a.writeCommand(w, r, c, status)
			return
		}
	}
	if err != nil { // it is sent all the same; what has become of it is at its url
		c.Now = commands.Change{State: commands.Pending, Expires: what.expires}
	}
	out := asked{Reference: reference, State: string(c.Now.State), Expires: c.Now.Expires,
		URL: "/v1/" + t.channel + "/commands/" + reference}
	if len(receipt.Positions) > 0 {
		out.ID = receipt.Positions[0].String()
	}
	body, _ := json.Marshal(out) // texts and a time cannot fail
	publish.WriteJSON(w, r, publish.Status(w, receipt), body)
}

// waitFor moves the server's limits for a request and its answer: they begin when the wait is over.
func waitFor(w http.ResponseWriter, r *http.Request, wait time.Duration) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // the body is here; one that passes would end the request
	if server, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok && server.WriteTimeout > 0 {
		_ = rc.SetWriteDeadline(time.Now().Add(wait + server.WriteTimeout))
	}
}

// find finds a command as its target has it: the PC, or for a broadcast all.
func (a *API) find(ctx context.Context, t target, reference string) (c commands.Command, err error) {
	id, err := fanfare.ParseScheduledID(reference)
	if err != nil {
		return c, notThere(reference)
	}
	answers, err := commands.AnswersOf(t.channel, reference)
	if err != nil {
		return c, err
	}
	c, ok, err := a.o.Commands.Find(ctx, id, answers)
	if err == nil && !ok {
		err = notThere(reference)
	}
	return c, err
}

// findFor finds a command as a PC has it, a broadcast included.
func (a *API) findFor(ctx context.Context, d fleet.Device, reference string) (c commands.Command, err error) {
	id, err := fanfare.ParseScheduledID(reference)
	if err != nil {
		return c, notThere(reference)
	}
	var channels [3]fanfare.Channel
	for i, name := range d.Channels() {
		if channels[i], err = commands.AnswersOf(name, reference); err != nil {
			return c, err
		}
	}
	c, ok, err := a.o.Commands.Find(ctx, id, channels[0], channels[1:]...)
	if err == nil && !ok {
		err = notThere(reference)
	}
	return c, err
}

func notThere(reference string) error {
	return fanfare.Errorf(fanfare.CodeNotFound, "there is no command %.64q that is to be answered here", reference)
}
