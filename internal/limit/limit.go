// Package limit holds the rates at which each caller may publish.
package limit

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/fanfare-hub/fanfare"
)

// Rates are token buckets, two for each caller. The zero Rates limit nothing. Their methods may be
// called from any goroutine.
type Rates struct {
	Events float64 // a second; 0: no limit
	Bytes  float64 // of data a second; 0: no limit
	Burst  float64 // how many seconds' worth may come at once; default 1

	mu      sync.Mutex
	buckets map[string]*buckets // guarded by mu
}

type buckets struct {
	mu            sync.Mutex    // held by Take
	events, bytes *rate.Limiter // nil: no limit
	used          time.Time     // guarded by Rates.mu
}

// bucketsMost is how many callers are remembered. Beyond it, the callers whose buckets have filled
// again are forgotten and, if that is not enough, others, which then begin with full buckets.
const bucketsMost = 100_000

// On tells whether anything is limited.
func (r *Rates) On() bool { return r.Events > 0 || r.Bytes > 0 }

func (r *Rates) newLimiter(perSecond float64) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	burst := r.Burst
	if burst <= 0 {
		burst = 1
	}
	return rate.NewLimiter(rate.Limit(perSecond), int(min(max(math.Ceil(perSecond*burst), 1), math.MaxInt32)))
}

func (r *Rates) of(owner string, now time.Time) *buckets {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.buckets[owner]
	if b == nil {
		if r.buckets == nil {
			r.buckets = map[string]*buckets{}
		}
		if len(r.buckets) >= bucketsMost {
			r.forgetLocked(now)
		}
		b = &buckets{events: r.newLimiter(r.Events), bytes: r.newLimiter(r.Bytes)}
		r.buckets[owner] = b
	}
	b.used = now
	return b
}

// forgetLocked forgets the callers whose buckets are full again, or else a tenth of all.
func (r *Rates) forgetLocked(now time.Time) {
	quiet := time.Duration(max(r.Burst, 1) * float64(time.Second))
	for owner, b := range r.buckets {
		if now.Sub(b.used) > quiet {
			delete(r.buckets, owner)
		}
	}
	for owner := range r.buckets {
		if len(r.buckets) < bucketsMost*9/10 {
			return
		}
		delete(r.buckets, owner)
	}
}

// Verdict is the outcome of a Take.
type Verdict struct {
	Err       error         // CodeRateLimited; nil: taken
	Wait      time.Duration // until it would be taken
	limit     int           // of the bucket that has the least left
	window    time.Duration // in which an empty bucket fills
	remaining int
	reset     time.Duration // until that bucket is full
	policy    string
}

// Take takes events and bytes out of the owner's buckets, or nothing. A publish of more than a
// whole bucket takes a whole bucket.
func (r *Rates) Take(owner string, events, bytes int) (v Verdict) {
	if !r.On() {
		return v
	}
	now := time.Now()
	b := r.of(owner, now)
	// a reservation that is taken back at once must not be seen by others: they would be told to
	// wait longer
	b.mu.Lock()
	defer b.mu.Unlock()
	v = take(b.events, now, events, "events", fanfare.ReasonPublishRate, fanfare.SettingPublishRate)
	if v.Err != nil || b.bytes == nil {
		return v
	}
	of := take(b.bytes, now, bytes, "bytes", fanfare.ReasonPublishBytes, fanfare.SettingPublishBytesRate)
	if of.Err != nil && b.events != nil {
		b.events.AllowN(now, -min(events, b.events.Burst())) // give back the events that were taken
	}
	if of.Err != nil || b.events == nil || of.share() < v.share() {
		return of
	}
	return v
}

func (v Verdict) share() float64 { return float64(v.remaining) / float64(max(v.limit, 1)) }

func take(
	l *rate.Limiter, now time.Time, n int, what string, reason fanfare.Reason, setting fanfare.Setting,
) (v Verdict) {
	if l == nil {
		return v
	}
	n = min(max(n, 0), l.Burst())
	reservation := l.ReserveN(now, n)
	v.policy, v.limit = what, l.Burst()
	v.window = time.Duration(float64(l.Burst()) / float64(l.Limit()) * float64(time.Second))
	if wait := reservation.DelayFrom(now); wait > 0 {
		reservation.CancelAt(now)
		v.Wait = wait
		v.Err = &fanfare.Error{
			Code: fanfare.CodeRateLimited, Reason: reason, Setting: setting, RetryAfter: wait,
			Detail: "the limit is " + strconv.FormatFloat(float64(l.Limit()), 'f', -1, 64) + " " + what + " a second",
		}
	}
	left := max(l.TokensAt(now), 0)
	v.remaining = int(left)
	v.reset = time.Duration((float64(l.Burst()) - left) / float64(l.Limit()) * float64(time.Second))
	return v
}

// SetHeader says how much is left (draft-ietf-httpapi-ratelimit-headers).
func (v Verdict) SetHeader(h http.Header) {
	if v.limit == 0 {
		return
	}
	seconds := func(d time.Duration) string { return strconv.Itoa(int(math.Ceil(d.Seconds()))) }
	h.Set("RateLimit-Policy", `"`+v.policy+`";q=`+strconv.Itoa(v.limit)+`;w=`+seconds(v.window))
	h.Set("RateLimit", `"`+v.policy+`";r=`+strconv.Itoa(v.remaining)+`;t=`+seconds(v.reset))
}
