package pebblelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// A scheduled event is stored under its id, and listed in the order of the due times. Apply
// publishes it: each group starts with the events that are due by the group's time. When no group
// comes, dueLoop proposes an empty one. So scheduled events cost no memory, and no reader sees
// them; the log holds only the time of the first one, their number, and their bytes (waiting).
//
// The idempotency key of a scheduled event is not forgotten while the event waits. When the event
// is published or canceled, the key is remembered for ten minutes more.

// scheduled is a scheduled event as it is stored.
type scheduled struct {
	at    int64            // due time when it is published
	ttl   int64            // milliseconds from then until it expires; 0: never
	with  fanfare.Position // the first event that it was stored with; 0: none
	key   string           // hash of its idempotency key; empty: it has none
	event fanfare.Event
}

func (s *scheduled) append(dst []byte) []byte {
	for _, n := range []uint64{uint64(s.at), uint64(s.ttl), uint64(s.with)} {
		dst = binary.AppendUvarint(dst, n)
	}
	for _, text := range []string{s.key, s.event.Channel.String(), typeAndTrace(&s.event)} {
		dst = append(binary.AppendUvarint(dst, uint64(len(text))), text...)
	}
	return append(dst, s.event.Data...)
}

func readScheduled(value []byte) (*scheduled, error) {
	f := fields{b: value}
	s := &scheduled{at: int64(f.number()), ttl: int64(f.number()), with: fanfare.Position(f.number())}
	s.key = string(f.bytes(f.number()))
	name, kind := string(f.bytes(f.number())), string(f.bytes(f.number()))
	s.event.Data = string(f.b)
	kind, s.event.Trace, _ = strings.Cut(kind, traceMark)
	var errs [2]error
	s.event.Channel, errs[0] = fanfare.ParseChannel(name)
	s.event.Type, errs[1] = fanfare.ParseEventType(kind)
	if f.err != nil || errors.Join(errs[:]...) != nil || (s.key != "" && len(s.key) != 16) {
		return nil, errCorrupt
	}
	return s, nil
}

func (s *scheduled) bytes() uint64 {
	return uint64(len(s.event.Data) + len(s.event.Channel.String()) + scheduledOverhead)
}

// scheduledOverhead is the number of bytes that a scheduled event takes on disk besides its data
// and its channel's name.
const scheduledOverhead = 64

func (s *scheduled) public(id fanfare.ScheduledID) fanfare.ScheduledEvent {
	return fanfare.ScheduledEvent{ID: id, DeliverAt: time.UnixMilli(s.at).UTC(),
		TTL: time.Duration(s.ttl) * time.Millisecond, With: s.with, Event: s.event}
}

// waiting is the figures of the scheduled events that apply needs without reading them. The
// committer owns it.
type waiting struct {
	highest      uint64 // id that was given
	count, bytes uint64
	// No scheduled event stands before this one. Searches begin here, and not among what has been
	// published, which the store may not have forgotten yet.
	first place
}

// place is where a scheduled event stands among the others.
type place struct {
	at int64 // due time; notDue when there is none
	id uint64
}

const notDue = int64(1) << 62

func (p place) before(other place) bool {
	return p.at < other.at || (p.at == other.at && p.id < other.id)
}
func (p place) key() []byte { return keyOf(keyDue, uint64(p.at), p.id) }

func readPlace(key []byte) (place, error) {
	if len(key) != 17 {
		return place{}, errCorrupt
	}
	return place{int64(lastNumber(key[:9])), lastNumber(key)}, nil
}

func (w *waiting) append(dst []byte) []byte {
	for _, n := range []uint64{w.highest, w.count, w.bytes, uint64(w.first.at), w.first.id} {
		dst = binary.AppendUvarint(dst, n)
	}
	return dst
}

func readWaiting(value []byte) (w waiting, err error) {
	f := fields{b: value}
	w.highest, w.count, w.bytes = f.number(), f.number(), f.number()
	w.first = place{int64(f.number()), f.number()}
	return w, f.err
}

// loadWaiting reads the figures of the scheduled events when the store is opened.
func (s *session) loadWaiting() error {
	a := &s.committer.applier
	a.waiting.first.at = notDue
	value, closer, err := s.db.Get([]byte{keyHighest})
	if isNotFound(err) {
		a.showWaiting()
		return nil
	}
	if err != nil {
		return err
	}
	a.waiting, err = readWaiting(value)
	if err = errors.Join(err, closer.Close()); err != nil {
		return err
	}
	s.log.ids.Store(a.waiting.highest)
	a.showWaiting()
	return nil
}

// showWaiting shows the figures to the statistics and to dueLoop.
func (a *applier) showWaiting() {
	a.log.stats.scheduled.Store(a.waiting.count)
	a.log.stats.scheduledBytes.Store(a.waiting.bytes)
	a.firstWaits.Store(a.waiting.first.at)
	select {
	case a.dueChanged <- struct{}{}:
	default:
	}
}

// writeWaiting stores the figures, if the group has changed them.
func (w *groupWriter) writeWaiting() error {
	w.group.ids = fanfare.ScheduledID(w.waiting.highest)
	if !w.moved {
		return nil
	}
	return w.b.Set([]byte{keyHighest}, w.waiting.append(nil), nil)
}

// schedule stores the event of a request for later, or finds that it was scheduled before.
func (w *groupWriter) schedule(r *request) error {
	b := r.batch
	if len(b.Events) != 1 || b.If != nil || b.Keep != nil {
		r.err = fanfare.Invalid("deliverAt is for one event, without a condition")
		return nil
	}
	key := b.Key
	if b.Keys != nil {
		key = b.Keys[0]
	}
	if key.Text != "" {
		u, err := w.lookUp(keyHash(key))
		switch {
		case err != nil:
			return err
		case u != nil && (u.fingerprint != key.Fingerprint || !u.scheduled()):
			r.err = conflict(key)
			return nil
		case u != nil:
			w.log.stats.replayedKeys.Add(1)
			r.receipt = fanfare.Receipt{Replayed: true, Note: u.note, Scheduled: fanfare.ScheduledID(u.first),
				DeliverAt: time.UnixMilli(u.due).UTC()}
			return nil
		}
	}
	s := &scheduled{at: b.DeliverAt.UnixMilli(), event: b.Events[0]}
	if b.DeliverAt.IsZero() {
		s.at = w.at.due + b.DeliverIn.Milliseconds()
	}
	if b.TTL != nil {
		s.ttl = b.TTL[0].Milliseconds()
	}
	if r.err = w.roomFor(s.bytes() + laterBytes(b)); r.err != nil {
		return nil
	}
	if taken, err := w.taken(b, nil); err != nil || taken {
		r.err = errTaken
		return err
	}
	// The time is in the id, so that a log that was restored from a backup does not give ids again
	// that were given after the backup.
	id := max(w.waiting.highest+1, uint64(w.at.due)*perMillisecond)
	for i := range b.Later {
		id = max(id, uint64(b.Later[i].ID)+1)
	}
	r.receipt = fanfare.Receipt{Scheduled: fanfare.ScheduledID(id), DeliverAt: time.UnixMilli(s.at).UTC()}
	if key.Text != "" {
		hash := keyHash(key)
		s.key = string(hash[:])
		u := used{ms: neverForgotten, fingerprint: key.Fingerprint, first: fanfare.Position(id), note: key.Note,
			due: s.at}
		if err := w.putUsed(hash, u); err != nil {
			return err
		}
	}
	return errors.Join(w.addWaiting(id, s), w.companions(b, 0))
}

// parting holds the scheduled events that apply has removed while that is not durable: until then
// they are seen (P1), so that whoever looks sees an event either here or on its channel.
type parting struct {
	mu   sync.Mutex
	byID map[fanfare.ScheduledID]*scheduled
}

func (l *parting) add(id fanfare.ScheduledID, s *scheduled) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byID == nil {
		l.byID = map[fanfare.ScheduledID]*scheduled{}
	}
	l.byID[id] = s
}

func (l *parting) find(id fanfare.ScheduledID) *scheduled {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byID[id]
}

func (l *parting) gone(ids []fanfare.ScheduledID) {
	if len(ids) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		delete(l.byID, id)
	}
	if len(l.byID) == 0 {
		l.byID = nil
	}
}

// roomFor refuses more scheduled events than there is room for.
func (w *groupWriter) roomFor(bytes uint64) error {
	if w.waiting.bytes+bytes <= w.mostWaiting {
		return nil
	}
	return &fanfare.Error{Code: fanfare.CodeOverloaded, RetryAfter: time.Minute,
		Setting: fanfare.SettingMaxScheduledBytes,
		Detail: fmt.Sprintf("%d events, of %d bytes, wait to be published, the limit is %d bytes",
			w.waiting.count, w.waiting.bytes, w.mostWaiting)}
}

// laterBytes is what the events of Batch.Later count for.
func laterBytes(b *fanfare.Batch) (bytes uint64) {
	for i := range b.Later {
		bytes += (&scheduled{event: b.Later[i].Event}).bytes()
	}
	return bytes
}

// roomForLater is roomFor for the events of Batch.Later. A batch of which nothing will be stored,
// because its keys are known (again), needs no room.
func (w *groupWriter) roomForLater(b *fanfare.Batch, again func(int) bool) error {
	bytes := laterBytes(b)
	stores := bytes > 0 && again == nil
	for i := range b.Events {
		stores = stores || (bytes > 0 && !again(i))
	}
	if !stores {
		return nil
	}
	return w.roomFor(bytes)
}

// addWaiting adds a scheduled event.
func (w *groupWriter) addWaiting(id uint64, s *scheduled) error {
	w.waiting.highest = max(w.waiting.highest, id)
	w.waiting.count++
	w.waiting.bytes += s.bytes()
	at := place{s.at, id}
	if at.before(w.waiting.first) {
		w.waiting.first = at
	}
	w.noteCame(fanfare.ScheduledID(id), s)
	return errors.Join(w.b.Set(keyOf(keyWaiting, id), s.append(nil), nil), w.b.Set(at.key(), nil, nil),
		w.b.Set(waitsIn(s.event.Channel, id), nil, nil))
}

func waitsIn(c fanfare.Channel, id uint64) []byte {
	return binary.BigEndian.AppendUint64(append(textKey(keyWaitsIn, c.String()), 0), id)
}

var errTaken = fanfare.Invalid("Batch.Later has an id that is not new")

// taken tells whether an event is scheduled under an id of Batch.Later, or whether the id is none:
// two events under one id would never be published, and no group after them. A batch that will not
// be stored, because all its keys are known, takes no id.
func (w *groupWriter) taken(b *fanfare.Batch, again func(int) bool) (bool, error) {
	stored := again == nil
	for i := 0; i < len(b.Events) && !stored; i++ {
		stored = !again(i)
	}
	for i, l := range b.Later {
		if !stored {
			break
		}
		same := func(other fanfare.Later) bool { return other.ID == l.ID }
		if l.ID == 0 || uint64(l.ID) >= 1<<63 || slices.ContainsFunc(b.Later[:i], same) {
			return true, nil
		}
		s, known := w.came[l.ID]
		if !known {
			var err error
			if s, err = w.loadScheduled(l.ID); err != nil && !isNotFound(err) {
				return false, err
			}
		}
		if s != nil {
			return true, nil
		}
	}
	return false, nil
}

// companions schedules and cancels what a batch that has just been stored brings along.
func (w *groupWriter) companions(b *fanfare.Batch, first fanfare.Position) error {
	for _, l := range b.Later {
		s := &scheduled{at: max(l.At.UnixMilli(), 1), with: first, event: l.Event}
		if err := w.addWaiting(uint64(l.ID), s); err != nil {
			return err
		}
	}
	for _, id := range b.Cancel {
		if err := (cancelScheduled{id, new(bool)}).apply(w); err != nil {
			return err
		}
	}
	return nil
}

// noteCame remembers a change of the group that is not in the store yet.
func (w *groupWriter) noteCame(id fanfare.ScheduledID, s *scheduled) {
	if w.came == nil {
		w.came = map[fanfare.ScheduledID]*scheduled{}
	}
	w.came[id], w.moved = s, true
}

// removeWaiting removes a scheduled event, which has been published or canceled.
func (w *groupWriter) removeWaiting(id fanfare.ScheduledID, s *scheduled) error {
	w.waiting.count--
	w.waiting.bytes -= min(s.bytes(), w.waiting.bytes)
	w.noteCame(id, nil)
	w.parting.add(id, s)
	w.group.left = append(w.group.left, id)
	if err := errors.Join(w.b.SingleDelete(keyOf(keyWaiting, uint64(id)), nil),
		w.b.SingleDelete(place{s.at, uint64(id)}.key(), nil),
		w.b.SingleDelete(waitsIn(s.event.Channel, uint64(id)), nil)); err != nil || s.key == "" {
		return err
	}
	hash := [16]byte([]byte(s.key))
	u, ok := w.used[hash]
	if !ok {
		value, closer, err := w.db.Get(usedKey(hash))
		if isNotFound(err) {
			return nil // an import brings no keys
		}
		if err != nil {
			return fmt.Errorf("key of scheduled event %v: %w", id, err)
		}
		u, err = readUsed(value)
		if err = errors.Join(err, closer.Close()); err != nil {
			return err
		}
	}
	u.ms = w.at.log
	return w.putUsed(hash, u)
}

// The most events, and bytes, that are published in one group; the others are published in the next
// one.
const (
	dueMost      = 1000
	dueMostBytes = maxGroupBytes
)

// lateAfter is the delay after which a published event counts as late.
const lateAfter = time.Second

// publishDue publishes the scheduled events that are due, before the requests of the group.
func (w *groupWriter) publishDue() error {
	if w.waiting.first.at > w.at.due {
		return nil
	}
	it, err := w.db.NewIter(between(w.waiting.first.key(), []byte{keyDue + 1}))
	if err != nil {
		return err
	}
	defer it.Close()
	n, bytes := 0, uint64(0)
	w.waiting.first, w.moved = place{at: notDue}, true
	for ok := it.First(); ok; ok = it.Next() {
		at, err := readPlace(it.Key())
		if err != nil {
			return err
		}
		if at.at > w.at.due || n == dueMost || bytes >= dueMostBytes {
			w.waiting.first = at
			break
		}
		id := fanfare.ScheduledID(at.id)
		s, err := w.loadScheduled(id)
		if err != nil {
			return err
		}
		n++
		bytes += s.bytes()
		if err := errors.Join(w.publishOne(s), w.removeWaiting(id, s)); err != nil {
			return err
		}
	}
	return it.Error()
}

// publishOne publishes a scheduled event, unless it has expired already.
func (w *groupWriter) publishOne(s *scheduled) error {
	expires := int64(0)
	if s.ttl > 0 {
		if expires = s.at + s.ttl; expires <= w.at.due {
			w.log.stats.expired.Add(1)
			return nil
		}
	}
	w.log.stats.fellDue.Add(1)
	if w.at.due-s.at > lateAfter.Milliseconds() {
		w.log.stats.late.Add(1)
	}
	return w.event(&s.event, expires)
}

// loadScheduled reads a scheduled event from the store.
func (c *catalog) loadScheduled(id fanfare.ScheduledID) (*scheduled, error) {
	value, closer, err := c.db.Get(keyOf(keyWaiting, uint64(id)))
	if err != nil {
		return nil, fmt.Errorf("scheduled event %v: %w", id, err)
	}
	s, err := readScheduled(value)
	if err = errors.Join(err, closer.Close()); err != nil {
		return nil, fmt.Errorf("scheduled event %v: %w", id, err)
	}
	return s, nil
}

// cancelScheduled cancels a scheduled event. It is used for one request.
type cancelScheduled struct {
	id    fanfare.ScheduledID
	found *bool
}

func (c cancelScheduled) apply(w *groupWriter) error {
	s, known := w.came[c.id]
	if !known {
		var err error
		if s, err = w.loadScheduled(c.id); isNotFound(err) {
			return nil
		} else if err != nil {
			return err
		}
	}
	if s == nil {
		return nil
	}
	*c.found = true
	return w.removeWaiting(c.id, s)
}

// fallDue does nothing; but its group starts with the events that are due.
type fallDue struct{ barrier }

// dueLoop proposes a group when a scheduled event is due.
func (s *session) dueLoop() {
	a := &s.committer.applier
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		pause := time.Hour
		if first := a.firstWaits.Load(); first != notDue {
			// The clock may be set at any time, and timers do not run while a machine sleeps.
			pause = min(time.Duration(first-s.log.order.now().due)*time.Millisecond, time.Second)
		}
		if pause <= 0 {
			pause = time.Millisecond
			if s.log.command(fallDue{}) != nil {
				pause = time.Second // publishes are refused at present
			}
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-a.dueChanged:
		case <-s.dead:
			return
		case <-s.log.stop:
			return
		}
	}
}
