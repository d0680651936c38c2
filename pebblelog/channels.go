package pebblelog

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// maxCachedChannels bounds the memory that channels cost the log; all of a state can be read again from the store.
const maxCachedChannels = 64 << 10

// channelState is what the log knows of one channel.
type channelState struct {
	name fanfare.Channel // fixed

	once sync.Once // loads the fields below
	err  error

	num       atomic.Uint64 // 0: nothing is stored of the channel
	nextSeq   uint64        // owned by the committer
	nextBytes uint64        // sum of the data before the next event; owned by the committer
	limits    *ruleSet      // that limit is of; owned by the committer
	limit     *liveRule     // owned by the committer
	lastSeq   atomic.Uint64 // of the newest durable event; 0 when there is none
	lastBytes atomic.Uint64 // sum of the data up to it
	inFlight  atomic.Int64  // uses by the committer that have not become visible yet; while above 0 the state stays in the cache

	mu     sync.Mutex // guards the fields below; held while the trim mark moves
	set    *ruleSet   // that rule is of
	rule   *liveRule
	mark   entry // the trim mark: this event and all before it are gone for readers
	stored fanfare.Position
	oldest entry // the first event after mark, when known
	known  bool
}

// events is how many events there are of the channel, or were when its trim mark was last looked at.
func (st *channelState) events() uint64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.lastSeq.Load() - min(st.mark.seq, st.lastSeq.Load())
}

type channelCache struct {
	most   int // fixed
	mu     sync.Mutex
	byName map[fanfare.Channel]*channelState
}

func (c *channelCache) init() {
	c.most, c.byName = maxCachedChannels, map[fanfare.Channel]*channelState{}
}

// find returns the state, putting an empty one in place when asked to.
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

// hold is find for the committer: the state stays until inFlight goes down again.
func (c *channelCache) hold(name fanfare.Channel) *channelState {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.findLocked(name, true)
	st.inFlight.Add(1)
	return st
}

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

// shrinkLocked lets go of states beyond the limit, except those that the committer holds.
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

// channel returns a channel's state for reading, nil when nothing is stored of it.
func (s *session) channel(name fanfare.Channel) (*channelState, error) {
	st := s.channels.find(name, false)
	if st == nil {
		_, closer, err := s.db.Get(textKey(keyChannel, name.String()))
		if isNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read channel %s: %w", name, err)
		}
		_ = closer.Close()
		st = s.channels.find(name, true)
	}
	if err := s.load(st); err != nil {
		return nil, err
	}
	if st.num.Load() == 0 {
		return nil, nil
	}
	return st, nil
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

// load fills a state from the store, once. Nothing of the channel is in flight then: the committer keeps such states.
func (s *session) load(st *channelState) error {
	st.once.Do(func() {
		st.err = s.loadState(st)
		if st.err != nil {
			st.err = fmt.Errorf("read channel %s: %w", st.name, st.err)
			s.channels.drop(st)
		}
	})
	return st.err
}

func (s *session) loadState(st *channelState) error {
	st.nextSeq = 1
	st.set = s.rules.Load()
	st.rule = st.set.of(st.name)
	num, ok, err := s.number(textKey(keyChannel, st.name.String()))
	if err != nil || !ok {
		return err
	}
	if st.mark, err = s.loadMark(num); err != nil {
		return err
	}
	st.stored = st.mark.pos
	last := extent{st.mark.seq, st.mark.bytes}
	lower, upper := indexBounds(num, st.mark.pos, fanfare.Position(s.log.durable.Load()))
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
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

func (s *session) number(key []byte) (uint64, bool, error) {
	value, closer, err := s.db.Get(key)
	if isNotFound(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer closer.Close()
	if len(value) != 8 {
		return 0, false, errCorrupt
	}
	return binary.BigEndian.Uint64(value), true, nil
}

func (s *session) loadMark(num uint64) (entry, error) {
	value, closer, err := s.db.Get(keyOf(keyMark, num))
	if isNotFound(err) {
		return entry{}, nil
	}
	if err != nil {
		return entry{}, err
	}
	defer closer.Close()
	return readMark(value)
}

// markOf returns a channel's trim mark; of one of which nothing is stored, the floor below which its events may be missing.
func (s *session) markOf(c fanfare.Channel) (fanfare.Position, error) {
	st, err := s.channel(c)
	if err != nil {
		return 0, err
	}
	if st == nil {
		return s.floorOf(c), nil
	}
	return s.trimMark(st)
}

// nameOf returns the channel of a number.
func (s *session) nameOf(num uint64) (fanfare.Channel, error) {
	value, closer, err := s.db.Get(keyOf(keyName, num))
	if err != nil {
		return fanfare.Channel{}, fmt.Errorf("read name of channel %d: %w", num, err)
	}
	defer closer.Close()
	name, err := fanfare.ParseChannel(string(value))
	if err != nil {
		return fanfare.Channel{}, fmt.Errorf("name of channel %d: %w", num, errCorrupt)
	}
	return name, nil
}
