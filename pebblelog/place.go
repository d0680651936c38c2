package pebblelog

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// formatFile stands beside the store's folder from the moment the log holds something. Where it stands and the store is not
// whole, something has been lost, and the log is not begun anew.
const formatFile = "FORMAT"

// advice is what to do about damage.
const advice = "nothing was changed; restore a backup (fanfare restore), or save what can still be read " +
	"(fanfare verify --data %[1]s says what that is, fanfare export --data %[1]s writes it)"

func damaged(dir, what string) error {
	return fmt.Errorf("the log is damaged: %s; "+advice, what, dir)
}

// checkPlace refuses to begin an empty log where there was one.
func checkPlace(fs vfs.FS, dir string) error {
	folder := fs.PathJoin(dir, "log")
	names, err := fs.List(folder)
	if err != nil {
		return err
	}
	wal, files := false, 0
	for _, name := range names {
		switch path.Ext(name) {
		case ".log":
			wal = true
			files++
		case ".sst", ".blob":
			files++
		default:
			if strings.HasPrefix(name, "MANIFEST") {
				files++
			}
		}
	}
	_, err = fs.Stat(fs.PathJoin(dir, formatFile))
	begun := err == nil
	desc, err := pebble.Peek(folder, fs)
	switch {
	case err != nil:
		return damaged(dir, err.Error())
	case !desc.Exists && files > 0:
		return damaged(dir, "its files are there, but the one that names them (marker.manifest…) is not")
	case !desc.Exists && begun:
		return damaged(dir, "the folder log is empty, and "+formatFile+" says that it was not")
	case desc.Exists && !wal:
		return damaged(dir, "its newest file (….log) is missing")
	}
	return nil
}

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
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openError says of a store that cannot be opened what to do. What the system says of the disk, such as that it is full or may
// not be written to, is no damage.
func openError(dir string, err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) || errno == syscall.ENOENT {
		text, _, _ := strings.Cut(err.Error(), "\n")
		return damaged(dir, text)
	}
	return err
}
