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
	name fanfare.Channel
	rule Rule // its retention; fixed

	once sync.Once // loads the fields below
	err  error

	num      atomic.Uint64 // 0: the channel has never had an event
	nextSeq  uint64        // owned by the committer
	lastSeq  atomic.Uint64 // of the newest durable event; 0 when there never was one
	inFlight atomic.Int64  // events that the committer has numbered and that are not visible yet

	mu     sync.Mutex // guards the fields below; held while the trim mark moves
	mark   entry      // the trim mark: this event and all before it are gone for readers
	stored fanfare.Position
	oldest entry // the first event after mark, when known
	known  bool
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
func (c *channelCache) find(name fanfare.Channel, create func() *channelState) *channelState {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.byName[name]
	if st == nil && create != nil {
		st = create()
		c.byName[name] = st
	}
	return st
}

func (c *channelCache) drop(st *channelState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byName[st.name] == st {
		delete(c.byName, st.name)
	}
}

// shrink lets go of states beyond the limit, except those with events in flight. Only the committer may call it: a state
// that it is about to use must not go.
func (c *channelCache) shrink() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.byName) <= c.most {
		return
	}
	drop := len(c.byName) - c.most*15/16
	for name, st := range c.byName {
		if st.inFlight.Load() == 0 {
			delete(c.byName, name)
			if drop--; drop <= 0 {
				return
			}
		}
	}
}

// channel returns a channel's state for reading, nil when it has never had an event.
func (s *session) channel(name fanfare.Channel) (*channelState, error) {
	st := s.channels.find(name, nil)
	if st == nil {
		_, closer, err := s.db.Get(textKey(keyChannel, name.String()))
		if isNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read channel %s: %w", name, err)
		}
		_ = closer.Close()
		st = s.channels.find(name, s.newState(name))
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
	st := w.channels.find(name, nil)
	if st == nil {
		w.channels.shrink()
		st = w.channels.find(name, w.newState(name))
	}
	if err := w.load(st); err != nil {
		return nil, err
	}
	st.inFlight.Add(1)
	return st, nil
}

func (s *session) newState(name fanfare.Channel) func() *channelState {
	return func() *channelState { return &channelState{name: name, rule: s.log.ruleOf(name)} }
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
	num, ok, err := s.number(textKey(keyChannel, st.name.String()))
	if err != nil || !ok {
		return err
	}
	if st.mark, err = s.loadMark(num); err != nil {
		return err
	}
	st.stored = st.mark.pos
	last := st.mark.seq
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
		last = e.seq
	}
	if err := it.Error(); err != nil {
		return err
	}
	st.lastSeq.Store(last)
	st.nextSeq = last + 1
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
	f := fields{b: value}
	e := entry{pos: fanfare.Position(f.number()), seq: f.number()}
	return e, f.err
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

// trimMark moves the channel's trim mark past all that its rule no longer retains, and returns it. Readers clip there at
// once; the sweep deletes later.
func (s *session) trimMark(st *channelState) (fanfare.Position, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	oldestMs := int64(-1 << 62)
	if st.rule.Age > 0 {
		oldestMs = s.log.opts.Now().Add(-st.rule.Age).UnixMilli()
	}
	last := st.lastSeq.Load()
	gone := func(e entry) bool {
		return e.ms < oldestMs || (st.rule.Count > 0 && last-e.seq >= uint64(st.rule.Count))
	}
	if st.known && !gone(st.oldest) {
		return st.mark.pos, nil
	}
	lower, upper := indexBounds(st.num.Load(), st.mark.pos, fanfare.Position(s.log.durable.Load()))
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return 0, err
	}
	defer it.Close()
	st.known = false
	for ok := it.First(); ok; ok = it.Next() {
		e, err := readEntry(it.Key(), it.Value())
		if err != nil {
			return 0, err
		}
		if e.seq > last {
			break // durable since last was read
		}
		if !gone(e) {
			st.oldest, st.known = e, true
			break
		}
		st.mark = e
	}
	return st.mark.pos, it.Error()
}
