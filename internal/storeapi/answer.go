package storeapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/commands"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/query"
)

// answerMembers are those of an answer.
var answerMembers = []string{"status", "result", "error"}

// Answer is POST /v1/stores/{S}/pcs/{P}/commands/{referenceId}/ack. A PC answers for itself; others
// need the right `ack` on its channel.
func (a *API) Answer(w http.ResponseWriter, r *http.Request, by caller.Caller, store, pc, reference string) {
	c, err := a.answer(w, r, by, store, pc, reference)
	if err != nil {
		a.o.Problems.Write(w, r, by.Refuse(err))
		return
	}
	a.writeCommand(w, r, c, http.StatusOK)
}

func (a *API) answer(
	w http.ResponseWriter, r *http.Request, by caller.Caller, store, pc, reference string,
) (c commands.Command, err error) {
	t, d, err := toPC(store, pc)
	if err != nil {
		return c, err
	}
	if err := mayAnswer(by, t); err != nil {
		return c, err
	}
	if err := query.InBody(r, answerMembers...); err != nil {
		return c, err
	}
	body, err := a.o.Publisher.Bodies.Read(w, r, by, a.o.Publisher.MaxRequestBytes, fanfare.SettingMaxRequestBytes)
	if err != nil {
		return c, err
	}
	change, err := readAnswer(body.Bytes)
	body.Free()
	if err != nil {
		return c, err
	}
	if change.By = by.Who.Subject; change.By == "" {
		change.By = t.channel
	}
	// From here on the answer does not depend on the PC's staying: it may be about to reboot.
	ctx := context.WithoutCancel(r.Context())
	if c, err = a.findFor(ctx, d, reference); err != nil {
		return c, err
	}
	a.kept.markSeen(d)
	if c, err = a.o.Commands.Answer(ctx, c, change); err == nil {
		a.o.Publisher.Changed(by, t.channel, reference, string(change.State))
	}
	return c, err
}

// CommandCounts returns how many answers and cancels were stored, by state.
func (a *API) CommandCounts() map[string]uint64 {
	counts := map[string]uint64{}
	for state, n := range a.o.Commands.Counts() {
		counts[string(state)] = n
	}
	return counts
}

// mayAnswer returns nil, or why the caller may not answer for a PC. The token of another PC may
// not, whatever else it may do.
func mayAnswer(by caller.Caller, t target) error {
	own, err := fanfare.ParseChannel(t.channel)
	if err != nil {
		return err
	}
	other := by.Who.Self != fanfare.Pattern{}
	if by.Who.Is(own) || (!other && by.Who.May(fanfare.ActionAck, own)) {
		return nil
	}
	return by.MayNot("to answer commands to %s", t.channel)
}

func readAnswer(body []byte) (c commands.Change, err error) {
	o, err := publish.ParseObject(body)
	if err != nil {
		return c, err
	}
	if err := o.Only(answerMembers...); err != nil {
		return c, err
	}
	status, err := o.Text("status")
	if err != nil {
		return c, err
	}
	switch c.State = commands.State(status); c.State {
	case commands.Received, commands.Done, commands.Failed:
	default:
		return c, fanfare.Invalid("status is %.64q: want `received`, `done` or `failed`", status)
	}
	if c.Error, err = o.Text("error"); err != nil {
		return c, err
	}
	if raw := o.Raw("result"); raw != nil {
		var compact bytes.Buffer
		if err := json.Compact(&compact, raw); err != nil {
			return c, fanfare.Invalid("result is not JSON")
		}
		c.Result = compact.Bytes()
	}
	if n := len(c.Result) + len(c.Error); n > commands.MaxResult {
		return c, publish.TooLarge("", "result and error are %d bytes, the limit is %d", n, commands.MaxResult)
	}
	return c, nil
}

// Command is GET /v1/stores/{S}/pcs/{P}/commands/{referenceId}.
func (a *API) Command(w http.ResponseWriter, r *http.Request, by caller.Caller, store, pc, reference string) {
	t, d, err := toPC(store, pc)
	if err == nil {
		err = mayLook(by, t)
	}
	var c commands.Command
	if err == nil {
		c, err = a.findFor(r.Context(), d, reference)
	}
	if err != nil {
		a.o.Problems.Write(w, r, by.Refuse(err))
		return
	}
	a.writeCommand(w, r, c, http.StatusOK)
}

// mayLook takes the right to listen to the target's channel.
func mayLook(by caller.Caller, t target) error {
	p, err := fanfare.ParsePattern(t.channel)
	if err != nil {
		return err
	}
	own, err := fanfare.ParseChannel(t.channel)
	if err != nil {
		return err
	}
	return by.MayBe(own, []fanfare.Pattern{p}, t.channel)
}

// shown is a command as the API shows it.
type shown struct {
	ID        string            `json:"id,omitempty"`
	Reference string            `json:"referenceId"`
	State     commands.State    `json:"state"`
	At        time.Time         `json:"at,omitzero"`
	Expires   time.Time         `json:"expires,omitzero"`
	Result    json.RawMessage   `json:"result,omitempty"`
	Error     string            `json:"error,omitempty"`
	By        string            `json:"by,omitempty"`
	History   []commands.Change `json:"history,omitempty"`
}

func show(c commands.Command) shown {
	return shown{ID: c.Now.ID, Reference: c.Reference.String(), State: c.Now.State, At: c.Now.At,
		Expires: c.Now.Expires,
		Result:  c.Now.Result, Error: c.Now.Error, By: c.Now.By}
}

// writeCommand answers with a command and its history.
func (a *API) writeCommand(w http.ResponseWriter, r *http.Request, c commands.Command, status int) {
	out := show(c)
	history, err := a.o.Commands.History(r.Context(), c)
	if err != nil {
		a.o.Problems.Write(w, r, err)
		return
	}
	for _, h := range history {
		h.ID, h.Expires = "", time.Time{}
		out.History = append(out.History, h)
	}
	body, err := json.Marshal(out)
	if err != nil {
		a.o.Problems.Write(w, r, err)
		return
	}
	publish.WriteJSON(w, r, status, body)
}

// Cancel is DELETE /v1/stores/{S}/pcs/{P}/commands/{referenceId}: a command that is not final is
// cancelled, and its PC is told. It takes the right to publish to the PC's channel.
func (a *API) Cancel(w http.ResponseWriter, r *http.Request, by caller.Caller, store, pc, reference string) {
	t, d, err := toPC(store, pc)
	a.writeCancelled(w, r, by, t, reference, err, func(ctx context.Context) (commands.Command, error) {
		return a.findFor(ctx, d, reference) // of a broadcast this PC's part alone is cancelled
	})
}

func (a *API) writeCancelled(w http.ResponseWriter, r *http.Request, by caller.Caller, t target, reference string,
	err error, find func(context.Context) (commands.Command, error),
) {
	var c commands.Command
	if err == nil {
		c, err = a.cancel(r.Context(), by, t, reference, find)
	}
	if err != nil {
		a.o.Problems.Write(w, r, by.Refuse(err))
		return
	}
	a.writeCommand(w, r, c, http.StatusOK)
}

func (a *API) cancel(
	ctx context.Context, by caller.Caller, t target, reference string,
	find func(context.Context) (commands.Command, error),
) (c commands.Command, err error) {
	channel, err := publish.Channel(t.channel)
	if err == nil {
		err = by.MayPublish(channel)
	}
	if err == nil {
		c, err = find(ctx)
	}
	if err != nil {
		return c, err
	}
	ctx = context.WithoutCancel(ctx) // a command that is not sent any more is cancelled, too
	if c.Now.State == commands.Scheduled {
		if err := a.unsend(ctx, channel, reference); err != nil {
			return c, err
		}
	}
	kind, err := fanfare.ParseEventType("cancel")
	if err != nil {
		return c, err
	}
	told := fanfare.Event{Channel: channel, Type: kind, Data: marshal(map[string]string{"referenceId": reference})}
	c, err = a.o.Commands.Answer(ctx, c, commands.Change{State: commands.Cancelled, By: by.Who.Subject}, told)
	if err == nil {
		a.o.Publisher.Changed(by, t.channel, reference, string(commands.Cancelled))
	}
	return c, err
}

// unsend cancels a command that was to be sent later.
func (a *API) unsend(ctx context.Context, channel fanfare.Channel, reference string) error {
	q := fanfare.ScheduledQuery{ByChannel: true, Patterns: []fanfare.Pattern{fanfare.ExactPattern(channel)}}
	for {
		page, err := a.o.Commands.Scheduler.Scheduled(ctx, q)
		if err != nil {
			return err
		}
		for i := range page.Events {
			if e := &page.Events[i]; strings.Contains(e.Event.Data, `"referenceId":"`+reference+`"`) {
				_, err := a.o.Commands.Scheduler.Cancel(ctx, e.ID)
				return err
			}
		}
		if q.After = page.Next; !page.More {
			return nil
		}
	}
}

// List is GET /v1/stores/{S}/pcs/{P}/commands[?state=…][&limit=][&after=]: the PC's own commands,
// newest first.
func (a *API) List(w http.ResponseWriter, r *http.Request, by caller.Caller, store, pc string) {
	out, err := a.list(r, by, store, pc)
	if err != nil {
		a.o.Problems.Write(w, r, by.Refuse(err))
		return
	}
	body, err := json.Marshal(out)
	if err != nil {
		a.o.Problems.Write(w, r, err)
		return
	}
	publish.WriteJSON(w, r, http.StatusOK, body)
}

// listed is a page of commands.
type listed struct {
	Commands []shown `json:"commands"`
	Next     string  `json:"next,omitempty"`
}

func (a *API) list(r *http.Request, by caller.Caller, store, pc string) (out listed, err error) {
	t, _, err := toPC(store, pc)
	if err == nil {
		err = mayLook(by, t)
	}
	if err != nil {
		return out, err
	}
	q, state, limit, err := readPage(r)
	if err != nil {
		return out, err
	}
	before := fanfare.ScheduledID(0)
	if after := q.Get("after"); after != "" {
		if before, err = fanfare.ParseScheduledID(after); err != nil {
			return out, fanfare.Invalid("after: %.64q is not the `next` of a page", after)
		}
	}
	list, more, err := a.o.Commands.List(r.Context(),
		commands.ListQuery{Channel: t.channel, State: state, Before: before, Limit: limit})
	if err != nil {
		return out, err
	}
	out.Commands = []shown{}
	for _, c := range list {
		out.Commands = append(out.Commands, show(c))
	}
	if more {
		out.Next = list[len(list)-1].Reference.String()
	}
	return out, nil
}

// readPage reads which commands, or PCs, are wanted, and how many on a page.
func readPage(r *http.Request) (q url.Values, state commands.State, limit int, err error) {
	if q, err = query.Parse(r, "state", "limit", "after"); err != nil {
		return q, "", 0, err
	}
	state = commands.State(q.Get("state")) // "" is any
	if q.Has("state") && !slices.Contains(commands.States(), state) {
		return q, "", 0, fanfare.Invalid("state is %.64q: want one of %v", q.Get("state"), commands.States())
	}
	limit, err = query.Limit(q, 100, 1000)
	return q, state, limit, err
}
