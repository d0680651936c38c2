package pebblelog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-hub/fanfare"
	"github.com/fanfare-hub/fanfare/logtest"
)

// answer is what a proposer was told.
type answer struct {
	Receipt fanfare.Receipt
	Err     string
}

// recorder is an order that notes its groups, and the answers to them.
type recorder struct {
	order
	mu      sync.Mutex
	groups  []*group
	answers [][]answer
	waits   int       // requests that have no answer yet
	settled sync.Cond // waits is 0
}

func (r *recorder) next(s *session) *group {
	g := r.order.next(s)
	if g == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.groups)
	r.groups = append(r.groups, copyGroup(g))
	r.answers = append(r.answers, make([]answer, len(g.requests)))
	r.waits += len(g.requests)
	for i, q := range g.requests {
		done := q.done
		q.done = func(receipt fanfare.Receipt, err error) {
			r.mu.Lock()
			r.answers[n][i] = answerOf(receipt, err)
			if r.waits--; r.waits == 0 {
				r.settled.Broadcast()
			}
			r.mu.Unlock()
			done(receipt, err)
		}
	}
	return g
}

// from returns the groups from a number on, as they came out of the order.
func (r *recorder) from(n int) (groups []*group, answers [][]answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.waits > 0 { // the log proposes groups of its own when something falls due
		r.settled.Wait()
	}
	for _, list := range r.answers[n:] {
		answers = append(answers, slices.Clone(list))
	}
	return slices.Clone(r.groups[n:]), answers
}

func answerOf(receipt fanfare.Receipt, err error) answer {
	a := answer{Receipt: receipt}
	a.Receipt.Positions = slices.Clone(receipt.Positions)
	if err != nil {
		a.Err = err.Error()
	}
	return a
}

// copyGroup copies what an order sets. Apply writes into the events of a batch.
func copyGroup(g *group) *group {
	c := &group{terms: g.terms, bytes: g.bytes, taken: g.taken}
	for _, r := range g.requests {
		b := *r.batch
		b.Events, b.Keep, b.Keys = slices.Clone(b.Events), slices.Clone(b.Keep), slices.Clone(b.Keys)
		c.requests = append(c.requests,
			&request{batch: &b, command: r.command, bytes: r.bytes, done: func(fanfare.Receipt, error) {}})
	}
	return c
}

// replay is an order from outside.
type replay struct {
	own    order // tells the time before the first group
	sweeps bool
	feed   chan *group
	latest atomic.Pointer[moment]
}

func (r *replay) propose(q *request) {
	q.done(fanfare.Receipt{}, fanfare.Unavailable("this log is fed from outside", nil))
}

func (r *replay) now() moment {
	if m := r.latest.Load(); m != nil {
		return *m
	}
	return r.own.now()
}

func (r *replay) next(s *session) *group {
	select {
	case g := <-r.feed:
		r.latest.Store(&g.terms.at)
		if r.sweeps {
			s.retention.records.swept = time.Time{} // at each group, and not every five seconds
		}
		return g
	case <-s.dead:
	case <-s.log.stop:
	}
	return nil
}

// replica is a log that is fed with the groups of another.
type replica struct {
	*testing.T
	name    string
	log     *Log
	order   *replay
	sweeps  int // it sweeps, and reads, after each `sweeps` groups; 0: never
	pending sync.WaitGroup
}

func newReplica(t *testing.T, name string, rules []string, sweeps int, jump time.Duration) *replica {
	r := &replica{T: t, name: name, sweeps: sweeps, order: &replay{feed: make(chan *group), sweeps: sweeps > 0}}
	clock := newTestClock()
	o := clock.options(rules...)
	o.order = func(own order) order { r.order.own = own; return r.order }
	r.log = openTest(t, o)
	clock.jump(jump) // from here on its own clock has nothing to say
	return r
}

// take applies groups, two at a time in flight, and holds the answers against those of the first
// log.
func (r *replica) take(random *rand.Rand, groups []*group, want [][]answer) {
	r.Helper()
	for i, g := range groups {
		g, got := copyGroup(g), make([]answer, len(g.requests))
		r.pending.Add(len(g.requests))
		for j, q := range g.requests {
			q.done = func(receipt fanfare.Receipt, err error) { got[j] = answerOf(receipt, err); r.pending.Done() }
		}
		r.order.feed <- g
		if i+1 < len(groups) && (r.sweeps == 0 || random.IntN(r.sweeps) > 0) {
			want[i] = nil // not waited for: the answers of the others show that it was the same
			continue
		}
		r.pending.Wait()
		if diff := cmp.Diff(want[i], got); want[i] != nil && diff != "" {
			r.Errorf("%s: group %d is answered otherwise (-first +this):\n%s", r.name, i, diff)
		}
		if r.sweeps > 0 {
			r.sweep()
			r.look()
		}
	}
}

// sweep deletes the events that are hidden at the time of the newest group. It may not forget the
// channels that it finds empty.
func (r *replica) sweep() {
	err := r.log.read(r.Context(), func(s *session) error { _, err := s.retention.sweep(); return err })
	var refused *fanfare.Error
	if err != nil && !(errors.As(err, &refused) && refused.Code == fanfare.CodeUnavailable) {
		r.Fatalf("%s: %v", r.name, err)
	}
}

// look has trim marks move in memory.
func (r *replica) look() {
	for _, pattern := range []string{"short/**", "**"} {
		dataOf(r.T, r.log, fanfare.Query{Patterns: patternsOf(r.T, pattern)})
	}
}

// holds lists all that a log holds. Deleted or not makes no difference: it leaves out records whose
// time is over and events that a trim mark hides, and shows the marks that readers see. The mark of
// a channel that has had events with an expiry may stand at another of those that are gone.
func holds(t *testing.T, l *Log) (list []string) {
	t.Helper()
	now := l.order.now()
	err := l.read(t.Context(), func(s *session) error {
		marks, err := visibleMarks(s)
		if err != nil {
			return err
		}
		it, err := s.db.NewIter(nil)
		if err != nil {
			return err
		}
		defer it.Close()
		for ok := it.First(); ok; ok = it.Next() {
			if !deletable(s, it.Key(), it.Value(), marks, now) {
				list = append(list, fmt.Sprintf("%q %q", it.Key(), it.Value()))
			}
		}
		for num, mark := range marks {
			if holed, err := isHoled(it, num); err != nil {
				return err
			} else if !holed {
				list = append(list, fmt.Sprintf("the mark of %d is %d", num, mark))
			}
		}
		slices.Sort(list)
		return it.Error()
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// isHoled tells whether entries may be missing from a channel's index.
func isHoled(it *pebble.Iterator, num uint64) (bool, error) {
	if !it.SeekLT(keyOf(keyIndex, num+1)) || it.Key()[0] != keyIndex || channelOfIndex(it.Key()) != num {
		return true, it.Error() // nothing says that it is not
	}
	e, err := readEntry(it.Key(), it.Value())
	return e.holed, err
}

func visibleMarks(s *session) (map[uint64]fanfare.Position, error) {
	names, err := s.db.NewIter(ofKind(keyName))
	if err != nil {
		return nil, err
	}
	defer names.Close()
	marks := map[uint64]fanfare.Position{}
	for ok := names.First(); ok; ok = names.Next() {
		name, err := fanfare.ParseChannel(string(names.Value()))
		if err != nil {
			return nil, err
		}
		if marks[lastNumber(names.Key())], err = s.catalog.markOf(name); err != nil {
			return nil, err
		}
	}
	return marks, names.Error()
}

// deletable tells whether a key may have been deleted by a sweep, or moved by one.
func deletable(s *session, key, value []byte, marks map[uint64]fanfare.Position, now moment) bool {
	forgotten := now.log - s.log.opts.KeyMemory.Milliseconds()
	switch key[0] {
	case keyUsed:
		u, err := readUsed(value)
		return err == nil && u.ms <= forgotten
	case keyUsedAt:
		return int64(lastNumber(key[:9])) <= forgotten
	case keyKept:
		k, err := readKept("", value, time.Time{})
		return err == nil && k.Expires.UnixMilli() <= now.guarded
	case keyEvent:
		num, err := eventChannel(value)
		expires, err2 := eventExpiry(value)
		mark, known := marks[num]
		return err == nil && err2 == nil && (known && fanfare.Position(lastNumber(key)) <= mark || over(expires, now))
	case keyIndex:
		e, err := readEntry(key, value)
		mark, known := marks[channelOfIndex(key)]
		return err == nil && (known && e.pos <= mark || over(e.expires, now))
	case keyExpiry: // that of a channel's newest entry is moved
		index := keyOf(keyIndex, lastNumber(key[:17]), lastNumber(key))
		value, closer, err := s.db.Get(index)
		if err != nil {
			return isNotFound(err)
		}
		defer closer.Close()
		return deletable(s, index, value, marks, now)
	}
	return key[0] == keyMark
}

// expiryMost is the longest life of an event here.
const expiryMost = 20 * time.Minute

func over(expires int64, now moment) bool { return expires > 0 && expires <= min(now.due, now.guarded) }

// first is the log that stands alone: its queue is the order.
type first struct {
	*testing.T
	clock  *testClock
	log    *Log
	random *rand.Rand

	mu     sync.Mutex // guards the fields below
	newest map[fanfare.Channel]fanfare.Position
	ids    []fanfare.ScheduledID
	chosen fanfare.ScheduledID // the last that a batch has chosen
	lives  int                 // events with an expiry
	met    int                 // conditions
	notMet int
}

// step does one thing of all that decides what a log holds.
func (f *first) step() {
	switch n := f.random.IntN(20); {
	case n < 11:
		f.publish(1 + f.random.IntN(6))
	case n < 16:
		f.clock.pass(time.Duration(1+f.random.IntN(240)) * time.Second)
	case n < 17:
		f.clock.jump(time.Duration(f.random.IntN(8)-3) * 40 * time.Minute)
	case n < 18:
		f.log.upkeep.storeClock()
		f.cancel()
	default:
		sweepNow(f.T, f.log)
	}
}

// publish appends some batches without waiting between them.
func (f *first) publish(n int) {
	var waits sync.WaitGroup
	for range n {
		waits.Add(1)
		b := f.batch()
		f.log.Append(b, func(r fanfare.Receipt, err error) {
			defer waits.Done()
			f.answered(b, r, err)
		})
	}
	waits.Wait()
}

func (f *first) answered(b *fanfare.Batch, r fanfare.Receipt, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch code := fanfare.CodeOf(err); {
	case code == fanfare.CodePreconditionFailed:
		f.notMet++
	case err == nil && r.Replayed: // perhaps of other events: the keys here say little
	case err == nil && r.Scheduled > 0:
		f.ids = append(f.ids, r.Scheduled)
	case err == nil:
		for i := range b.Events {
			f.newest[b.Events[i].Channel] = max(f.newest[b.Events[i].Channel], r.Positions[i])
		}
		if b.If != nil {
			f.met++
		}
	case code != fanfare.CodeConflict:
		f.Error(err)
	}
}

// conditions asks now and then that a channel has no event, or the one that was its newest when its
// publisher was last told: others may have come, and its time may be over.
func (f *first) conditions(b *fanfare.Batch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := map[fanfare.Channel]bool{}
	for i := range b.Events {
		channel := b.Events[i].Channel
		if seen[channel] || f.random.IntN(3) > 0 {
			continue
		}
		if seen[channel] = true; b.If == nil {
			b.If = make([]fanfare.Condition, len(b.Events))
		}
		if b.If[i] = fanfare.IfLatest(f.newest[channel]); f.random.IntN(4) == 0 {
			b.If[i] = fanfare.IfNone()
		}
	}
}

// settle waits until nothing is due: the log publishes that in a group of its own.
func (f *first) settle() {
	for f.log.session.committer.applier.firstWaits.Load() <= f.log.order.now().due {
		time.Sleep(time.Millisecond)
	}
	if err := f.log.command(barrier{}); err != nil {
		f.Fatal(err)
	}
}

// cancel cancels an event that was scheduled, if it has not been published.
func (f *first) cancel() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.ids) == 0 {
		return
	}
	at := f.random.IntN(len(f.ids))
	if _, err := f.log.Cancel(f.Context(), f.ids[at]); err != nil {
		f.Error(err)
	}
	f.ids = slices.Delete(f.ids, at, at+1)
}

// companions gives a batch events that are published later, and has it cancel others.
func (f *first) companions(b *fanfare.Batch) {
	if len(b.Events) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for range f.random.IntN(3) {
		f.chosen++
		b.Later = append(b.Later,
			fanfare.Later{ID: f.chosen, At: f.clock.now().Add(time.Duration(f.random.Int64N(int64(30 * time.Minute)))),
				Event: fanfare.Event{Channel: logtest.Channel("later/1"), Data: strconv.Itoa(int(f.chosen))}})
	}
	if f.chosen > 0 && f.random.IntN(3) == 0 {
		b.Cancel = append(b.Cancel, 1+fanfare.ScheduledID(f.random.Int64N(int64(f.chosen))))
	}
}

// times gives some events a time when they are over, or has one published later.
func (f *first) times(b *fanfare.Batch) {
	if f.random.IntN(2) == 0 {
		for _, e := range b.Events {
			ttl := time.Duration(f.random.Int64N(int64(expiryMost)))
			if !strings.HasSuffix(e.Channel.String(), "1") && !strings.HasSuffix(e.Channel.String(), "3") ||
				f.random.IntN(2) == 0 {
				ttl = 0
			} else {
				f.lives++
			}
			b.TTL = append(b.TTL, ttl)
		}
	}
	f.companions(b)
	if len(b.Events) == 1 && f.random.IntN(3) == 0 {
		b.If, b.Keep = nil, nil
		if b.DeliverIn = time.Duration(1 + f.random.Int64N(int64(30*time.Minute))); f.random.IntN(2) == 0 {
			b.DeliverAt, b.DeliverIn = f.clock.now().Add(b.DeliverIn), 0
		}
	}
}

func (f *first) batch() *fanfare.Batch {
	b := &fanfare.Batch{}
	for range f.random.IntN(4) {
		name := []string{"short/%d", "few/%d", "small/%d", "other/%d"}[f.random.IntN(4)]
		channel, _ := fanfare.ParseChannel(fmt.Sprintf(name, f.random.IntN(5)))
		b.Events = append(b.Events, fanfare.Event{Channel: channel, Data: strings.Repeat("x", f.random.IntN(60))})
	}
	key := func() fanfare.Key {
		return fanfare.Key{Scope: "s", Text: "k" + strconv.Itoa(f.random.IntN(40)),
			Fingerprint: [16]byte{byte(f.random.IntN(2))}, Note: "n"}
	}
	f.conditions(b)
	switch f.random.IntN(4) {
	case 0:
		b.Key = key()
	case 1:
		for range b.Events {
			b.Keys = append(b.Keys, key())
		}
	}
	for range f.random.IntN(3) {
		k := fanfare.Kept{Name: "pc/" + strconv.Itoa(f.random.IntN(9)), Position: 1, Forget: f.random.IntN(5) == 0}
		if k.Lifetime = time.Duration(f.random.IntN(3000)) * time.Second; f.random.IntN(2) == 0 {
			k.Expires = f.clock.now().Add(time.Hour)
		}
		b.Keep = append(b.Keep, k)
	}
	f.times(b)
	return b
}

// TestSameGroups: logs that apply the same groups hold the same keys and values, and give the same
// answers (P1 to P3 hold of each), whatever their own clocks say, and whenever they sweep.
func TestSameGroups(t *testing.T) {
	for seed := range groupSeeds {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			sameGroups(t, seed)
		})
	}
	if text := os.Getenv("FANFARE_SEED"); text != "" {
		seed, _ := strconv.ParseUint(text, 10, 64)
		sameGroups(t, seed)
	}
}

func sameGroups(t *testing.T, seed uint64) {
	rules := []string{"**=age:2h", "short/**=age:5m", "few/**=count:3,age:1h", "small/**=bytes:100,age:1h"}
	tighter := []string{"**=age:1h", "short/**=age:4m", "few/**=count:2,age:50m", "small/**=bytes:80,age:40m"}
	f, record := standsAlone(t, rules...)
	f.random = rand.New(rand.NewPCG(seed, 1))
	replicas := []*replica{
		newReplica(t, "ahead, sweeps often", rules, 2, 3*365*24*time.Hour),
		newReplica(t, "behind, sweeps seldom", rules, 20, -365*24*time.Hour),
		newReplica(t, "never sweeps", rules, 0, 0),
	}
	taken := 0
	for part := range 4 {
		for range 60 {
			f.step()
		}
		if part == 1 {
			if err := f.log.SetRetention(f.clock.options(tighter...).Retention); err != nil {
				t.Fatal(err)
			}
		}
		if part == 3 {
			sweepNow(t, f.log)
			f.publish(1)
			sweepNow(f.T, f.log) // nothing new is empty: no time has passed
		}
		f.settle()
		groups, answers := record.from(taken)
		taken += len(groups)
		for _, r := range replicas {
			r.take(rand.New(rand.NewPCG(seed, 2)), groups, slices.Clone(answers))
		}
	}
	if n := f.log.Stats(); n.Forgotten == 0 || f.lives < 10 || n.FellDue < 3 {
		t.Errorf("%d channels were forgotten, %d events had an expiry, %d fell due: this tests less than it should",
			n.Forgotten, f.lives, n.FellDue)
	}
	if f.met < 10 || f.notMet < 10 {
		t.Errorf("%d conditions were met, %d were not: this tests less than it should", f.met, f.notMet)
	}
	want := holds(t, f.log)
	for _, r := range replicas {
		r.sweep()
		if diff := cmp.Diff(want, holds(t, r.log)); diff != "" {
			t.Errorf("%s, seed %d: not the same (-first +this):\n%s", r.name, seed, diff)
		}
	}
}
