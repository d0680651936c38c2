package storeapi

import (
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/hub"
	"github.com/fanfare-hub/fanfare/internal/stream"
)

// keptPositions knows where the last stream of each PC stood. While a stream is open, and until its end is stored, that
// is in memory; after that in the log.
type keptPositions struct {
	o       Options
	stop    chan struct{}
	stopped sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	pcs      map[string]*pc
	changed  map[string]*pc       // to be stored
	lastSeen map[string]time.Time // to be stored
}

// pc is one PC whose last stream is open, or has ended and is not stored yet. Its fields are guarded by keptPositions.mu.
type pc struct {
	name   string
	live   *stream.Live // of the last stream that opened
	stored time.Time    // when its position was last stored
}

const (
	flushEvery   = 500 * time.Millisecond // a position is in the log at the latest a second after it changed
	refreshMost  = time.Hour              // an idle stream's position is stored again so often
	refreshCheck = 10 * time.Second
	flushMost    = 2000 // positions in one batch
	seenFor      = 30 * 24 * time.Hour
)

func newKeptPositions(o Options) *keptPositions {
	k := &keptPositions{
		o: o, stop: make(chan struct{}),
		pcs: map[string]*pc{}, changed: map[string]*pc{}, lastSeen: map[string]time.Time{},
	}
	k.stopped.Go(k.flushLoop)
	return k
}

func keptName(store, pc string) string { return "pc/" + store + "/" + pc }

// start is where a stream that brings no position starts: where the last stream of the PC stood, if that is still open or
// ended not too long ago, and otherwise at the newest. It may block for a moment, to learn what the last stream's peer has.
// When the log cannot be read that is an error: to start at the newest would lose what the PC has missed.
func (k *keptPositions) start(store, id string) (hub.Start, error) {
	name := keptName(store, id)
	k.mu.Lock()
	p := k.pcs[name]
	var live *stream.Live
	if p != nil {
		live = p.live
	}
	k.mu.Unlock()
	if live != nil {
		pos, ended := live.Settle()
		if ended.IsZero() || time.Since(ended) < k.o.ResumeFor {
			return hub.Start{From: hub.FromAfter, After: pos}, nil
		}
		return hub.Start{}, nil
	}
	kept, ok, err := k.o.Keeper.Kept(name)
	if err != nil || !ok { // the log knows whether it has expired: the machine's clock may be wrong for a moment
		return hub.Start{}, err
	}
	return hub.Start{From: hub.FromAfter, After: kept.Position}, nil
}

// watcher follows a stream of the PC; nil when positions are not kept.
func (k *keptPositions) watcher(store, id string) stream.Watcher {
	if k.o.ResumeFor <= 0 {
		return nil
	}
	return &watcher{k: k, name: keptName(store, id)}
}

type watcher struct {
	k    *keptPositions
	name string
	live *stream.Live // owned by the stream's goroutine
}

// Opened implements stream.Watcher: from now on this is the PC's last stream.
func (w *watcher) Opened(live *stream.Live) {
	w.live = live
	k := w.k
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.pcs[w.name]
	if p == nil {
		p = &pc{name: w.name}
		k.pcs[w.name] = p
	}
	p.live = live
	k.changed[w.name] = p
}

// Changed implements stream.Watcher. An older stream that a newer one has followed says nothing any more.
func (w *watcher) Changed() {
	k := w.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.pcs[w.name]; p != nil && p.live == w.live {
		k.changed[w.name] = p
	}
}

// seen marks a PC as alive, and returns when.
func (k *keptPositions) seen(store, id string) time.Time {
	now := time.Now().UTC()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lastSeen["seen/"+store+"/"+id] = now
	return now
}

func (k *keptPositions) flushLoop() {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	refreshed := time.Now()
	for {
		select {
		case <-tick.C:
			if time.Since(refreshed) > min(refreshCheck, k.o.ResumeFor/8) {
				refreshed = time.Now()
				k.refresh()
			}
			k.flush()
		case <-k.stop:
			k.flush()
			return
		}
	}
}

// refresh has the positions of idle streams stored again, before they look too old to resume from.
func (k *keptPositions) refresh() {
	every := min(refreshMost, k.o.ResumeFor/4)
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, p := range k.pcs {
		if time.Since(p.stored) > every {
			k.changed[name] = p
		}
	}
}

func (k *keptPositions) close() {
	close(k.stop)
	k.stopped.Wait()
}

// flush stores what has changed, and forgets the PCs whose end is stored.
func (k *keptPositions) flush() {
	k.mu.Lock()
	changed, seen := k.changed, k.lastSeen
	if len(changed) == 0 && len(seen) == 0 {
		k.mu.Unlock()
		return
	}
	k.changed, k.lastSeen = map[string]*pc{}, map[string]time.Time{}
	lives := make(map[string]*stream.Live, len(changed))
	for name, p := range changed {
		lives[name] = p.live
	}
	k.mu.Unlock()

	var batch fanfare.Batch
	failed := false
	send := func() {
		if len(batch.Keep) > 0 && !failed {
			failed = k.store(batch) != nil
		}
		batch = fanfare.Batch{}
	}
	ended := make(map[string]bool, len(lives))
	now := time.Now()
	for name, live := range lives {
		pos, end := live.Position()
		ended[name] = !end.IsZero()
		if end.IsZero() {
			end = now
		}
		batch.Keep = append(batch.Keep, fanfare.Kept{Name: name, Position: pos, Time: end, Expires: end.Add(k.o.ResumeFor)})
		if len(batch.Keep) == flushMost {
			send()
		}
	}
	for name, at := range seen {
		batch.Keep = append(batch.Keep, fanfare.Kept{Name: name, Time: at, Expires: at.Add(seenFor)})
		if len(batch.Keep) == flushMost {
			send()
		}
	}
	send()
	k.flushed(lives, ended, seen, failed)
}

func (k *keptPositions) store(b fanfare.Batch) error {
	done := make(chan error, 1)
	k.o.Log.Append(&b, func(_ fanfare.Receipt, err error) { done <- err })
	return <-done
}

// flushed puts back what could not be stored, and lets go of what needs no memory any more.
func (k *keptPositions) flushed(lives map[string]*stream.Live, ended map[string]bool, seen map[string]time.Time, failed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	for name, live := range lives {
		p := k.pcs[name]
		if p == nil || p.live != live {
			continue
		}
		if failed {
			k.changed[name] = p
			continue
		}
		p.stored = now
		if ended[name] {
			delete(k.pcs, name)
			delete(k.changed, name)
		}
	}
	if failed {
		for name, at := range seen {
			if _, newer := k.lastSeen[name]; !newer {
				k.lastSeen[name] = at
			}
		}
	}
}
