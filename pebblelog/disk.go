package pebblelog

import (
	"errors"
	"fmt"
	"log/slog"
	"math"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
)

// measure sums up the blocks that the log's files take on disk: tables, WALs with the room that is
// set aside for them, and the MANIFEST. A file that cannot be looked at, or is gone, counts as 0.
func (u *upkeep) measure() int64 {
	fs := u.log.opts.FS
	sum, err := filesTake(fs, fs.PathJoin(u.log.opts.Dir, "log"))
	if err != nil {
		return u.log.stats.diskBytes.Load()
	}
	s := u.log.current()
	u.log.stats.diskBytes.Store(sum)
	u.log.stats.setAsideBytes.Store(s.fs.setAsideBytes())
	top := int64(0)
	if u.maxBytes.Load() > 0 && s.acquire() {
		top = s.db.Metrics().Levels[0].TablesSize
		s.release()
	}
	u.room.measured(sum, top, u.maxBytes.Load())
	return sum
}

// filesTake returns the bytes that a folder's files take on disk.
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

// mostBytes returns the largest size that the log can have on its disk; 0 is no limit. It warns of
// a disk that is too small for the options.
func mostBytes(o Options) int64 {
	if o.Durability == DurabilityMemory {
		return o.MaxBytes
	}
	usage, err := o.FS.GetDiskUsage(o.Dir)
	if err != nil || usage.TotalBytes == 0 {
		return o.MaxBytes // the system cannot tell
	}
	least := max(o.MinFreeBytes, 0)
	most := int64(min(usage.AvailBytes+usage.UsedBytes, math.MaxInt64)) - least // without the part reserved for root
	own, _ := filesTake(o.FS, o.FS.PathJoin(o.Dir, "log"))
	room := int64(min(usage.AvailBytes, math.MaxInt64/2)) + own - least
	switch {
	case most <= 0:
		o.Logger.Error("nothing can ever be stored: the whole disk is smaller than what shall stay free on it; "+
			"take a larger disk, or a smaller minimum",
			slog.String("setting", string(fanfare.SettingMinFreeBytes)),
			slog.Int64("disk", most+least), slog.Int64("minimum", least))
		return o.MaxBytes
	case o.MaxBytes > room:
		o.Logger.Warn("the disk will be full before the log reaches its limit: "+
			"publishes are refused then, and nothing is removed to make room; "+
			"set the limit below the room, or free some",
			slog.String("setting", string(fanfare.SettingMaxLogBytes)),
			slog.Int64("room", max(room, 0)), slog.Int64("limit", o.MaxBytes))
	}
	if o.MaxBytes > 0 {
		most = min(most, o.MaxBytes)
	}
	return most
}

// checkFree returns an error when the disk has less than MinFreeBytes free, and has publishes
// refused with it. First it gives back the room that the log has set aside.
func (u *upkeep) checkFree() error {
	if u.log.opts.MinFreeBytes < 0 || u.log.opts.Durability == DurabilityMemory {
		return nil
	}
	free, err := u.freeBytes()
	switch {
	case err != nil:
	case free-yieldMargin >= u.log.opts.MinFreeBytes:
		u.log.current().fs.yield(false)
	case free < u.log.opts.MinFreeBytes && u.log.current().fs.yield(true):
		free, err = u.freeBytes()
	}
	if err == nil && free < u.log.opts.MinFreeBytes {
		full := fanfare.Unavailable(
			fmt.Sprintf("the disk is full: %d bytes are free, the minimum is %d", free, u.log.opts.MinFreeBytes), nil)
		full.Setting = fanfare.SettingMinFreeBytes
		err = full
	}
	changed := u.log.proposals.setLowDisk(err)
	if changed && err != nil {
		u.log.opts.Logger.Error("publishes are refused", slog.Any("err", err))
	} else if changed {
		u.log.opts.Logger.Info("publishes are taken again: the disk has room")
	}
	return err
}

// yieldMargin is the number of bytes beyond MinFreeBytes that must be free before room is set aside
// again.
const yieldMargin = 2 * spareLeast

// freeBytes returns the disk's free bytes; math.MaxInt64 where the system does not say.
func (u *upkeep) freeBytes() (int64, error) {
	usage, err := u.log.opts.FS.GetDiskUsage(u.log.opts.Dir)
	if errors.Is(err, vfs.ErrUnsupported) {
		return math.MaxInt64, nil
	}
	if err != nil {
		return 0, fanfare.Unavailable("the disk's free space cannot be read", err)
	}
	return int64(min(usage.AvailBytes, math.MaxInt64)), nil
}
