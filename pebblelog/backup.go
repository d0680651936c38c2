package pebblelog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
)

// Backup implements fanfare.Operable. On one file system the copy shares the files that do not change any more, so it is
// quick and takes little room at first.
func (l *Log) Backup(ctx context.Context, dir string) (durable fanfare.Position, err error) {
	fs := l.opts.FS
	if l.opts.Durability == DurabilityMemory {
		return 0, fanfare.Invalid("there is nothing to back up: the log is in memory only")
	}
	if _, err := fs.Stat(dir); err == nil {
		return 0, fanfare.Errorf(fanfare.CodeConflict, "the folder %s exists: a backup goes into a new one", dir)
	}
	err = l.read(ctx, func(s *session) error {
		if err := makeDir(fs, dir); err != nil {
			return &fanfare.Error{Code: fanfare.CodeInvalid, Detail: fmt.Sprintf("the folder %s cannot be made on the hub's machine: %v", dir, err), Err: err}
		}
		durable = fanfare.Position(l.durable.Load())
		err := s.db.Checkpoint(fs.PathJoin(dir, "log"), pebble.WithFlushedWAL())
		if err == nil {
			err = markPlace(fs, dir)
		}
		if err != nil {
			_ = fs.RemoveAll(dir) // half a backup is none
			text, _, _ := strings.Cut(err.Error(), "\n")
			return &fanfare.Error{Code: fanfare.CodeUnavailable, Detail: fmt.Sprintf("the backup to %s could not be written: %s", dir, text), Err: err}
		}
		return nil
	})
	return durable, err
}

// Restore copies a backup to a data directory that does not exist yet, or is empty. When the log is opened there, clients
// that have seen more than the backup holds are told so by a gap.
func Restore(from, to string) error {
	fs := vfs.Default
	if err := checkBackup(fs, from); err != nil {
		return err
	}
	if err := newPlace(fs, to); err != nil {
		return err
	}
	names, err := fs.List(fs.PathJoin(from, "log"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyFile(fs, fs.PathJoin(from, "log", name), fs.PathJoin(to, "log", name)); err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
	}
	d, err := fs.OpenDir(fs.PathJoin(to, "log"))
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return err
	}
	return markPlace(fs, to)
}

func checkBackup(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(fs.PathJoin(dir, "log")); err != nil {
		return fmt.Errorf("%s is not a backup: %w", dir, err)
	}
	return checkPlace(fs, dir)
}

// newPlace makes a data directory, which must not hold anything.
func newPlace(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err == nil && len(names) > 0 {
		return &fanfare.Error{Code: fanfare.CodeConflict, Detail: fmt.Sprintf("the folder %s is not empty: choose a new one", dir)}
	}
	return makeDir(fs, fs.PathJoin(dir, "log"))
}

func copyFile(fs vfs.FS, from, to string) (err error) {
	src, err := fs.Open(from, vfs.SequentialReadsOption)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := fs.Create(to, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Sync(), dst.Close())
}
