//go:build unix

package pebblelog

import (
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// allocatedBytes is how much a file takes on disk. That is more than its size where room was
// allocated beforehand, and less where it has holes.
func allocatedBytes(info vfs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512 // stat counts in these on every file system
	}
	return info.Size()
}

// truncate cuts a file, with the room that was allocated beyond its end.
func truncate(f vfs.File, size int64) error {
	fd := f.Fd()
	if fd == vfs.InvalidFd {
		return vfs.ErrUnsupported
	}
	return syscall.Ftruncate(int(fd), size)
}
