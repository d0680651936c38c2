package storeapi

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/commands"
	"github.com/fanfare-hub/fanfare/internal/fleet"
	"github.com/fanfare-hub/fanfare/internal/publish"
)

// A broadcast goes to the PCs that the hub has seen in the last month. Nothing is written for a PC
// until it answers: a PC without a state of its own has the broadcast's.

// maxRecipients is how many PCs of a broadcast are looked at.
const maxRecipients = 100_000

// recipient is where a broadcast stands for one PC.
type recipient struct {
	Store string         `json:"storeId"`
	PC    string         `json:"pcId"`
	State commands.State `json:"state"`
	At    time.Time      `json:"at,omitzero"`
}

// broadcast is a broadcast as the API shows it.
type broadcast struct {
	ID        string                 `json:"id,omitempty"`
	Reference string                 `json:"referenceId"`
	State     commands.State         `json:"state"`
	Expires   time.Time              `json:"expires,omitzero"`
	Counts    map[commands.State]int `json:"counts"`
	PCs       []recipient            `json:"pcs"`
	Next      string                 `json:"next,omitempty"`
}

// StoreCommand is GET /v1/stores/{S}/commands/{referenceId}[?state=…][&limit=][&after=].
func (a *API) StoreCommand(w http.ResponseWriter, r *http.Request, by caller.Caller, store, reference string) {
	t, err := toStore(store)
	a.writeBroadcast(w, r, by, t, reference, err)
}

// AllCommand is GET /v1/stores/commands/{referenceId}[?state=…][&limit=][&after=].
func (a *API) AllCommand(w http.ResponseWriter, r *http.Request, by caller.Caller, reference string) {
	a.writeBroadcast(w, r, by, toAll, reference, nil)
}

func (a *API) writeBroadcast(
	w http.ResponseWriter, r *http.Request, by caller.Caller, t target, reference string, err error,
) {
	var out broadcast
	if err == nil {
		out, err = a.broadcast(r, by, t, reference)
	}
	var body []byte
	if err == nil {
		body, err = json.Marshal(out)
	}
	if err != nil {
		a.o.Problems.Write(w, r, by.Refuse(err))
		return
	}
	publish.WriteJSON(w, r, http.StatusOK, body)
}

func (a *API) broadcast(r *http.Request, by caller.Caller, t target, reference string) (out broadcast, err error) {
	if err := mayLookAtAll(by, t); err != nil {
		return out, err
	}
	q, state, limit, err := readPage(r)
	if err != nil {
		return out, err
	}
	c, err := a.find(r.Context(), t, reference)
	if err != nil {
		return out, err
	}
	out = broadcast{ID: c.Now.ID, Reference: reference, State: c.Now.State, Expires: c.Now.Expires,
		Counts: map[commands.State]int{}, PCs: []recipient{}}
	all, err := a.recipients(r.Context(), t, c)
	if err != nil {
		return out, err
	}
	for _, one := range all {
		out.Counts[one.State]++
		name := one.Store + "/" + one.PC
		switch {
		case state != "" && one.State != state, q.Get("after") != "" && name <= q.Get("after"), out.Next != "":
		case len(out.PCs) == limit:
			last := out.PCs[limit-1]
			out.Next = last.Store + "/" + last.PC
		default:
			out.PCs = append(out.PCs, one)
		}
	}
	return out, nil
}

// mayLookAtAll takes the right to listen to all channels of a broadcast's PCs.
func mayLookAtAll(by caller.Caller, t target) error {
	below, err := fanfare.ParsePattern(t.channel + "/**")
	if err != nil {
		return err
	}
	own, err := fanfare.ParsePattern(t.channel)
	if err != nil {
		return err
	}
	return by.MaySubscribe(own, below)
}

// recipients returns the PCs of a broadcast, by store and PC.
func (a *API) recipients(ctx context.Context, t target, c commands.Command) ([]recipient, error) {
	states := map[fleet.Device]recipient{}
	for _, pc := range a.known(ctx, t.store, maxRecipients) {
		states[pc.Device] = recipient{Store: pc.Store, PC: pc.PC, State: c.Now.State}
	}
	store := t.store
	if store == "" {
		store = "*"
	}
	answers, err := a.o.Commands.States(ctx, "$acks/stores/"+store+"/pcs/*/"+c.Reference.String())
	if err != nil {
		return nil, err
	}
	for channel, change := range answers {
		d := fleet.Of(strings.TrimPrefix(channel, "$acks/"))
		d.PC, _, _ = strings.Cut(d.PC, "/")
		one := recipient{Store: d.Store, PC: d.PC, State: change.State, At: change.At}
		if !one.State.Final() && c.Now.State.Final() { // the broadcast has ended
			one.State, one.At = c.Now.State, c.Now.At
		}
		states[d] = one
	}
	list := make([]recipient, 0, len(states))
	for _, one := range states {
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b recipient) int {
		return cmp.Compare(a.Store+"/"+a.PC, b.Store+"/"+b.PC)
	})
	return list, nil
}

// CancelStore is DELETE /v1/stores/{S}/commands/{referenceId}: PCs that have not answered are told.
func (a *API) CancelStore(w http.ResponseWriter, r *http.Request, by caller.Caller, store, reference string) {
	t, err := toStore(store)
	a.writeCancelled(w, r, by, t, reference, err, a.finder(t, reference))
}

// CancelAll is DELETE /v1/stores/commands/{referenceId}.
func (a *API) CancelAll(w http.ResponseWriter, r *http.Request, by caller.Caller, reference string) {
	a.writeCancelled(w, r, by, toAll, reference, nil, a.finder(toAll, reference))
}

func (a *API) finder(t target, reference string) func(context.Context) (commands.Command, error) {
	return func(ctx context.Context) (commands.Command, error) { return a.find(ctx, t, reference) }
}
