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

// formatFile stands beside the store's folder from the moment the log holds something. Where it
// stands and the store is not whole, something has been lost, and the log is not begun anew.
const formatFile = "FORMAT"

// damage is a log that is not whole. Its text says what to do.
type damage struct {
	dir      string // the data directory
	what     string
	readable bool // some of it can be exported
	begun    bool // the store was opened for writing before it showed
}

func (d *damage) Error() string {
	text := "the log is damaged: " + d.what
	if !d.begun {
		text += "; nothing was changed"
	}
	text += "; restore a backup (fanfare restore)"
	if d.readable {
		text += fmt.Sprintf(", or save what can still be read "+
			"(fanfare verify --data %[1]s says what that is, fanfare export --data %[1]s writes it)", d.dir)
	}
	return text
}

// isDamage tells whether an error of reading a store means damage, and says which. What the system
// says of the disk, such as that it is full or may not be written to, is none.
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

// lockError says why a data directory could not be locked: somebody else has it, or it cannot be
// written to.
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

// lockHeld tells what a system says of a file that another process has locked.
func lockHeld(errno syscall.Errno) bool {
	const sharingViolation, lockViolation = 32, 33
	if runtime.GOOS == "windows" {
		return errno == sharingViolation || errno == lockViolation
	}
	return errno == syscall.EAGAIN || errno == syscall.EACCES
}

// newPlace makes a data directory and locks it. It must hold nothing yet but what a new volume has
// of its own.
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

// ofVolumes is what file systems put into the topmost folder of a new volume.
var ofVolumes = []string{"lost+found", ".snapshot", ".zfs", ".fseventsd", ".Trashes", ".Spotlight-V100",
	"System Volume Information", "$RECYCLE.BIN"}

// markPlace writes the format file, unless it says the same already.
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

// syncDir has on disk which files there are in a folder.
func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openError says of a store that was judged whole, and cannot be opened all the same, what to do.
func openError(dir string, err error) error {
	if what, ok := isDamage(err); ok {
		return &damage{dir: dir, what: what, readable: true, begun: true}
	}
	return err
}
