package pebblelog

import (
	"errors"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// limitSize drops the oldest events, whatever their channels, when the files take more than MaxBytes: down to nine tenths of
// it, so that this is not done all the time. What is deleted already and has not been given back to the disk counts as given
// back: nobody may lose events because the store has not tidied up. When that is enough, the store is told to tidy up.
//
// Deletions that are still in memory, or in tables that the store has not looked at yet, are in nobody's figures. So the
// first look only has them written, and another look decides.
func (s *session) limitSize() error {
	most := s.log.maxBytes.Load()
	m := s.db.Metrics()
	used := int64(m.DiskSpaceUsage())
	s.log.stats.diskBytes.Store(used)
	if most <= 0 || used <= most {
		s.looks = 0
		return nil
	}
	if s.looks++; s.looks == 1 {
		flushed, err := s.db.AsyncFlush()
		s.flushed = flushed
		return err
	}
	select {
	case <-s.flushed:
	default:
		return nil
	}
	if m.Table.PendingStatsCollectionCount > 0 && s.looks < looksMost {
		return nil
	}
	floor := fanfare.Position(s.floor.Load())
	prefix, err := s.deletedBytes(floor)
	if err != nil {
		return err
	}
	gone := prefix + int64(m.Table.Garbage.PointDeletionsBytesEstimate)
	target := most * 9 / 10
	// Tables that are obsolete, or that a compaction is writing, come and go by themselves; old WALs are kept to be used again.
	held := int64(m.Table.Local.LiveSize+m.BlobFiles.Local.LiveSize+m.WAL.PhysicalSize+m.WAL.ObsoletePhysicalSize) - gone
	if held <= target {
		return s.tidy(floor, prefix, gone, target)
	}
	if fits, err := s.fits(target); err != nil || fits {
		return errors.Join(err, s.tidy(0, 0, target, target)) // the store's figures are behind
	}
	through, err := s.afterBytes(floor, uint64(held-target))
	if err != nil || through <= floor {
		return err
	}
	if err := s.deletePrefix(through); err != nil {
		return err
	}
	s.looks = 0
	s.log.stats.limited.Add(1)
	s.log.opts.Logger.Warn("the log is larger than its limit: the oldest events are removed",
		slog.Int64("bytes", used), slog.Int64("limit", most), slog.String("through", through.String()))
	return nil
}

// eventOverhead is at least what an event takes besides its data: two keys, and the values' own numbers.
const eventOverhead = 80

// fits tells whether all that is retained is so little that it must fit, by the sums that the index keeps of each channel. It
// looks at every channel, and is asked only before something would be removed. Where events have no sums (format 1), nobody
// knows.
func (s *session) fits(target int64) (bool, error) {
	if s.unsized > fanfare.Position(s.floor.Load()) {
		return false, nil
	}
	reports, err := s.report(stopContext{s.log.stop}, nil)
	sum := uint64(0)
	for _, r := range reports {
		sum += r.Bytes + r.Events*eventOverhead
	}
	return err == nil && sum < uint64(target)*3/4, err
}

// looksMost is how many looks the store has to gather its figures.
const looksMost = 30

// deletedBytes is what the events up to the floor, and their share of the index, still take.
func (s *session) deletedBytes(floor fanfare.Position) (int64, error) {
	gone, err := s.db.EstimateDiskUsage(keyOf(keyEvent), keyOf(keyEvent, uint64(floor)+1))
	if err != nil || gone == 0 {
		return 0, err
	}
	events, err := s.db.EstimateDiskUsage([]byte{keyEvent}, []byte{keyEvent + 1})
	if err != nil {
		return 0, err
	}
	index, err := s.db.EstimateDiskUsage([]byte{keyIndex}, []byte{keyIndex + 1})
	if err != nil {
		return 0, err
	}
	return int64(gone + uint64(float64(index)*float64(gone)/float64(max(events, 1)))), nil
}

// tidyShare: compactions that the limit asks for take at most one part in so many of the time.
const tidyShare = 5

// tidy has the store rewrite its tables without what is deleted, when that would help: those of the oldest events alone when
// it is mostly there.
func (s *session) tidy(floor fanfare.Position, prefix, gone, target int64) error {
	began := time.Now()
	if gone < target/20 || began.Before(s.tidyAgain) {
		return nil
	}
	upper := []byte{keyIndex + 1}
	if prefix > gone/2 {
		upper = keyOf(keyEvent, uint64(floor)+1)
	}
	err := s.db.Compact(stopContext{s.log.stop}, []byte{keyEvent}, upper, true)
	s.tidyAgain = time.Now().Add(max(min(limitInterval, s.log.opts.TrimInterval), tidyShare*time.Since(began)))
	return err
}

// afterBytes finds the position up to which the events after another take so many bytes on disk; at most half of all there
// are, because what lies in memory is not counted.
func (s *session) afterBytes(after fanfare.Position, bytes uint64) (fanfare.Position, error) {
	durable := fanfare.Position(s.log.durable.Load())
	size := func(through fanfare.Position) (uint64, error) {
		return s.db.EstimateDiskUsage(keyOf(keyEvent, uint64(after)+1), keyOf(keyEvent, uint64(through)+1))
	}
	whole, err := size(durable)
	if err != nil || whole == 0 {
		return after, err
	}
	bytes = min(bytes, whole/2)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: keyOf(keyEvent, uint64(after)+1), UpperBound: keyOf(keyEvent, uint64(durable)+1)})
	if err != nil {
		return after, err
	}
	defer it.Close()
	if !it.First() {
		return after, it.Error()
	}
	low, high := fanfare.Position(lastNumber(it.Key())), durable
	for low < high {
		middle := low + (high-low)/2
		n, err := size(middle)
		if err != nil {
			return after, err
		}
		if n < bytes {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return min(low, durable), nil
}
