package pebblelog

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/fanfare-hub/fanfare"
)

// maxCachedChannels bounds the memory that channels cost the log. A state can be read from the
// store again.
const maxCachedChannels = 64 << 10

// channelState is the state of one channel. Some fields belong to the committer, others to the
// goroutine that holds mu; they are in one type because a channel is looked up once for both.
type channelState struct {
	name fanfare.Channel // fixed

	once sync.Once // loads the fields below
	err  error

	num       atomic.Uint64    // 0: nothing is stored of the channel
	nextSeq   uint64           // owned by the committer
	nextBytes uint64           // sum of the data before the next event; owned by the committer
	newest    fanfare.Position // the newest event, deleted or not, when known; owned by the committer
	newestMs  int64            // the newest event's wall time; owned by the committer

	newestExpires int64 // due time when the newest event expires, 0: never; owned by the committer
	holed         bool  // the channel has had an event with an expiry; owned by the committer
	over          span  // events in it have expired, for ever; owned by the committer

	limits    *ruleSet      // the rules that limit is one of; owned by the committer
	limit     *liveRule     // owned by the committer
	lastSeq   atomic.Uint64 // of the newest durable event; 0 when there is none
	lastBytes atomic.Uint64 // sum of the data up to the newest durable event
	// Uses by the committer that have not become visible yet; while above 0 the state stays in the
	// cache.
	inFlight atomic.Int64

	mu     sync.Mutex // guards the fields below; held while the trim mark moves
	set    *ruleSet   // the rules that rule is one of
	rule   *liveRule
	mark   entry // the trim mark: this event and all before it are gone for readers
	stored fanfare.Position
	oldest entry // the first event after mark, when known
	known  bool
}

// span is the positions above one position, up to another.
type span struct{ above, through fanfare.Position }

// events returns the number of the channel's events, as it was when the trim mark last moved.
func (st *channelState) events() uint64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.lastSeq.Load() - min(st.mark.seq, st.lastSeq.Load())
}

// channelCache holds states of channels. Its methods may be called from any goroutine.
type channelCache struct {
	most   int // fixed
	mu     sync.Mutex
	byName map[fanfare.Channel]*channelState
}

func (c *channelCache) init() {
	c.most, c.byName = maxCachedChannels, map[fanfare.Channel]*channelState{}
}

// find returns the state of a channel. If there is none, it returns nil, or, with create, a new
// state.
func (c *channelCache) find(name fanfare.Channel, create bool) *channelState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.findLocked(name, create)
}

func (c *channelCache) findLocked(name fanfare.Channel, create bool) *channelState {
	st := c.byName[name]
	if st == nil && create {
		c.shrinkLocked()
		st = &channelState{name: name}
		c.byName[name] = st
	}
	return st
}

// hold returns the state of a channel for the committer, and keeps it in the cache until inFlight
// goes down again.
func (c *channelCache) hold(name fanfare.Channel) *channelState {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.findLocked(name, true)
	st.inFlight.Add(1)
	return st
}

// drop removes a state, unless the committer holds it.
func (c *channelCache) drop(st *channelState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byName[st.name] == st && st.inFlight.Load() == 0 {
		delete(c.byName, st.name)
		if len(c.byName) == 0 {
			c.byName = map[fanfare.Channel]*channelState{} // a map keeps the room that it once needed
		}
	}
}

// shrinkLocked drops a sixteenth of a full cache, but no state that the committer holds.
func (c *channelCache) shrinkLocked() {
	if len(c.byName) < c.most {
		return
	}
	drop := len(c.byName) - c.most*15/16
	for name, st := range c.byName {
		if drop <= 0 {
			return
		}
		if st.inFlight.Load() == 0 {
			delete(c.byName, name)
			drop--
		}
	}
}

func (c *channelCache) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.byName)
}

// channelForCommit returns a channel's state with one more event in flight.
func (w *groupWriter) channelForCommit(name fanfare.Channel) (*channelState, error) {
	st := w.channels.hold(name)
	if err := w.load(st); err != nil {
		st.inFlight.Add(-1)
		return nil, err
	}
	return st, nil
}

// load fills a state from the store, once. No event of the channel is in flight then, because the
// committer holds such states.
func (c *catalog) load(st *channelState) error {
	st.once.Do(func() {
		st.err = c.loadState(st)
		if st.err != nil {
			st.err = fmt.Errorf("read channel %s: %w", st.name, st.err)
			c.channels.drop(st)
		}
	})
	return st.err
}

func (c *catalog) loadState(st *channelState) error {
	st.nextSeq = 1
	st.set = c.rules.Load()
	st.rule = st.set.of(st.name)
	num, ok, err := readNumber(c.db, textKey(keyChannel, st.name.String()))
	if err != nil || !ok {
		return err
	}
	if st.mark, err = c.loadMark(num); err != nil {
		return err
	}
	st.stored = st.mark.pos
	last := extent{st.mark.seq, st.mark.bytes}
	lower, upper := indexBounds(num, st.mark.pos, fanfare.Position(c.log.durable.Load()))
	it, err := c.db.NewIter(between(lower, upper))
	if err != nil {
		return err
	}
	defer it.Close()
	if it.Last() {
		e, err := readEntry(it.Key(), it.Value())
		if err != nil {
			return err
		}
		last = extent{e.seq, e.bytes}
		st.newest, st.newestMs, st.newestExpires, st.holed = e.pos, e.ms, e.expires, e.holed
	}
	if err := it.Error(); err != nil {
		return err
	}
	st.lastSeq.Store(last.seq)
	st.lastBytes.Store(last.bytes)
	st.nextSeq, st.nextBytes = last.seq+1, last.bytes
	st.num.Store(num)
	return nil
}
