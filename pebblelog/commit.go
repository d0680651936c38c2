package pebblelog

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// A group is bounded, so that one commit does not hold up what comes after it.
const (
	maxGroupBytes    = 4 << 20
	maxGroupRequests = 8192
)

// request is one Append on its way, or a piece of work that only the committer can do.
type request struct {
	batch   *fanfare.Batch
	work    func(*groupWriter) error // instead of batch
	done    func(fanfare.Receipt, error)
	bytes   int
	receipt fanfare.Receipt
	err     error
	one     [1]fanfare.Position // room for the commonest receipt
}

func batchBytes(b *fanfare.Batch) int {
	n := 64
	for i := range b.Events {
		n += len(b.Events[i].Data) + len(b.Events[i].Channel.String()) + 96
	}
	for i := range b.Keep {
		n += 64 + len(b.Keep[i].Value)
	}
	return n
}

// group is what one fsync makes durable.
type group struct {
	requests []*request
	events   []fanfare.Event
	states   []*channelState // of each event
	batch    *pebble.Batch   // nil when there is nothing to write
	applied  time.Time       // when it was handed to the WAL
	last     fanfare.Position
	bytes    int
	began    time.Time
	answered bool // guarded by Log.mu: the requests have been answered
}

// take waits for something in the queue and takes it as a group. It returns nil when the log closes or the session fails.
func (s *session) take() *group {
	l := s.log
	for {
		l.mu.Lock()
		if len(l.queue) > 0 && !s.isDead() {
			g := &group{began: time.Now()}
			n := 0
			for n < len(l.queue) && n < maxGroupRequests && (n == 0 || g.bytes+l.queue[n].bytes <= maxGroupBytes) {
				g.bytes += l.queue[n].bytes
				n++
			}
			g.requests = l.queue[:n:n]
			l.queue = l.queue[n:]
			if len(l.queue) == 0 {
				l.queue = nil
			}
			l.queueBytes -= g.bytes
			l.inflight = append(l.inflight, g)
			l.mu.Unlock()
			return g
		}
		closing := l.closing
		l.mu.Unlock()
		if closing {
			return nil
		}
		select {
		case <-l.wake:
		case <-s.dead:
			return nil
		case <-l.stop:
		}
	}
}

// commitLoop is the committer.
func (s *session) commitLoop() {
	defer close(s.written)
	for {
		select {
		case s.slots <- struct{}{}:
		case <-s.dead:
			return
		}
		s.awaitRoom()
		g := s.take()
		if g == nil {
			return
		}
		if err := s.log.checkFree(); err != nil {
			s.refuse(g, err)
			<-s.slots
			continue
		}
		s.log.board(g)
		if err := s.guard(func() error { return s.write(g) }); err != nil {
			s.fail(fmt.Errorf("commit: %w", err)) // which answers the group
			return
		}
		s.written <- g // has room: there are as many slots
	}
}

// refuse answers a group that is not stored.
func (s *session) refuse(g *group, err error) {
	for _, r := range g.requests {
		r.err = err
	}
	s.log.stats.refused.Add(uint64(len(g.requests)))
	s.answer(g)
}

// write numbers the group's events and puts all of it into the WAL, without waiting for the disk.
func (s *session) write(g *group) error {
	b := s.db.NewBatch()
	at, jumped := s.log.clock.group(s.next)
	w := groupWriter{session: s, group: g, b: b, at: at, ms: at.wall, oldMs: at.guarded, next: s.next, floors: map[*liveRule]struct{}{}}
	nextNum := s.nextNum
	if err := s.sweepKeys(&w); err != nil {
		return err
	}
	for _, r := range g.requests {
		if err := w.request(r); err != nil {
			return err
		}
	}
	if w.next > s.next {
		if err := w.writeIndex(); err != nil {
			return err
		}
		if err := w.tick(s.next); err != nil {
			return err
		}
		s.next = w.next
		if err := b.Set(keyOf(keyRun, uint64(s.first)), binary.BigEndian.AppendUint64(nil, uint64(s.next)-1), nil); err != nil {
			return err
		}
	}
	if s.nextNum != nextNum {
		if err := b.Set([]byte{keyNext}, binary.BigEndian.AppendUint64(nil, s.nextNum), nil); err != nil {
			return err
		}
	}
	if err := w.writeFloors(); err != nil {
		return err
	}
	g.last = s.next - 1
	if b.Empty() && !jumped {
		return b.Close()
	}
	if err := saveClock(b, at, jumped); err != nil {
		return err
	}
	s.log.room.spend(b.Len())
	g.batch, g.applied = b, time.Now()
	err := s.db.ApplyNoSyncWait(b, pebble.Sync)
	s.newest.Store(s.nextNum)
	for _, st := range w.folded {
		s.channels.drop(st)
	}
	return err
}

// inCommit has the committer do something in its next group, and waits until that is durable. It is refused as an Append is.
func (l *Log) inCommit(work func(*groupWriter) error) error {
	done := make(chan error, 1)
	l.enqueue(&request{batch: &fanfare.Batch{}, work: work, bytes: 64, done: func(_ fanfare.Receipt, err error) { done <- err }})
	return <-done
}

// groupWriter builds one group's batch.
type groupWriter struct {
	*session
	group  *group
	b      *pebble.Batch
	at     moment
	ms     int64 // wall time: what events are stamped with
	oldMs  int64 // guarded time: what kept positions expire by
	next   fanfare.Position
	floors map[*liveRule]struct{} // raised in this group
	folded []*channelState        // in this group
	used   map[[16]byte]used      // idempotency keys of this group, which are not yet in the store
	index  []indexEntry           // of the group's events
	key    []byte                 // scratch
	value  []byte                 // scratch
}

// request adds one request to the batch, or finds that it needs none. An error is the store's; what is wrong with the
// request goes into it.
func (w *groupWriter) request(r *request) error {
	b := r.batch
	if r.work != nil {
		return r.work(w)
	}
	if b.Key.Text != "" || b.Keys != nil {
		stored, err := w.keyedRequest(r)
		if err != nil || stored {
			return err
		}
	} else if len(b.Events) > 0 {
		first := w.next
		for i := range b.Events {
			if err := w.event(&b.Events[i]); err != nil {
				return err
			}
		}
		r.setPositions(first, len(b.Events))
	}
	for i := range b.Keep {
		if err := w.keep(&b.Keep[i]); err != nil {
			return err
		}
	}
	return nil
}

// keep adds a kept position. Its age is counted from now, by the clock that ages go by.
func (w *groupWriter) keep(k *fanfare.Kept) error {
	w.key = append(append(w.key[:0], keyKept), k.Name...)
	if k.Forget {
		return w.b.Delete(w.key, nil)
	}
	stored := kept{Kept: *k, storedMs: w.oldMs}
	if k.Time.IsZero() {
		stored.Time = time.UnixMilli(w.ms)
	}
	if stored.Expires = w.onTime(k.Expires); k.Expires.IsZero() {
		stored.Expires = time.UnixMilli(w.oldMs).Add(k.Lifetime)
	}
	w.value = stored.append(w.value[:0])
	return w.b.Set(w.key, w.value, nil)
}

func (r *request) setPositions(first fanfare.Position, n int) {
	positions := r.one[:0]
	if n > 1 {
		positions = make([]fanfare.Position, 0, n)
	}
	for i := range n {
		positions = append(positions, first+fanfare.Position(i))
	}
	r.receipt.Positions = positions
}

// event numbers one event and adds it and its index entry.
func (w *groupWriter) event(e *fanfare.Event) error {
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
	w.outgrown(st, pos)
	w.key = appendKey(w.key[:0], keyEvent, uint64(pos))
	w.value = appendEvent(w.value[:0], num, seq, w.ms, e)
	if err := w.b.Set(w.key, w.value, nil); err != nil {
		return err
	}
	w.index = append(w.index, indexEntry{num, pos, seq, st.nextBytes})
	e.Position, e.Time = pos, time.UnixMilli(w.ms).UTC()
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
}

// writeIndex adds the index entries of the group's events, channel by channel: the store finds the place of a key faster when it is
// next to that of the key before.
func (w *groupWriter) writeIndex() error {
	slices.SortFunc(w.index, func(a, b indexEntry) int { return cmp.Or(cmp.Compare(a.num, b.num), cmp.Compare(a.pos, b.pos)) })
	for _, e := range w.index {
		w.key = appendKey(w.key[:0], keyIndex, e.num, uint64(e.pos))
		w.value = appendEntry(w.value[:0], e.seq, w.ms, e.bytes)
		if err := w.b.Set(w.key, w.value, nil); err != nil {
			return err
		}
	}
	return nil
}

// newChannel numbers a channel. Events of the channel may have been removed and forgotten: its trim mark begins at the floor
// of its rule.
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

// publishLoop waits for each group's fsync, then makes it visible and answers: P1, in this order.
func (s *session) publishLoop() {
	for g := range s.written {
		if g.batch != nil {
			err := s.guard(g.batch.SyncWait)
			if err != nil {
				s.fail(fmt.Errorf("sync the log: %w", err))
				return
			}
			s.log.fsync.Observe(time.Since(g.applied))
			_ = g.batch.Close()
		}
		if !s.makeVisible(g) {
			return
		}
		s.answer(g)
		<-s.slots
	}
}

// makeVisible moves the durable position and tells the watchers; not when the session has failed meanwhile, because its
// successor will tell.
func (s *session) makeVisible(g *group) bool {
	l := s.log
	l.tell.Lock()
	defer l.tell.Unlock()
	if s.isDead() {
		return false
	}
	data := uint64(0)
	for i, st := range g.states {
		data += uint64(len(g.events[i].Data))
		st.lastBytes.Add(uint64(len(g.events[i].Data)))
		st.lastSeq.Add(1)
	}
	l.durable.Store(uint64(g.last))
	for _, st := range g.states {
		st.inFlight.Add(-1) // only now may the state be let go, and loaded again up to the durable position
	}
	l.stats.groups.Add(1)
	l.stats.events.Add(uint64(len(g.events)))
	l.stats.bytes.Add(data)
	if len(g.events) > 0 {
		for _, w := range l.watchers {
			w.w.Committed(g.events, g.last)
		}
	}
	return true
}

// answer calls the group's callbacks, unless somebody has answered for it.
func (s *session) answer(g *group) {
	l := s.log
	l.mu.Lock()
	for i, other := range l.inflight {
		if other == g {
			l.inflight = append(l.inflight[:i], l.inflight[i+1:]...)
			break
		}
	}
	answered := g.answered
	g.answered = true
	l.mu.Unlock()
	if answered {
		return
	}
	for _, r := range g.requests {
		if r.err != nil {
			r.done(fanfare.Receipt{}, r.err)
		} else {
			r.done(r.receipt, nil)
		}
	}
}
