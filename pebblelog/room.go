package pebblelog

import (
	"math"
	"sync"
	"time"
)

// overshoot returns the number of bytes by which the files may exceed MaxBytes before publishers
// have to wait. The limiter removes the oldest events meanwhile.
func overshoot(most int64) int64 { return min(max(most/8, 8<<20), 256<<20) }

const (
	writtenTwice = 2 // a batch is written to the WAL, and soon to a table
	roomTick     = time.Second
	roomAgain    = 10 * time.Second // the time without a wait after a wait that did not help
)

// room is the number of bytes that may be written before the limiter measures the files again. The
// committer spends them, and waits when none are left, so that the files keep near MaxBytes however
// fast publishers are. Its methods may be called from any goroutine.
type room struct {
	mu    sync.Mutex    // guards left, free and more
	left  int64         // bytes
	free  time.Time     // there is always room until then, because a wait did not help
	more  chan struct{} // closed when left has changed
	short chan struct{} // one token: the files are to be measured now
}

func newRoom() *room {
	return &room{left: math.MaxInt64, more: make(chan struct{}), short: make(chan struct{}, 1)}
}

// measured sets the room by a measurement: the files take used bytes, of which the tables of level
// 0 take top, and the limit is most bytes (0: none). The next compaction rewrites the tables of
// level 0, which are on disk twice then, so they have a limit of their own.
func (r *room) measured(used, top, most int64) {
	left := int64(math.MaxInt64)
	if most > 0 {
		left = min(most+overshoot(most)-used, 2*overshoot(most)-top)
	}
	r.mu.Lock()
	r.left = left
	close(r.more)
	r.more = make(chan struct{})
	r.mu.Unlock()
}

// spend takes the bytes that a batch will need on disk.
func (r *room) spend(bytes int) {
	r.mu.Lock()
	if r.left != math.MaxInt64 {
		r.left -= writtenTwice * int64(bytes)
	}
	r.mu.Unlock()
}

// giveUp has room for everything for a while.
func (r *room) giveUp() {
	r.mu.Lock()
	r.free = time.Now().Add(roomAgain)
	r.mu.Unlock()
}

// look returns whether there is room, and a channel that is closed when that may have changed. When
// less than little is left, it has the files measured.
func (r *room) look(little int64) (ok bool, more <-chan struct{}) {
	r.mu.Lock()
	ok, more = r.left > 0 || time.Now().Before(r.free), r.more
	soon := r.left < little
	r.mu.Unlock()
	if soon {
		select {
		case r.short <- struct{}{}:
		default:
		}
	}
	return ok, more
}

// awaitRoom waits until there is room, but for Options.SlowCommit at most. It also stops waiting
// when no deletion and no compaction is under way: then the room on disk is not taken by events,
// and a wait of publishers would not help.
func (u *upkeep) awaitRoom(s *session) {
	little := overshoot(u.maxBytes.Load()) / 2
	ok, more := u.room.look(little)
	if ok {
		return
	}
	u.log.stats.waits.Add(1)
	start := time.Now()
	tick := time.NewTicker(roomTick)
	defer tick.Stop()
	for done := s.retention.goneSoFar(); !ok && !u.log.proposals.urgent(); ok, more = u.room.look(little) {
		select {
		case <-more:
		case <-tick.C:
			now := s.retention.goneSoFar()
			if now == done && s.db.Metrics().Compact.NumInProgress == 0 || time.Since(start) > u.log.opts.SlowCommit {
				u.room.giveUp()
			}
			done = now
		case <-s.dead:
			return
		case <-u.log.stop:
			return
		}
	}
}
