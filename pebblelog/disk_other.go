//go:build !unix

package pebblelog

import "github.com/cockroachdb/pebble/v2/vfs"

// allocatedBytes returns a file's size, because this system does not say how much the file takes on
// disk.
func allocatedBytes(info vfs.FileInfo) int64 { return info.Size() }

// truncate does nothing on this system.
func truncate(vfs.File, int64) error { return vfs.ErrUnsupported }
