package pebblelog

import (
	"log/slog"

	"github.com/cockroachdb/pebble/v2"

	"github.com/fanfare-hub/fanfare"
)

// limitSize drops the oldest events, whatever their channels, when the files take more than MaxBytes: down to nine tenths of
// it, so that this is not done every second. It counts what is deleted and has not been given back to the disk yet as
// given back.
func (s *session) limitSize() error {
	most := s.log.maxBytes.Load()
	used := int64(s.db.Metrics().DiskSpaceUsage())
	s.log.stats.diskBytes.Store(used)
	if most <= 0 || used <= most {
		return nil
	}
	floor := fanfare.Position(s.floor.Load())
	gone, err := s.db.EstimateDiskUsage(keyOf(keyEvent), keyOf(keyEvent, uint64(floor)+1))
	if err != nil {
		return err
	}
	excess := used - int64(gone) - most*9/10
	if excess <= 0 {
		return nil
	}
	through, err := s.afterBytes(floor, uint64(excess))
	if err != nil || through <= floor {
		return err
	}
	if err := s.deletePrefix(through); err != nil {
		return err
	}
	s.log.stats.limited.Add(1)
	s.log.opts.Logger.Warn("the log is larger than its limit: the oldest events are removed",
		slog.Int64("bytes", used), slog.Int64("limit", most), slog.String("through", through.String()))
	return nil
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
