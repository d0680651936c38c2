package pebblelog

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// Apply turns a group into one batch of the store. It is a function of the group and of the groups
// before it: it decides by no clock, depends on no map's order, and does not see the progress of
// readers, of sweeps, or of the fsync of the group before. So two logs that apply the same groups
// show the same events and records; they differ only in the hidden ones that their sweeps have
// deleted already (TestSameGroups).
//
// That is why
//
//   - the group's terms have its time;
//   - an idempotency key is forgotten by that time, not by its deletion (keyed.go);
//   - the sums of a channel go on from its trim mark when its events have been deleted;
//   - a command that names the channel's last event forgets a channel (forget.go), and not the
//     sweep;
//   - a command replaces the rules, and with them the floors (rule.go).

// applier applies groups, one after the other. The committer owns it.
type applier struct {
	// Fixed after openSession.
	*catalog
	retention *retention
	turned    <-chan struct{} // one token: a group has become visible

	next    fanfare.Position // of the next event
	nextNum uint64           // of the next new channel
	tail    secondsTail
	waiting waiting

	firstWaits atomic.Int64  // of waiting, for others to see
	dueChanged chan struct{} // one token: firstWaits has changed
}

// apply numbers the group's events and hands the group to the WAL. It does not wait for the disk.
func (a *applier) apply(g *group) error {
	w := groupWriter{applier: a, group: g, terms: g.terms, b: a.db.NewBatch(), first: a.next}
	nextNum := a.nextNum
	if err := w.publishDue(); err != nil {
		return err
	}
	for _, r := range g.requests {
		if err := w.request(r); err != nil {
			return err
		}
	}
	if err := w.finish(nextNum); err != nil {
		return err
	}
	g.last = a.next - 1
	if !w.b.Empty() || w.phases {
		if err := w.commit(); err != nil {
			return err
		}
	}
	return w.release()
}

// finish adds the keys that follow from all requests together.
func (w *groupWriter) finish(nextNum uint64) error {
	if w.next > w.first {
		if err := w.writeIndex(); err != nil {
			return err
		}
		if err := w.tick(w.first); err != nil {
			return err
		}
		last := binary.BigEndian.AppendUint64(nil, uint64(w.next)-1)
		if err := w.b.Set(keyOf(keyRun, uint64(w.runs.first)), last, nil); err != nil {
			return err
		}
	}
	if w.nextNum != nextNum {
		if err := w.b.Set([]byte{keyNext}, binary.BigEndian.AppendUint64(nil, w.nextNum), nil); err != nil {
			return err
		}
	}
	if err := w.writeWaiting(); err != nil {
		return err
	}
	return w.writeFloors()
}

// commit hands the batch to the WAL, with the time of the group.
func (w *groupWriter) commit() error {
	if err := saveClock(w.b, w.at, w.phases); err != nil {
		return err
	}
	w.log.upkeep.room.spend(w.b.Len())
	w.group.batch, w.group.handed = w.b, time.Now()
	err := w.db.ApplyNoSyncWait(w.b, pebble.Sync)
	w.newest.Store(w.nextNum)
	return err
}

// release ends the hold on the channels that the group has forgotten, and closes an empty batch.
func (w *groupWriter) release() error {
	for _, st := range w.folded {
		st.inFlight.Add(-1)
		w.channels.drop(st)
	}
	if w.moved {
		w.showWaiting()
	}
	if w.group.batch == nil {
		return w.b.Close()
	}
	return nil
}

// groupWriter builds one group's batch.
type groupWriter struct {
	*applier
	terms
	group  *group
	b      *pebble.Batch
	first  fanfare.Position                   // of the group's events, if it has any
	came   map[fanfare.ScheduledID]*scheduled // scheduled in this group; nil: canceled, too
	moved  bool                               // waiting is not what is stored
	floors []*liveRule                        // raised in this group
	folded []*channelState                    // in this group; held until the batch is in the store
	used   map[[16]byte]used                  // idempotency keys of this group, which are not yet in the store
	index  []indexEntry                       // of the group's events
	key    []byte                             // scratch
	value  []byte                             // scratch
}

// request adds one request to the batch, or finds that it needs no key. An error is the store's; an
// error of the request goes into r.err.
func (w *groupWriter) request(r *request) error {
	b := r.batch
	switch {
	case r.command != nil:
		return r.command.apply(w)
	case b.Scheduled():
		return w.schedule(r)
	}
	if b.Key.Text != "" || b.Keys != nil {
		refused, err := w.keyedRequest(r)
		if err != nil || refused {
			return err
		}
	} else if len(b.Events) == 0 && len(b.Later)+len(b.Cancel) > 0 {
		r.err = fanfare.Invalid("a batch that schedules or cancels events has an event of its own")
		return nil
	} else if len(b.Events) > 0 {
		if met, err := w.conditions(r, nil); err != nil || !met {
			return err
		}
		first := w.next
		for i := range b.Events {
			if err := w.event(&b.Events[i], w.expiry(b, i)); err != nil {
				return err
			}
		}
		r.setPositions(first, len(b.Events))
		if err := w.companions(b, first); err != nil {
			return err
		}
	}
	for i := range b.Keep {
		if err := w.keep(&b.Keep[i]); err != nil {
			return err
		}
	}
	return nil
}

// keep adds a kept position. Its age counts from the group's guarded time.
func (w *groupWriter) keep(k *fanfare.Kept) error {
	w.key = append(append(w.key[:0], keyKept), k.Name...)
	if k.Forget {
		return w.b.Delete(w.key, nil)
	}
	stored := kept{Kept: *k, storedMs: w.at.guarded}
	if k.Time.IsZero() {
		stored.Time = time.UnixMilli(w.at.wall)
	}
	if stored.Expires = w.onTime(k.Expires); k.Expires.IsZero() {
		stored.Expires = time.UnixMilli(w.at.guarded).Add(k.Lifetime)
	}
	w.value = stored.append(w.value[:0])
	return w.b.Set(w.key, w.value, nil)
}

// event numbers one event, and adds it and its index entry. The event expires at a due time; 0
// means never.
func (w *groupWriter) event(e *fanfare.Event, expires int64) error {
	st, err := w.channelForCommit(e.Channel)
	if err != nil {
		return err
	}
	num := st.num.Load()
	if num == 0 {
		if num, err = w.newChannel(st); err != nil {
			return err
		}
	}
	pos, seq := w.next, st.nextSeq
	w.next++
	st.nextSeq++
	st.nextBytes += uint64(len(e.Data))
	st.newest, st.newestMs, st.newestExpires = pos, w.at.wall, expires
	st.holed = st.holed || expires > 0
	w.outgrown(st, pos)
	w.key = appendKey(w.key[:0], keyEvent, uint64(pos))
	w.value = appendEvent(w.value[:0], num, seq, w.at.wall, expires, e)
	if err := w.b.Set(w.key, w.value, nil); err != nil {
		return err
	}
	w.index = append(w.index, indexEntry{num, pos, seq, st.nextBytes, len(w.group.events), st.holed})
	e.Position, e.Time = pos, time.UnixMilli(w.at.wall).UTC()
	if expires > 0 {
		e.Expires = time.UnixMilli(expires).UTC()
		if err := w.b.Set(keyOf(keyExpiry, uint64(expires), num, uint64(pos)), nil, nil); err != nil {
			return err
		}
	}
	w.group.events = append(w.group.events, *e)
	w.group.states = append(w.group.states, st)
	return nil
}

// indexEntry is an event in its channel's index.
type indexEntry struct {
	num   uint64
	pos   fanfare.Position
	seq   uint64
	bytes uint64
	event int  // in group.events
	holed bool // see entry
}

// writeIndex adds the index entries of the group's events, channel by channel: the store finds the
// place of a key faster when it is next to that of the key before.
func (w *groupWriter) writeIndex() error {
	slices.SortFunc(w.index,
		func(a, b indexEntry) int { return cmp.Or(cmp.Compare(a.num, b.num), cmp.Compare(a.pos, b.pos)) })
	for _, e := range w.index {
		w.key = appendKey(w.key[:0], keyIndex, e.num, uint64(e.pos))
		full := entry{pos: e.pos, seq: e.seq, ms: w.at.wall, bytes: e.bytes, holed: e.holed}
		if e.holed {
			of := &w.group.events[e.event]
			full.size = uint64(len(of.Data))
			if !of.Expires.IsZero() {
				full.expires = of.Expires.UnixMilli()
			}
		}
		w.value = appendEntry(w.value[:0], full)
		if err := w.b.Set(w.key, w.value, nil); err != nil {
			return err
		}
	}
	return nil
}

// newChannel numbers a channel. Earlier events of the channel may have been removed and forgotten,
// so its first trim mark is the floor of its rule.
func (w *groupWriter) newChannel(st *channelState) (uint64, error) {
	num := w.nextNum
	w.nextNum++
	if err := w.b.Set(textKey(keyChannel, st.name.String()), binary.BigEndian.AppendUint64(nil, num), nil); err != nil {
		return 0, err
	}
	if err := w.b.Set(keyOf(keyName, num), []byte(st.name.String()), nil); err != nil {
		return 0, err
	}
	if floor := w.floorOf(st.name); floor > 0 {
		mark := entry{pos: floor}
		if err := w.b.Set(keyOf(keyMark, num), appendMark(nil, mark), nil); err != nil {
			return 0, err
		}
		st.mu.Lock()
		st.mark, st.stored, st.known = mark, floor, false
		st.mu.Unlock()
	}
	st.num.Store(num)
	return num, nil
}
