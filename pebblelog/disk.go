package pebblelog

import (
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// measure finds what the log's files take on disk, by blocks: tables, WALs with what is set aside
// for them, and the MANIFEST. A file that cannot be looked at, or is gone, counts for nothing.
func (l *Log) measure() int64 {
	fs := l.opts.FS
	sum, err := filesTake(fs, fs.PathJoin(l.opts.Dir, "log"))
	if err != nil {
		return l.stats.diskBytes.Load()
	}
	s := l.current()
	l.stats.diskBytes.Store(sum)
	l.stats.setAsideBytes.Store(s.fs.setAsideBytes())
	top := int64(0)
	if l.maxBytes.Load() > 0 && s.acquire() {
		top = s.db.Metrics().Levels[0].TablesSize
		s.release()
	}
	l.room.measured(sum, top, l.maxBytes.Load())
	return sum
}

func filesTake(fs vfs.FS, dir string) (sum int64, err error) {
	names, err := fs.List(dir)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if info, err := fs.Stat(fs.PathJoin(dir, name)); err == nil {
			sum += allocatedBytes(info)
		}
	}
	return sum, nil
}

// mostBytes returns how large the log can become on its disk at most; 0 is no limit. It warns of a
// disk that is too small for what is configured.
func (l *Log) mostBytes() int64 {
	o := l.opts
	if o.Durability == DurabilityMemory {
		return o.MaxBytes
	}
	usage, err := o.FS.GetDiskUsage(o.Dir)
	if err != nil || usage.TotalBytes == 0 {
		return o.MaxBytes // the system cannot tell
	}
	least := max(o.MinFreeBytes, 0)
	most := int64(min(usage.AvailBytes+usage.UsedBytes, math.MaxInt64)) - least // not what is reserved for root
	own, _ := filesTake(o.FS, o.FS.PathJoin(o.Dir, "log"))
	room := int64(min(usage.AvailBytes, math.MaxInt64/2)) + own - least
	switch {
	case most <= 0:
		o.Logger.Error("nothing can ever be stored: the whole disk is smaller than what shall stay free on it (--min-free-bytes); "+
			"take a larger disk, or a smaller minimum", slog.Int64("disk", most+least), slog.Int64("minimum", least))
		return o.MaxBytes
	case o.MaxBytes > room:
		o.Logger.Warn("the disk will be full before the log reaches its limit (--max-log-bytes): publishes are refused then, "+
			"and nothing is removed to make room; set the limit below the room, or free some",
			slog.Int64("room", max(room, 0)), slog.Int64("limit", o.MaxBytes))
	}
	if o.MaxBytes > 0 {
		most = min(most, o.MaxBytes)
	}
	return most
}

// use knows how much is published at present. What is set aside follows it, and a hub at rest is
// found by it.
type use struct {
	mu      sync.Mutex
	samples [useSpan + 1]useSample // the newest first
}

type useSample struct {
	at           time.Time
	wal, payload uint64 // bytes since the session, and the log, were opened
}

const (
	useSpan  = 10      // seconds that the use of the WAL is judged by
	restSpan = 5       // seconds after which a hub is at rest
	restMost = 1 << 20 // payload in restSpan that does not disturb the rest

	// A spare is worth its room when it will be written over within useAhead times useSpan, two
	// minutes.
	useAhead = 12
)

// sample is called by the limiter; it takes one sample a second.
func (u *use) sample(now time.Time, wal, payload uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Sub(u.samples[0].at) < time.Second {
		return
	}
	copy(u.samples[1:], u.samples[:])
	u.samples[0] = useSample{now, wal, payload}
}

// setAside is how many bytes may be set aside for the next WAL, in a log of at most most bytes; 0
// is no limit.
func (u *use) setAside(most int64) int64 {
	u.mu.Lock()
	recent := max(int64(u.samples[0].wal)-int64(u.samples[useSpan].wal), 0) // a new session counts from 0
	u.mu.Unlock()
	aside := max(useAhead*recent, spareLeast)
	if most > 0 {
		aside = min(aside, most/8)
	}
	return aside
}

// atRest tells whether little has been published lately.
func (u *use) atRest() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	now, before := u.samples[0], u.samples[restSpan]
	return !before.at.IsZero() && now.payload-before.payload < restMost
}
