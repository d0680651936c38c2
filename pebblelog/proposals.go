package pebblelog

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/fanfare-hub/fanfare"
)

// proposals are the requests between Append and their answers: the queue, the groups in flight, and
// the reasons to refuse new requests. They outlive sessions: when a session fails, the waiting
// requests are refused, and requests that come after the store was opened again are taken. Each
// request is answered once, by the session that stored it or by the first reason to refuse it.
//
// Methods may be called from any goroutine, and call no callback under mu.
type proposals struct {
	// Fixed after Open.
	opts  *Options
	stats *counters
	stop  <-chan struct{} // closed by Close
	wake  chan struct{}   // one token: the queue may hold something

	riders riders

	mu         sync.Mutex // guards the fields below; nothing slow happens under it
	queue      []*request
	queueBytes int
	inflight   []*group // taken from the queue and not answered, oldest first
	failed     error    // set when the session has failed, until another is open
	slow       error    // set while a commit takes longer than SlowCommit
	lowDisk    error    // set while there is less than MinFreeBytes
	closing    bool
}

func newProposals(opts *Options, stats *counters, stop <-chan struct{}) *proposals {
	return &proposals{opts: opts, stats: stats, stop: stop, wake: make(chan struct{}, 1)}
}

// add queues a request, or refuses it and answers it before it returns.
func (p *proposals) add(r *request) {
	p.mu.Lock()
	err := p.refusalLocked(r)
	if err == nil {
		p.queue = append(p.queue, r)
		p.queueBytes += r.bytes
	}
	p.mu.Unlock()
	if err != nil {
		p.stats.refused.Add(1)
		r.done(fanfare.Receipt{}, err)
		return
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *proposals) refusalLocked(r *request) error {
	switch {
	case p.closing:
		return fanfare.Unavailable("the log is closing", nil)
	case p.failed != nil && p.lowDisk != nil:
		return p.lowDisk // the store is opened again when there is room
	case p.failed != nil:
		return p.failed
	case p.slow != nil:
		return p.slow
	case p.queueBytes > 0 && p.queueBytes+r.bytes > p.opts.MaxQueueBytes:
		return &fanfare.Error{
			Code: fanfare.CodeOverloaded, RetryAfter: time.Second,
			Detail: fmt.Sprintf("%d bytes wait to be stored, the limit is %d", p.queueBytes, p.opts.MaxQueueBytes),
		}
	}
	return nil
}

// take waits for requests in the queue, and takes them as a group. It returns nil when the log
// closes and the queue is empty, or when dead is closed.
func (p *proposals) take(dead <-chan struct{}) *group {
	for {
		g, ended := p.takeNow(dead)
		if g != nil || ended {
			return g
		}
		select {
		case <-p.wake:
		case <-dead:
		case <-p.stop:
		}
	}
}

// takeNow takes the queued requests as a group; nil when there are none. ended says that there will
// be none for this session. It looks at dead under mu, because requests that are queued after
// reopen are for another session.
func (p *proposals) takeNow(dead <-chan struct{}) (g *group, ended bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-dead:
		return nil, true
	default:
	}
	if len(p.queue) == 0 {
		return nil, p.closing
	}
	g = &group{taken: time.Now()}
	n := 0
	for n < len(p.queue) && n < maxGroupRequests && (n == 0 || g.bytes+p.queue[n].bytes <= maxGroupBytes) {
		g.bytes += p.queue[n].bytes
		n++
	}
	g.requests = p.queue[:n:n]
	p.queue = p.queue[n:]
	if len(p.queue) == 0 {
		p.queue = nil
	}
	p.queueBytes -= g.bytes
	p.inflight = append(p.inflight, g)
	return g, false
}

// refuse answers the requests of a group that is not stored.
func (p *proposals) refuse(g *group, err error) {
	for _, r := range g.requests {
		r.err = err
	}
	p.stats.refused.Add(uint64(len(g.requests)))
	p.answer(g)
}

// answer answers the requests of a group, unless refuseAll has done so.
func (p *proposals) answer(g *group) {
	p.mu.Lock()
	for i, other := range p.inflight {
		if other == g {
			p.inflight = append(p.inflight[:i], p.inflight[i+1:]...)
			break
		}
	}
	answered := g.answered
	g.answered = true
	p.mu.Unlock()
	if answered {
		return
	}
	for _, r := range g.requests {
		if r.err != nil {
			r.done(fanfare.Receipt{}, r.err)
		} else {
			r.done(r.receipt, nil)
		}
	}
}

// refuseAll answers all requests that are queued or in flight with err.
func (p *proposals) refuseAll(err error) {
	p.mu.Lock()
	var victims []*request
	for _, g := range p.inflight {
		if !g.answered {
			g.answered = true
			victims = append(victims, g.requests...)
		}
	}
	victims = append(victims, p.queue...)
	p.queue, p.queueBytes = nil, 0
	p.mu.Unlock()
	for _, r := range victims {
		p.stats.refused.Add(1)
		r.done(fanfare.Receipt{}, err)
	}
}

// fail refuses new requests, until reopen. It returns false when the log closes.
func (p *proposals) fail(err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closing {
		p.failed = err
	}
	return !p.closing
}

// reopen takes requests again, for another session. The groups of the failed session have been
// answered.
func (p *proposals) reopen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed, p.slow, p.inflight = nil, nil, nil
}

// close refuses new requests. Queued requests are still taken.
func (p *proposals) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closing = true
}

// setLowDisk notes that the disk has too little room, or, with nil, that it has enough. It returns
// whether that has changed.
func (p *proposals) setLowDisk(err error) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed = (p.lowDisk == nil) != (err == nil)
	p.lowDisk = err
	return changed
}

// err returns the error that new requests are refused with at present, or nil.
func (p *proposals) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, err := range []error{p.lowDisk, p.failed, p.slow} {
		if err != nil {
			return err
		}
	}
	return nil
}

// waiting returns the number of queued bytes.
func (p *proposals) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queueBytes
}

// urgent tells whether a command is queued. The sweep, which makes room, may wait for it.
func (p *proposals) urgent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.queue {
		if r.command != nil {
			return true
		}
	}
	return false
}

// watch refuses all requests while a commit takes too long. It ends when the log closes.
func (p *proposals) watch() {
	tick := time.NewTicker(min(p.opts.SlowCommit/10, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
		}
		slow, changed := p.lookForSlow()
		if slow != nil {
			if changed {
				p.opts.Logger.Error("publishes are refused", slog.Any("err", slow))
			}
			p.refuseAll(slow)
		} else if changed {
			p.opts.Logger.Info("publishes are taken again: the disk has caught up")
		}
	}
}

// lookForSlow sets slow by the oldest group in flight, and returns whether that has changed.
func (p *proposals) lookForSlow() (slow error, changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	late := p.failed == nil && len(p.inflight) > 0 && time.Since(p.inflight[0].taken) > p.opts.SlowCommit
	changed = late != (p.slow != nil)
	p.slow = nil
	if late {
		p.slow = fanfare.Unavailable(fmt.Sprintf("the disk is slow: a commit has taken more than %v",
			p.opts.SlowCommit), nil)
	}
	return p.slow, changed
}
