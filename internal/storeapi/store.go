package storeapi

import (
	"context"
	"hash/maphash"
	"math"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/stream"
)

// This file brings cursors into the log. While events are published, cursors are stored with the
// groups of these events, so commands that a PC has acknowledged do not come again after a crash.
// Otherwise an empty group is made for the cursors, twice a second.

// Board implements fanfare.Rider.
func (k *positions) Board(most int) (keep []fanfare.Kept, done func(error)) {
	k.mu.Lock()
	n := min(len(k.queue), most, flushMost)
	if n == 0 {
		k.mu.Unlock()
		return nil, nil
	}
	list := k.queue[:n:n]
	if k.queue = k.queue[n:]; len(k.queue) == 0 {
		k.queue = nil
	}
	for i := range list {
		if p := list[i].pc; p != nil {
			p.unset(queued)
			p.flying++ // so that it stays in memory
		}
	}
	k.mu.Unlock()
	marks := map[string]time.Time{}
	for _, one := range list {
		if one.pc == nil {
			k.mu.Lock()
			at := k.seen[one.seen]
			delete(k.seen, one.seen)
			k.mu.Unlock()
			marks[one.seen] = at
			keep = append(keep, fanfare.Kept{Name: one.seen, Time: at, Lifetime: seenFor})
		} else if kept, ok := k.record(one.pc); ok {
			keep = append(keep, kept)
		}
	}
	if len(keep) == 0 {
		k.stored(list, nil, nil)
		return nil, nil
	}
	return keep, func(err error) { k.stored(list, marks, err) }
}

// followed is a stream while its peer is asked.
type followed struct {
	v    *visit
	live *stream.Live
	pos  fanfare.Position
}

// record makes the record of a PC's cursors, and returns false if the log has it already.
func (k *positions) record(p *pc) (kept fanfare.Kept, ok bool) {
	var room [readersMost]followed
	open := room[:0]
	k.mu.Lock()
	k.reviveLocked(p)
	for r := p.readers; r != nil; r = r.next {
		r.active(func(v *visit) { open = append(open, followed{v: v, live: v.live}) })
	}
	k.mu.Unlock()
	all := true
	for i := range open {
		var known bool
		open[i].pos, known = open[i].live.Known()
		all = all && known
	}
	d := p.device()
	lasts := k.resumeFor(d)

	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	list, last := p.cursors(open, now)
	if !all && !p.is(late) {
		p.set(late)
		k.late = append(k.late, p)
	}
	sum := sumOf(list)
	if len(list) == 0 || (sum == p.sum && !p.is(force)) {
		return kept, false
	}
	p.sum = sum
	p.unset(force)
	p.due = int32(min(now+min(refreshMost, lasts/4).Milliseconds(), math.MaxInt32*1000) / 1000)
	return fanfare.Kept{
		Name: keptName(d), Position: last, Value: string(appendCursors(nil, list)), Lifetime: lasts + rememberFor,
	}, true
}

// cursors returns the cursors of the PC's readers, as far as the peers of their open streams have
// acknowledged, and the position of the most recent reader.
func (p *pc) cursors(open []followed, now int64) (list []cursor, last fanfare.Position) {
	var room [readersMost]cursor
	list = room[:0]
	var lastUsed int64
	for r := p.readers; r != nil; r = r.next {
		var at fanfare.Position
		for _, f := range open {
			if f.v.reader != r || f.v.superseded || f.pos == 0 {
				continue // it has ended, or been superseded, meanwhile
			}
			if f.v.pending {
				f.v.heard(now)
			}
			at, r.used = lower(at, f.pos), now
		}
		if at = lower(at, r.left); at == 0 {
			continue
		}
		list = append(list, cursor{id: r.id, position: at, age: time.Duration(now-r.used) * time.Millisecond})
		if last == 0 || r.used > lastUsed || (r.used == lastUsed && at < last) {
			last, lastUsed = at, r.used
		}
	}
	return list, last
}

var seed = maphash.MakeSeed()

// sumOf tells lists of cursors apart; their ages do not count.
func sumOf(list []cursor) uint32 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, c := range list {
		maphash.WriteComparable(&h, c.id)
		maphash.WriteComparable(&h, c.position)
	}
	return uint32(h.Sum64())
}

// stored is told whether a group's PCs and health marks were stored.
func (k *positions) stored(list []due, marks map[string]time.Time, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, one := range list {
		switch p := one.pc; {
		case p == nil && err != nil:
			if _, newer := k.seen[one.seen]; !newer {
				k.seenLocked(one.seen, marks[one.seen])
			}
		case p == nil:
		default:
			p.flying--
			if err != nil {
				k.queueLocked(p, force)
			}
			k.dropLocked(p)
		}
	}
}

func (k *positions) loop() {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	looked := k.now()
	for {
		select {
		case <-tick.C:
			k.again()
			every := refreshCheck
			if k.o.ResumeFor > 0 {
				every = min(every, k.o.ResumeFor/8)
			}
			if now := k.now(); now-looked >= every.Milliseconds() {
				looked = now
				k.look(now)
			}
			k.flush()
			k.say()
		case <-k.stop:
			k.again()
			k.flush()
			k.say()
			return
		}
	}
}

// again queues the PCs once more whose peers had not acknowledged all bytes.
func (k *positions) again() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.late {
		p.unset(late)
		k.queueLocked(p, 0)
	}
	k.late = nil
}

// look finds streams that have turned out to be read by two machines, and has the cursors of idle
// streams stored again before they look too old.
func (k *positions) look(now int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	doubles := k.doubles
	k.doubles = nil
	for _, p := range doubles {
		k.reviveLocked(p)
		p.unset(twice)
		for r := p.readers; r != nil; r = r.next {
			for v := r.open; v != nil; v = v.next {
				if v.superseded || v.rival {
					p.set(twice)
				}
			}
		}
		if p.is(twice) {
			k.doubles = append(k.doubles, p)
		} else {
			k.dropLocked(p)
		}
	}
	for channel, s := range k.shared {
		if now-s.found > warnAgain.Milliseconds() {
			delete(k.shared, channel)
		}
	}
	for _, p := range k.pcs {
		if now/1000 >= int64(p.due) && p.open() {
			k.queueLocked(p, force)
		}
	}
}

// flush makes groups for waiting cursors when no events are published.
func (k *positions) flush() {
	k.mu.Lock()
	groups := (len(k.queue) + flushMost - 1) / flushMost
	k.mu.Unlock()
	for range groups {
		if _, err := fanfare.Append(context.Background(), k.o.Log, &fanfare.Batch{}); err != nil {
			return // it is queued again, or still
		}
	}
}

// say writes log records of facts that were noticed under the lock.
func (k *positions) say() {
	k.mu.Lock()
	warnings := k.warnings
	k.warnings = nil
	k.mu.Unlock()
	for _, n := range warnings {
		k.says.several(n)
	}
}

func (k *positions) close() {
	close(k.stop)
	k.stopped.Wait()
	k.unride()
}
