package pebblelog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
)

// Backup implements fanfare.Operable. A copy on the same file system shares the files that no
// longer change, so it is quick and takes little room at first.
func (l *Log) Backup(ctx context.Context, dir string) (durable fanfare.Position, err error) {
	fs := l.opts.FS
	if l.opts.Durability == DurabilityMemory {
		return 0, fanfare.Invalid("there is nothing to back up: the log is in memory only")
	}
	dir = filepath.Clean(dir) // so that the checked folder is the one that is made
	if inside(fs, dir, l.opts.Dir) {
		return 0, fanfare.Invalid("the folder %s lies in the data directory %s: "+
			"what is lost with one is lost with the other; "+
			"choose another place",
			dir, l.opts.Dir)
	}
	if _, err := fs.Stat(dir); err == nil {
		return 0, fanfare.Errorf(fanfare.CodeConflict, "the folder %s exists: a backup goes into a new one", dir)
	}
	err = l.read(ctx, func(s *session) error {
		if err := makeDir(fs, dir); err != nil {
			return &fanfare.Error{Code: fanfare.CodeInvalid,
				Detail: fmt.Sprintf("the folder %s cannot be made on the hub's machine: %v", dir, err), Err: err}
		}
		durable = fanfare.Position(l.durable.Load())
		err := s.db.Checkpoint(fs.PathJoin(dir, "log"), pebble.WithFlushedWAL())
		if err == nil {
			err = errors.Join(sealTip(fs, dir), markPlace(fs, dir))
		}
		if err != nil {
			_ = fs.RemoveAll(dir) // half a backup is none
			text, _, _ := strings.Cut(err.Error(), "\n")
			return &fanfare.Error{Code: fanfare.CodeUnavailable,
				Detail: fmt.Sprintf("the backup to %s could not be written: %s", dir, text), Err: err}
		}
		return nil
	})
	return durable, err
}

// inside tells whether a folder is another one, or lies in it, even when their names differ because
// of links. The folder need not exist yet.
func inside(fs vfs.FS, dir, other string) bool {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	if abs, err := filepath.Abs(other); err == nil {
		other = abs
	}
	target, err := os.Stat(other)
	if err != nil || fs != vfs.Default { // a test's file system has no links
		rel, err := filepath.Rel(other, dir)
		return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
	}
	for {
		// A folder that exists may be a link to one elsewhere, whose parents count then.
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real
		}
		if info, err := os.Stat(dir); err == nil && os.SameFile(info, target) {
			return true
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return false
		}
		dir = parent
	}
}

// Restore copies a backup, if it is whole, to a data directory. The directory must not exist yet,
// or be empty apart from the folders that a file system puts into a new volume. When the log is
// opened there, a client that has seen events which the backup lacks gets a gap. Restore blocks
// until the copy is on disk.
func Restore(from, to string) error { return restore(vfs.Default, from, to) }

func restore(fs vfs.FS, from, to string) error {
	if err := checkBackup(fs, from); err != nil {
		return err
	}
	if inside(fs, to, from) {
		return fanfare.Invalid("the folder %s lies in the backup %s: choose another place", to, from)
	}
	lock, err := newPlace(fs, to)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := copyStore(fs, fs.PathJoin(from, "log"), fs.PathJoin(to, "log")); err != nil {
		_ = fs.RemoveAll(fs.PathJoin(to, "log")) // half a log is none
		return err
	}
	return markPlace(fs, to)
}

func copyStore(fs vfs.FS, from, to string) error {
	names, err := fs.List(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyFile(fs, fs.PathJoin(from, name), fs.PathJoin(to, name)); err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
	}
	return syncDir(fs, to)
}

func checkBackup(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(fs.PathJoin(dir, "log")); err != nil {
		return fmt.Errorf("%s is not a backup: %w", dir, err)
	}
	found, err := judge(fs, dir)
	if err == nil && found.format == "" {
		err = errors.New("nothing was ever stored there")
	}
	if err != nil {
		return fmt.Errorf("restore %s: %w", dir, err)
	}
	return nil
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
