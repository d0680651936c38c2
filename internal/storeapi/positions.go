package storeapi

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/internal/fleet"
	"github.com/fanfare-hub/fanfare/internal/hub"
	"github.com/fanfare-hub/fanfare/internal/stream"
)

// positions keeps the cursors of the PCs' readers: all of them in the log, and those of PCs with
// open streams also in memory. See reader.go.
type positions struct {
	o       Options
	began   time.Time // its clock
	stop    chan struct{}
	stopped sync.WaitGroup
	unride  func()

	mu       sync.Mutex     // guards the fields below, and all that hangs on them
	pcs      map[string]*pc // by channel
	queue    []due          // to be stored, in turn
	late     []*pc          // stored before their peers had acknowledged all
	doubles  []*pc          // with streams of which it is not known yet whether their peers are still there
	seen     map[string]time.Time
	counts   Readers
	warnings []severalReaders  // to be logged
	shared   map[string]shared // by channel

	says says
}

// shared is when a PC was found to be read twice at once, and when that was logged; on positions'
// clock.
type shared struct{ found, warned int64 }

// due is a PC whose cursors must be stored, or the name of a health mark.
type due struct {
	pc   *pc
	seen string
}

const (
	flushEvery   = 500 * time.Millisecond // a cursor is in the log at the latest a second after it moved
	refreshMost  = time.Hour              // an idle stream's cursor is stored again so often
	refreshCheck = 10 * time.Second
	flushMost    = 1000 // PCs in one group
	seenFor      = 30 * 24 * time.Hour

	// unlimited is how long cursors are kept where rules set no limit to the age of a PC's events.
	// They are small, but PCs do not tell when they are gone for good.
	unlimited = 365 * 24 * time.Hour
	// rememberFor is how much longer the log knows that there was a cursor, so that the PC is told
	// of the gap.
	rememberFor = 365 * 24 * time.Hour
)

func newPositions(o Options) *positions {
	k := &positions{o: o, began: time.Now(), stop: make(chan struct{}), pcs: map[string]*pc{},
		seen: map[string]time.Time{}, shared: map[string]shared{}}
	k.says.logger, k.says.problems = o.Logger, o.Problems
	k.unride = o.Keeper.Ride(k)
	k.stopped.Go(k.loop)
	return k
}

// now is the time on positions' clock, in milliseconds since a moment before the process began. The
// clock is never set.
func (k *positions) now() int64 { return time.Since(k.began).Milliseconds() + 1 }

const keptPrefix = "pc/"

func keptName(d fleet.Device) string { return keptPrefix + d.Store + "/" + d.PC }

func (p *pc) device() fleet.Device { return fleet.Of(p.channel) }

// keeps tells whether cursors are kept at all.
func (k *positions) keeps() bool { return k.o.ResumeFor >= 0 }

// resumeFor is how long after its last stream a cursor of the PC is good.
func (k *positions) resumeFor(d fleet.Device) time.Duration {
	if k.o.ResumeFor != 0 {
		return max(k.o.ResumeFor, 0)
	}
	longest := time.Duration(0)
	for _, name := range d.Channels() {
		c, err := fanfare.ParseChannel(name)
		if err != nil {
			continue
		}
		age := k.o.MaxAge(c)
		if age == 0 {
			age = unlimited
		}
		longest = max(longest, age)
	}
	return longest
}

// visit begins a request for the stream of the PC that has a channel. It may read the log. If that
// fails it returns an error, because a stream that starts at the newest event would lose the
// commands that the PC has missed. leave must follow.
func (k *positions) visit(ctx context.Context, channel string, id readerID) (*visit, error) {
	k.mu.Lock()
	p := k.pcs[channel]
	if p == nil {
		p = &pc{k: k, channel: channel}
		if !k.keeps() {
			p.set(loaded)
		}
		k.pcs[channel] = p
	}
	p.visits++
	read := !p.is(loaded)
	k.mu.Unlock()
	v := &visit{pc: p, reader: &reader{id: id}}
	if !read {
		return v, nil
	}
	if err := k.load(ctx, p); err != nil {
		v.leave()
		return nil, err
	}
	return v, nil
}

// load reads a PC's cursors from the log. Nothing has been stored for it since it came into memory.
func (k *positions) load(ctx context.Context, p *pc) error {
	kept, ok, err := k.o.Keeper.Kept(ctx, keptName(p.device()))
	if err != nil {
		return err
	}
	var list []cursor
	if ok {
		if list, err = readCursors(kept); err != nil { // another version wrote it: the owner of the cursor is not known
			list = []cursor{{position: kept.Position, age: kept.Age}}
			k.o.Logger.Warn("the readers of a PC cannot be told apart", named(p.device(), slog.Any("err", err))...)
		}
	}
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if p.is(loaded) { // another visit was faster
		return nil
	}
	p.set(loaded)
	for _, c := range list {
		p.add(&reader{id: c.id, left: c.position}, now-c.age.Milliseconds())
	}
	return nil
}

// leave ends the request; the stream, if one has opened, is followed on.
func (v *visit) leave() {
	k := v.pc.k
	k.mu.Lock()
	defer k.mu.Unlock()
	v.pc.visits--
	k.dropLocked(v.pc)
}

func (k *positions) dropLocked(p *pc) {
	if p.idle() && k.pcs[p.channel] == p {
		delete(k.pcs, p.channel)
	}
}

// start is where the visit's stream starts if it brings no position. It may block for a moment, to
// learn which bytes the peer of an earlier stream has acknowledged.
func (v *visit) start() hub.Start {
	k := v.pc.k
	if !k.keeps() {
		return hub.Start{}
	}
	good := v.good()
	k.mu.Lock()
	k.reviveLocked(v.pc)
	var pos fanfare.Position
	var forgotten bool
	var lives []*stream.Live
	if r := v.pc.find(v.reader.id); r != nil {
		pos, lives, forgotten = r.standing(good)
		v.took = pos != 0
	}
	if pos == 0 && len(lives) == 0 && !forgotten {
		pos, lives, forgotten = v.pc.standing(good, true)
	}
	k.mu.Unlock()
	return k.startAt(v.pc, pos, lives, forgotten)
}

// peek is where the PC's stream would start, for a caller that only looks. A cursor without a known
// owner, because an earlier version stored it, is not for a caller that only looks because its
// token is of that version's time: each of its streams would start there, and a PC would obey the
// same REBOOT again and again.
func (v *visit) peek(why string) hub.Start {
	k := v.pc.k
	if !k.keeps() {
		return hub.Start{}
	}
	good := v.good()
	k.mu.Lock()
	k.reviveLocked(v.pc)
	pos, lives, forgotten := v.pc.standing(good, why == LookAsked)
	k.mu.Unlock()
	return k.startAt(v.pc, pos, lives, forgotten)
}

// good is since when a reader must have been there for its cursor to be good.
func (v *visit) good() int64 {
	k := v.pc.k
	return k.now() - k.resumeFor(v.pc.device()).Milliseconds()
}

// startAt makes a start of a position, or of the lowest one that the peers of streams have.
func (k *positions) startAt(p *pc, pos fanfare.Position, lives []*stream.Live, forgotten bool) hub.Start {
	for i, live := range lives {
		at := fanfare.Position(0)
		if i == 0 {
			at, _ = live.Settle()
		} else {
			at, _ = live.Position() // it has had the same moment
		}
		pos = lower(pos, at)
	}
	switch {
	case forgotten, pos == 0 && len(lives) > 0: // the open streams have not heard of their gap yet
		k.mu.Lock()
		k.counts.Forgotten++
		k.mu.Unlock()
		k.says.forgotten(p.device())
		return hub.Start{From: hub.FromForgotten}
	case pos == 0:
		return hub.Start{}
	}
	return hub.Start{From: hub.FromAfter, After: pos}
}

// standing is where a reader stands: at a position, or where its streams that are open do, or
// nowhere any more.
func (r *reader) standing(good int64) (pos fanfare.Position, lives []*stream.Live, forgotten bool) {
	if r.left != 0 {
		if r.used <= good {
			return 0, nil, true
		}
		return r.left, nil, false
	}
	r.active(func(v *visit) { lives = append(lives, v.live) })
	return 0, lives, false
}

// standing is where the reader stands that was there last; nobodys says that a cursor without an
// owner counts.
func (p *pc) standing(good int64, nobodys bool) (pos fanfare.Position, lives []*stream.Live, forgotten bool) {
	var last *reader
	for r := p.readers; r != nil; r = r.next {
		r.active(func(v *visit) { lives = append(lives, v.live) })
		if r.left == 0 || (!nobodys && r.id == readerID{}) {
			continue
		}
		if last == nil || r.used > last.used || (r.used == last.used && r.left < last.left) {
			last = r
		}
	}
	if len(lives) > 0 || last == nil {
		return 0, lives, false
	}
	return last.standing(good)
}

// Opened implements stream.Watcher.
func (v *visit) Opened(live *stream.Live) {
	v.live = live
	from, _ := live.Last()
	k := v.pc.k
	k.mu.Lock()
	k.reviveLocked(v.pc)
	dropped := v.pc.begin(v, from, k.now())
	k.counts.Dropped += uint64(len(dropped))
	for r := v.pc.readers; r != nil; r = r.next {
		for o := r.open; o != nil; o = o.next {
			if !v.pc.is(twice) && (o.superseded || o.rival) {
				v.pc.set(twice)
				k.doubles = append(k.doubles, v.pc)
			}
		}
	}
	k.queueLocked(v.pc, force)
	k.mu.Unlock()
	for _, r := range dropped {
		k.says.dropped(v.pc.device(), r.id)
	}
}

// Changed implements stream.Watcher. A stream that leaves nothing says nothing any more.
func (v *visit) Changed() {
	at, ended := v.live.Last()
	k := v.pc.k
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case v.reader == nil:
	case ended:
		k.reviveLocked(v.pc)
		v.pc.end(v, at, k.now())
		k.queueLocked(v.pc, force)
	case !v.superseded:
		k.queueLocked(v.pc, force)
	}
	if ended {
		k.dropLocked(v.pc)
	}
}

// reviveLocked finds the PC's streams whose peers are still there, although a newer stream has
// opened.
func (k *positions) reviveLocked(p *pc) {
	for r := p.readers; r != nil; r = r.next {
		for v := r.open; v != nil; v = v.next {
			if (!v.superseded && !v.rival) || !v.live.AckedSince(v.since) {
				continue
			}
			now := k.now()
			if v.superseded {
				k.counts.Shared++
				k.queueLocked(p, force)
			} else {
				k.counts.Several++
			}
			s := k.shared[p.channel]
			s.found = now
			if (s.warned == 0 || now-s.warned > warnAgain.Milliseconds()) && len(k.warnings) < warningsMost {
				s.warned = now
				k.warnings = append(k.warnings, p.several(v.superseded))
			}
			k.shared[p.channel] = s
			v.superseded, v.rival = false, false
		}
	}
}

// queueLocked has a PC's cursors stored; also is force, or nothing.
func (k *positions) queueLocked(p *pc, also state) {
	if !k.keeps() {
		return
	}
	p.set(also)
	if !p.is(queued) {
		p.set(queued)
		k.queue = append(k.queue, due{pc: p})
	}
}

// markSeen marks a PC as alive, and returns when.
func (k *positions) markSeen(d fleet.Device) time.Time {
	name, now := seenPrefix+d.Store+"/"+d.PC, time.Now().UTC()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seenLocked(name, now)
	return now
}

const seenPrefix = "seen/"

func (k *positions) seenLocked(name string, at time.Time) {
	if _, queued := k.seen[name]; !queued {
		k.queue = append(k.queue, due{seen: name})
	}
	k.seen[name] = at
}
