package pebblelog

import (
	"crypto/sha256"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// keyHash returns the hash that a key is stored under.
func keyHash(k fanfare.Key) (h [16]byte) {
	sum := sha256.Sum256([]byte(k.Scope + "\x00" + k.Text))
	copy(h[:], sum[:])
	return h
}

func usedKey(hash [16]byte) []byte { return append([]byte{keyUsed}, hash[:]...) }

// keyedRequest stores the events of a request with idempotency keys, and skips those that were
// stored before. It returns true if the request is refused; then the caller must not store its kept
// positions.
func (w *groupWriter) keyedRequest(r *request) (refused bool, err error) {
	b := r.batch
	keys := b.Keys
	whole := b.Key.Text != ""
	if whole {
		keys = []fanfare.Key{b.Key}
	}
	// All keys are looked up before an event is stored, because one conflict refuses the whole
	// batch.
	earlier := make([]*used, len(keys))
	twin := map[[16]byte]int{}
	for i, k := range keys {
		if k.Text == "" {
			continue
		}
		hash := keyHash(k)
		if j, ok := twin[hash]; ok {
			if keys[j].Fingerprint != k.Fingerprint {
				r.err = conflict(k)
				return true, nil
			}
			continue
		}
		twin[hash] = i
		u, err := w.lookUp(hash)
		if err != nil {
			return false, err
		}
		if u != nil && (u.fingerprint != k.Fingerprint || u.scheduled()) {
			r.err = conflict(k)
			return true, nil
		}
		earlier[i] = u
	}
	if whole {
		return w.wholeBatch(r, earlier[0])
	}
	return w.eachEvent(r, earlier, twin)
}

// wholeBatch stores a batch that has one key for all events, unless it was stored before.
func (w *groupWriter) wholeBatch(r *request, earlier *used) (refused bool, err error) {
	if earlier != nil {
		w.log.stats.replayedKeys.Add(1)
		r.setPositions(earlier.first, int(earlier.count))
		r.receipt.Replayed, r.receipt.Note = true, earlier.note
		return false, nil
	}
	if met, err := w.conditions(r, nil); err != nil || !met {
		return true, err
	}
	events := r.batch.Events
	first := w.next
	for i := range events {
		if err := w.event(&events[i], w.expiry(r.batch, i)); err != nil {
			return false, err
		}
	}
	r.setPositions(first, len(events))
	if err := w.companions(r.batch, first); err != nil {
		return false, err
	}
	return false, w.remember(r.batch.Key, first, len(events))
}

// eachEvent stores the events of a batch with a key for each event, except those stored before.
func (w *groupWriter) eachEvent(r *request, earlier []*used, twin map[[16]byte]int) (refused bool, err error) {
	events, keys := r.batch.Events, r.batch.Keys
	again := func(i int) bool { return keys[i].Text != "" && (earlier[i] != nil || twin[keyHash(keys[i])] < i) }
	if met, err := w.conditions(r, again); err != nil || !met {
		return true, err
	}
	positions := make([]fanfare.Position, len(events))
	stored := 0
	for i := range events {
		if keys[i].Text != "" {
			if j := twin[keyHash(keys[i])]; j < i {
				positions[i] = positions[j]
				continue
			}
			if u := earlier[i]; u != nil {
				positions[i] = u.first
				if r.receipt.Note == "" {
					r.receipt.Note = u.note
				}
				continue
			}
		}
		if err := w.event(&events[i], w.expiry(r.batch, i)); err != nil {
			return false, err
		}
		positions[i] = events[i].Position
		stored++
		if keys[i].Text != "" {
			if err := w.remember(keys[i], positions[i], 1); err != nil {
				return false, err
			}
		}
	}
	r.receipt.Positions = positions
	r.receipt.Replayed = stored == 0
	if r.receipt.Replayed {
		w.log.stats.replayedKeys.Add(1)
	} else if err := w.companions(r.batch, positions[0]); err != nil {
		return false, err
	}
	return false, nil
}

func conflict(k fanfare.Key) error {
	return fanfare.Errorf(fanfare.CodeConflict, "Idempotency-Key %q was used for something else", k.Text)
}

// lookUp returns the record of a key, from this group or from the store; nil when there is none, or
// when it is too old. Keys go by log time, so they are remembered for ten minutes in which the log
// was open, however the wall clock is set.
func (w *groupWriter) lookUp(hash [16]byte) (*used, error) {
	if u, ok := w.used[hash]; ok {
		return &u, nil
	}
	value, closer, err := w.db.Get(usedKey(hash))
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	u, err := readUsed(value)
	if err != nil {
		return nil, err
	}
	if u.ms <= w.at.log-w.keyMemory.Milliseconds() {
		return nil, nil
	}
	return &u, nil
}

func (w *groupWriter) remember(k fanfare.Key, first fanfare.Position, count int) error {
	return w.putUsed(keyHash(k),
		used{ms: w.at.log, fingerprint: k.Fingerprint, first: first, count: uint64(count), note: k.Note})
}

// putUsed stores the record of a key. A record that is never forgotten is not listed by its age.
func (w *groupWriter) putUsed(hash [16]byte, u used) error {
	if w.used == nil {
		w.used = map[[16]byte]used{}
	}
	w.used[hash] = u
	if err := w.b.Set(usedKey(hash), u.append(nil), nil); err != nil || u.ms == neverForgotten {
		return err
	}
	return w.b.Set(append(keyOf(keyUsedAt, uint64(u.ms)), hash[:]...), nil, nil)
}

// onTime makes an expiry by the wall clock into one that can be compared with guarded time. When
// the wall clock is behind, the record would expire too early otherwise.
func (w *groupWriter) onTime(expires time.Time) time.Time {
	if behind := time.Duration(w.at.guarded-w.at.wall) * time.Millisecond; behind > clockSlip {
		return expires.Add(behind)
	}
	return expires
}
