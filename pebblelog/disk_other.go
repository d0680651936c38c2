//go:build !unix

package pebblelog

import "github.com/cockroachdb/pebble/v2/vfs"

// allocatedBytes is a file's size: here the system does not say how much it takes on disk.
func allocatedBytes(info vfs.FileInfo) int64 { return info.Size() }

func truncate(vfs.File, int64) error { return vfs.ErrUnsupported }
