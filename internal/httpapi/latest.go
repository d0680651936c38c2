package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/caller"
	"github.com/fanfare-hub/fanfare/internal/publish"
	"github.com/fanfare-hub/fanfare/internal/query"
)

// The limits of answers about channels.
const (
	MaxLatest       = 10_000
	DefaultLatest   = 1000
	MaxChannels     = 1000
	DefaultChannels = 100

	// maxChannelBytes is how much JSON an answer with channels has at most.
	maxChannelBytes = 256 << 10
)

// Latest is GET /v1/latest: the newest event of each channel that the patterns match, by the name
// of the channel, a page at a time. A page ends as one of history does; `next` leads on. `position`
// is the one from which a stream goes on without a seam; where there are several pages, the first
// page's. Rights are those of a stream: a right on a pattern covers all its channels.
func (a *API) Latest(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	q, err := query.Parse(r, "channel", "after", "limit")
	l := &latest{}
	if err == nil {
		l.patterns, err = query.Patterns(q)
	}
	if err == nil {
		err = by.MaySubscribe(l.patterns...)
	}
	if err == nil {
		l.limit, err = query.Limit(q, DefaultLatest, MaxLatest)
	}
	if err != nil {
		a.o.Problems.Write(w, r, err)
		return
	}
	l.page = page{api: a, w: w, r: r, owner: by.Owner(), limit: l.limit, read: l.read, tail: l.tail}
	l.from, l.through = following(q.Get("after")), a.o.Log.Status().Durable
	l.done = l.through == 0
	a.sendPage(&l.page, by)
}

// following is the first text that follows a name; of no name, the first of all.
func following(name string) string {
	if name == "" {
		return ""
	}
	return name + "\x00"
}

// latest is one page of the newest events of channels.
type latest struct {
	page
	patterns []fanfare.Pattern
	through  fanfare.Position // the newest position when the page began
	from     string           // the names from here on have not been looked at
}

// read reads some events, when it is the owner's turn.
func (l *latest) read() (events []fanfare.Event, err error) {
	q := fanfare.ChannelQuery{
		Patterns: l.patterns, From: l.from, Through: l.through, Events: true,
		Limit: min(l.limit+1-l.count, stepEvents), Bytes: stepBytes,
	}
	var got fanfare.ChannelPage
	if err = l.api.o.Replay(l.r.Context(), l.owner, func() (err error) {
		got, err = l.api.o.Log.Channels(l.r.Context(), q)
		return err
	}); err != nil {
		return nil, err
	}
	l.from = got.Next
	l.done = got.Next == ""
	for i := range got.Channels {
		events = append(events, got.Channels[i].Latest)
	}
	return l.afford(events)
}

func (l *latest) tail(b []byte) []byte {
	b = append(l.through.Append(append(b, `,"position":"`...)), '"')
	if l.more {
		b = append(appendText(append(b, `,"next":"`...), l.last.Channel.String()), '"')
	}
	return b
}

// Channels is GET /v1/channels: the channels that a pattern matches and that hold an event, by
// name, with what they hold. `next` leads on.
func (a *API) Channels(w http.ResponseWriter, r *http.Request, by caller.Caller) {
	out, err := a.channels(r, by)
	if err != nil {
		a.o.Problems.Write(w, r, by.Refuse(err))
		return
	}
	publish.WriteJSON(w, r, http.StatusOK, out)
}

func (a *API) channels(r *http.Request, by caller.Caller) (out []byte, err error) {
	v, err := query.Parse(r, "pattern", "after", "limit")
	if err != nil {
		return nil, err
	}
	if len(v["pattern"]) != 1 {
		return nil, fanfare.Invalid("pattern must be given once, it is given %d times", len(v["pattern"]))
	}
	pattern, err := fanfare.ParsePattern(v.Get("pattern"))
	if err != nil {
		return nil, err
	}
	if err := by.MaySubscribe(pattern); err != nil {
		return nil, err
	}
	limit, err := query.Limit(v, DefaultChannels, MaxChannels)
	if err != nil {
		return nil, err
	}
	q := fanfare.ChannelQuery{Patterns: []fanfare.Pattern{pattern}, From: following(v.Get("after")), Counts: true}
	count, last := 0, ""
	out = append(out, `{"channels":[`...)
	for {
		q.Limit = min(limit+1-count, stepEvents)
		var got fanfare.ChannelPage
		if err := a.o.Replay(r.Context(), by.Owner(), func() (err error) {
			got, err = a.o.Log.Channels(r.Context(), q)
			return err
		}); err != nil {
			return nil, err
		}
		for i := range got.Channels {
			c := &got.Channels[i]
			if count == limit || len(out) >= maxChannelBytes {
				out = append(appendText(append(out, `],"next":"`...), last), '"', '}')
				return out, nil
			}
			if count++; count > 1 {
				out = append(out, ',')
			}
			last = c.Latest.Channel.String()
			out = appendChannel(out, c)
		}
		if got.Next == "" {
			return append(out, `]}`...), nil
		}
		q.From = got.Next
	}
}

// appendChannel appends what a channel holds. Its age is that of its newest event, in seconds.
func appendChannel(b []byte, c *fanfare.ChannelState) []byte {
	b = append(appendText(append(b, `{"channel":"`...), c.Latest.Channel.String()), `","latest":"`...)
	b = append(c.Latest.Position.Append(b), `","count":`...)
	b = append(strconv.AppendUint(b, c.Count, 10), `,"bytes":`...)
	b = append(strconv.AppendUint(b, c.Bytes, 10), `,"age":`...)
	age := max(time.Since(c.Latest.Time).Seconds(), 0)
	return append(strconv.AppendFloat(b, age, 'f', 3, 64), '}')
}
