package pebblelog

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// catalog knows the channels of one session, and which events of each are visible. Apply, retention
// and readers all use it. It shows no event above the durable position. Its methods may be called
// from any goroutine.
type catalog struct {
	// Fixed after openSession.
	log     *Log
	db      *pebble.DB
	dead    <-chan struct{} // closed when the session fails
	runs    runs
	seconds seconds
	unsized fanfare.Position // index entries up to here have no sums

	channels channelCache
	members  memberSets // channels by pattern, as far as readers have asked for them
	// Channels below this number are in the store, with their names; moved by the committer.
	newest  atomic.Uint64
	rules   atomic.Pointer[ruleSet] // replaced by the committer
	ruled   chan struct{}           // one token: other rules have come into force
	parting parting                 // scheduled events that a group has removed, and that is not durable
	floor   atomic.Uint64           // events of all channels up to here are removed; moved by retention
}

func newCatalog(l *Log, dead <-chan struct{}) *catalog {
	c := &catalog{log: l, dead: dead, ruled: make(chan struct{}, 1)}
	c.seconds.durable = &l.durable
	c.channels.init()
	return c
}

// stopped returns errStopped when the session has failed, or the log closes.
func (c *catalog) stopped() error {
	select {
	case <-c.dead:
		return errStopped
	case <-c.log.stop:
		return errStopped
	default:
		return nil
	}
}

// channel returns a channel's state for reading; nil when the store does not know the channel.
func (c *catalog) channel(name fanfare.Channel) (*channelState, error) {
	st := c.channels.find(name, false)
	if st == nil {
		_, closer, err := c.db.Get(textKey(keyChannel, name.String()))
		if isNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read channel %s: %w", name, err)
		}
		_ = closer.Close()
		st = c.channels.find(name, true)
	}
	if err := c.load(st); err != nil {
		return nil, err
	}
	if st.num.Load() == 0 {
		return nil, nil
	}
	return st, nil
}

// readNumber reads a number of 8 bytes; false when there is none.
func readNumber(db *pebble.DB, key []byte) (uint64, bool, error) {
	value, closer, err := db.Get(key)
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

// loadMark reads a channel's stored trim mark; the zero entry when there is none.
func (c *catalog) loadMark(num uint64) (entry, error) {
	value, closer, err := c.db.Get(keyOf(keyMark, num))
	if isNotFound(err) {
		return entry{}, nil
	}
	if err != nil {
		return entry{}, err
	}
	defer closer.Close()
	return readMark(value)
}

// markOf returns a channel's trim mark. For a channel that the store does not know, it returns the
// floor, below which the channel's events may be missing.
func (c *catalog) markOf(name fanfare.Channel) (fanfare.Position, error) {
	st, err := c.channel(name)
	if err != nil {
		return 0, err
	}
	if st == nil {
		return c.floorOf(name), nil
	}
	return c.trimMark(st)
}

// nameOf returns the channel of a number.
func (c *catalog) nameOf(num uint64) (fanfare.Channel, error) {
	value, closer, err := c.db.Get(keyOf(keyName, num))
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

// loadUnsized finds the position up to which index entries have no sums. Those are the entries that
// a log of format 1 held.
func (c *catalog) loadUnsized(last fanfare.Position) error {
	value, closer, err := c.db.Get([]byte{keyFormat})
	if err == nil {
		if string(value) == formatVersion1 {
			c.unsized = last
		}
		_ = closer.Close()
	} else if !isNotFound(err) {
		return err
	}
	if value, closer, err = c.db.Get([]byte{keyUnsized}); err == nil {
		c.unsized, err = readPosition(value)
		_ = closer.Close()
	}
	if isNotFound(err) {
		return nil
	}
	return err
}

// now returns the time by which events are hidden and deleted.
func (c *catalog) now() moment { return c.log.order.now() }

// belowFirst returns the position just before the first event that may still be there.
func (c *catalog) belowFirst() fanfare.Position {
	return max(fanfare.Position(c.floor.Load()), c.runs.firstEver()-1)
}
