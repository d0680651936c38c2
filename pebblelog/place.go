package pebblelog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/fanfare-hub/fanfare"
)

// formatFile stands beside the store's folder as soon as the log holds an event. If it is there and
// the store is not whole, events may be lost, and no new log is made in the store's place.
const formatFile = "FORMAT"

// damage is a log that is not whole. Its text says what to do.
type damage struct {
	dir      string // the data directory
	what     string
	readable bool // a part of the log can be exported
	changed  bool // the store was opened for writing before the damage showed
}

func (d *damage) Error() string {
	text := "the log is damaged: " + d.what
	if !d.changed {
		text += "; nothing was changed"
	}
	text += "; restore a backup (fanfare restore)"
	if d.readable {
		text += fmt.Sprintf(", or save what can still be read "+
			"(fanfare verify --data %[1]s says what that is, fanfare export --data %[1]s writes it)", d.dir)
	}
	return text
}

// isDamage tells whether an error of reading a store means damage, and describes it. An error of
// the system, such as a full disk or a missing permission, is not damage.
func isDamage(err error) (what string, ok bool) {
	if err == nil {
		return "", false
	}
	var errno syscall.Errno
	if errors.As(err, &errno) && errno != syscall.ENOENT {
		return "", false
	}
	what, _, _ = strings.Cut(err.Error(), "\n")
	return what, true
}

// lockError returns the error for a data directory that could not be locked: another process uses
// it, or it cannot be written to.
func lockError(dir string, err error) error {
	var path *fs.PathError
	var errno syscall.Errno
	switch {
	case errors.As(err, &path) && errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the data directory %s cannot be used: %w: "+
			"it must be writable for the user that runs fanfare", dir, path)
	case errors.As(err, &path):
		return fmt.Errorf("the data directory %s cannot be used: %w", dir, path)
	case errors.As(err, &errno) && !lockHeld(errno):
		return fmt.Errorf("the data directory %s cannot be locked: %w", dir, err)
	}
	return &fanfare.Error{
		Code: fanfare.CodeConflict, Err: err,
		Detail: fmt.Sprintf("the data directory %s is in use: one process at a time; "+
			"stop the other one or choose another directory", dir),
	}
}

// lockHeld tells whether the system's error means that another process has locked the file.
func lockHeld(errno syscall.Errno) bool {
	const sharingViolation, lockViolation = 32, 33
	if runtime.GOOS == "windows" {
		return errno == sharingViolation || errno == lockViolation
	}
	return errno == syscall.EAGAIN || errno == syscall.EACCES
}

// newPlace makes a data directory and locks it. The directory may exist if it is empty, apart from
// the folders of ofVolumes.
func newPlace(fs vfs.FS, dir string) (lock io.Closer, err error) {
	if err := checkNewPlace(fs, dir); err != nil {
		return nil, err
	}
	if err := makeDir(fs, fs.PathJoin(dir, "log")); err != nil {
		return nil, err
	}
	if lock, err = fs.Lock(fs.PathJoin(dir, lockFile)); err != nil {
		return nil, lockError(dir, err)
	}
	return lock, nil
}

func checkNewPlace(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, name := range names {
		if name == lockFile || slices.Contains(ofVolumes, name) {
			continue
		}
		return &fanfare.Error{Code: fanfare.CodeConflict,
			Detail: fmt.Sprintf("the folder %s is not empty (it holds %s): choose a new one", dir, name)}
	}
	return nil
}

// lockFile is locked by the process that uses a data directory.
const lockFile = "LOCK"

// ofVolumes are the names that file systems put into the topmost folder of a new volume.
var ofVolumes = []string{"lost+found", ".snapshot", ".zfs", ".fseventsd", ".Trashes", ".Spotlight-V100",
	"System Volume Information", "$RECYCLE.BIN"}

// markPlace writes the format file, unless there is one.
func markPlace(fs vfs.FS, dir string) error {
	name := fs.PathJoin(dir, formatFile)
	if _, err := fs.Stat(name); err == nil {
		return nil
	}
	f, err := fs.Create(name+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(formatVersion + "\n"))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(name+".new", name); err != nil {
		return err
	}
	return syncDir(fs, dir)
}

// syncDir makes the entries of a folder durable.
func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openError returns the error for a store that was judged whole, but cannot be opened.
func openError(dir string, err error) error {
	if what, ok := isDamage(err); ok {
		return &damage{dir: dir, what: what, readable: true, changed: true}
	}
	return err
}
