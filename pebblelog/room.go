package pebblelog

import (
	"math"
	"sync"
	"time"
)

// overshoot is how far the files may grow beyond MaxBytes before publishers have to wait. The
// oldest events go meanwhile.
func overshoot(most int64) int64 { return min(max(most/8, 8<<20), 256<<20) }

const (
	writtenTwice = 2 // a batch is written to the WAL, and soon to a table
	roomTick     = time.Second
	roomAgain    = 10 * time.Second // the time without waiting after a wait that did not help
)

// room is how many bytes may be written before the limiter has looked again. The committer spends
// them, and waits when there are none left; so MaxBytes holds however fast publishers are.
type room struct {
	mu    sync.Mutex
	left  int64
	free  time.Time     // until then nobody waits, because a wait did not help
	more  chan struct{} // closed when left has changed
	short chan struct{} // one token: the files are to be measured now
}

func newRoom() *room {
	return &room{left: math.MaxInt64, more: make(chan struct{}), short: make(chan struct{}, 1)}
}

// measured is told what the files take, how much of that is tables of level 0, and what all may
// take; 0 is no limit. The next compaction rewrites the tables of level 0, which are then on disk
// twice, so their size is bounded too.
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

// giveUp has nobody wait for a while.
func (r *room) giveUp() {
	r.mu.Lock()
	r.free = time.Now().Add(roomAgain)
	r.mu.Unlock()
}

// look returns whether there is room, and a channel that is closed when that may have changed. It
// has the files measured when less than little is left.
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

// awaitRoom waits until there is room, but not for longer than a slow commit may take, and not when
// nothing is under way that would make room: then something else than events takes the disk, and a
// wait of publishers would change nothing.
func (u *upkeep) awaitRoom(s *session) {
	little := overshoot(u.maxBytes.Load()) / 2
	ok, more := u.room.look(little)
	if ok {
		return
	}
	u.log.stats.waits.Add(1)
	began := time.Now()
	tick := time.NewTicker(roomTick)
	defer tick.Stop()
	for done := s.retention.goneSoFar(); !ok && !u.log.proposals.urgent(); ok, more = u.room.look(little) {
		select {
		case <-more:
		case <-tick.C:
			now := s.retention.goneSoFar()
			if now == done && s.db.Metrics().Compact.NumInProgress == 0 || time.Since(began) > u.log.opts.SlowCommit {
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
