package pebblelog

import (
	"time"

	"github.com/fanfare-hub/fanfare"
)

// exportFormat is the first line's member `fanfare`; docs/format/export.md describes the lines.
const exportFormat = "export 1"

// line is one line of an export: the head, a trim mark, a kept position, an event, or the end.
type line struct {
	Format string      `json:"fanfare,omitempty"`
	Runs   [][2]string `json:"runs,omitempty"` // of the head: first and last position of each
	Gone   string      `json:"gone,omitempty"` // of the head: everything up to here was removed
	// Of the head: by rule, below what events of forgotten channels may be missing.
	Floors map[string]string `json:"floors,omitempty"`
	Clock  *lineClock        `json:"clock,omitempty"` // of the head: how old events are

	Trimmed string `json:"trimmed,omitempty"` // of Channel: this event and all before it were removed

	Kept     string     `json:"kept,omitempty"`
	Value    []byte     `json:"value,omitempty"` // of a kept position
	Position string     `json:"position,omitempty"`
	Expires  *time.Time `json:"expires,omitempty"` // of a kept position, or of an event

	ID      string  `json:"id,omitempty"`
	Channel string  `json:"channel,omitempty"`
	Event   string  `json:"event,omitempty"`
	Data    *string `json:"data,omitempty"`
	TTL     string  `json:"ttl,omitempty"` // of a scheduled event, from when it is due

	Scheduled string     `json:"scheduled,omitempty"` // a scheduled event's id
	With      string     `json:"with,omitempty"`      // of a scheduled event: the event that it was stored with
	DeliverAt *time.Time `json:"deliverAt,omitempty"`
	LastID    string     `json:"lastScheduled,omitempty"` // of the head: the last such id that was given

	Time *time.Time `json:"time,omitempty"` // of an event or a kept position

	End    bool   `json:"end,omitempty"`
	Events uint64 `json:"events,omitempty"` // of the end: how many came before
}

// lineClock is the clockState of an export, in milliseconds.
type lineClock struct {
	Log      int64       `json:"log"`
	Believed int64       `json:"believed"`
	Due      int64       `json:"due,omitempty"`
	Phases   []linePhase `json:"phases"`
}

type linePhase struct {
	From     string `json:"from"`
	Start    int64  `json:"start"`
	Low      int64  `json:"low"`
	High     int64  `json:"high"`
	Believed int64  `json:"believed,omitempty"`
	Opened   bool   `json:"opened,omitempty"`
}

func (c clockState) line() *lineClock {
	l := &lineClock{Log: c.log, Believed: c.believed, Due: c.due}
	for _, p := range c.phases {
		l.Phases = append(l.Phases, linePhase{p.from.String(), p.start, p.low, p.high, p.believed, p.opened})
	}
	return l
}

func (l *lineClock) state() (c clockState, err error) {
	c.log, c.believed, c.due = l.Log, l.Believed, l.Due
	for _, p := range l.Phases {
		from, err := fanfare.ParsePosition(p.From)
		if err != nil {
			return c, err
		}
		c.phases = append(c.phases, phase{from, p.Start, p.Low, p.High, p.Believed, p.Opened})
	}
	if !c.sound() {
		return c, fanfare.Invalid("clock: the phases are not in order")
	}
	return c, nil
}
