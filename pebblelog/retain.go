package pebblelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// Retention has three steps. A channel's trim mark moves as soon as anybody looks at the channel, and readers clip there. The
// sweep deletes what is clipped, a batch at a time. A channel that has become empty is forgotten: its mark folds into the
// floor of its rule.

// bounds is what retention needs to know to judge an event, but for its channel.
type bounds struct {
	floor fanfare.Position // everything up to here is gone, whatever its channel
	at    moment
}

// bounds judge events that were durable before it was called: those that came since may be of a phase that it does not know.
func (s *session) bounds() bounds {
	return bounds{floor: fanfare.Position(s.floor.Load()), at: s.now()}
}

// old tells whether a rule's age has passed since an event was stored.
func (b bounds) old(e entry, r fanfare.Rule) bool {
	return r.Age > 0 && b.at.stored(e.pos, e.ms) < b.at.cut(r.Age.Milliseconds())
}

// extent is a channel's newest event, by its count and its bytes.
type extent struct{ seq, bytes uint64 }

// findMark walks a channel's entries from a trim mark on, and returns the mark that a rule asks for, and the first event that
// is retained, if there is one.
func (s *session) findMark(num uint64, r fanfare.Rule, mark entry, last extent, b bounds) (newMark, oldest entry, found bool, err error) {
	cut := int64(-1 << 62)
	if r.Age > 0 {
		cut = b.at.cut(r.Age.Milliseconds())
		before, err := s.before(cut)
		if err != nil {
			return mark, oldest, false, err
		}
		b.floor = max(b.floor, before)
	}
	durable := fanfare.Position(s.log.durable.Load())
	lower, upper := indexBounds(num, mark.pos, durable)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return mark, oldest, false, err
	}
	defer it.Close()
	ok := false
	if b.floor > mark.pos && it.SeekLT(keyOf(keyIndex, num, uint64(b.floor)+1)) { // not one by one: there may be millions
		if mark, err = readEntry(it.Key(), it.Value()); err != nil {
			return mark, oldest, false, err
		}
		ok = it.Next()
	} else {
		ok = it.First()
	}
	for ; ok; ok = it.Next() {
		e, err := readEntry(it.Key(), it.Value())
		if err != nil {
			return mark, oldest, false, err
		}
		if e.seq > last.seq {
			break // durable since last was read
		}
		switch {
		case b.at.stored(e.pos, e.ms) < cut:
		case r.Count > 0 && last.seq-e.seq >= uint64(r.Count):
		case r.Bytes > 0 && e.seq != last.seq && sizeBetween(mark.bytes, last.bytes) > uint64(r.Bytes):
		default:
			return mark, e, true, it.Error()
		}
		mark = e
	}
	return mark, oldest, false, it.Error()
}

// sizeBetween is how many bytes of data lie between two sums. Entries of format 1 have none and count as nothing.
func sizeBetween(from, to uint64) uint64 {
	if from > to {
		return 0
	}
	return to - from
}

// trimMark moves the channel's trim mark past all that its rule no longer retains, and returns it. Readers clip there at
// once; the sweep deletes later.
func (s *session) trimMark(st *channelState) (fanfare.Position, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if set := s.rules.Load(); st.set != set {
		st.set, st.rule, st.known = set, set.of(st.name), false
	}
	last := extent{st.lastSeq.Load(), st.lastBytes.Load()}
	b := s.bounds()
	if r := st.rule; st.known && st.oldest.pos > b.floor &&
		!b.old(st.oldest, r.Rule) &&
		(r.Count == 0 || last.seq-st.oldest.seq < uint64(r.Count)) &&
		(r.Bytes == 0 || st.oldest.seq == last.seq || sizeBetween(st.mark.bytes, last.bytes) <= uint64(r.Bytes)) {
		return st.mark.pos, nil
	}
	mark, oldest, found, err := s.findMark(st.num.Load(), st.rule.Rule, st.mark, last, b)
	if err != nil {
		return 0, err
	}
	st.mark, st.oldest, st.known = mark, oldest, found
	if raise(&st.rule.high, mark.pos); s.rules.Load() != st.set {
		s.raiseHigh(st.name, mark.pos)
	}
	return mark.pos, nil
}

// floorOf is below what events of a channel may be missing of which nothing is stored.
func (s *session) floorOf(c fanfare.Channel) fanfare.Position {
	return fanfare.Position(s.rules.Load().of(c).floor.Load())
}

const (
	limitInterval = time.Second
	limitPause    = 10 * time.Millisecond
	sweepShare    = 20 // a sweep that finds little to do may take one part in so many of the time
)

// sweepLoop deletes, in batches, what retention has clipped.
func (l *Log) sweepLoop() {
	pause := l.opts.TrimInterval
	for l.wait(pause, l.sweepNow) {
		began, trimmed := time.Now(), l.stats.trimmed.Load()
		looked := 0
		l.retain(func(s *session) (err error) {
			looked, err = s.sweep()
			return err
		})
		l.storeClock()
		pause = sweepPause(l.opts.TrimInterval, time.Since(began), looked, l.stats.trimmed.Load()-trimmed)
	}
}

// sweepPause is longer after a sweep that mostly looked, and not after one that deleted.
func sweepPause(least, took time.Duration, looked int, trimmed uint64) time.Duration {
	if trimmed >= uint64(looked)/4 {
		return least
	}
	return max(least, sweepShare*took)
}

// limitLoop keeps the log within its size.
func (l *Log) limitLoop() {
	for l.wait(min(limitInterval, l.opts.TrimInterval), l.tooLarge) {
		l.retain((*session).keepSize)
		if !l.wait(limitPause, nil) {
			return
		}
	}
}

// measureLoop measures the files once a second, and every limitPause while there is little room. It looks at the disk too: so
// an idle log on a full disk gives back what it has set aside, says that it cannot store before anybody publishes, and takes
// publishes again by itself.
func (l *Log) measureLoop() {
	for l.wait(limitInterval, l.room.short) {
		_ = l.checkFree()
		if used, most := l.measure(), l.maxBytes.Load(); most > 0 && used > most {
			select {
			case l.tooLarge <- struct{}{}:
			default:
			}
		}
		if !l.wait(limitPause, nil) {
			return
		}
	}
}

// sweepSoon has the sweep begin at once.
func (l *Log) sweepSoon() {
	select {
	case l.sweepNow <- struct{}{}:
	default:
	}
}

// wait waits for so long, or until it is called early; false when the log closes.
func (l *Log) wait(d time.Duration, early <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-early:
		return true
	case <-l.stop:
		return false
	}
}

func (l *Log) retain(work func(*session) error) {
	stop := stopContext{l.stop}
	err := l.read(stop, work)
	if err != nil && !errors.Is(err, errStopped) && stop.Err() == nil && l.Status().Err == nil {
		l.opts.Logger.Warn("retention could not delete", slog.Any("err", err))
	}
}

// sweep deletes what retention has clipped: first what is gone whatever its channel, then channel by channel.
// It returns how many channels it has looked at.
func (s *session) sweep() (looked int, err error) {
	unswept := s.unswept.Load()
	b := s.bounds()
	if all := s.rules.Load().all; all > 0 {
		before, err := s.before(b.at.cut(all.Milliseconds()))
		if err != nil {
			return 0, err
		}
		b.floor = max(b.floor, before)
	}
	if err := s.deletePrefix(b.floor); err != nil {
		return 0, err
	}
	if err := s.thinSeconds(b.at); err != nil {
		return 0, err
	}
	s.log.clock.prune(fanfare.Position(s.sweptFloor.Load()))
	w, set := sweeper{session: s, bounds: s.bounds()}, s.rules.Load()
	if err := w.channels(); err != nil {
		return w.looked, err
	}
	if err := w.fold(); err != nil {
		return w.looked, err
	}
	s.unswept.Add(-unswept)
	set.swept.Store(true)
	return w.looked, nil
}

// deletePrefix deletes all events up to a position. Their index entries follow, channel by channel: what the index names and
// the log no longer holds is taken for trimmed, also after a crash, because the floor is stored with the deletion.
func (s *session) deletePrefix(floor fanfare.Position) error {
	s.prefix.Lock()
	defer s.prefix.Unlock()
	swept := fanfare.Position(s.sweptFloor.Load())
	if floor <= swept {
		return nil
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: keyOf(keyEvent, uint64(swept)), UpperBound: keyOf(keyEvent, uint64(floor)+1)})
	if err != nil {
		return err
	}
	some := it.First()
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return err
	}
	b := s.db.NewBatch()
	defer b.Close()
	if some {
		// The range begins before the first event: Pebble removes a table unread only when one deletion covers all of it.
		if err := b.DeleteRange(keyOf(keyEvent), keyOf(keyEvent, uint64(floor)+1), nil); err != nil {
			return err
		}
	}
	if err := b.Set([]byte{keyGone}, binary.AppendUvarint(nil, uint64(floor)), nil); err != nil {
		return err
	}
	if err := s.forgetSeconds(b, floor); err != nil {
		return err
	}
	raise(&s.floor, floor)
	if err := s.db.Apply(b, pebble.NoSync); err != nil {
		return err
	}
	s.fs.dropped()
	s.sweptFloor.Store(uint64(floor))
	return nil
}

// sweeper goes through all channels once.
type sweeper struct {
	*session
	bounds  bounds
	names   *pebble.Iterator
	index   *pebble.Iterator
	empties []emptied
	looked  int
}

func (w *sweeper) channels() error {
	var err error
	if w.names, err = w.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyName}, UpperBound: []byte{keyName + 1}}); err != nil {
		return err
	}
	defer w.names.Close()
	if w.index, err = w.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyIndex}, UpperBound: []byte{keyIndex + 1}}); err != nil {
		return err
	}
	defer w.index.Close()
	for ok := w.names.First(); ok; ok = w.names.Next() {
		select {
		case <-w.log.stop:
			return errStopped
		case <-w.dead:
			return errStopped
		default:
		}
		w.looked++
		name, err := fanfare.ParseChannel(string(w.names.Value()))
		if err != nil {
			return errCorrupt
		}
		if err := w.channel(lastNumber(w.names.Key()), name); err != nil {
			return fmt.Errorf("channel %s: %w", name, err)
		}
	}
	return w.names.Error()
}

// channel deletes what is clipped of one channel. It does not load the channel's state when there is nothing to do, which
// is so for most channels most of the time.
func (w *sweeper) channel(num uint64, name fanfare.Channel) error {
	rule := w.rules.Load().of(name)
	if w.index.SeekGE(keyOf(keyIndex, num)) && channelOfIndex(w.index.Key()) == num {
		first, err := readEntry(w.index.Key(), w.index.Value())
		if err != nil {
			return err
		}
		clean := first.pos > w.bounds.floor && !w.bounds.old(first, rule.Rule)
		if clean && (rule.Count > 0 || rule.Bytes > 0) {
			if clean, err = w.withinLimits(num, rule.Rule, first); err != nil {
				return err
			}
		}
		if clean {
			return nil
		}
	} else if err := w.index.Error(); err != nil {
		return err
	}
	st, err := w.session.channel(name)
	if err != nil || st == nil || st.num.Load() != num {
		return err // numbered, but not durable yet
	}
	return w.deleteTrimmed(st)
}

func (w *sweeper) withinLimits(num uint64, r fanfare.Rule, first entry) (bool, error) {
	if !w.index.SeekLT(keyOf(keyIndex, num+1)) {
		return true, w.index.Error()
	}
	last, err := readEntry(w.index.Key(), w.index.Value())
	if err != nil {
		return false, err
	}
	return (r.Count == 0 || last.seq-first.seq < uint64(r.Count)) &&
		(r.Bytes == 0 || sizeBetween(first.bytes, last.bytes) <= uint64(r.Bytes/2)), nil // the first's own size is not known here
}

const (
	deleteMost = 500 // events in one batch
	foldMost   = 500 // channels in one batch
)

// deleteTrimmed removes a channel's events up to its trim mark. The mark is stored with the first batch, and from then on
// says what was removed even when the channel is empty.
func (w *sweeper) deleteTrimmed(st *channelState) error {
	if _, err := w.trimMark(st); err != nil {
		return err
	}
	if err := w.deleteClipped(st); err != nil || len(w.empties) < foldMost {
		return err
	}
	return w.fold()
}

func (w *sweeper) deleteClipped(st *channelState) error {
	w.deleting.Lock()
	defer w.deleting.Unlock()
	st.mu.Lock()
	num, mark, stored, left := st.num.Load(), st.mark, st.stored, st.known
	st.mu.Unlock()
	if num == 0 {
		return nil // forgotten meanwhile
	}
	for stored < mark.pos {
		next, err := w.deleteSome(num, stored, mark)
		if err != nil {
			return err
		}
		stored = next
	}
	st.mu.Lock()
	st.stored = max(stored, st.stored)
	st.mu.Unlock()
	if !left && mark.seq > 0 && mark.seq == st.lastSeq.Load() && st.inFlight.Load() == 0 {
		w.empties = append(w.empties, emptied{st.name, mark.seq, mark.pos})
	}
	return nil
}

// deleteSome deletes the next batch of a channel's events, and returns up to where. Events and index entries are written
// once and never again, so a deletion may vanish together with what it deletes when the two meet (SingleDelete): an ordinary
// one would be carried to the lowest level.
func (s *session) deleteSome(num uint64, after fanfare.Position, mark entry) (fanfare.Position, error) {
	lower, upper := indexBounds(num, after, mark.pos)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return 0, err
	}
	defer it.Close()
	b := s.db.NewBatch()
	defer b.Close()
	if err := b.Set(keyOf(keyMark, num), appendMark(nil, mark), nil); err != nil {
		return 0, err
	}
	n, through, gone := 0, mark.pos, int64(0)
	average := int64(mark.bytes / max(mark.seq, 1))
	floor := fanfare.Position(s.sweptFloor.Load())
	for ok := it.First(); ok; ok = it.Next() {
		if n == deleteMost {
			break
		}
		pos := fanfare.Position(lastNumber(it.Key()))
		if pos > floor { // what lies below has been deleted at one go
			if err := b.SingleDelete(keyOf(keyEvent, uint64(pos)), nil); err != nil {
				return 0, err
			}
			gone += average + eventOverhead - indexBytes
			s.singly.Store(true)
		}
		if err := b.SingleDelete(append([]byte(nil), it.Key()...), nil); err != nil {
			return 0, err
		}
		gone += indexBytes
		through = pos
		n++
	}
	if n < deleteMost {
		through = mark.pos
	}
	if err := it.Error(); err != nil {
		return 0, err
	}
	if err := s.db.Apply(b, pebble.NoSync); err != nil {
		return 0, err
	}
	s.deleted.Add(gone)
	s.log.stats.trimmed.Add(uint64(n))
	return through, nil
}

// fold has the channels forgotten that were found empty.
func (w *sweeper) fold() error {
	empties := w.empties
	w.empties = nil
	if len(empties) == 0 {
		return nil
	}
	err := w.log.command(forgetChannels(empties))
	w.session.members.forget()
	return err
}
