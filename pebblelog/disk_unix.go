//go:build unix

package pebblelog

import (
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// allocatedBytes returns the bytes that a file takes on disk. They are more than its size where
// room was allocated beforehand, and fewer where the file has holes.
func allocatedBytes(info vfs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512 // the unit of stat on every file system
	}
	return info.Size()
}

// truncate sets a file's size, and frees the room that was allocated beyond it.
func truncate(f vfs.File, size int64) error {
	fd := f.Fd()
	if fd == vfs.InvalidFd {
		return vfs.ErrUnsupported
	}
	return syscall.Ftruncate(int(fd), size)
}
