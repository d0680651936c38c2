package pebblelog

import (
	"encoding/binary"
	"math"
	"sort"

	"github.com/fanfare-hub/fanfare"
)

// phase is a stretch of the log in which the wall clock and log time ran side by side. Times are
// in milliseconds.
type phase struct {
	from      fanfare.Position // of its first event; notYet before there may be one
	start     int64            // log time when it began
	low, high int64            // the wall clock was ahead of log time by this much; the two are a minute apart at most
	believed  int64            // guarded time that passed between the phase before and this one
	opened    bool             // it began when the log was opened: before it the log was closed
}

const notYet = fanfare.Position(math.MaxUint64)

// phasesMost is the longest list of phases. A clock reaches it only with as many jumps while events
// are retained.
const phasesMost = 256

// mergeOldest merges the two oldest phases of a list that is too long. The events of both then look
// as young as they may be.
func mergeOldest(list []phase) []phase {
	if len(list) <= phasesMost {
		return list
	}
	a, b := list[0], list[1]
	list[1] = phase{
		from: a.from, start: a.start, low: min(a.low, b.low), high: max(a.high, b.high),
		believed: a.believed + b.believed, opened: a.opened || b.opened,
	}
	return list[1:]
}

// phaseOf returns the index of the phase in which a position was given.
func (m moment) phaseOf(pos fanfare.Position) int {
	i := len(m.phases) - 1
	if i > 0 && m.phases[i].from > pos { // most events are of the last phase
		i = sort.Search(i, func(i int) bool { return m.phases[i].from > pos }) - 1
	}
	return max(i, 0)
}

// stored returns the log time at which an event with a wall time was stored. It may be a little too
// late where the wall clock did not run evenly.
func (m moment) stored(pos fanfare.Position, wallMs int64) int64 {
	i := m.phaseOf(pos)
	at := max(wallMs-m.phases[i].low, m.phases[i].start)
	if i+1 < len(m.phases) {
		at = min(at, m.phases[i+1].start-1)
	}
	return at
}

// ageLimit returns the log time of an age in guarded time: events that were stored before it are
// older.
func (m moment) ageLimit(age int64) int64 {
	return m.walk(age, func(i int) int64 { return m.phases[i].believed })
}

// ageLimitAtOnce is ageLimit for replays, which must not have too many old events. It believes the
// wall clock at once about the time for which the log was closed, unless the clock has gone back
// since.
func (m moment) ageLimitAtOnce(age int64) int64 {
	stands := make([]int64, len(m.phases)) // the least lead of the wall clock from each phase until now
	lowest, believed := int64(math.MaxInt64), m.guarded-m.log
	for i := len(m.phases) - 1; i >= 0; i-- {
		lowest = min(lowest, m.phases[i].high)
		stands[i] = lowest
		believed -= m.phases[i].believed
	}
	known, passed := believed, make([]int64, len(m.phases))
	for i, p := range m.phases {
		known = max(known, believed) // a clock that was behind does not make the closed time longer
		if passed[i] = p.believed; p.opened {
			passed[i] = max(p.believed, stands[i]-known)
		}
		known = max(known, stands[i])
		believed += p.believed
	}
	return m.walk(age, func(i int) int64 { return passed[i] })
}

// walk goes back in time by age; passed says how much time lies just before the start of a phase.
func (m moment) walk(age int64, passed func(i int) int64) int64 {
	end := m.log
	for i := len(m.phases) - 1; i >= 0; i-- {
		start := m.phases[i].start
		if age <= end-start {
			break
		}
		age -= end - start
		end = start
		between := passed(i)
		if age <= between {
			return start // all events before the jump are older
		}
		age -= between
	}
	return end - age
}

// age returns the age of a log time, in guarded time; it is the inverse of ageLimit. It serves
// records that have no position, and store the log time itself.
func (m moment) age(at int64) int64 {
	age := m.log - at
	for i := len(m.phases) - 1; i >= 0 && m.phases[i].start > at; i-- {
		age += m.phases[i].believed
	}
	return age
}

// clockState is the stored state of the clock.
type clockState struct {
	log      int64 // log time
	believed int64 // how far guarded time is ahead of it
	due      int64 // due time; 0 in a log that had none
	phases   []phase
}

// firstState returns the state of the clock for a new log, or for a log of an earlier version,
// which has no log time. Log time starts at the wall time of the newest event, or at the wall
// clock's time if that is earlier, because the earlier of the two deletes no event too soon.
func firstState(newest, wall int64) clockState {
	return clockState{log: min(newest, wall), phases: []phase{{}}}
}

func appendPhases(dst []byte, believed int64, list []phase) []byte {
	dst = binary.AppendVarint(dst, believed)
	for _, p := range list {
		dst = binary.AppendUvarint(dst, uint64(p.from))
		opened := uint64(0)
		if p.opened {
			opened = 1
		}
		for _, n := range []int64{p.start, p.low, p.high, p.believed} {
			dst = binary.AppendVarint(dst, n)
		}
		dst = binary.AppendUvarint(dst, opened)
	}
	return dst
}

func readPhases(value []byte) (believed int64, list []phase, err error) {
	f := fields{b: value}
	believed = f.signed()
	for len(f.b) > 0 && f.err == nil {
		list = append(list, phase{
			from: fanfare.Position(f.number()), start: f.signed(), low: f.signed(), high: f.signed(),
			believed: f.signed(), opened: f.number() == 1,
		})
	}
	return believed, list, f.err
}

// sound tells whether the phases are in the order of positions and of log time, log time is not
// before the last, and no number is beyond what a clock can show.
func (c clockState) sound() bool {
	const most = 1 << 50
	for i, p := range c.phases {
		if i > 0 && (p.from < c.phases[i-1].from || p.start <= c.phases[i-1].start) {
			return false
		}
		if p.start < 0 || p.low < -most || p.low > p.high || p.high > most || p.believed < 0 || p.believed > most {
			return false
		}
	}
	return c.believed >= 0 && c.believed <= most && c.log <= most && c.due >= 0 && c.due <= most && len(c.phases) > 0 &&
		c.phases[len(c.phases)-1].start <= c.log
}

func (c clockState) moment() moment {
	return moment{log: c.log, guarded: c.log + c.believed, due: c.due, phases: c.phases}
}
